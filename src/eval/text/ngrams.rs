//! N-grams of one to four words and their counts.

/// Largest order.
pub(super) const ORDERS: usize = 4;

/// An n-gram: its order (less one) in the two highest bits, a hash in the others. Among ten million
/// different n-grams the chance of a collision is 1 in 90,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ngram(u64);

impl Ngram {
    /// Order of the n-gram, less one.
    pub(super) fn order(self) -> usize {
        (self.0 >> 62) as usize
    }

    /// All n-grams of a text.
    pub(super) fn all(words: &[u32]) -> impl Iterator<Item = Self> {
        (0..words.len()).flat_map(move |start| {
            let mut hash = 0;
            words[start..]
                .iter()
                .take(ORDERS)
                .enumerate()
                .map(move |(order, &word)| {
                    hash = mix(hash + u64::from(word) + 1);
                    Self((order as u64) << 62 | hash >> 2)
                })
        })
    }
}

/// The finalizer of SplitMix64 (Steele et al., OOPSLA 2014).
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Counts of a text's n-grams.
#[derive(Debug, Clone, Default)]
pub(super) struct Ngrams {
    /// Distinct n-grams in order, with their counts.
    pub(super) counts: Vec<(Ngram, u32)>,
    /// Length of the text in words.
    pub(super) words: usize,
}

impl Ngrams {
    pub(super) fn count(words: &[u32]) -> Self {
        let mut all: Vec<Ngram> = Ngram::all(words).collect();
        all.sort_unstable();
        let counts = all
            .chunk_by(|a, b| a == b)
            .map(|same| (same[0], same.len() as u32))
            .collect();
        Self {
            counts,
            words: words.len(),
        }
    }

    /// Returns the number of n-grams of `order` + 1 words in the text.
    pub(super) fn number(&self, order: usize) -> usize {
        self.words.saturating_sub(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ngrams_are_counted_by_order() {
        let ngrams = Ngrams::count(&[7, 8, 7, 8, 9]);
        let by_order = |order| {
            ngrams
                .counts
                .iter()
                .filter(|(n, _)| n.order() == order)
                .map(|&(_, count)| count)
                .collect::<Vec<_>>()
        };
        let sorted = |order| {
            let mut counts = by_order(order);
            counts.sort_unstable();
            counts
        };
        assert_eq!(
            [0, 1, 2, 3].map(sorted),
            [vec![1, 2, 2], vec![1, 1, 2], vec![1, 1, 1], vec![1, 1]]
        );
        for order in 0..ORDERS {
            assert_eq!(
                by_order(order).iter().sum::<u32>() as usize,
                ngrams.number(order)
            );
        }
    }
}
