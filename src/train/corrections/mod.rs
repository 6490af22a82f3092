//! Corrections of a policy's answers, the training data of alignment.
//!
//! A correction marks the errors in an answer and gives the corrected text. Either the whole answer
//! was judged, or only the part up to the first error; the rest is then unknown and never counts as
//! grounded.

pub mod annotator;
mod english;

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    TrainError, checkpoint::write_atomically, corpus::asks_for_description, labels::LabeledText,
};
use crate::vlm::casing::Casing;

/// Part of an answer that was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CorrectionScope {
    /// Up to the first error.
    FirstError,
    /// The whole answer.
    AllErrors,
}

/// Corrected answer of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorrectedAnswer {
    /// File name of the photograph.
    pub image: String,
    /// Prompt; empty for a description.
    pub prompt: String,
    /// Answer of the policy.
    pub response: String,
    /// Part of the answer that was judged.
    pub scope: CorrectionScope,
    /// Ranges of the errors in code points (start, end), in order; empty if there is no error.
    pub errors: Vec<(usize, usize)>,
    /// Corrected text: the whole answer or, if only the first error was judged, its beginning up to
    /// and including the substitute of that error.
    pub corrected: String,
    /// `true` if the corrected answer ends there.
    pub complete: bool,
}

impl CorrectedAnswer {
    /// Returns the judged part of the response, and whether it includes the response's end: the
    /// whole response, or the text up to the end of the first error.
    pub fn judged(&self) -> (String, bool) {
        match (self.scope, self.errors.first()) {
            (CorrectionScope::FirstError, Some(&(_, end))) => {
                (self.response.chars().take(end).collect(), false)
            }
            _ => (self.response.clone(), true),
        }
    }

    /// Labels the response, in the casing of the policy (which keeps byte offsets): errors are
    /// ungrounded, the rest of the judged part is grounded, and text after a first error is
    /// unknown.
    pub fn labelled(&self, casing: Casing) -> LabeledText {
        let places: Vec<usize> = self
            .response
            .char_indices()
            .map(|(at, _)| at)
            .chain([self.response.len()])
            .collect();
        let byte = |char: usize| places.get(char).copied().unwrap_or(self.response.len());
        let mut ranges: Vec<_> = self
            .errors
            .iter()
            .map(|&(start, end)| (byte(start)..byte(end), Some(false)))
            .collect();
        ranges.retain(|(range, _)| !range.is_empty());
        if let (CorrectionScope::FirstError, Some(&(_, end))) = (self.scope, self.errors.first()) {
            ranges.push((byte(end)..self.response.len(), None));
        }
        LabeledText {
            text: casing.apply(&self.response),
            ranges,
            rest: Some(true),
        }
    }

    /// Returns the complete corrected answer to a request for a description, which describes the
    /// image.
    pub fn description(&self) -> Option<&str> {
        (self.complete && !self.corrected.is_empty() && asks_for_description(&self.prompt))
            .then_some(&self.corrected)
    }
}

/// Writes corrections as JSON Lines.
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
/// When the file cannot be read or a line is invalid; the error names file and line.
pub fn read(file: &Path) -> Result<Vec<CorrectedAnswer>, TrainError> {
    let text = fs::read_to_string(file).map_err(TrainError::io(file))?;
    let parse = |(i, line): (usize, &str)| {
        serde_json::from_str(line)
            .map_err(|e| TrainError::Run(format!("{}:{}: {e}", file.display(), i + 1)))
    };
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(parse)
        .collect()
}

/// Masks of the tokens in each of two answers that are not part of their longest common
/// subsequence.
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

    #[test]
    fn what_differs_is_what_no_common_subsequence_has() {
        assert_eq!(
            changed(&[1, 2, 3, 4], &[1, 5, 4]),
            (vec![false, true, true, false], vec![false, true, false])
        );
        assert_eq!(changed(&[], &[1]), (vec![], vec![true]));
    }

    #[test]
    fn behind_a_first_error_nothing_is_known() {
        let mut correction = CorrectedAnswer {
            image: "a".into(),
            prompt: String::new(),
            response: "É dog with a frisbee ON grass.".into(),
            scope: CorrectionScope::FirstError,
            errors: vec![(13, 20)],
            corrected: "É dog with a ball".into(),
            complete: false,
        };
        let shown = |c: &CorrectedAnswer| -> Vec<(String, Option<bool>)> {
            let labelled = c.labelled(Casing::Sentence);
            assert_eq!(
                (labelled.text.as_str(), labelled.rest),
                ("É dog with a frisbee on grass.", Some(true))
            );
            labelled
                .ranges
                .iter()
                .map(|(range, good)| (labelled.text[range.clone()].to_owned(), *good))
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
        // An omission leaves no wrong token.
        (correction.scope, correction.complete) = (CorrectionScope::AllErrors, true);
        correction.errors.push((20, 20));
        assert_eq!(shown(&correction), [("frisbee".to_owned(), Some(false))]);
        assert_eq!(correction.description(), Some("É dog with a ball"));
        correction.prompt = "Is there a dog?".into();
        assert_eq!(correction.description(), None);
    }

    #[test]
    fn corrections_are_read_as_they_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.jsonl");
        let all = vec![CorrectedAnswer {
            image: "a.jpg".into(),
            prompt: String::new(),
            response: "A dog with a frisbee.".into(),
            scope: CorrectionScope::FirstError,
            errors: vec![(13, 20)],
            corrected: "A dog.".into(),
            complete: true,
        }];
        write(&file, &all).unwrap();
        assert_eq!(read(&file).unwrap(), all);
        assert_eq!(all[0].judged(), ("A dog with a frisbee".to_owned(), false));
        fs::write(&file, "{\n").unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("c.jsonl:1"));
    }
}
