//! Letter case of a model's text, and conversion of other texts to it without moving a byte.

use serde::{Deserialize, Serialize};

/// Letter case that a model writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Casing {
    /// Upper and lower case, as people write.
    #[default]
    Mixed,
    /// A single lower-case line with a capital first letter. Other capitals are unfamiliar input:
    /// candor-mini's scorer separates captions of a photograph from those of another with an AUROC
    /// of .889 in this form, but .715 When Every Word Is Capitalized.
    Sentence,
}

impl Casing {
    /// Returns `true` for the default casing, which a bundle need not name.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Converts a text to this casing. Every character keeps its position and its length in UTF-8,
    /// so that byte offsets stay valid; a character whose other case has a different length is
    /// kept.
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

/// Returns the mapped character if it is a single one of the same UTF-8 length, else `c`.
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
    fn apply_sentence_lowers_capitals_and_joins_lines() {
        for (text, want) in [
            (
                "two dogs near the Eiffel Tower\nin Paris.",
                "Two dogs near the eiffel tower in paris.",
            ),
            ("\"HELLO\" on a T-Shirt", "\"Hello\" on a t-shirt"),
            ("Ärger ÜBER Ölwechsel", "Ärger über ölwechsel"),
            // Lower case of a different UTF-8 length, or of two characters.
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
        fn apply_keeps_byte_offsets(text in "\\PC{0,12}[ \\n\\tA-Zİẞß\u{212A}é]{0,8}\\PC{0,12}") {
            let mapped = Casing::Sentence.apply(&text);
            let starts = |s: &str| s.char_indices().map(|(i, _)| i).collect::<Vec<_>>();
            prop_assert_eq!(starts(&mapped), starts(&text));
            prop_assert_eq!(mapped.len(), text.len());
            prop_assert_eq!(Casing::Sentence.apply(&mapped), mapped);
        }
    }
}
