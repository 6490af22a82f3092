//! The report on a text that is there as a whole.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Candidate, ClassThresholds, Mode, Span, Thresholds, Verdict, policy,
    question::Unanswerable,
    render::{RenderStyle, alt_text},
    spans::spans,
    words::words,
};

/// The `guard` object of a response (design, section 5).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GuardReport {
    /// The mode that was in force.
    pub mode: Mode,
    /// The conclusion.
    pub verdict: Verdict,
    /// Why there is no answer, where the verdict is `abstained`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Unanswerable>,
    /// The answer that is not given, where one was written and the request asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withheld: Option<String>,
    /// Probability that a short answer is right as a whole, where the model has a calibration of
    /// that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_probability: Option<f32>,
    /// Lowest word reward of the answer, function words left out where there are others; absent
    /// when nothing was scored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
    /// Geometric mean of its words' rewards, function words left out where there are others: what
    /// answers of different lengths are compared by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_score: Option<f32>,
    /// Closeness of the photograph to those that the model learned from: 1 is familiar, 0 is not.
    /// Absent where the model cannot tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0, maximum = 1)]
    pub familiarity: Option<f32>,
    /// The threshold that was in force.
    pub threshold: f32,
    /// Those of classes of words that have one of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thresholds: Option<ClassThresholds>,
    /// The low-reward spans, in order.
    pub spans: Vec<Span>,
    /// Repair attempts made.
    pub attempts: u32,
    /// Tokens decoded beyond the answer's own.
    pub extra_tokens: u32,
    /// The answer as a screen reader should say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alt_text: Option<String>,
    /// Other answers, where `guard.candidates` asked for several: best first, by `mean_score`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Candidate>,
}

impl GuardReport {
    /// On an answer of which nothing is known.
    pub fn new(mode: Mode, thresholds: Thresholds) -> Self {
        Self {
            mode,
            verdict: Verdict::Unscored,
            reason: None,
            withheld: None,
            answer_probability: None,
            score: None,
            mean_score: None,
            familiarity: None,
            threshold: thresholds.common,
            thresholds: (thresholds.by_class != ClassThresholds::default())
                .then_some(thresholds.by_class),
            spans: Vec::new(),
            attempts: 0,
            extra_tokens: 0,
            alt_text: None,
            candidates: Vec::new(),
        }
    }

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

/// The report on the text of `tokens` (the bytes of each) whose rewards are `rewards`, and nothing
/// was done about it.
pub fn report<'a>(
    tokens: impl IntoIterator<Item = &'a [u8]>,
    rewards: &[f32],
    mode: Mode,
    thresholds: Thresholds,
    style: RenderStyle,
) -> GuardReport {
    let mut count = 0;
    let (text, mut words) = words(tokens.into_iter().inspect(|_| count += 1), rewards);
    thresholds.set(&text, &mut words);
    let (verdict, score) = policy::judge(mode, &words, rewards.len() >= count);
    let spans = policy::action(mode).map(|action| spans(&text, &words, action));
    let alt_text = spans.as_ref().map(|spans| alt_text(&text, spans, style));
    let mean_score = policy::mean_score(&words);
    let threshold = thresholds.of_answer(&text, &words);
    GuardReport {
        threshold,
        verdict,
        score,
        mean_score,
        spans: spans.unwrap_or_default(),
        alt_text,
        ..GuardReport::new(mode, thresholds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::Verdict;

    #[test]
    fn the_mode_decides_what_is_marked_and_not_what_is_found() {
        let tokens: [&[u8]; 3] = [b"A dog", b" frisbee", b"."];
        let of =
            |mode, rewards: &[f32]| report(tokens, rewards, mode, 0.5.into(), RenderStyle::Plain);
        let flag = of(Mode::Flag, &[0.9, 0.2, 0.1]);
        assert_eq!(
            (
                flag.verdict,
                flag.score,
                flag.spans.len(),
                flag.alt_text.as_deref()
            ),
            (Verdict::Flagged, Some(0.2), 1, Some("A dog frisbee."))
        );
        let score = of(Mode::Score, &[0.9, 0.2, 0.1]);
        assert_eq!(
            (
                score.verdict,
                score.score,
                score.spans.len(),
                score.alt_text
            ),
            (Verdict::Flagged, Some(0.2), 0, None)
        );
        assert_eq!(of(Mode::Flag, &[0.9, 0.9]).verdict, Verdict::Unscored);
    }
}
