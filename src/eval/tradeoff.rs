//! Trade-off of a threshold: hallucination against recall when low-reward things are left out.

use std::ops::Range;

use super::objects::often_named;
use crate::lexicon::{Lexicon, Reading, ReferenceTexts, Support};

/// The things of one caption with their rewards, ready for any threshold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rewarded {
    /// Every mention's reward, and whether a reference supports it.
    pub mentions: Vec<(f32, bool)>,
    /// For each noun that recall asks for, the highest reward of a mention that supports it.
    pub asked: Vec<Option<f32>>,
}

/// CHAIR and recall at one threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TradeoffPoint {
    /// Mentions with a smaller reward are left out.
    pub threshold: f32,
    /// Share of the mentions left that no reference supports.
    pub chair_i: f64,
    /// Share of the captions that still have one.
    pub chair_s: f64,
    /// Share of the asked nouns that the mentions left support.
    pub recall: f64,
}

impl Rewarded {
    /// Looks at a caption; `reward` gives the reward of a mention by its bytes.
    pub fn new(
        lexicon: &Lexicon,
        caption: &Reading,
        references: &[&Reading],
        reward: impl Fn(&Range<usize>) -> f32,
    ) -> Self {
        let support = ReferenceTexts::from_readings(lexicon, references.iter().copied());
        let things = caption.phrases.iter().map(|p| &p.mention);
        let rewards: Vec<f32> = things.clone().map(|m| reward(&m.range)).collect();
        let mentions = things
            .clone()
            .zip(&rewards)
            .map(|(m, &r)| (r, support.supports(m) == Support::Named))
            .collect();
        let best = |concept| {
            let hits = things
                .clone()
                .zip(&rewards)
                .filter(|(m, _)| lexicon.related(m.concept, concept));
            hits.map(|(_, r)| *r).max_by(f32::total_cmp)
        };
        Self {
            mentions,
            asked: often_named(references).into_iter().map(best).collect(),
        }
    }
}

/// The curve over `thresholds`.
pub fn curve(captions: &[Rewarded], thresholds: &[f32]) -> Vec<TradeoffPoint> {
    let at = |&threshold: &f32| {
        let kept = |c: &Rewarded| {
            c.mentions
                .iter()
                .filter(|m| m.0 >= threshold)
                .copied()
                .collect::<Vec<_>>()
        };
        let (mut mentions, mut wrong, mut captions_wrong) = (0usize, 0usize, 0usize);
        for caption in captions {
            let left = kept(caption);
            let bad = left.iter().filter(|m| !m.1).count();
            mentions += left.len();
            wrong += bad;
            captions_wrong += usize::from(bad > 0);
        }
        let asked = || captions.iter().flat_map(|c| &c.asked);
        let recalled = asked()
            .filter(|best| best.is_some_and(|r| r >= threshold))
            .count();
        TradeoffPoint {
            threshold,
            chair_i: wrong as f64 / mentions as f64,
            chair_s: captions_wrong as f64 / captions.len() as f64,
            recall: recalled as f64 / asked().count() as f64,
        }
    };
    thresholds.iter().map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaving_doubted_things_out_costs_what_was_right() {
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
