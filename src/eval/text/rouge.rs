//! ROUGE-L (Lin, 2004): longest common subsequence of a caption and a reference.
//!
//! One difference from `pycocoevalcap` is intended: there a token with a space inside (`1 1/2`, a
//! telephone number) is one word for ROUGE and several for BLEU and CIDEr; here it is several for
//! all.

/// Weight of recall against precision, as in `pycocoevalcap`.
const BETA: f64 = 1.2;

/// Computes the ROUGE-L of a caption, 0 to 1, from the best precision and the best recall, perhaps
/// of different references.
pub(super) fn rouge_l(caption: &[u32], references: &[Vec<u32>]) -> f64 {
    let (mut precision, mut recall) = (0.0f64, 0.0f64);
    for reference in references {
        let (common, length) = match (caption, reference.as_slice()) {
            // The reference code splits an empty text into one empty word.
            ([], []) => (1, (1, 1)),
            _ => (
                common_subsequence(caption, reference),
                (caption.len().max(1), reference.len().max(1)),
            ),
        };
        precision = precision.max(common as f64 / length.0 as f64);
        recall = recall.max(common as f64 / length.1 as f64);
    }
    if precision == 0.0 {
        0.0
    } else {
        (1.0 + BETA * BETA) * precision * recall / (recall + BETA * BETA * precision)
    }
}

/// Length of the longest common subsequence.
fn common_subsequence(a: &[u32], b: &[u32]) -> usize {
    let mut lengths = vec![0usize; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = lengths[j + 1];
            lengths[j + 1] = if x == y {
                diagonal + 1
            } else {
                above.max(lengths[j])
            };
            diagonal = above;
        }
    }
    lengths[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_subsequence_is_the_longest() {
        assert_eq!(
            common_subsequence(&[1, 2, 3, 2, 4, 1, 2], &[2, 4, 3, 1, 2, 1]),
            4
        );
        assert_eq!(common_subsequence(&[1, 2], &[]), 0);
    }

    #[test]
    fn rouge_l_uses_the_best_reference_for_each_rate() {
        // Precision 2/3 by the long reference, recall 1 by the short one.
        let score = rouge_l(&[1, 2, 3], &[vec![1, 2, 4, 5, 6, 7], vec![3]]);
        assert!((score - 2.44 * (2.0 / 3.0) / (1.0 + 1.44 * 2.0 / 3.0)).abs() < 1e-12);
    }
}
