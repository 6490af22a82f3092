//! Trade-off of a threshold: hallucination against recall when low-reward object mentions are left
//! out.

use std::ops::Range;

use super::objects::often_named;
use crate::lexicon::{Lexicon, Reading, ReferenceTexts, Support};

/// Object mentions of one caption with their rewards, ready for any threshold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rewarded {
    /// Reward of every mention, with `true` if a reference supports it.
    pub mentions: Vec<(f32, bool)>,
    /// For each noun that counts for recall, the highest reward of a mention that supports it.
    pub expected: Vec<Option<f32>>,
}

/// CHAIR and recall at one threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TradeoffPoint {
    /// Mentions with a lower reward are left out.
    pub threshold: f32,
    /// Share of the remaining mentions that no reference supports.
    pub chair_i: f64,
    /// Share of captions with such a mention.
    pub chair_s: f64,
    /// Share of the expected nouns that the remaining mentions support.
    pub recall: f64,
}

impl Rewarded {
    /// Collects the rewards of a caption's mentions; `reward` returns the reward of a byte range.
    pub fn new(
        lexicon: &Lexicon,
        caption: &Reading,
        references: &[&Reading],
        reward: impl Fn(&Range<usize>) -> f32,
    ) -> Self {
        let support = ReferenceTexts::from_readings(lexicon, references.iter().copied());
        let named = caption.phrases.iter().map(|p| &p.mention);
        let rewards: Vec<f32> = named.clone().map(|m| reward(&m.range)).collect();
        let mentions = named
            .clone()
            .zip(&rewards)
            .map(|(m, &r)| (r, support.supports(m) == Support::Named))
            .collect();
        let best = |concept| {
            let hits = named
                .clone()
                .zip(&rewards)
                .filter(|(m, _)| lexicon.related(m.concept, concept));
            hits.map(|(_, r)| *r).max_by(f32::total_cmp)
        };
        Self {
            mentions,
            expected: often_named(references).into_iter().map(best).collect(),
        }
    }
}

/// Computes the curve over `thresholds`.
pub fn curve(captions: &[Rewarded], thresholds: &[f32]) -> Vec<TradeoffPoint> {
    let point = |&threshold: &f32| {
        let remaining = |c: &Rewarded| {
            c.mentions
                .iter()
                .filter(|m| m.0 >= threshold)
                .copied()
                .collect::<Vec<_>>()
        };
        let (mut mentions, mut wrong, mut captions_wrong) = (0usize, 0usize, 0usize);
        for caption in captions {
            let left = remaining(caption);
            let bad = left.iter().filter(|m| !m.1).count();
            mentions += left.len();
            wrong += bad;
            captions_wrong += usize::from(bad > 0);
        }
        let expected = || captions.iter().flat_map(|c| &c.expected);
        let recalled = expected()
            .filter(|best| best.is_some_and(|r| r >= threshold))
            .count();
        TradeoffPoint {
            threshold,
            chair_i: wrong as f64 / mentions as f64,
            chair_s: captions_wrong as f64 / captions.len() as f64,
            recall: recalled as f64 / expected().count() as f64,
        }
    };
    thresholds.iter().map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curve_trades_hallucination_for_recall() {
        let lexicon = Lexicon::shared();
        let text = "A dog with a frisbee on the grass.";
        let references =
            ["A dog on grass.", "A puppy in the grass."].map(|t| Reading::new(lexicon, t));
        let caption = Reading::new(lexicon, text);
        let reward = |range: &Range<usize>| match &text[range.clone()] {
            "dog" => 0.9,
            "frisbee" => 0.3,
            _ => 0.5,
        };
        let found = Rewarded::new(
            lexicon,
            &caption,
            &references.iter().collect::<Vec<_>>(),
            reward,
        );
        assert_eq!(found.mentions, [(0.9, true), (0.3, false), (0.5, true)]);
        let curve = curve(&[found], &[0.0, 0.4, 0.6]);
        let figures: Vec<[f64; 3]> = curve
            .iter()
            .map(|p| [p.chair_i, p.chair_s, p.recall])
            .collect();
        assert_eq!(figures[0], [1.0 / 3.0, 1.0, 1.0]);
        assert_eq!(figures[1], [0.0, 0.0, 1.0]);
        assert_eq!(figures[2][..2], [0.0, 0.0]);
        assert!(figures[2][2] < 1.0);
    }
}
