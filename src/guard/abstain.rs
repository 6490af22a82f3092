//! Abstention: the questions that get no answer, and the answers that are withheld.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Mode, policy};

/// Treatment of questions that no photograph answers, and of answers that are probably wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnanswerable {
    /// Questions are answered, and answers are given.
    Answer,
    /// The guard abstains: a fixed text says that the answer is unknown.
    #[default]
    Abstain,
}

impl OnUnanswerable {
    /// Returns `true` if the setting has an effect in a mode: the mode changes answers.
    pub fn applies_in(mode: Mode) -> bool {
        policy::action(mode).is_some()
    }

    /// Returns `true` if questions may stay unanswered in a mode.
    pub fn abstains(self, mode: Mode) -> bool {
        self == Self::Abstain && Self::applies_in(mode)
    }
}

/// Maximum length in tokens of an answer that can be withheld: nothing is shown before so many are
/// generated.
pub const SHORT_ANSWER: usize = 12;

/// Short answer as generated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WrittenAnswer<'a> {
    /// Text.
    pub text: &'a str,
    /// Score: the lowest reward of its words' tokens.
    pub score: Option<f32>,
    /// Sum of the log-probabilities of its tokens.
    pub log_probability: f32,
}

/// Estimator of the probability that a short answer is correct.
type Estimate = dyn Fn(&WrittenAnswer<'_>) -> f32 + Send + Sync;

/// Gate that gives or withholds short answers to one question.
pub struct AnswerGate {
    minimum: f32,
    estimate: Box<Estimate>,
}

impl AnswerGate {
    /// Creates a gate that withholds answers whose probability of being correct, as given by
    /// `estimate`, is lower than `minimum`.
    pub fn new(
        minimum: f32,
        estimate: impl Fn(&WrittenAnswer<'_>) -> f32 + Send + Sync + 'static,
    ) -> Self {
        Self {
            minimum,
            estimate: Box::new(estimate),
        }
    }

    /// Returns `true` if the gate can withhold an answer; otherwise it only estimates the
    /// probability.
    pub fn may_withhold(&self) -> bool {
        self.minimum > 0.0
    }

    /// Returns the probability that an answer is correct, and `true` if the answer is given.
    pub fn judge(&self, answer: &WrittenAnswer<'_>) -> (f32, bool) {
        let probability = (self.estimate)(answer);
        (probability, probability >= self.minimum)
    }
}

impl fmt::Debug for AnswerGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerGate")
            .field("minimum", &self.minimum)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abstention_needs_a_mode_that_changes_answers() {
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
    fn answer_below_the_minimum_probability_is_withheld() {
        let gate = AnswerGate::new(0.5, |answer| answer.score.unwrap_or(0.0));
        let judge = |score| {
            gate.judge(&WrittenAnswer {
                text: "Red.",
                score,
                log_probability: -1.0,
            })
        };
        assert_eq!(
            (judge(Some(0.5)), judge(Some(0.25)), judge(None)),
            ((0.5, true), (0.25, false), (0.0, false))
        );
        assert!(gate.may_withhold() && !AnswerGate::new(0.0, |_| 0.0).may_withhold());
    }
}
