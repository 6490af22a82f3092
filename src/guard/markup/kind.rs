//! Kinds of markup, and the result of matching one.

/// Kind of markup, by its effect on the text around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkupKind {
    /// Separates two independent texts: a list marker, the bar of a table, the punctuation and keys
    /// of JSON, `<td>`.
    Structure,
    /// Within a sentence that continues as if it were absent: `**`, `<b>`,
    /// `](https://example.org)`, `&amp;`.
    Inline,
    /// In the place of a word: `https://example.org`, `photo.jpg`, `#dog`, a code span.
    Atom,
    /// A number or Boolean in JSON: a word that can be scored, where no other word is valid.
    Literal,
}

/// Result of matching the beginning of a text with a kind of markup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Match {
    /// Undecided: more text is needed.
    Open,
    No,
    /// A match, with its length in bytes.
    Len(usize),
}

impl Match {
    /// Returns the result for a text that ends too early.
    pub(super) fn incomplete(whole: bool) -> Self {
        if whole { Self::No } else { Self::Open }
    }

    /// Returns this result, or that of `other` if it does not match.
    pub(super) fn or_else(self, other: impl FnOnce() -> Self) -> Self {
        if self == Self::No { other() } else { self }
    }
}
