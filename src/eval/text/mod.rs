//! BLEU, ROUGE-L and CIDEr-D, equal to `pycocoevalcap` 1.2 in every figure.
//!
//! [`score`] scores each caption by the references of its image, [`TextMetrics`] sums captions up.
//! In between, captions can be left out or counted several times (the bootstrap).

mod bleu;
mod cider;
mod ngrams;
mod ptb;
mod rouge;
mod rules;
mod words;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use self::{bleu::BleuStats, cider::Consensus, ptb::words};
use self::{cider::DocumentFrequencies, ngrams::Ngrams, words::NumberedCaption};

/// Scores of one caption by the references of its image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct CaptionScores {
    /// Counts for BLEU, which is defined over many captions.
    pub bleu: BleuStats,
    /// ROUGE-L, 0 to 1.
    pub rouge_l: f64,
    /// CIDEr-D, 0 to 10.
    pub cider_d: f64,
}

/// Scores captions in order, each by the references of its image.
///
/// CIDEr-D weighs n-grams by their frequency in the references of this call's images, so a
/// caption's score depends on the others.
pub fn score<S: AsRef<str> + Sync>(captions: &[(&str, &[S])]) -> Vec<CaptionScores> {
    let (rows, _) = words::rows(captions);
    let frequencies = DocumentFrequencies::count(&rows);
    rows.par_iter()
        .map(|row| judge(row, &frequencies))
        .collect()
}

fn judge(row: &NumberedCaption, frequencies: &DocumentFrequencies) -> CaptionScores {
    let caption = Ngrams::count(&row.caption);
    let references: Vec<Ngrams> = row.references.iter().map(|r| Ngrams::count(r)).collect();
    CaptionScores {
        bleu: BleuStats::new(&caption, &references),
        rouge_l: rouge::rouge_l(&row.caption, &row.references),
        cider_d: frequencies.cider_d(&caption, &references),
    }
}

/// Figures of many captions; all 0 if there are none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct TextMetrics {
    /// Number of captions.
    pub captions: usize,
    /// BLEU-1 to BLEU-4 of the corpus, 0 to 1.
    pub bleu: [f64; 4],
    /// Mean ROUGE-L, 0 to 1.
    pub rouge_l: f64,
    /// Mean CIDEr-D, 0 to 10.
    pub cider_d: f64,
    /// Mean length of the captions in words.
    pub words: f64,
}

impl TextMetrics {
    /// Sums captions up.
    pub fn from_scores<'a>(captions: impl IntoIterator<Item = &'a CaptionScores>) -> Self {
        let (mut count, mut bleu, mut rouge_l, mut cider_d) =
            (0usize, BleuStats::default(), 0.0, 0.0);
        for caption in captions {
            count += 1;
            bleu += caption.bleu;
            rouge_l += caption.rouge_l;
            cider_d += caption.cider_d;
        }
        let mean = |sum: f64| sum / count.max(1) as f64;
        Self {
            captions: count,
            bleu: bleu.bleu(),
            rouge_l: mean(rouge_l),
            cider_d: mean(cider_d),
            words: mean(bleu.words as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scores(captions: &[(&str, Vec<&str>)]) -> Vec<CaptionScores> {
        score(
            &captions
                .iter()
                .map(|(caption, references)| (*caption, references.as_slice()))
                .collect::<Vec<_>>(),
        )
    }

    /// The figures are `pycocoevalcap`'s for these four captions.
    #[test]
    fn metrics_equal_pycocoevalcap() {
        let all = scores(&[
            (
                "A black dog is running after a white dog in the snow .",
                vec![
                    "Black dog chasing brown dog through snow",
                    "Two dogs run in the snow .",
                ],
            ),
            (
                "The man's hat isn't red.",
                vec![
                    "A man with a red hat.",
                    "The man's hat is red, isn't it?",
                    "hat",
                ],
            ),
            ("a a a a a", vec!["a dog", "The cat and a bird."]),
            ("...", vec!["A boat on the water.", "Boats."]),
        ]);
        let figures = TextMetrics::from_scores(&all);
        let close = |ours: f64, theirs: f64| {
            assert!(
                (ours - theirs).abs() < 1e-9,
                "{ours} is not {theirs}: {figures:?} {all:?}"
            )
        };
        for (ours, theirs) in figures.bleu.into_iter().zip([
            0.5833333333090278,
            0.4714045207699869,
            0.3668808054150232,
            0.2848580042490937,
        ]) {
            close(ours, theirs);
        }
        for (ours, theirs) in all.iter().zip([
            [0.44202898550724634, 1.0487097428449574],
            [0.9360613810741688, 2.701971300247987],
            [0.3096446700507614, 0.11431257939503668],
            [0.0, 0.0],
        ]) {
            close(ours.rouge_l, theirs[0]);
            close(ours.cider_d, theirs[1]);
        }
        assert_eq!((figures.captions, figures.words), (4, 6.0));
    }

    #[test]
    fn caption_equal_to_its_reference_is_perfect() {
        let all = scores(&[
            ("a dog runs on grass", vec!["A dog runs on grass."]),
            ("two men in a boat", vec!["Two men in a boat!"]),
        ]);
        let figures = TextMetrics::from_scores(&all);
        assert!(
            figures.bleu.iter().all(|b| (b - 1.0).abs() < 1e-6),
            "{figures:?}"
        );
        assert!(
            (figures.rouge_l - 1.0).abs() < 1e-9 && (figures.cider_d - 10.0).abs() < 1e-9,
            "{figures:?}"
        );
    }

    #[test]
    fn empty_input_scores_zero() {
        assert_eq!(
            TextMetrics::from_scores(&score::<String>(&[])),
            TextMetrics::default()
        );
        let empty = scores(&[("", vec!["a dog"]), ("!", vec!["a cat", ""])]);
        assert_eq!(
            (empty[0].rouge_l, empty[0].cider_d, empty[0].bleu.words),
            (0.0, 0.0, 0)
        );
        // As in the reference: an empty caption has the same words as an empty reference.
        assert_eq!((empty[1].rouge_l, empty[1].cider_d), (1.0, 0.0));
    }

    /// Captions and references over a small alphabet, so that they share words.
    fn few_words() -> impl Strategy<Value = Vec<(String, Vec<String>)>> {
        let text = || "[abc' .]{0,12}";
        prop::collection::vec((text(), prop::collection::vec(text(), 1..4)), 1..6)
    }

    fn score_all(texts: &[(String, Vec<String>)]) -> Vec<CaptionScores> {
        score(
            &texts
                .iter()
                .map(|(caption, references)| (caption.as_str(), references.as_slice()))
                .collect::<Vec<_>>(),
        )
    }

    proptest! {
        #[test]
        fn scores_of_any_text_are_in_range(texts in few_words()) {
            let all = score_all(&texts);
            prop_assert_eq!(all.len(), texts.len());
            for (scores, (caption, _)) in all.iter().zip(&texts) {
                prop_assert!((0.0..=1.0 + 1e-9).contains(&scores.rouge_l)
                    && (0.0..=10.0 + 1e-9).contains(&scores.cider_d));
                prop_assert_eq!(scores.bleu.words, words(caption).len());
            }
            let bleu = TextMetrics::from_scores(&all).bleu;
            prop_assert!(bleu.iter().all(|b| (0.0..=1.0 + 1e-9).contains(b)));
        }

        #[test]
        fn scores_do_not_depend_on_order(texts in few_words()) {
            let turned: Vec<_> = texts.iter().rev()
                .map(|(caption, r)| (caption.clone(), r.iter().rev().cloned().collect())).collect();
            for (a, b) in score_all(&texts).into_iter().zip(score_all(&turned).into_iter().rev()) {
                prop_assert_eq!(a.bleu, b.bleu);
                prop_assert!((a.rouge_l - b.rouge_l).abs() < 1e-9
                    && (a.cider_d - b.cider_d).abs() < 1e-9);
            }
        }
    }
}
