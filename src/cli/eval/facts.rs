//! What every report says of its run, and the guard that answers to questions are measured under.

use std::path::Path;

use clap::Args;

use super::answering::{AnswerSession, AnswerWithCost};
use crate::eval::{bootstrap::REPEATS, report::answers::AnsweredQuestion};

/// What was measured and how it can be measured again.
pub(super) struct RunFacts<'a> {
    /// Name and version of the model; `None` where captions or answers were read.
    pub(super) model: Option<(String, String)>,
    pub(super) data: Option<&'a Path>,
    pub(super) photographs: usize,
    pub(super) seed: u64,
    pub(super) resamples: usize,
}

impl RunFacts<'_> {
    /// The facts that every report has under the same names.
    pub(super) fn facts(&self) -> Vec<(String, String)> {
        let (model, version) = self.model.clone().unzip();
        [
            ("model", model),
            ("model version", version),
            ("data", self.data.map(|data| data.display().to_string())),
            ("photographs", Some(self.photographs.to_string())),
            ("seed", Some(self.seed.to_string())),
            ("resamples", Some(self.resamples.to_string())),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
    }
}

impl Default for RunFacts<'_> {
    fn default() -> Self {
        Self {
            model: None,
            data: None,
            photographs: 0,
            seed: 1,
            resamples: REPEATS,
        }
    }
}

/// How answers to questions are guarded.
#[derive(Debug, Args)]
pub(super) struct AnswerGuard {
    /// Mode of the guard while it answers; score leaves the answers as they are and adds the risk
    /// of each [default: score, or off where the model has no scorer]
    #[arg(long, value_name = "MODE", value_parser = ["off", "score", "flag", "regenerate",
        "block"])]
    pub(super) guard: Option<String>,
}

impl AnswerGuard {
    /// The mode as the API names it.
    pub(super) fn mode(&self, model: &AnswerSession) -> &str {
        match &self.guard {
            Some(mode) => mode,
            None if model.has_scorer() => "score",
            None => "off",
        }
    }
}

/// Takes over what the guard said of an answer.
pub(super) fn with_guard(question: AnsweredQuestion, answer: &AnswerWithCost) -> AnsweredQuestion {
    let verdict =
        (!matches!(answer.verdict.as_str(), "" | "unscored")).then(|| answer.verdict.clone());
    AnsweredQuestion {
        score: answer.score,
        verdict,
        ..question
    }
}
