//! BLEU (Papineni et al., ACL 2002) of a corpus, with the reference closest in length.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use super::ngrams::{Ngrams, ORDERS};

/// BLEU counts of one caption or the sum over many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BleuStats {
    /// N-grams of one to four words that a reference has too, each at most as often as in the
    /// reference with the most.
    pub matches: [usize; ORDERS],
    /// N-grams of one to four words.
    pub guesses: [usize; ORDERS],
    /// Length in words.
    pub words: usize,
    /// Length of the reference closest in length; of two, the shorter.
    pub closest: usize,
}

impl BleuStats {
    pub(super) fn new(caption: &Ngrams, references: &[Ngrams]) -> Self {
        let mut matches = [0; ORDERS];
        for &(ngram, count) in &caption.counts {
            let most = references
                .iter()
                .map(|r| {
                    r.counts
                        .binary_search_by_key(&ngram, |c| c.0)
                        .map_or(0, |i| r.counts[i].1)
                })
                .max();
            matches[ngram.order()] += count.min(most.unwrap_or(0)) as usize;
        }
        let closest = references
            .iter()
            .map(|r| r.words)
            .min_by_key(|&words| (words.abs_diff(caption.words), words));
        Self {
            matches,
            guesses: std::array::from_fn(|order| caption.number(order)),
            words: caption.words,
            closest: closest.unwrap_or(0),
        }
    }

    /// Computes BLEU-1 to BLEU-4. The small constants are `pycocoevalcap`'s and prevent divisions
    /// by 0.
    pub fn bleu(&self) -> [f64; ORDERS] {
        const TINY: f64 = 1e-15;
        const SMALL: f64 = 1e-9;
        let ratio = (self.words as f64 + TINY) / (self.closest as f64 + SMALL);
        let brevity = if ratio < 1.0 {
            (1.0 - 1.0 / ratio).exp()
        } else {
            1.0
        };
        let mut product = 1.0;
        std::array::from_fn(|order| {
            product *= (self.matches[order] as f64 + TINY) / (self.guesses[order] as f64 + SMALL);
            brevity * product.powf(1.0 / (order + 1) as f64)
        })
    }
}

impl AddAssign for BleuStats {
    fn add_assign(&mut self, other: Self) {
        for order in 0..ORDERS {
            self.matches[order] += other.matches[order];
            self.guesses[order] += other.guesses[order];
        }
        self.words += other.words;
        self.closest += other.closest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_are_clipped_by_the_reference_with_most() {
        let stats = BleuStats::new(
            &Ngrams::count(&[1, 1, 1, 2]),
            &[Ngrams::count(&[1, 3, 1]), Ngrams::count(&[1, 2, 4, 4, 4])],
        );
        assert_eq!(
            stats,
            BleuStats {
                matches: [3, 1, 0, 0],
                guesses: [4, 3, 2, 1],
                words: 4,
                closest: 3
            }
        );
    }

    #[test]
    fn short_caption_has_a_brevity_penalty() {
        let short = BleuStats {
            matches: [4, 3, 2, 1],
            guesses: [4, 3, 2, 1],
            words: 4,
            closest: 8,
        };
        for bleu in short.bleu() {
            assert!((bleu - (-1.0f64).exp()).abs() < 1e-6);
        }
        assert!(BleuStats::default().bleu().iter().all(|b| b.is_finite()));
    }
}
