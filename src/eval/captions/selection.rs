//! Effect of selecting candidates on the rewards of repaired words.

use std::ops::Range;

use super::{Evaluation, JudgedCaption};
use crate::{
    eval::report::{Column, NumberFormat, ReportTable, TableCell, TableRow},
    reward::calibration::{ChosenWord, SelectionBias},
};

/// Phrase that a repair wrote: its byte range in the caption, its score, and the number of
/// candidates that it was chosen from.
pub type RepairedPhrase = (Range<usize>, f32, usize);

/// Builds the table that compares the rewards of selected object mentions with their accuracy by
/// the references.
pub fn selection_table(after: &Evaluation<'_>, written: &[Vec<RepairedPhrase>]) -> ReportTable {
    let chosen = |(caption, written): (&JudgedCaption<'_>, &Vec<RepairedPhrase>)| {
        let mentions = caption
            .open
            .as_ref()
            .map(|judgment| judgment.mentions.clone())
            .unwrap_or_default();
        let chosen_word = |(range, reward, tried): &RepairedPhrase| {
            let named: Vec<bool> = mentions
                .iter()
                .filter(|(m, _)| m.start < range.end && range.start < m.end)
                .map(|m| m.1)
                .collect();
            (!named.is_empty()).then(|| ChosenWord {
                score: *reward,
                tried: *tried,
                is_right: named.iter().all(|right| *right),
            })
        };
        written.iter().filter_map(chosen_word).collect::<Vec<_>>()
    };
    let chosen: Vec<ChosenWord> = after
        .captions
        .iter()
        .zip(written)
        .flat_map(chosen)
        .collect();
    let mean = |value: fn(&ChosenWord) -> f64| {
        chosen.iter().map(value).sum::<f64>() / chosen.len().max(1) as f64
    };
    let fitted = SelectionBias::fit(&chosen);
    let cells = vec![
        chosen.len().into(),
        mean(|word| word.tried as f64).into(),
        mean(|word| f64::from(word.score)).into(),
        mean(|word| f64::from(u8::from(word.is_right))).into(),
        fitted.map_or(TableCell::Absent, |selection| {
            f64::from(selection.offset).into()
        }),
    ];
    ReportTable {
        title: "What selection adds to rewards".into(),
        note:
            "Object mentions that repairs wrote, each the best of several candidates. The offset \
               is to be added to `repaired` in the bundle's calibration.json: logits of chosen \
               words lose it times the logarithm of the number of candidates. Fit it on the tuning \
               half alone."
                .into(),
        columns: vec![
            Column::new("things", NumberFormat::Count),
            Column::new("versions", NumberFormat::Decimal(1)),
            Column::new("mean reward", NumberFormat::Decimal(3)),
            Column::new("right", NumberFormat::Percent),
            Column::new("offset", NumberFormat::Decimal(3)).help(
                "absent if fewer than 50 mentions can be judged, or fewer than 10 are right or \
                 wrong",
            ),
        ],
        rows: vec![TableRow::new("things that repairs wrote", cells)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{
        captions::Measures,
        data::{AnnotatedImage, Hypothesis, RowPosition},
    };

    #[test]
    fn selection_offset_is_fitted_to_the_references() {
        let (right, wrong) = (
            "A dog with a ball runs on the grass.",
            "A dog with a hat runs on the grass.",
        );
        let texts: Vec<&str> = (0..80)
            .map(|i| if i % 2 == 0 { right } else { wrong })
            .collect();
        let written: Vec<Vec<RepairedPhrase>> = texts
            .iter()
            .map(|text| vec![(13..text.find(" runs").unwrap(), 0.9, 5), (17..21, 0.9, 5)])
            .collect();
        let references = [
            "A dog runs on the grass with a ball.",
            "A brown dog plays with a ball on grass.",
        ];
        let image = AnnotatedImage {
            id: "1.jpg".into(),
            captions: references.map(str::to_owned).into(),
            ..AnnotatedImage::default()
        };
        let caption = |text: &&str| Hypothesis {
            image: image.id.clone(),
            caption: (*text).into(),
            objects: None,
            position: RowPosition::File,
        };
        let captions: Vec<Hypothesis> = texts.iter().map(caption).collect();
        let pairs: Vec<_> = captions.iter().map(|caption| (&image, caption)).collect();
        let after = &Evaluation::new(
            &pairs,
            Measures {
                open: true,
                ..Measures::default()
            },
        );
        let row = &selection_table(after, &written).rows[0];
        assert_eq!(
            (&row.cells[0], &row.cells[3]),
            (&80usize.into(), &0.5.into())
        );
        let TableCell::Value(offset) = &row.cells[4] else {
            panic!("{row:?}")
        };
        // Half are grounded: choosing the best of five subtracts ln 5 from the logit of 0.9.
        assert!(
            (offset.value - 9f64.ln() / 5f64.ln()).abs() < 0.01,
            "{row:?}"
        );
    }
}
