//! Properties of modes, and the verdict on an answer.

use super::{Action, Mode, Verdict, words::Word};

/// Returns `true` if `mode` rewrites flagged words.
pub fn repairs(mode: Mode) -> bool {
    matches!(mode, Mode::Regenerate | Mode::Block)
}

/// Returns `true` if `mode` needs rewards.
pub fn scores(mode: Mode) -> bool {
    mode != Mode::Off
}

/// Returns the action of `mode` on a low-reward span that stays in the answer; `None` if the mode
/// marks nothing.
pub fn action(mode: Mode) -> Option<Action> {
    match mode {
        Mode::Off | Mode::Score => None,
        Mode::Flag | Mode::Regenerate => Some(Action::Flagged),
        Mode::Block => Some(Action::Blocked),
    }
}

/// Returns the verdict on an answer and its score: the lowest score of a content word, or of any
/// word if there is none.
///
/// `complete` is `true` if every token was scored. An answer that was not scored completely, or
/// that has no words, is `unscored`, never `clean`. In mode `score` the verdict is that of `flag`;
/// only the marks are missing.
pub fn judge(mode: Mode, words: &[Word], complete: bool) -> (Verdict, Option<f32>) {
    if !scores(mode) {
        return (Verdict::Unscored, None);
    }
    let lowest =
        |words: &mut dyn Iterator<Item = &Word>| words.filter_map(|w| w.score).reduce(f32::min);
    let claimed = lowest(&mut words.iter().filter(|w| !w.function));
    let score = claimed.or_else(|| lowest(&mut words.iter()));
    let scored = complete && score.is_some() && words.iter().all(|w| w.score.is_some());
    let flagged = words.iter().any(Word::is_flagged);
    let verdict = match (scored, flagged, mode) {
        (false, ..) => Verdict::Unscored,
        (true, true, Mode::Block) => Verdict::Blocked,
        (true, true, _) => Verdict::Flagged,
        (true, false, _) => Verdict::Clean,
    };
    (verdict, score)
}

/// Returns the geometric mean of the scores of content words, or of all words if there is none.
pub fn mean_score(words: &[Word]) -> Option<f32> {
    let mean = |words: &mut dyn Iterator<Item = &Word>| {
        let (sum, n) = words
            .filter_map(|w| w.score)
            .fold((0.0, 0u32), |(sum, n), reward| {
                (sum + f64::from(reward.max(1e-6)).ln(), n + 1)
            });
        (n > 0).then(|| (sum / f64::from(n)).exp() as f32)
    };
    mean(&mut words.iter().filter(|w| !w.function)).or_else(|| mean(&mut words.iter()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::{
        spans::spans,
        testing::scored_words,
        words::{with_threshold, words},
    };
    use proptest::prelude::*;

    fn verdict(mode: Mode, notation: &str, complete: bool) -> (Verdict, Option<f32>) {
        judge(mode, &scored_words(notation).1, complete)
    }

    #[test]
    fn answer_without_words_or_rewards_is_unscored() {
        assert_eq!(verdict(Mode::Off, "dog", true), (Verdict::Unscored, None));
        assert_eq!(verdict(Mode::Flag, "", true), (Verdict::Unscored, None));
        assert_eq!(verdict(Mode::Flag, "!", true), (Verdict::Unscored, None));
        assert_eq!(
            verdict(Mode::Flag, "dog", false),
            (Verdict::Unscored, Some(0.9))
        );
    }

    #[test]
    fn verdict_ignores_function_words_and_score_uses_them_only_without_content_words() {
        assert_eq!(
            verdict(Mode::Flag, "the:0.1 dog", true),
            (Verdict::Clean, Some(0.9))
        );
        assert_eq!(
            verdict(Mode::Score, "the dog:0.4", true),
            (Verdict::Flagged, Some(0.4))
        );
        assert_eq!(
            verdict(Mode::Flag, "it:0.3", true),
            (Verdict::Clean, Some(0.3))
        );
        assert_eq!(action(Mode::Score), None);
    }

    proptest! {
        #[test]
        fn verdict_agrees_with_the_spans(
            tokens in proptest::collection::vec(("( the| of| dog| \
                                                  x|,)", 0.0f32..1.0), 0..10),
                                                  threshold in 0.0f32..1.0, known in 0usize..10,
        ) {
            let rewards: Vec<f32> = tokens.iter().map(|t| t.1).take(known).collect();
            let (text, words) = words(tokens.iter().map(|t| t.0.as_bytes()), &rewards);
            let words = with_threshold(words, threshold);
            let complete = rewards.len() == tokens.len();
            let (verdict, score) = judge(Mode::Flag, &words, complete);
            let spans = spans(&text, &words, Action::Flagged);
            match verdict {
                Verdict::Flagged => prop_assert!(complete && !spans.is_empty()
                    && score < Some(threshold)),
                Verdict::Clean => prop_assert!(complete && spans.is_empty() && score.is_some()),
                Verdict::Unscored => prop_assert!(!complete || words.is_empty()),
                Verdict::Repaired | Verdict::Blocked | Verdict::Abstained =>
                    prop_assert!(false, "nothing was repaired, blocked or withheld"),
            }
            let lowest = spans.iter().map(|s| s.score).reduce(f32::min);
            prop_assert!(lowest.is_none() || lowest == score);
        }
    }
}
