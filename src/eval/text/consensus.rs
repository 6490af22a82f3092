//! CIDEr-D of any number of captions of images whose references are read once: what self-critical
//! training rewards.

use std::collections::HashMap;

use rayon::prelude::*;

use super::{cider::DocumentFrequencies, ngrams::Ngrams, ptb::Tokenizer, words};

/// References of many images.
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
        let frequencies = DocumentFrequencies::of(&rows);
        let references = rows
            .par_iter()
            .map(|row| row.references.iter().map(|r| Ngrams::of(r)).collect())
            .collect();
        Self {
            numbers,
            frequencies,
            references,
        }
    }

    /// CIDEr-D, 0 to 10, of captions, each with the number of its image.
    pub fn cider_d(&self, captions: &[(usize, &str)]) -> Vec<f64> {
        let score = |tokenizer: &mut Tokenizer, &(image, caption): &(usize, &str)| {
            let mut text = Vec::new();
            // A word that nobody wrote is like none of theirs.
            tokenizer.each_word(caption, |word| {
                text.push(self.numbers.get(word).copied().unwrap_or(u32::MAX))
            });
            self.references.get(image).map_or(0.0, |references| {
                self.frequencies.cider_d(&Ngrams::of(&text), references)
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

    #[test]
    fn is_the_cider_of_a_whole_evaluation() {
        let references: [&[&str]; 3] = [
            &["A dog runs.", "The dog is running fast."],
            &["Two boats on a lake."],
            &["A boat.", "A dog in a boat."],
        ];
        let said = ["A dog runs zigzag.", "Two boats.", "A dog on the lake."];
        let rows: Vec<(&str, &[&str])> = said.into_iter().zip(references).collect();
        let want: Vec<f64> = score(&rows).iter().map(|s| s.cider_d).collect();
        let captions: Vec<(usize, &str)> = said.into_iter().enumerate().collect();
        assert_eq!(Consensus::new(&references).cider_d(&captions), want);
        assert!(want[0] > 0.0);
    }
}
