//! The report on a text that is there as a whole.

use super::{
    GuardReport, Mode, Thresholds, policy,
    render::{RenderStyle, alt_text},
    spans::spans,
    words::words,
};

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
