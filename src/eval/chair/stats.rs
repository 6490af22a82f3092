//! Counts of captions and the rates computed from them.

use std::{iter::Sum, ops::AddAssign};

use serde::{Deserialize, Serialize};

/// Counts of one caption or the sum over many. Rates are shares, `None` if there was nothing to
/// count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ChairStats {
    /// Captions.
    pub captions: usize,
    /// Captions with at least one hallucinated mention.
    pub hallucinating: usize,
    /// Mentions of objects: an object named twice counts twice.
    pub mentions: usize,
    /// Mentions of objects that are not in the image.
    pub hallucinated: usize,
    /// Objects in the images, each once per image.
    pub present: usize,
    /// Objects that the image's caption mentions.
    pub covered: usize,
    /// Captions of images with at least one object.
    pub coverable: usize,
    /// Sum over these captions of the share of objects that each mentions.
    pub cover: f64,
    /// Words of the captions.
    pub words: usize,
}

impl ChairStats {
    /// CHAIR_i: the share of mentions that are hallucinated.
    pub fn chair_i(&self) -> Option<f64> {
        rate(self.hallucinated as f64, self.mentions)
    }

    /// CHAIR_s: the share of captions with a hallucinated mention.
    pub fn chair_s(&self) -> Option<f64> {
        rate(self.hallucinating as f64, self.captions)
    }

    /// Object recall: share of the objects of all images that their captions mention, pooled.
    /// AMBER's code prints this figure as its Cover.
    pub fn recall(&self) -> Option<f64> {
        rate(self.covered as f64, self.present)
    }

    /// Cover as AMBER defines it (Wang et al., 2023, arXiv:2311.07397): share of its image's
    /// objects that a caption mentions, averaged over captions.
    pub fn cover(&self) -> Option<f64> {
        rate(self.cover, self.coverable)
    }

    /// Mean length of a caption in words.
    pub fn mean_words(&self) -> Option<f64> {
        rate(self.words as f64, self.captions)
    }

    /// Counts as if every caption occurred `n` times, for the
    /// [`bootstrap`](crate::eval::bootstrap).
    pub fn repeated(self, n: u32) -> Self {
        let k = n as usize;
        Self {
            captions: self.captions * k,
            hallucinating: self.hallucinating * k,
            mentions: self.mentions * k,
            hallucinated: self.hallucinated * k,
            present: self.present * k,
            covered: self.covered * k,
            coverable: self.coverable * k,
            cover: self.cover * f64::from(n),
            words: self.words * k,
        }
    }
}

fn rate(part: f64, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part / whole as f64)
}

impl AddAssign for ChairStats {
    fn add_assign(&mut self, other: Self) {
        self.captions += other.captions;
        self.hallucinating += other.hallucinating;
        self.mentions += other.mentions;
        self.hallucinated += other.hallucinated;
        self.present += other.present;
        self.covered += other.covered;
        self.coverable += other.coverable;
        self.cover += other.cover;
        self.words += other.words;
    }
}

impl Sum for ChairStats {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |mut sum, one| {
            sum += one;
            sum
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats_add_up_and_empty_ones_have_no_rates() {
        let one = ChairStats {
            captions: 1,
            hallucinating: 1,
            mentions: 4,
            hallucinated: 1,
            present: 4,
            covered: 1,
            coverable: 1,
            cover: 0.25,
            words: 9,
        };
        let two = ChairStats {
            captions: 1,
            mentions: 1,
            present: 1,
            covered: 1,
            coverable: 1,
            cover: 1.0,
            words: 3,
            ..ChairStats::default()
        };
        let bare = ChairStats {
            captions: 1,
            words: 3,
            ..ChairStats::default()
        };
        let sum: ChairStats = [one, two, bare].into_iter().sum();
        assert_eq!((sum.chair_i(), sum.chair_s()), (Some(0.2), Some(1.0 / 3.0)));
        assert_eq!(
            (sum.recall(), sum.cover(), sum.mean_words()),
            (Some(0.4), Some(0.625), Some(5.0))
        );
        assert_eq!(one.repeated(3), [one; 3].into_iter().sum());
        assert_eq!(one.repeated(0), ChairStats::default());
        let nothing = ChairStats::default();
        assert_eq!(
            [
                nothing.chair_i(),
                nothing.chair_s(),
                nothing.recall(),
                nothing.cover(),
                nothing.mean_words()
            ],
            [None; 5]
        );
    }
}
