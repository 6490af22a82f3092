//! The guard's report on an answer, and its computation for a complete text.

use serde::{Deserialize, Serialize};

use super::{
    Candidate, ClassThresholds, Mode, Span, Thresholds, Verdict, policy,
    question::Unanswerable,
    render::{RenderStyle, alt_text},
    spans::spans,
    words::words,
};

/// Report of the guard on an answer: the `guard` object of a response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuardReport {
    /// Mode in force.
    pub mode: Mode,
    /// Verdict.
    pub verdict: Verdict,
    /// Reason for an abstention; present if the verdict is `abstained`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Unanswerable>,
    /// Withheld answer; present if one was generated and the request asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withheld: Option<String>,
    /// Probability that a short answer is correct; absent if the model has no calibration for
    /// answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_probability: Option<f32>,
    /// Score of the answer: the lowest score of its content words, or of any word if it has none.
    /// Absent if nothing was scored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
    /// Geometric mean of the scores of its content words, or of all words if it has none;
    /// comparable between answers of different lengths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_score: Option<f32>,
    /// Familiarity of the photograph: 1 if it resembles the training photographs, 0 if not. Absent
    /// if the model does not measure it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub familiarity: Option<f32>,
    /// Threshold in force.
    pub threshold: f32,
    /// Thresholds of classes of words that differ from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thresholds: Option<ClassThresholds>,
    /// Low-reward spans, in order.
    pub spans: Vec<Span>,
    /// Number of repair attempts.
    pub attempts: u32,
    /// Number of tokens decoded beyond those of the answer.
    pub extra_tokens: u32,
    /// Answer as a screen reader should read it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alt_text: Option<String>,
    /// Other answers, the best `mean_score` first; present if `guard.candidates` asked for several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Candidate>,
}

impl GuardReport {
    /// Creates a report on an answer that was not scored.
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

    /// Creates the report on an abstention.
    pub fn abstained(mode: Mode, thresholds: Thresholds, reason: Unanswerable) -> Self {
        Self {
            verdict: Verdict::Abstained,
            reason: Some(reason),
            alt_text: Some(reason.wording().to_owned()),
            ..Self::new(mode, thresholds)
        }
    }
}

/// Computes the report on a complete text that is not changed. `tokens` are the bytes of each
/// token, `rewards` the rewards of the leading tokens.
pub fn report<'a>(
    tokens: impl IntoIterator<Item = &'a [u8]>,
    rewards: &[f32],
    mode: Mode,
    thresholds: Thresholds,
    style: RenderStyle,
) -> GuardReport {
    let mut count = 0;
    let (text, mut words) = words(tokens.into_iter().inspect(|_| count += 1), rewards);
    thresholds.apply(&text, &mut words);
    let (verdict, score) = policy::judge(mode, &words, rewards.len() >= count);
    let spans = policy::action(mode).map(|action| spans(&text, &words, action));
    let alt_text = spans.as_ref().map(|spans| alt_text(&text, spans, style));
    let mean_score = policy::mean_score(&words);
    let threshold = thresholds.for_answer(&text, &words);
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
    fn report_in_mode_score_has_the_verdict_of_flag_without_spans() {
        let tokens: [&[u8]; 3] = [b"A dog", b" frisbee", b"."];
        let report_in =
            |mode, rewards: &[f32]| report(tokens, rewards, mode, 0.5.into(), RenderStyle::Plain);
        let flag = report_in(Mode::Flag, &[0.9, 0.2, 0.1]);
        assert_eq!(
            (
                flag.verdict,
                flag.score,
                flag.spans.len(),
                flag.alt_text.as_deref()
            ),
            (Verdict::Flagged, Some(0.2), 1, Some("A dog frisbee."))
        );
        let score = report_in(Mode::Score, &[0.9, 0.2, 0.1]);
        assert_eq!(
            (
                score.verdict,
                score.score,
                score.spans.len(),
                score.alt_text
            ),
            (Verdict::Flagged, Some(0.2), 0, None)
        );
        assert_eq!(
            report_in(Mode::Flag, &[0.9, 0.9]).verdict,
            Verdict::Unscored
        );
    }
}
