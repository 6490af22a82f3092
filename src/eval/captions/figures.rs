//! Figures of captions as functions of summed counts.

use crate::eval::{
    chair,
    objects::ObjectScores,
    report::{Column, GoodDirection, NumberFormat},
    text::{BleuStats, CaptionScores},
};

/// Measure that a figure belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FigureGroup {
    /// Objects of the open vocabulary.
    Open,
    /// Objects of a closed vocabulary.
    Closed,
    /// Agreement with reference captions.
    Description,
}

const OPEN: usize = 0;
const CLOSED: usize = 11;
const TEXT: usize = 20;
const WORDS: usize = 33;
const COUNTS: usize = 35;

/// Counts of one caption.
pub(super) type CaptionCounts = [f32; COUNTS];

/// Sums of counts over captions. Plain numbers, so that a resample is a multiply-add per count.
#[derive(Debug, Clone)]
pub(super) struct Sums([f64; COUNTS]);

impl Default for Sums {
    fn default() -> Self {
        Self([0.0; COUNTS])
    }
}

impl Sums {
    /// Converts the counts of one caption to `f32`, which represents them exactly in half the
    /// memory.
    pub(super) fn line(&self) -> CaptionCounts {
        self.0.map(|x| x as f32)
    }

    pub(super) fn add(&mut self, line: &CaptionCounts, weight: f64) {
        self.0
            .iter_mut()
            .zip(line)
            .for_each(|(sum, &x)| *sum += weight * f64::from(x));
    }

    pub(super) fn open(&mut self, s: &ObjectScores) {
        let counts = [
            s.captions,
            s.captions_hallucinating,
            s.mentions,
            s.hallucinated,
            s.expected,
            s.recalled,
            s.colors,
            s.colors_wrong,
            s.counts,
            s.counts_wrong,
            s.words,
        ];
        self.0[OPEN..CLOSED].copy_from_slice(&counts.map(|n| n as f64));
    }

    pub(super) fn closed(&mut self, s: &chair::ChairStats) {
        let counts = [
            s.captions,
            s.hallucinating,
            s.mentions,
            s.hallucinated,
            s.present,
            s.covered,
            s.coverable,
            s.words,
        ]
        .map(|n| n as f64);
        self.0[CLOSED..CLOSED + 8].copy_from_slice(&counts);
        self.0[CLOSED + 8] = s.cover;
    }

    pub(super) fn description(&mut self, scores: &CaptionScores) {
        let BleuStats {
            matches,
            guesses,
            words,
            closest,
        } = scores.bleu;
        let counts = matches.into_iter().chain(guesses).chain([words, closest]);
        self.0[TEXT..TEXT + 10]
            .iter_mut()
            .zip(counts)
            .for_each(|(sum, n)| *sum = n as f64);
        self.0[TEXT + 10..WORDS].copy_from_slice(&[scores.rouge_l, scores.cider_d, 1.0]);
    }

    pub(super) fn words(&mut self, words: usize) {
        self.0[WORDS] = words as f64;
        self.0[WORDS + 1] = 1.0;
    }

    pub(super) fn set_captions(&mut self, captions: usize) {
        self.0[WORDS + 1] = captions as f64;
    }

    /// Ratio of two counts; NaN if the second is 0, which reports show as absent.
    fn rate(&self, part: usize, whole: usize) -> f64 {
        if self.0[whole] > 0.0 {
            self.0[part] / self.0[whole]
        } else {
            f64::NAN
        }
    }

    fn bleu(&self, order: usize) -> f64 {
        let count = |i: usize| self.0[TEXT + i].round() as usize;
        let at = |first: usize| std::array::from_fn(|n| count(first + n));
        let stats = BleuStats {
            matches: at(0),
            guesses: at(4),
            words: count(8),
            closest: count(9),
        };
        if self.0[TEXT + 12] > 0.0 {
            stats.bleu()[order]
        } else {
            f64::NAN
        }
    }
}

/// One figure.
pub(super) struct Figure {
    pub(super) group: FigureGroup,
    name: &'static str,
    format: NumberFormat,
    better: Option<GoodDirection>,
    help: &'static str,
    pub(super) value: fn(&Sums) -> f64,
}

impl Figure {
    pub(super) fn column(&self) -> Column {
        Column {
            name: self.name.into(),
            format: self.format,
            better: self.better,
            help: self.help.into(),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Returns `true` if the planned comparison tests the figure. The others are redundant or
    /// descriptive.
    pub(super) fn is_tested(&self) -> bool {
        match self.group {
            FigureGroup::Open | FigureGroup::Closed => {
                matches!(self.name, "CHAIR_i" | "CHAIR_s" | "recall")
            }
            FigureGroup::Description => self.name == "CIDEr-D",
        }
    }
}

const LOWER: Option<GoodDirection> = Some(GoodDirection::Lower);
const HIGHER: Option<GoodDirection> = Some(GoodDirection::Higher);

const fn figure(
    group: FigureGroup,
    name: &'static str,
    format: NumberFormat,
    better: Option<GoodDirection>,
    help: &'static str,
    value: fn(&Sums) -> f64,
) -> Figure {
    Figure {
        group,
        name,
        format,
        better,
        help,
        value,
    }
}

/// All figures, in the order of tables.
pub(super) const FIGURES: &[Figure] = &[
    figure(
        FigureGroup::Open,
        "CHAIR_i",
        NumberFormat::Percent,
        LOWER,
        "share of object mentions that no reference supports",
        |s| s.rate(OPEN + 3, OPEN + 2),
    ),
    figure(
        FigureGroup::Open,
        "CHAIR_s",
        NumberFormat::Percent,
        LOWER,
        "share of captions with such a mention",
        |s| s.rate(OPEN + 1, OPEN),
    ),
    figure(
        FigureGroup::Open,
        "recall",
        NumberFormat::Percent,
        HIGHER,
        "share of the nouns named by at least two people that the caption supports",
        |s| s.rate(OPEN + 5, OPEN + 4),
    ),
    figure(
        FigureGroup::Open,
        "wrong colours",
        NumberFormat::Percent,
        LOWER,
        "share of colors that all references contradict",
        |s| s.rate(OPEN + 7, OPEN + 6),
    ),
    figure(
        FigureGroup::Open,
        "wrong counts",
        NumberFormat::Percent,
        LOWER,
        "share of numbers that all references contradict",
        |s| s.rate(OPEN + 9, OPEN + 8),
    ),
    figure(
        FigureGroup::Open,
        "words",
        NumberFormat::Decimal(1),
        None,
        "mean length: a model that says less hallucinates less",
        |s| s.rate(OPEN + 10, OPEN),
    ),
    figure(
        FigureGroup::Open,
        "captions",
        NumberFormat::Count,
        None,
        "captions judged",
        |s| s.0[OPEN],
    ),
    figure(
        FigureGroup::Closed,
        "CHAIR_i",
        NumberFormat::Percent,
        LOWER,
        "share of object mentions whose object is not in the image",
        |s| s.rate(CLOSED + 3, CLOSED + 2),
    ),
    figure(
        FigureGroup::Closed,
        "CHAIR_s",
        NumberFormat::Percent,
        LOWER,
        "share of captions with such a mention",
        |s| s.rate(CLOSED + 1, CLOSED),
    ),
    figure(
        FigureGroup::Closed,
        "recall",
        NumberFormat::Percent,
        HIGHER,
        "share of all images' objects that their captions mention",
        |s| s.rate(CLOSED + 5, CLOSED + 4),
    ),
    figure(
        FigureGroup::Closed,
        "cover",
        NumberFormat::Percent,
        HIGHER,
        "mean share of its image's objects that a caption mentions (AMBER)",
        |s| s.rate(CLOSED + 8, CLOSED + 6),
    ),
    figure(
        FigureGroup::Closed,
        "words",
        NumberFormat::Decimal(1),
        None,
        "mean length: a model that says less hallucinates less",
        |s| s.rate(CLOSED + 7, CLOSED),
    ),
    figure(
        FigureGroup::Closed,
        "captions",
        NumberFormat::Count,
        None,
        "captions judged",
        |s| s.0[CLOSED],
    ),
    figure(
        FigureGroup::Description,
        "BLEU-1",
        NumberFormat::Decimal(3),
        HIGHER,
        "as pycocoevalcap 1.2",
        |s| s.bleu(0),
    ),
    figure(
        FigureGroup::Description,
        "BLEU-2",
        NumberFormat::Decimal(3),
        HIGHER,
        "as pycocoevalcap 1.2",
        |s| s.bleu(1),
    ),
    figure(
        FigureGroup::Description,
        "BLEU-3",
        NumberFormat::Decimal(3),
        HIGHER,
        "as pycocoevalcap 1.2",
        |s| s.bleu(2),
    ),
    figure(
        FigureGroup::Description,
        "BLEU-4",
        NumberFormat::Decimal(3),
        HIGHER,
        "as pycocoevalcap 1.2",
        |s| s.bleu(3),
    ),
    figure(
        FigureGroup::Description,
        "ROUGE-L",
        NumberFormat::Decimal(3),
        HIGHER,
        "as pycocoevalcap 1.2",
        |s| s.rate(TEXT + 10, TEXT + 12),
    ),
    figure(
        FigureGroup::Description,
        "CIDEr-D",
        NumberFormat::Decimal(3),
        HIGHER,
        "as pycocoevalcap 1.2; document frequencies of the references evaluated",
        |s| s.rate(TEXT + 11, TEXT + 12),
    ),
    figure(
        FigureGroup::Description,
        "words",
        NumberFormat::Decimal(1),
        None,
        "mean length",
        |s| s.rate(WORDS, WORDS + 1),
    ),
    figure(
        FigureGroup::Description,
        "captions",
        NumberFormat::Count,
        None,
        "captions judged",
        |s| s.0[TEXT + 12],
    ),
];
