//! Corrections of a policy's captions, from which alignment learns.
//!
//! A correction marks the errors of an answer and states how it should read. Either the whole
//! answer was judged, or only the part up to the first error; the rest is then unknown and never
//! taken for good.

pub mod annotator;
mod english;

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    TrainError,
    checkpoint::write_atomically,
    corpus::asks_for_description,
    labels::{LabeledText, LabeledToken},
};
use crate::{
    feedback::record::{JudgedPart, TokenLabel},
    util::jsonl,
    vlm::{
        processor::casing::Casing,
        processor::tokenizer::{TextTokenizer, TokenizerError},
    },
};

/// Answer with its errors and correction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorrectedAnswer {
    /// Name of the photograph.
    pub image: String,
    /// Prompt; empty for a description.
    pub prompt: String,
    /// Answer of the policy.
    pub response: String,
    /// Part of the answer that was judged.
    pub scope: JudgedPart,
    /// First and one past the last code point of every error, in order; empty if all is right.
    pub errors: Vec<(usize, usize)>,
    /// Corrected text: of the whole answer or, if only the first error was judged, up to the end of
    /// its correction.
    pub corrected: String,
    /// `true` if the answer should end with the corrected text.
    pub complete: bool,
    /// Recorded tokens; `None` for the simulated annotator's answers and for records without the
    /// digest of their tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<RecordedTokens>,
}

/// Tokens of a [`CorrectedAnswer`] as they were recorded, in the vocabulary of one tokenizer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedTokens {
    /// [Digest](TextTokenizer::digest) of the tokenizer.
    pub tokenizer: String,
    /// Token ids of the response.
    pub response: Vec<u32>,
    /// Label of each of them.
    pub labels: Vec<TokenLabel>,
    /// Token ids of the corrected answer, without an end token; `None` where two errors share a
    /// token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrected: Option<Vec<u32>>,
}

impl CorrectedAnswer {
    /// Returns the judged part of the response, and `true` if its end was judged too. After a first
    /// error nothing is.
    pub fn judged(&self) -> (String, bool) {
        match (self.scope, self.errors.first()) {
            (JudgedPart::FirstError, Some(&(_, end))) => {
                (self.response.chars().take(end).collect(), false)
            }
            _ => (self.response.clone(), true),
        }
    }

    /// Recorded tokens if they belong to `tokenizer` and spell the response, as recorded or in the
    /// policy's casing. A damaged record thus falls back to its text.
    fn recorded(&self, tokenizer: &TextTokenizer, casing: Casing) -> Option<&RecordedTokens> {
        self.tokens.as_ref().filter(|tokens| {
            tokens.tokenizer == tokenizer.digest()
                && tokens.labels.len() == tokens.response.len()
                && (tokenizer.spells(&tokens.response, &self.response)
                    || tokenizer.spells(&tokens.response, &casing.apply(&self.response)))
        })
    }

    /// Recorded token ids of the corrected text, if they spell it: tidying its spaces may have
    /// changed it.
    fn recorded_correction(&self, tokenizer: &TextTokenizer, casing: Casing) -> Option<&[u32]> {
        let ids = self.recorded(tokenizer, casing)?.corrected.as_deref()?;
        let spelled = tokenizer.spells(ids, &self.corrected)
            || tokenizer.spells(ids, &casing.apply(&self.corrected));
        spelled.then_some(ids)
    }

    /// Returns the response with its labels: errors are bad, other judged parts are good, and the
    /// text after a first error is unknown. Ids and labels are the recorded ones if `tokenizer` is
    /// the recorded one; otherwise the text is in the policy's casing (which moves no byte), to be
    /// tokenized.
    pub fn labeled(&self, tokenizer: &TextTokenizer, casing: Casing) -> LabeledText {
        let offsets: Vec<usize> = self
            .response
            .char_indices()
            .map(|(at, _)| at)
            .chain([self.response.len()])
            .collect();
        let byte = |char: usize| offsets.get(char).copied().unwrap_or(self.response.len());
        let mut ranges: Vec<_> = self
            .errors
            .iter()
            .map(|&(start, end)| (byte(start)..byte(end), Some(false)))
            .collect();
        ranges.retain(|(range, _)| !range.is_empty());
        if let (JudgedPart::FirstError, Some(&(_, end))) = (self.scope, self.errors.first()) {
            ranges.push((byte(end)..self.response.len(), None));
        }
        let tokens = self.recorded(tokenizer, casing);
        LabeledText {
            text: match tokens {
                Some(tokens) => tokenizer.decode(&tokens.response),
                None => casing.apply(&self.response),
            },
            ranges,
            rest: Some(true),
            recorded: tokens.map(|tokens| labeled_tokens(&tokens.response, &tokens.labels)),
        }
    }

    /// Returns the corrected text, labeled good throughout.
    pub fn corrected_text(&self, tokenizer: &TextTokenizer, casing: Casing) -> LabeledText {
        let Some(ids) = self.recorded_correction(tokenizer, casing) else {
            return LabeledText::all_good(casing.apply(&self.corrected));
        };
        LabeledText {
            recorded: Some(labeled_tokens(ids, &vec![TokenLabel::Good; ids.len()])),
            ..LabeledText::all_good(tokenizer.decode(ids))
        }
    }

    /// Returns the token ids of [`judged`](Self::judged), with the end token where the response's
    /// end was judged.
    ///
    /// # Errors
    /// When the text has to be tokenized and the vocabulary cannot spell it.
    pub fn judged_tokens(
        &self,
        tokenizer: &TextTokenizer,
        casing: Casing,
    ) -> Result<Vec<u32>, TokenizerError> {
        let (text, whole) = self.judged();
        let mut ids = match self.recorded(tokenizer, casing) {
            Some(tokens) if whole => tokens.response.clone(),
            Some(tokens) => {
                let last = tokens.labels.iter().rposition(|l| *l != TokenLabel::None);
                tokens.response[..last.map_or(0, |last| last + 1)].to_vec()
            }
            None => tokenizer.encode_text(&casing.apply(&text))?,
        };
        ids.extend(whole.then(|| tokenizer.eos()));
        Ok(ids)
    }

    /// Returns the token ids of the corrected answer, with the end token where it is complete.
    ///
    /// # Errors
    /// When the text has to be tokenized and the vocabulary cannot spell it.
    pub fn corrected_tokens(
        &self,
        tokenizer: &TextTokenizer,
        casing: Casing,
    ) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = match self.recorded_correction(tokenizer, casing) {
            Some(ids) => ids.to_vec(),
            None => tokenizer.encode_text(&casing.apply(&self.corrected))?,
        };
        ids.extend(self.complete.then(|| tokenizer.eos()));
        Ok(ids)
    }

    /// Returns the corrected text if it is a whole description of the image.
    pub fn description(&self) -> Option<&str> {
        (self.complete && !self.corrected.is_empty() && asks_for_description(&self.prompt))
            .then_some(&self.corrected)
    }
}

fn labeled_tokens(ids: &[u32], labels: &[TokenLabel]) -> Vec<LabeledToken> {
    let token = |(&id, label): (&u32, &TokenLabel)| LabeledToken {
        id,
        good: match label {
            TokenLabel::Good => Some(true),
            TokenLabel::Bad => Some(false),
            TokenLabel::None => None,
        },
        rest: *label != TokenLabel::Bad,
    };
    ids.iter().zip(labels).map(token).collect()
}

/// Writes corrections as JSON lines.
///
/// # Errors
/// When the file cannot be written.
pub fn write(file: &Path, corrections: &[CorrectedAnswer]) -> Result<(), TrainError> {
    let lines: Result<Vec<String>, _> = corrections.iter().map(serde_json::to_string).collect();
    let text = lines
        .map_err(|e| TrainError::Run(format!("{}: {e}", file.display())))?
        .join("\n")
        + "\n";
    write_atomically(file, text.as_bytes())
}

/// Reads corrections written by [`write`].
///
/// # Errors
/// Names the file and line.
pub fn read(file: &Path) -> Result<Vec<CorrectedAnswer>, TrainError> {
    let text = fs::read_to_string(file).map_err(TrainError::io(file))?;
    jsonl::parse(&text)
        .map(|(number, row)| {
            row.map_err(|e| TrainError::Run(format!("{}:{number}: {e}", file.display())))
        })
        .collect()
}

/// Marks the tokens of two answers that are not part of their longest common subsequence.
pub fn changed(a: &[u32], b: &[u32]) -> (Vec<bool>, Vec<bool>) {
    let mut longest = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            longest[i][j] = if a[i] == b[j] {
                longest[i + 1][j + 1] + 1
            } else {
                longest[i + 1][j].max(longest[i][j + 1])
            };
        }
    }
    let (mut of_a, mut of_b) = (vec![true; a.len()], vec![true; b.len()]);
    let (mut i, mut j) = (0, 0);
    while i < a.len() && j < b.len() {
        if a[i] == b[j] {
            (of_a[i], of_b[j]) = (false, false);
            (i, j) = (i + 1, j + 1);
        } else if longest[i + 1][j] >= longest[i][j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    (of_a, of_b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::corpus::{END, train_tokenizer};

    fn tokenizer() -> TextTokenizer {
        let lines = vec!["A dog runs with a frisbee in the snow.".to_owned(); 20];
        TextTokenizer::new(train_tokenizer(&lines, 300).unwrap(), END).unwrap()
    }

    /// Ids of a text's single letters, a segmentation other than the tokenizer's.
    fn letters(tokenizer: &TextTokenizer, text: &str) -> Vec<u32> {
        text.bytes()
            .map(|byte| {
                (0..tokenizer.vocab_size() as u32)
                    .find(|&id| tokenizer.bytes(id) == [byte])
                    .unwrap()
            })
            .collect()
    }

    /// "A dog on snow", whose first error is "dog", with a token and a label a letter.
    fn recorded(tokenizer: &TextTokenizer) -> CorrectedAnswer {
        let response = "A dog on snow";
        let label = |at: usize| match at {
            0 | 1 => TokenLabel::Good,
            2..5 => TokenLabel::Bad,
            _ => TokenLabel::None,
        };
        CorrectedAnswer {
            image: "a".into(),
            prompt: String::new(),
            response: response.into(),
            scope: JudgedPart::FirstError,
            errors: vec![(2, 5)],
            corrected: "A snow".into(),
            complete: false,
            tokens: Some(RecordedTokens {
                tokenizer: tokenizer.digest().to_owned(),
                response: letters(tokenizer, response),
                labels: (0..response.len()).map(label).collect(),
                corrected: Some(letters(tokenizer, "A snow")),
            }),
        }
    }

    #[test]
    fn recorded_tokens_of_the_same_tokenizer_are_verbatim() {
        let (tokenizer, casing) = (tokenizer(), Casing::Mixed);
        let correction = recorded(&tokenizer);
        let tokens = correction.tokens.as_ref().unwrap();
        assert_ne!(
            tokenizer.encode_text("A dog on snow").unwrap(),
            tokens.response
        );
        let labeled = correction
            .labeled(&tokenizer, casing)
            .tokens(&tokenizer)
            .unwrap();
        let ids: Vec<u32> = labeled.iter().map(|token| token.id).collect();
        assert_eq!(ids, tokens.response);
        let goods: Vec<Option<bool>> = labeled.iter().map(|token| token.good).collect();
        let expected = [vec![Some(true); 2], vec![Some(false); 3], vec![None; 8]].concat();
        assert_eq!(goods, expected);
        assert_eq!(
            correction.judged_tokens(&tokenizer, casing).unwrap(),
            tokens.response[..5]
        );
        assert_eq!(
            correction.corrected_tokens(&tokenizer, casing).unwrap(),
            letters(&tokenizer, "A snow")
        );
        let whole = CorrectedAnswer {
            scope: JudgedPart::AllErrors,
            complete: true,
            ..correction.clone()
        };
        let end = [tokenizer.eos()];
        assert_eq!(
            whole.judged_tokens(&tokenizer, casing).unwrap(),
            [&tokens.response[..], &end].concat()
        );
        assert_eq!(
            whole.corrected_tokens(&tokenizer, casing).unwrap(),
            [&letters(&tokenizer, "A snow")[..], &end].concat()
        );
    }

    #[test]
    fn recorded_tokens_of_another_tokenizer_are_tokenized_again() {
        let (tokenizer, casing) = (tokenizer(), Casing::Mixed);
        let mut other = recorded(&tokenizer);
        let mut damaged = other.clone();
        if let (Some(tokens), Some(bad)) = (&mut other.tokens, &mut damaged.tokens) {
            tokens.tokenizer = "0".repeat(64);
            bad.response.pop();
            bad.labels.pop();
        }
        for correction in [other, damaged] {
            let labeled = correction.labeled(&tokenizer, casing);
            assert_eq!(labeled.recorded, None);
            let ids: Vec<u32> = labeled
                .tokens(&tokenizer)
                .unwrap()
                .iter()
                .map(|token| token.id)
                .collect();
            assert_eq!(ids, tokenizer.encode_text("A dog on snow").unwrap());
            assert_eq!(
                correction.judged_tokens(&tokenizer, casing).unwrap(),
                tokenizer.encode_text("A dog").unwrap()
            );
            assert_eq!(
                correction.corrected_tokens(&tokenizer, casing).unwrap(),
                tokenizer.encode_text("A snow").unwrap()
            );
        }
    }

    #[test]
    fn recorded_correction_that_spells_another_text_is_tokenized_again() {
        let (tokenizer, casing) = (tokenizer(), Casing::Mixed);
        let mut correction = recorded(&tokenizer);
        correction.corrected = "A  snow".into();
        assert_eq!(
            correction.corrected_tokens(&tokenizer, casing).unwrap(),
            tokenizer.encode_text("A  snow").unwrap()
        );
    }

    #[test]
    fn changed_marks_tokens_outside_common_subsequence() {
        assert_eq!(
            changed(&[1, 2, 3, 4], &[1, 5, 4]),
            (vec![false, true, true, false], vec![false, true, false])
        );
        assert_eq!(changed(&[], &[1]), (vec![], vec![true]));
    }

    #[test]
    fn text_after_first_error_is_unknown() {
        let mut correction = CorrectedAnswer {
            image: "a".into(),
            prompt: String::new(),
            response: "É dog with a frisbee ON grass.".into(),
            scope: JudgedPart::FirstError,
            errors: vec![(13, 20)],
            corrected: "É dog with a ball".into(),
            complete: false,
            tokens: None,
        };
        let shown = |c: &CorrectedAnswer| -> Vec<(String, Option<bool>)> {
            let labeled = c.labeled(&tokenizer(), Casing::Sentence);
            assert_eq!(
                (labeled.text.as_str(), labeled.rest, &labeled.recorded),
                ("É dog with a frisbee on grass.", Some(true), &None)
            );
            labeled
                .ranges
                .iter()
                .map(|(range, good)| (labeled.text[range.clone()].to_owned(), *good))
                .collect()
        };
        assert_eq!(
            shown(&correction),
            [
                ("frisbee".to_owned(), Some(false)),
                (" on grass.".to_owned(), None)
            ]
        );
        assert_eq!(correction.description(), None);
        // No token is bad for content that is only missing.
        (correction.scope, correction.complete) = (JudgedPart::AllErrors, true);
        correction.errors.push((20, 20));
        assert_eq!(shown(&correction), [("frisbee".to_owned(), Some(false))]);
        assert_eq!(correction.description(), Some("É dog with a ball"));
        correction.prompt = "Is there a dog?".into();
        assert_eq!(correction.description(), None);
    }

    #[test]
    fn corrections_round_trip_through_their_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.jsonl");
        let all = vec![CorrectedAnswer {
            image: "a.jpg".into(),
            prompt: String::new(),
            response: "A dog with a frisbee.".into(),
            scope: JudgedPart::FirstError,
            errors: vec![(13, 20)],
            corrected: "A dog.".into(),
            complete: true,
            tokens: None,
        }];
        write(&file, &all).unwrap();
        assert_eq!(read(&file).unwrap(), all);
        assert_eq!(all[0].judged(), ("A dog with a frisbee".to_owned(), false));
        fs::write(&file, "{\n").unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("c.jsonl:1"));
    }
}
