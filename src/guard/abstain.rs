//! Not answering: what is said in place of an answer, and which answers are withheld.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{GuardReport, Mode, Thresholds, Verdict, policy, question::Unanswerable};

/// Treatment of questions that no photograph answers, and of answers that are more likely wrong
/// than right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnanswerable {
    /// They are answered, or given, all the same.
    Answer,
    /// The answer says that it cannot be told.
    #[default]
    Abstain,
}

impl OnUnanswerable {
    /// Returns whether it is effective in a mode: the guard then changes what is answered.
    pub fn is_possible(mode: Mode) -> bool {
        policy::action(mode).is_some()
    }

    /// Returns whether questions may stay without an answer.
    pub fn abstains(self, mode: Mode) -> bool {
        self == Self::Abstain && Self::is_possible(mode)
    }
}

/// Longest answer in tokens that can be withheld once it is written: nothing is shown before that
/// many.
pub const SHORT_ANSWER: usize = 12;

/// A short answer as it was written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WrittenAnswer<'a> {
    /// Its text.
    pub text: &'a str,
    /// Its score: the lowest reward of a word.
    pub score: Option<f32>,
    /// The sum of its tokens' log-probabilities.
    pub log_probability: f32,
}

/// Estimator of the probability that a short answer is right.
type Estimate = dyn Fn(&WrittenAnswer<'_>) -> f32 + Send + Sync;

/// Decides which short answers to one question are given.
pub struct AnswerGate {
    below: f32,
    estimate: Box<Estimate>,
}

impl AnswerGate {
    /// Returns the gate that withholds answers which are right with a lower probability than
    /// `below`, as `estimate` says.
    pub fn new(
        below: f32,
        estimate: impl Fn(&WrittenAnswer<'_>) -> f32 + Send + Sync + 'static,
    ) -> Self {
        Self {
            below,
            estimate: Box::new(estimate),
        }
    }

    /// Returns whether it may withhold an answer; else it only says how likely each is right.
    pub fn may_withhold(&self) -> bool {
        self.below > 0.0
    }

    /// Returns the probability that an answer is right, and whether it is given.
    pub fn judge(&self, answer: &WrittenAnswer<'_>) -> (f32, bool) {
        let probability = (self.estimate)(answer);
        (probability, probability >= self.below)
    }
}

impl fmt::Debug for AnswerGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerGate")
            .field("below", &self.below)
            .finish_non_exhaustive()
    }
}

impl GuardReport {
    /// Returns the report on an abstention.
    pub fn of_abstention(mode: Mode, thresholds: Thresholds, reason: Unanswerable) -> Self {
        Self {
            verdict: Verdict::Abstained,
            reason: Some(reason),
            alt_text: Some(reason.wording().to_owned()),
            ..Self::new(mode, thresholds)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_modes_that_change_answers_abstain() {
        for (mode, abstains) in [
            (Mode::Off, false),
            (Mode::Score, false),
            (Mode::Flag, true),
            (Mode::Regenerate, true),
            (Mode::Block, true),
        ] {
            assert_eq!(OnUnanswerable::Abstain.abstains(mode), abstains, "{mode:?}");
            assert!(!OnUnanswerable::Answer.abstains(mode), "{mode:?}");
        }
    }

    #[test]
    fn answers_below_the_bound_are_withheld() {
        let gate = AnswerGate::new(0.5, |answer| answer.score.unwrap_or(0.0));
        let of = |score| {
            gate.judge(&WrittenAnswer {
                text: "Red.",
                score,
                log_probability: -1.0,
            })
        };
        assert_eq!(
            (of(Some(0.5)), of(Some(0.25)), of(None)),
            ((0.5, true), (0.25, false), (0.0, false))
        );
        assert!(gate.may_withhold() && !AnswerGate::new(0.0, |_| 0.0).may_withhold());
    }
}
