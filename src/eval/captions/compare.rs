//! Figures of captions as plain numbers, for programs that decide by them.

use super::{
    Evaluation,
    figures::{FIGURES, Group, Line},
    weighted,
};
use crate::eval::bootstrap::{Difference, REPEATS, differences};

/// A figure by its group and its name in tables.
pub(super) type Name = (Group, &'static str);

/// Every figure of one model's captions; NaN where there was nothing to count.
pub fn figures(evaluation: &Evaluation<'_>) -> Vec<(Name, f64)> {
    let lines = evaluation.lines().0;
    let sums = weighted(&lines, &vec![1; lines.len()]);
    FIGURES.iter().map(|figure| ((figure.group, figure.name()), (figure.of)(&sums))).collect()
}

/// How much every figure of the second model's captions differs from the first's, of the same images in the same order.
pub fn compare(first: &Evaluation<'_>, second: &Evaluation<'_>, seed: u64) -> Vec<(Name, Difference)> {
    let found = figure_differences(first, second, REPEATS, seed);
    FIGURES.iter().map(|figure| (figure.group, figure.name())).zip(found).collect()
}

/// The difference of every figure, in the order of [`FIGURES`].
pub(super) fn figure_differences(first: &Evaluation<'_>, second: &Evaluation<'_>, repeats: usize, seed: u64) -> Vec<Difference> {
    let of = |lines: &[Line], weights: &[u32]| {
        let sums = weighted(lines, weights);
        FIGURES.iter().map(|figure| (figure.of)(&sums)).collect::<Vec<f64>>()
    };
    let (before, after) = (first.lines().0, second.lines().0);
    differences(before.len(), repeats, seed, |w| of(&before, w), |w| of(&after, w))
}
