//! Figures of captions as plain numbers, for programs that decide by them.

use super::{
    Evaluation,
    figures::{CaptionCounts, FIGURES, FigureGroup},
    weighted,
};
use crate::eval::bootstrap::{Difference, Estimate, REPEATS, differences, estimates};

/// Group of a figure and its name in tables.
pub(super) type FigureName = (FigureGroup, &'static str);

/// Every figure of one model's captions; NaN if there was nothing to count.
pub fn figures(evaluation: &Evaluation<'_>) -> Vec<(FigureName, f64)> {
    let lines = evaluation.lines().0;
    let sums = weighted(&lines, &vec![1; lines.len()]);
    FIGURES
        .iter()
        .map(|figure| ((figure.group, figure.name()), (figure.value)(&sums)))
        .collect()
}

/// Computes the difference of every figure between two models' captions of the same images in the
/// same order (second minus first).
pub fn compare(
    first: &Evaluation<'_>,
    second: &Evaluation<'_>,
    seed: u64,
) -> Vec<(FigureName, Difference)> {
    let found = figure_differences(first, second, REPEATS, seed);
    FIGURES
        .iter()
        .map(|figure| (figure.group, figure.name()))
        .zip(found)
        .collect()
}

/// Computes the relative change of every figure from the first model's captions to the second's, of
/// the same images in the same order.
pub fn relative_changes(
    first: &Evaluation<'_>,
    second: &Evaluation<'_>,
    repeats: usize,
    seed: u64,
) -> Vec<(FigureName, Estimate)> {
    let (before, after) = (first.lines().0, second.lines().0);
    let found = estimates(before.len(), repeats, seed, |weights| {
        let (before, after) = (weighted(&before, weights), weighted(&after, weights));
        FIGURES
            .iter()
            .map(|figure| (figure.value)(&after) / (figure.value)(&before) - 1.0)
            .collect()
    });
    FIGURES
        .iter()
        .map(|figure| (figure.group, figure.name()))
        .zip(found)
        .collect()
}

/// Difference of every figure, in the order of [`FIGURES`].
pub(super) fn figure_differences(
    first: &Evaluation<'_>,
    second: &Evaluation<'_>,
    repeats: usize,
    seed: u64,
) -> Vec<Difference> {
    let all_figures = |lines: &[CaptionCounts], weights: &[u32]| {
        let sums = weighted(lines, weights);
        FIGURES
            .iter()
            .map(|figure| (figure.value)(&sums))
            .collect::<Vec<f64>>()
    };
    let (before, after) = (first.lines().0, second.lines().0);
    differences(
        before.len(),
        repeats,
        seed,
        |w| all_figures(&before, w),
        |w| all_figures(&after, w),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{
        captions::Measures,
        chair::ChairVocabulary,
        data::{AnnotatedImage, Hypothesis, RowPosition},
    };

    #[test]
    fn relative_change_is_relative_to_the_first_model() {
        let image = |id: usize| AnnotatedImage {
            id: id.to_string(),
            objects: Some(["dog".to_owned()].into()),
            ..AnnotatedImage::default()
        };
        let images: Vec<AnnotatedImage> = (0..4).map(image).collect();
        let captions = |texts: [&str; 4]| {
            let row = |caption: &str| Hypothesis {
                image: String::new(),
                caption: caption.into(),
                objects: None,
                position: RowPosition::File,
            };
            texts.map(row)
        };
        // 4 of 8 mentions are wrong before, 1 of 5 after: 1/5 is 60 % below 1/2.
        let before = captions(["A dog and a cat."; 4]);
        let after = captions(["A dog and a cat.", "A dog.", "A dog.", "A dog."]);
        let measures = Measures {
            closed: Some(ChairVocabulary::coco80()),
            ..Measures::default()
        };
        let evaluated = |captions: &[Hypothesis; 4], check: &mut dyn FnMut(&Evaluation<'_>)| {
            check(&Evaluation::new(
                &images.iter().zip(captions).collect::<Vec<_>>(),
                measures,
            ));
        };
        evaluated(&before, &mut |before| {
            evaluated(&after, &mut |after| {
                let found = relative_changes(before, after, 50, 1);
                let change = |name: &str| {
                    found
                        .iter()
                        .find(|f| f.0 == (FigureGroup::Closed, name))
                        .map(|f| f.1.value)
                        .unwrap()
                };
                assert!(
                    (change("CHAIR_i") + 0.6).abs() < 1e-9
                        && (change("CHAIR_s") + 0.75).abs() < 1e-9
                        && change("recall").abs() < 1e-9
                );
            });
        });
    }
}
