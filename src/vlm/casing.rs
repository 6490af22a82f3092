//! How a model writes, and what others wrote brought into that form without moving a byte.

use serde::{Deserialize, Serialize};

/// Which letters a model writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Casing {
    /// Upper and lower case, as people do.
    #[default]
    Mixed,
    /// One sentence of lower case but for its first letter, on one line. Other capitals are letters
    /// that the model never saw: candor-mini's scorer tells captions of a photograph from another's
    /// with an AUROC of .889 when it is shown them so, .715 When Every Word Has One.
    Sentence,
}

impl Casing {
    /// Returns `true` if it is the one that a bundle need not name.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// `text` as the model would have written it. Every character keeps its place and its length in
    /// UTF-8, so that offsets into one are offsets into the other; a character whose other case has
    /// another length stays as it is.
    pub fn apply(self, text: &str) -> String {
        if self == Self::Mixed {
            return text.to_owned();
        }
        let mut first = true;
        let map = |c: char| {
            if c.is_alphanumeric() && std::mem::take(&mut first) {
                return same_length(c, c.to_uppercase());
            }
            if c.is_whitespace() {
                same_length(c, [' '].into_iter())
            } else {
                same_length(c, c.to_lowercase())
            }
        };
        text.chars().map(map).collect()
    }
}

/// The one character that `c` maps to, where it is one and as long; else `c`.
fn same_length(c: char, mut mapped: impl Iterator<Item = char>) -> char {
    match (mapped.next(), mapped.next()) {
        (Some(to), None) if to.len_utf8() == c.len_utf8() => to,
        _ => c,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn other_capitals_and_line_breaks_go() {
        for (text, want) in [
            (
                "two dogs near the Eiffel Tower\nin Paris.",
                "Two dogs near the eiffel tower in paris.",
            ),
            ("\"HELLO\" on a T-Shirt", "\"Hello\" on a t-shirt"),
            ("Ärger ÜBER Ölwechsel", "Ärger über ölwechsel"),
            // Lower case of other lengths in UTF-8, or of two characters.
            (
                "A \u{212A}elvin, a STRAẞE, İzmir",
                "A \u{212A}elvin, a straẞe, İzmir",
            ),
            ("ßa", "ßa"),
            ("", ""),
        ] {
            assert_eq!(Casing::Sentence.apply(text), want);
            assert_eq!(Casing::Mixed.apply(text), text);
        }
    }

    proptest! {
        #[test]
        fn no_character_moves(text in "\\PC{0,12}[ \\n\\tA-Zİẞß\u{212A}é]{0,8}\\PC{0,12}") {
            let mapped = Casing::Sentence.apply(&text);
            let starts = |s: &str| s.char_indices().map(|(i, _)| i).collect::<Vec<_>>();
            prop_assert_eq!(starts(&mapped), starts(&text));
            prop_assert_eq!(mapped.len(), text.len());
            prop_assert_eq!(Casing::Sentence.apply(&mapped), mapped);
        }
    }
}
