//! Texts that mix true sentences with one of another photograph, which the scorer has to find.

use std::ops::Range;

use super::{
    PhotographNumbers, Resampling, ScoredOutcome, auroc,
    bars::{Finding, Measure},
    share,
};
use crate::eval::captions::flags::GuardMarks;

/// Number of sentences in a text, the false one included.
pub const SENTENCES: usize = 4;

/// A text of several sentences, one of which describes another photograph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MixedText {
    /// Sentences joined by spaces.
    pub text: String,
    /// Byte range of each sentence.
    pub sentences: Vec<Range<usize>>,
    /// Index of the false sentence.
    pub wrong: usize,
}

/// Inserts a sentence of another photograph among the first sentences of a photograph's own, at an
/// index that depends on `turn`; `None` if there are too few.
pub fn mixed(own: &[String], other: &str, turn: usize) -> Option<MixedText> {
    let own = own.get(..SENTENCES - 1)?;
    let wrong = turn % SENTENCES;
    let mut all: Vec<&str> = own.iter().map(String::as_str).collect();
    all.insert(wrong, other);
    let (mut text, mut sentences) = (String::new(), Vec::new());
    for sentence in all {
        if !text.is_empty() {
            text.push(' ');
        }
        sentences.push(text.len()..text.len() + sentence.len());
        text.push_str(sentence);
    }
    Some(MixedText {
        text,
        sentences,
        wrong,
    })
}

impl MixedText {
    /// Returns `true` if the false sentence alone has the lowest score; `None` if a sentence was
    /// not scored.
    pub fn is_found(&self, marks: &GuardMarks) -> Option<bool> {
        let scores = self
            .sentences
            .iter()
            .map(|range| marks.score(range))
            .collect::<Option<Vec<f32>>>()?;
        Some(
            scores
                .iter()
                .enumerate()
                .all(|(i, score)| i == self.wrong || *score > scores[self.wrong]),
        )
    }
}

/// Measures how often the false sentence has the lowest score; `found` has one entry per
/// photograph.
pub fn wrong_sentences(
    measure: Measure,
    found: &[(usize, bool)],
    resampling: Resampling,
) -> Finding {
    Finding::new(
        measure,
        share(found, resampling),
        found.len(),
        found.len(),
        "texts of four sentences, one of another photograph",
    )
}

/// A person's caption with its score on a photograph.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CaptionScore {
    /// Key of the photograph.
    pub photograph: usize,
    /// `true` if it was written about that photograph.
    pub is_own: bool,
    /// Score of the caption.
    pub score: f64,
    /// `true` if part of it is flagged.
    pub is_flagged: bool,
}

/// Measures how well scores separate captions of the photograph from those of another, and the
/// share of each that is flagged.
pub fn caption_findings(
    [ranked, own, others]: [Measure; 3],
    captions: &[CaptionScore],
    resampling: Resampling,
) -> [Finding; 3] {
    let photographs =
        PhotographNumbers::new(captions.iter().map(|caption| caption.photograph)).len();
    let outcome = |c: &CaptionScore| ScoredOutcome {
        photograph: c.photograph,
        score: c.score,
        is_right: c.is_own,
    };
    let ranking = auroc(
        &captions.iter().map(outcome).collect::<Vec<_>>(),
        resampling,
    );
    let flagged = |measure, of_own: bool, items: &str| {
        let rows: Vec<(usize, bool)> = captions
            .iter()
            .filter(|c| c.is_own == of_own)
            .map(|c| (c.photograph, c.is_flagged))
            .collect();
        Finding::new(
            measure,
            share(&rows, resampling),
            photographs,
            rows.len(),
            items,
        )
    };
    [
        Finding::new(
            ranked,
            ranking,
            photographs,
            captions.len(),
            "captions, half of them another photograph's",
        ),
        flagged(own, true, "captions of the photograph"),
        flagged(others, false, "captions of another photograph"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::honesty::bars::MeasuredValue;

    const RESAMPLING: Resampling = Resampling {
        repeats: 50,
        seed: 1,
    };

    fn own() -> Vec<String> {
        [
            "A dog runs.",
            "A brown dog.",
            "The dog is on grass.",
            "Dogs play.",
        ]
        .map(str::to_owned)
        .into()
    }

    #[test]
    fn false_sentence_takes_every_index_in_turn() {
        for turn in 0..8 {
            let text = mixed(&own(), "Élan of a cat.", turn).unwrap();
            assert_eq!((text.wrong, text.sentences.len()), (turn % 4, 4));
            assert_eq!(
                &text.text[text.sentences[text.wrong].clone()],
                "Élan of a cat."
            );
            assert!(
                text.sentences
                    .iter()
                    .all(|range| text.text[range.clone()].ends_with('.')),
                "{text:?}"
            );
        }
        assert_eq!(
            mixed(&own(), "A cat.", 3).unwrap().text,
            "A dog runs. A brown dog. The dog is on grass. A cat."
        );
        assert_eq!(mixed(&own()[..2], "A cat.", 0), None);
    }

    #[test]
    fn false_sentence_is_found_if_its_score_alone_is_lowest() {
        let text = mixed(&own(), "A cat.", 1).unwrap();
        let marks = |scores: [f32; 4]| GuardMarks {
            scores: text
                .sentences
                .iter()
                .zip(scores)
                .flat_map(|(range, low)| {
                    [
                        (range.start..range.start + 1, 0.99),
                        (range.end - 2..range.end - 1, low),
                    ]
                })
                .collect(),
            ..GuardMarks::default()
        };
        assert_eq!(text.is_found(&marks([0.5, 0.2, 0.9, 0.8])), Some(true));
        assert_eq!(text.is_found(&marks([0.1, 0.2, 0.9, 0.8])), Some(false));
        assert_eq!(
            text.is_found(&marks([0.2, 0.2, 0.9, 0.8])),
            Some(false),
            "a tie finds nothing"
        );
        assert_eq!(text.is_found(&GuardMarks::default()), None);
    }

    #[test]
    fn caption_findings_rank_captions_and_count_flags() {
        let caption = |(photograph, is_own, score): (usize, bool, f64)| CaptionScore {
            photograph,
            is_own,
            score,
            is_flagged: score < 0.5,
        };
        let captions: Vec<CaptionScore> = [
            (0, true, 0.9),
            (0, false, 0.1),
            (1, true, 0.4),
            (1, false, 0.6),
        ]
        .into_iter()
        .map(caption)
        .collect();
        let measures = [
            Measure::PeopleCaptionsCoco,
            Measure::PeopleFlaggedCoco,
            Measure::OthersFlaggedCoco,
        ];
        let found =
            caption_findings(measures, &captions, RESAMPLING).map(|finding| match finding.found {
                MeasuredValue::Figure(figure) => figure.value,
                _ => f64::NAN,
            });
        assert_eq!(found, [0.75, 0.5, 0.5]);
    }
}
