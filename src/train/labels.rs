//! Texts with labels: grounded, not grounded, or unknown.

use std::ops::Range;

use crate::{
    eval::objects::ObjectJudgment,
    lexicon::{Lexicon, Mention, ReferenceTexts, Support},
    vlm::processor::tokenizer::{TextTokenizer, TokenizerError},
};

/// Response with labels of its parts. Text outside of all ranges has the label `rest`. `None` means
/// unknown and is never taken for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabeledText {
    /// Text of the response.
    pub text: String,
    /// Byte ranges and their labels.
    pub ranges: Vec<(Range<usize>, Option<bool>)>,
    /// Label of the text outside of the ranges.
    pub rest: Option<bool>,
    /// Recorded tokens of the text with their labels; `None` if [`tokens`](Self::tokens) is to
    /// tokenize the text and to label tokens by the ranges.
    pub recorded: Option<Vec<LabeledToken>>,
}

/// Token of a [`LabeledText`] with its label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabeledToken {
    /// Vocabulary id.
    pub id: u32,
    /// `true` if it is grounded, `false` if not, `None` if unknown.
    pub good: Option<bool>,
    /// `true` if its label is that of the text outside of the ranges.
    pub rest: bool,
}

impl LabeledText {
    /// Labels a text as grounded throughout.
    pub fn all_good(text: String) -> Self {
        Self {
            text,
            ranges: Vec::new(),
            rest: Some(true),
            recorded: None,
        }
    }

    /// Labels a model's text by its image's references: mentions that they name are grounded,
    /// mentions that they merely suggest are unknown, and other mentions are not grounded. All
    /// other words are unknown.
    pub fn judged(text: String, lexicon: &Lexicon, references: &ReferenceTexts<'_>) -> Self {
        Self::from_mentions(text, lexicon, |mention| {
            match references.supports(mention) {
                Support::Named => Some(true),
                Support::None => Some(false),
                Support::Expected => None,
            }
        })
    }

    /// Labels the mentions of a text by `truth`; all other words are unknown.
    pub fn from_mentions(
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
            recorded: None,
        }
    }

    /// Adds the judgments of colors and numbers (see [`crate::eval::objects`]).
    pub fn with_properties(mut self, judgment: &ObjectJudgment) -> Self {
        self.ranges.extend(
            judgment
                .colors
                .iter()
                .chain(&judgment.counts)
                .map(|(range, good)| (range.clone(), Some(*good))),
        );
        self
    }

    /// Label of a byte range: the worst of all ranges that it overlaps, where bad is worse than
    /// unknown, and unknown worse than good.
    pub fn label(&self, own: &Range<usize>) -> Option<bool> {
        self.range_label(own).unwrap_or(self.rest)
    }

    /// Label of a byte range by the ranges that it overlaps; `None` if there are none.
    fn range_label(&self, own: &Range<usize>) -> Option<Option<bool>> {
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
        hits.max_by_key(weight)
    }

    /// Returns the tokens of the text with their labels: the recorded ones, or else tokenized and
    /// labeled by the ranges. Tokens without bytes are unknown.
    ///
    /// # Errors
    /// When the text has to be tokenized and the vocabulary cannot spell it.
    pub fn tokens(&self, tokenizer: &TextTokenizer) -> Result<Vec<LabeledToken>, TokenizerError> {
        if let Some(recorded) = &self.recorded {
            return Ok(recorded.clone());
        }
        let ids = tokenizer.encode_text(&self.text)?;
        let token = |(&id, own): (&u32, Range<usize>)| {
            let label = (!own.is_empty()).then(|| self.range_label(&own));
            LabeledToken {
                id,
                good: label.and_then(|label| label.unwrap_or(self.rest)),
                rest: label.flatten().flatten().is_none(),
            }
        };
        let ranges = self.token_ranges(tokenizer, &ids);
        Ok(ids.iter().zip(ranges).map(token).collect())
    }

    /// Labels of `tokens`, whose bytes must make up the text. Tokens without bytes, such as the end
    /// token, are unknown.
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
    fn tokens_take_the_label_of_overlapping_ranges() {
        let tokenizer = tokenizer();
        let text = "A dog runs with a frisbee.".to_owned();
        let at = text.find("frisbee").unwrap();
        let labeled = LabeledText {
            ranges: vec![(at..at + 7, Some(false)), (2..5, Some(true)), (6..10, None)],
            rest: Some(true),
            recorded: None,
            text,
        };
        let mut tokens = tokenizer.encode(&labeled.text).unwrap();
        tokens.push(tokenizer.eos());
        let labels = labeled.token_labels(&tokenizer, &tokens);
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
        tokens.pop();
        let found = labeled.tokens(&tokenizer).unwrap();
        let ids: Vec<u32> = found.iter().map(|token| token.id).collect();
        let goods: Vec<Option<bool>> = found.iter().map(|token| token.good).collect();
        assert_eq!((&ids, &goods[..]), (&tokens, &labels[..tokens.len()]));
        // `dog` and `frisbee` have labels of their own.
        let told: Vec<u32> = found.iter().filter(|t| !t.rest).map(|t| t.id).collect();
        assert_eq!(tokenizer.decode(&told).trim(), "dog frisbee");
    }

    #[test]
    fn recorded_tokens_are_read_as_they_stand() {
        let tokenizer = tokenizer();
        let recorded: Vec<LabeledToken> = "A dog."
            .chars()
            .map(|letter| LabeledToken {
                id: tokenizer.encode_text(&letter.to_string()).unwrap()[0],
                good: (letter != '.').then_some(letter == 'A'),
                rest: letter == 'A',
            })
            .collect();
        let text = LabeledText {
            recorded: Some(recorded.clone()),
            ..LabeledText::all_good("A dog.".to_owned())
        };
        assert_ne!(
            tokenizer.encode_text("A dog.").unwrap().len(),
            recorded.len()
        );
        assert_eq!(text.tokens(&tokenizer).unwrap(), recorded);
    }

    #[test]
    fn judged_text_is_labeled_by_reference_mentions() {
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
