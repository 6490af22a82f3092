//! CIDEr-D (Vedantam et al., CVPR 2015) as `pycocoevalcap` computes it: without stemming.
//! [`Consensus`] reads references once for many captions, as self-critical training needs.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use rayon::prelude::*;

use super::{
    ngrams::{Ngram, Ngrams, ORDERS},
    ptb::Tokenizer,
    words::{self, NumberedCaption},
};

/// Standard deviation of the penalty on length differences.
const SIGMA: f64 = 6.0;

/// Hasher that returns an [`Ngram`] as it is, since it is a hash already.
#[derive(Default)]
struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn finish(&self) -> u64 {
        // The order is in the high bits, which the table uses to distinguish entries.
        self.0.rotate_left(2)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes
            .iter()
            .for_each(|&byte| self.0 = self.0.rotate_left(8) ^ u64::from(byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

type Table<V> = HashMap<Ngram, V, BuildHasherDefault<IdentityHasher>>;

/// Number of images in which an n-gram occurs, and the last of them.
struct ImageCount {
    images: u32,
    last: usize,
}

/// Document frequency of n-grams: number of images whose references contain them.
pub(super) struct DocumentFrequencies {
    /// Logarithm of the number of images.
    log_images: f64,
    /// Logarithms of the frequencies. N-grams in at most one image weigh the same and are left out.
    logs: Table<f64>,
}

/// Weights of a text's n-grams.
struct Vector {
    weights: Vec<(Ngram, f64)>,
    norms: [f64; ORDERS],
    /// Length in bigrams, as the reference code measures it.
    length: usize,
}

impl DocumentFrequencies {
    pub(super) fn count(rows: &[NumberedCaption]) -> Self {
        let share = rows.len().div_ceil(rayon::current_num_threads()).max(1);
        let images = rows
            .par_chunks(share)
            .map(images_by_run)
            .reduce(Table::default, merge);
        let logs = images
            .into_iter()
            .filter(|(_, seen)| seen.images > 1)
            .map(|(ngram, seen)| (ngram, f64::from(seen.images).ln()));
        Self {
            log_images: (rows.len() as f64).ln(),
            logs: logs.collect(),
        }
    }

    fn vector(&self, text: &Ngrams) -> Vector {
        let mut norms = [0.0; ORDERS];
        let weigh = |&(ngram, count): &(Ngram, u32)| {
            let weight = f64::from(count)
                * (self.log_images - self.logs.get(&ngram).copied().unwrap_or(0.0));
            norms[ngram.order()] += weight * weight;
            (ngram, weight)
        };
        let weights = text.counts.iter().map(weigh).collect();
        Vector {
            weights,
            norms: norms.map(f64::sqrt),
            length: text.number(1),
        }
    }

    /// Computes the CIDEr-D of a caption, 0 to 10.
    pub(super) fn cider_d(&self, caption: &Ngrams, references: &[Ngrams]) -> f64 {
        let caption = self.vector(caption);
        let sum: f64 = references
            .iter()
            .map(|reference| caption.similarity(&self.vector(reference)))
            .sum();
        10.0 * sum / references.len().max(1) as f64
    }
}

impl Vector {
    /// Cosine similarity averaged over orders, in which the caption (`self`) has an n-gram at most
    /// as often as the reference.
    fn similarity(&self, reference: &Self) -> f64 {
        let mut products = [0.0; ORDERS];
        let mut theirs = reference.weights.iter().peekable();
        for &(ngram, weight) in &self.weights {
            while theirs.next_if(|(n, _)| *n < ngram).is_some() {}
            if let Some(&(_, limit)) = theirs.next_if(|(n, _)| *n == ngram) {
                products[ngram.order()] += weight.min(limit) * limit;
            }
        }
        let norms = self.norms.iter().zip(&reference.norms).map(|(a, b)| a * b);
        let cosines: f64 = products
            .iter()
            .zip(norms)
            .filter(|&(_, norm)| norm > 0.0)
            .map(|(product, norm)| product / norm)
            .sum();
        let difference = self.length.abs_diff(reference.length) as f64;
        cosines / ORDERS as f64 * (-difference * difference / (2.0 * SIGMA * SIGMA)).exp()
    }
}

fn images_by_run(rows: &[NumberedCaption]) -> Table<ImageCount> {
    let mut table: Table<ImageCount> = Table::default();
    for (image, row) in rows.iter().enumerate() {
        for ngram in row
            .references
            .iter()
            .flat_map(|reference| Ngram::all(reference))
        {
            let seen = table.entry(ngram).or_insert(ImageCount {
                images: 0,
                last: usize::MAX,
            });
            seen.images += u32::from(seen.last != image);
            seen.last = image;
        }
    }
    table
}

fn merge(a: Table<ImageCount>, b: Table<ImageCount>) -> Table<ImageCount> {
    let (mut large, small) = if a.len() < b.len() { (b, a) } else { (a, b) };
    for (ngram, seen) in small {
        large
            .entry(ngram)
            .and_modify(|s| s.images += seen.images)
            .or_insert(seen);
    }
    large
}

/// References of many images, read once, by which captions are scored.
pub struct Consensus {
    numbers: HashMap<String, u32>,
    frequencies: DocumentFrequencies,
    references: Vec<Vec<Ngrams>>,
}

impl Consensus {
    /// Reads the references of every image.
    pub fn new<S: AsRef<str> + Sync>(images: &[&[S]]) -> Self {
        let captions: Vec<(&str, &[S])> =
            images.iter().map(|references| ("", *references)).collect();
        let (rows, numbers) = words::rows(&captions);
        let frequencies = DocumentFrequencies::count(&rows);
        let references = rows
            .par_iter()
            .map(|row| row.references.iter().map(|r| Ngrams::count(r)).collect())
            .collect();
        Self {
            numbers,
            frequencies,
            references,
        }
    }

    /// Computes the CIDEr-D, 0 to 10, of captions, each with the index of its image.
    pub fn cider_d(&self, captions: &[(usize, &str)]) -> Vec<f64> {
        let score = |tokenizer: &mut Tokenizer, &(image, caption): &(usize, &str)| {
            let mut text = Vec::new();
            // An unknown word matches no reference.
            tokenizer.each_word(caption, |word| {
                text.push(self.numbers.get(word).copied().unwrap_or(u32::MAX))
            });
            self.references.get(image).map_or(0.0, |references| {
                self.frequencies.cider_d(&Ngrams::count(&text), references)
            })
        };
        captions
            .par_iter()
            .with_min_len(16)
            .map_init(Tokenizer::new, score)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::text::score;

    fn row(references: &[&[u32]]) -> NumberedCaption {
        NumberedCaption {
            caption: Vec::new(),
            references: references.iter().map(|r| r.to_vec()).collect(),
        }
    }

    #[test]
    fn document_frequency_counts_an_image_once() {
        let frequencies = DocumentFrequencies::count(&[
            row(&[&[1, 2, 1], &[1]]),
            row(&[&[1, 3]]),
            row(&[&[1, 2]]),
        ]);
        let log = |words: &[u32]| {
            frequencies
                .logs
                .get(&Ngrams::count(words).counts.last().unwrap().0)
                .copied()
        };
        assert_eq!(log(&[1]), Some(3.0f64.ln()));
        assert_eq!(log(&[2]), Some(2.0f64.ln()));
        assert_eq!(log(&[1, 2]), Some(2.0f64.ln()));
        assert_eq!(log(&[3]), None);
    }

    #[test]
    fn word_in_every_image_has_no_weight() {
        let frequencies = DocumentFrequencies::count(&[row(&[&[1, 2]]), row(&[&[1, 3]])]);
        assert_eq!(
            frequencies.cider_d(&Ngrams::count(&[1]), &[Ngrams::count(&[1, 2])]),
            0.0
        );
        assert!(frequencies.cider_d(&Ngrams::count(&[2]), &[Ngrams::count(&[1, 2])]) > 0.0);
    }

    #[test]
    fn length_penalty_counts_bigrams() {
        let frequencies = DocumentFrequencies::count(&[row(&[&[1, 2, 3, 4]]), row(&[&[9]])]);
        let reference = [Ngrams::count(&[1, 2, 3, 4])];
        let score = frequencies.cider_d(&Ngrams::count(&[1, 2]), &reference);
        // Unigrams: two of four, bigrams: one of three, longer ones: none.
        let cosines = 1.0 / 2.0f64.sqrt() + 1.0 / 3.0f64.sqrt();
        assert!(
            (score - 10.0 * cosines / 4.0 * (-4.0f64 / 72.0).exp()).abs() < 1e-9,
            "{score}"
        );
    }

    #[test]
    fn consensus_equals_the_cider_of_an_evaluation() {
        let references: [&[&str]; 3] = [
            &["A dog runs.", "The dog is running fast."],
            &["Two boats on a lake."],
            &["A boat.", "A dog in a boat."],
        ];
        let texts = ["A dog runs zigzag.", "Two boats.", "A dog on the lake."];
        let rows: Vec<(&str, &[&str])> = texts.into_iter().zip(references).collect();
        let want: Vec<f64> = score(&rows).iter().map(|s| s.cider_d).collect();
        let captions: Vec<(usize, &str)> = texts.into_iter().enumerate().collect();
        assert_eq!(Consensus::new(&references).cider_d(&captions), want);
        assert!(want[0] > 0.0);
    }
}
