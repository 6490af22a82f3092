//! Honesty: whether a model's answers, and the guard's reports on them, can be trusted on
//! photographs of any kind.
//!
//! Every figure is a function of answers and annotations; nothing here runs a model. [`bars`] lists
//! the measures with their bars, [`fold_index`] decides which network may be asked about which
//! photograph, and the other modules compute the measures.

pub mod bars;
pub mod calibration;
pub mod consistency;
pub mod people;
pub mod pictures;
pub mod risk;
pub mod texts;

use std::collections::BTreeMap;

use super::{
    bootstrap::{Estimate, estimates},
    tokens::{Ranking, ScoredToken},
};
use crate::util::digest::sha256_u64;

/// Origin of photographs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PhotographOrigin {
    /// Reporting half of Flickr8k's development split.
    Flickr8k,
    /// A folder in COCO's layout.
    CocoMini,
    /// Indoor photographs with people's questions.
    Daquar,
    /// Radiographs with clinicians' questions.
    VqaRad,
    /// Generated pages of text.
    Documents,
    /// Generated line drawings.
    Drawings,
    /// Photographs of coco-mini, re-encoded small and at low quality.
    Reencoded,
}

impl PhotographOrigin {
    /// All origins, in the order of reports.
    pub const ALL: [Self; 7] = [
        Self::Flickr8k,
        Self::CocoMini,
        Self::Daquar,
        Self::VqaRad,
        Self::Documents,
        Self::Drawings,
        Self::Reencoded,
    ];

    /// Name in reports, and of the folder if the photographs are read.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flickr8k => "flickr8k",
            Self::CocoMini => "coco-mini",
            Self::Daquar => "daquar",
            Self::VqaRad => "vqa-rad",
            Self::Documents => "documents",
            Self::Drawings => "drawings",
            Self::Reencoded => "re-encoded",
        }
    }

    /// Returns `true` if its pictures are generated.
    pub fn is_made(self) -> bool {
        matches!(self, Self::Documents | Self::Drawings | Self::Reencoded)
    }
}

/// Number of folds. A photograph's fold depends on its file's content alone, so that training and
/// evaluation agree without a list, and a copy under another name is in the same fold.
pub const FOLDS: usize = 5;

/// Computes the digest of a photograph: the first eight bytes of its file's SHA-256, big-endian.
pub fn photograph_digest(file: &[u8]) -> u64 {
    sha256_u64(file)
}

/// Returns the fold of a photograph, from 0, by its [digest](photograph_digest).
pub fn fold_index(digest: u64) -> usize {
    (digest % FOLDS as u64) as usize
}

/// Settings of the bootstrap that gives figures their intervals.
#[derive(Debug, Clone, Copy)]
pub struct Resampling {
    /// Number of resamples of photographs.
    pub repeats: usize,
    /// Seed of the bootstrap.
    pub seed: u64,
}

/// Photographs renumbered from 0 in the order of their keys, so that only those that contribute to
/// a figure are resampled.
#[derive(Debug, Clone, Default)]
pub struct PhotographNumbers(BTreeMap<usize, usize>);

impl PhotographNumbers {
    /// Numbers distinct keys.
    pub fn new(keys: impl IntoIterator<Item = usize>) -> Self {
        let mut numbers: BTreeMap<usize, usize> = keys.into_iter().map(|key| (key, 0)).collect();
        numbers
            .values_mut()
            .enumerate()
            .for_each(|(number, slot)| *slot = number);
        Self(numbers)
    }

    /// Returns the number of a key; `usize::MAX` for an unknown key.
    pub fn get(&self, key: usize) -> usize {
        self.0.get(&key).copied().unwrap_or(usize::MAX)
    }

    /// Returns the number of photographs.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns `true` if there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

const NOTHING: Estimate = Estimate {
    value: f64::NAN,
    interval: None,
};

/// First figure of `statistic`, which receives the weight of each photograph.
pub fn estimate(
    photographs: usize,
    resampling: Resampling,
    statistic: impl Fn(&[u32]) -> f64 + Sync,
) -> Estimate {
    let found = estimates(
        photographs,
        resampling.repeats,
        resampling.seed,
        |weights| vec![statistic(weights)],
    );
    found.first().copied().unwrap_or(NOTHING)
}

/// Mean of values, each with the key of its photograph, with its interval over photographs; NaN if
/// there are none.
pub fn mean(rows: &[(usize, f64)], resampling: Resampling) -> Estimate {
    let numbers = PhotographNumbers::new(rows.iter().map(|row| row.0));
    let numbered: Vec<(usize, f64)> = rows
        .iter()
        .map(|&(key, value)| (numbers.get(key), value))
        .collect();
    estimate(numbers.len(), resampling, |weights| {
        let (mut sum, mut all) = (0.0, 0.0);
        for &(photograph, value) in &numbered {
            let weight = f64::from(weights[photograph]);
            sum += weight * value;
            all += weight;
        }
        sum / all
    })
}

/// Share of rows that are `true`, each with the key of its photograph, with its interval over
/// photographs.
pub fn share(rows: &[(usize, bool)], resampling: Resampling) -> Estimate {
    let rows: Vec<(usize, f64)> = rows
        .iter()
        .map(|&(key, holds)| (key, f64::from(u8::from(holds))))
        .collect();
    mean(&rows, resampling)
}

/// Score of an answer or object mention, and its truth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoredOutcome {
    /// Key of the photograph.
    pub photograph: usize,
    /// Calibrated score, or any that increases with it.
    pub score: f64,
    /// `true` if it is right.
    pub is_right: bool,
}

/// Area under the ROC curve: probability that a wrong outcome has a lower score than a right one.
pub fn auroc(rows: &[ScoredOutcome], resampling: Resampling) -> Estimate {
    let numbers = PhotographNumbers::new(rows.iter().map(|row| row.photograph));
    let ranking = ranking(rows, &numbers);
    estimate(numbers.len(), resampling, |weights| {
        ranking.weighted(0.0, weights).auroc
    })
}

/// Decrease of the area under the ROC curve from the first scores to the second: rows of the same
/// outcomes in the same order.
pub fn auroc_lost(
    own: &[ScoredOutcome],
    other: &[ScoredOutcome],
    resampling: Resampling,
) -> Estimate {
    let numbers = PhotographNumbers::new(own.iter().map(|row| row.photograph));
    let (own, other) = (ranking(own, &numbers), ranking(other, &numbers));
    estimate(numbers.len(), resampling, |weights| {
        own.weighted(0.0, weights).auroc - other.weighted(0.0, weights).auroc
    })
}

fn ranking(rows: &[ScoredOutcome], numbers: &PhotographNumbers) -> Ranking {
    let scored = |row: &ScoredOutcome| ScoredToken {
        reward: row.score as f32,
        good: row.is_right,
        image: numbers.get(row.photograph) as u32,
    };
    Ranking::new(rows.iter().map(scored).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESAMPLING: Resampling = Resampling {
        repeats: 200,
        seed: 1,
    };

    fn outcomes(rows: &[(usize, f64, bool)]) -> Vec<ScoredOutcome> {
        rows.iter()
            .map(|&(photograph, score, is_right)| ScoredOutcome {
                photograph,
                score,
                is_right,
            })
            .collect()
    }

    #[test]
    fn share_and_mean_count_rows_and_resample_photographs() {
        let found = share(&[(7, true), (7, false), (900, true), (3, true)], RESAMPLING);
        assert_eq!(found.value, 0.75);
        assert_eq!(mean(&[(1, 2.0), (1, 4.0), (2, 9.0)], RESAMPLING).value, 5.0);
        assert!(share(&[], RESAMPLING).value.is_nan());
        // A single photograph has no variance, however many rows it has.
        let one: Vec<(usize, bool)> = (0..50).map(|i| (4, i % 2 == 0)).collect();
        assert_eq!(share(&one, RESAMPLING).interval, Some((0.5, 0.5)));
        let many: Vec<(usize, bool)> = (0..50).map(|i| (i, i % 2 == 0)).collect();
        let (low, high) = share(&many, RESAMPLING).interval.unwrap();
        assert!(low < 0.45 && high > 0.55, "{low} {high}");
    }

    #[test]
    fn auroc_is_the_share_of_correctly_ordered_pairs() {
        // Wrong .2 and .6 against right .5, .6 and .9: 3 of 3 and 1.5 of 3 pairs.
        let rows = outcomes(&[
            (1, 0.2, false),
            (2, 0.6, false),
            (3, 0.5, true),
            (4, 0.6, true),
            (5, 0.9, true),
        ]);
        assert!((auroc(&rows, RESAMPLING).value - 0.75).abs() < 1e-9);
        let others = outcomes(&[
            (1, 0.9, false),
            (2, 0.6, false),
            (3, 0.5, true),
            (4, 0.6, true),
            (5, 0.2, true),
        ]);
        // .9 is above all three, .6 above two but for a tie: half a pair of six.
        assert!((auroc_lost(&rows, &others, RESAMPLING).value - (0.75 - 0.5 / 6.0)).abs() < 1e-9);
        assert!(auroc(&rows[..2], RESAMPLING).value.is_nan());
    }

    #[test]
    fn fold_depends_on_the_content() {
        // int.from_bytes(hashlib.sha256(b).digest()[:8], "big") % 5
        for (file, fold) in [(&b""[..], 2), (b"a", 0), (b"candor", 1), (b"photograph", 2)] {
            assert_eq!(fold_index(photograph_digest(file)), fold, "{file:?}");
        }
        let mut counts = [0; FOLDS];
        (0..5000u32).for_each(|i| counts[fold_index(photograph_digest(&i.to_le_bytes()))] += 1);
        assert!(
            counts.iter().all(|count| (880..1120).contains(count)),
            "{counts:?}"
        );
    }
}
