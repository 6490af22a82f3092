//! Texts with token labels: grounded, ungrounded or unknown.

use std::ops::Range;

use crate::{
    eval::objects::ObjectJudgment,
    lexicon::{Lexicon, Mention, ReferenceTexts, Support},
    vlm::tokenizer::TextTokenizer,
};

/// Text with labeled byte ranges. Text outside the ranges has the label `rest`; `None` is unknown
/// and never counts as grounded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabeledText {
    /// Text.
    pub text: String,
    /// Byte ranges with their labels: `true` if grounded.
    pub ranges: Vec<(Range<usize>, Option<bool>)>,
    /// Label of text outside the ranges.
    pub rest: Option<bool>,
}

impl LabeledText {
    /// Creates a text that is grounded throughout.
    pub fn all_good(text: String) -> Self {
        Self {
            text,
            ranges: Vec::new(),
            rest: Some(true),
        }
    }

    /// Labels a model's text by the references of its image: an object mention is grounded if the
    /// references name it, unknown if they lead one to expect it, ungrounded otherwise; all other
    /// words are unknown.
    pub fn judged(text: String, lexicon: &Lexicon, references: &ReferenceTexts<'_>) -> Self {
        Self::by_mention(text, lexicon, |mention| {
            match references.supports(mention) {
                Support::Named => Some(true),
                Support::None => Some(false),
                Support::Expected => None,
            }
        })
    }

    /// Labels object mentions with `truth`; all other words are unknown.
    pub fn by_mention(
        text: String,
        lexicon: &Lexicon,
        truth: impl Fn(&Mention) -> Option<bool>,
    ) -> Self {
        let judged = |mention: Mention| truth(&mention).map(|good| (mention.range, Some(good)));
        Self {
            ranges: lexicon
                .mentions(&text)
                .into_iter()
                .filter_map(judged)
                .collect(),
            text,
            rest: None,
        }
    }

    /// Adds labels of colors and numbers (see [`crate::eval::objects`]).
    pub fn with_properties(mut self, judgment: &ObjectJudgment) -> Self {
        self.ranges.extend(
            judgment
                .colours
                .iter()
                .chain(&judgment.counts)
                .map(|(range, good)| (range.clone(), Some(*good))),
        );
        self
    }

    /// Label of a byte range, from all labeled ranges that it overlaps: ungrounded outweighs
    /// unknown, which outweighs grounded.
    pub fn label(&self, own: &Range<usize>) -> Option<bool> {
        let hits = self
            .ranges
            .iter()
            .filter(|(r, _)| overlap(r, own))
            .map(|(_, good)| *good);
        let weight = |good: &Option<bool>| {
            [Some(true), None, Some(false)]
                .iter()
                .position(|g| g == good)
        };
        hits.max_by_key(weight).unwrap_or(self.rest)
    }

    /// [Label](Self::label) of each token; the tokens must decode to the text. Tokens without bytes
    /// (the end token) are unknown.
    pub fn token_labels(&self, tokenizer: &TextTokenizer, tokens: &[u32]) -> Vec<Option<bool>> {
        self.token_ranges(tokenizer, tokens)
            .map(|own| {
                if own.is_empty() {
                    None
                } else {
                    self.label(&own)
                }
            })
            .collect()
    }

    /// Byte range of each token in the text, without a leading space, which belongs to no word.
    pub fn token_ranges(
        &self,
        tokenizer: &TextTokenizer,
        tokens: &[u32],
    ) -> impl Iterator<Item = Range<usize>> {
        let mut end = 0;
        tokens.iter().map(move |&token| {
            let start = end;
            end += tokenizer.bytes(token).len();
            start + usize::from(self.text.as_bytes().get(start) == Some(&b' ') && end > start + 1)
                ..end
        })
    }
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::corpus::{END, train_tokenizer};

    fn tokenizer() -> TextTokenizer {
        let lines = vec!["A dog runs with a frisbee in the snow.".to_owned(); 20];
        TextTokenizer::new(train_tokenizer(&lines, 300).unwrap(), END).unwrap()
    }

    #[test]
    fn tokens_take_the_label_of_the_range_they_overlap() {
        let tokenizer = tokenizer();
        let text = "A dog runs with a frisbee.".to_owned();
        let at = text.find("frisbee").unwrap();
        let labelled = LabeledText {
            ranges: vec![(at..at + 7, Some(false)), (2..5, Some(true)), (6..10, None)],
            rest: Some(true),
            text,
        };
        let mut tokens = tokenizer.encode(&labelled.text).unwrap();
        tokens.push(tokenizer.eos());
        let labels = labelled.token_labels(&tokenizer, &tokens);
        let said = |wanted: Option<bool>| -> String {
            let of: Vec<u32> = tokens
                .iter()
                .zip(&labels)
                .filter(|(_, l)| **l == wanted)
                .map(|(t, _)| *t)
                .collect();
            tokenizer.decode(&of)
        };
        assert_eq!(
            (said(Some(false)).trim(), said(Some(true)).trim()),
            ("frisbee", "A dog with a.")
        );
        assert_eq!(said(None).trim(), "runs");
        assert_eq!(labels.last(), Some(&None));
    }

    #[test]
    fn a_model_is_judged_by_what_people_named() {
        let lexicon = Lexicon::shared();
        let references =
            ReferenceTexts::new(lexicon, ["A puppy runs through snow.", "A dog plays."]);
        let judged = LabeledText::judged("A dog runs with a frisbee.".into(), lexicon, &references);
        let named: Vec<(&str, Option<bool>)> = judged
            .ranges
            .iter()
            .map(|(r, good)| (&judged.text[r.clone()], *good))
            .collect();
        assert_eq!(named, [("dog", Some(true)), ("frisbee", Some(false))]);
    }
}
