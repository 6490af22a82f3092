//! Corrections of captions that a policy wrote: what alignment learns from.
//!
//! A correction marks what is wrong in an answer and says how it should read. Either all of the
//! answer was judged, or only what comes up to the first error; what follows it is then unknown,
//! and never taken for good.

pub mod annotator;
mod english;

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    TrainError, checkpoint::write_atomically, corpus::asks_for_description, labels::LabeledText,
};
use crate::{util::jsonl, vlm::casing::Casing};

/// How much of an answer was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CorrectionScope {
    /// Up to the first error and no further.
    FirstError,
    /// All of it.
    AllErrors,
}

/// One corrected answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorrectedAnswer {
    /// The photograph's name.
    pub image: String,
    /// What was asked; empty for a description.
    pub prompt: String,
    /// What the policy answered.
    pub response: String,
    /// How much of it was judged.
    pub scope: CorrectionScope,
    /// First and one past the last code point of every error, in order; none where all is right.
    pub errors: Vec<(usize, usize)>,
    /// How it should read: the whole answer or, where only the first error was judged, its
    /// beginning up to what stands in the place of that error.
    pub corrected: String,
    /// Indicates whether the answer should end there.
    pub complete: bool,
}

impl CorrectedAnswer {
    /// What of the response the correction speaks of, and whether the response's end belongs to it:
    /// all of it or, up to a first error, the text before the end of that error.
    pub fn judged(&self) -> (String, bool) {
        match (self.scope, self.errors.first()) {
            (CorrectionScope::FirstError, Some(&(_, end))) => {
                (self.response.chars().take(end).collect(), false)
            }
            _ => (self.response.clone(), true),
        }
    }

    /// What is known of the response's parts, written in the casing that a policy writes (in which
    /// no byte moves): errors are bad, and what was judged and is no error is good. Behind a first
    /// error nothing is known.
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

    /// Returns what somebody says the image shows: the whole corrected answer to a request for a
    /// description.
    pub fn description(&self) -> Option<&str> {
        (self.complete && !self.corrected.is_empty() && asks_for_description(&self.prompt))
            .then_some(&self.corrected)
    }
}

/// Writes corrections, one JSON object a line.
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

/// Reads what [`write`] wrote.
///
/// # Errors
/// Names file and line.
pub fn read(file: &Path) -> Result<Vec<CorrectedAnswer>, TrainError> {
    let text = fs::read_to_string(file).map_err(TrainError::io(file))?;
    jsonl::parse(&text)
        .map(|(number, row)| {
            row.map_err(|e| TrainError::Run(format!("{}:{number}: {e}", file.display())))
        })
        .collect()
}

/// Which tokens of each of two answers are not part of their longest common subsequence.
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
        // Of something that is only left out no token is bad.
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
