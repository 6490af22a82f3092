//! What policy and scorer do to single captions: hallucination against recall, most hallucinated
//! things, questions, and the worst captions to look at.

use std::collections::BTreeMap;

use super::{
    labels::LabeledText,
    reward_report::RewardReportInputs,
    scored_split::{ComparedText, DevelopmentHalf},
};
use crate::{
    eval::{
        objects::{self, ObjectScores},
        report::{
            Axis, CaptionCard, CardWord, Column, GoodDirection, NumberFormat, Photo, Plot, PlotBar,
            ReportTable, Section, Series, TableCell, TableRow,
        },
        tradeoff::{self, Rewarded},
    },
    lexicon::{Lexicon, Reading, words},
};

/// Captions shown.
const SHOWN: usize = 12;

/// Nouns shown.
const NOUNS: usize = 15;

/// Returns what the policy's captions name, what a threshold buys, and how questions were answered.
pub(super) fn hallucinations(evidence: &RewardReportInputs<'_>) -> Section {
    let lexicon = Lexicon::shared();
    let reported: Vec<&ComparedText> = evidence
        .judged
        .captions
        .iter()
        .filter(|t| DevelopmentHalf::of(t.image) == DevelopmentHalf::Report)
        .collect();
    let read: Vec<(Reading, Vec<Reading>)> = reported
        .iter()
        .map(|t| {
            let references = evidence.images[t.image]
                .captions
                .iter()
                .map(|c| Reading::new(lexicon, c))
                .collect();
            (Reading::new(lexicon, &t.text.text), references)
        })
        .collect();
    let (mut policy, mut people) = (ObjectScores::default(), ObjectScores::default());
    let mut nouns: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (caption, references) in &read {
        let judgment =
            objects::judge_read(lexicon, caption, &references.iter().collect::<Vec<_>>());
        policy.add(&judgment);
        objects::judge_people(lexicon, references)
            .iter()
            .for_each(|j| people.add(j));
        for (phrase, (_, supported)) in caption.phrases.iter().zip(&judgment.mentions) {
            let noun = nouns.entry(phrase.mention.lemma).or_default();
            noun.0 += usize::from(!supported);
            noun.1 += 1;
        }
    }
    Section {
        title: "The policy's captions".into(),
        text: vec![
            "Hallucinated: no reference names the thing, a synonym, something more general or more \
             special. People never agree wholly either: their row is \
             the floor of the measure."
                .into(),
        ],
        tables: vec![
            object_table(&[
                ("policy", &policy),
                (
                    "people, each judged by the \
            others",
                    &people,
                ),
            ]),
            question_table(evidence),
        ],
        plots: vec![threshold_plot(evidence, &reported, &read), noun_plot(nouns)],
        cards: Vec::new(),
    }
}

/// CHAIR, recall and length.
pub(super) fn object_table(rows: &[(&str, &ObjectScores)]) -> ReportTable {
    let lower = |name: &str, help: &str| {
        Column::new(name, NumberFormat::Percent)
            .better(GoodDirection::Lower)
            .help(help)
    };
    let row = |&(name, s): &(&str, &ObjectScores)| {
        let cells = vec![
            s.chair_i().into(),
            s.chair_s().into(),
            s.recall().into(),
            s.wrong_colors().into(),
            s.wrong_counts().into(),
            s.mean_words().into(),
            s.captions.into(),
        ];
        TableRow::new(name, cells)
    };
    ReportTable {
        title: "Open-vocabulary CHAIR, the reporting half".into(),
        note: String::new(),
        columns: vec![
            lower(
                "CHAIR_i",
                "share of the mentions of things that no reference supports",
            ),
            lower("CHAIR_s", "share of the captions with such a mention"),
            Column::new("recall", NumberFormat::Percent)
                .better(GoodDirection::Higher)
                .help("share of the nouns named by two references that the caption supports"),
            lower(
                "wrong colours",
                "share of the colours that all references contradict",
            ),
            lower(
                "wrong counts",
                "share of the numbers that all references contradict",
            ),
            Column::new("words", NumberFormat::Decimal(1))
                .help("mean length: a model that says less hallucinates less"),
            Column::new("captions", NumberFormat::Count),
        ],
        rows: rows.iter().map(row).collect(),
    }
}

fn question_table(evidence: &RewardReportInputs<'_>) -> ReportTable {
    let mut kinds: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    for (qa, answer, right) in &evidence.judged.questions {
        let counts = kinds
            .entry(format!("{:?}", qa.kind).to_lowercase())
            .or_default();
        counts[0] += 1;
        counts[1] += usize::from(*right);
        counts[2] += usize::from(answer.eq_ignore_ascii_case("yes."));
    }
    let share = |part: usize, whole: usize| TableCell::from(part as f64 / whole.max(1) as f64);
    let row = |(kind, [asked, right, yes]): (String, [usize; 3])| {
        TableRow::new(
            kind,
            vec![asked.into(), share(right, asked), share(yes, asked)],
        )
    };
    ReportTable {
        title: "Questions derived from the captions".into(),
        note: "Right: the captions' own answer, word for word. Both halves.".into(),
        columns: vec![
            Column::new("asked", NumberFormat::Count),
            Column::new("right", NumberFormat::Percent).better(GoodDirection::Higher),
            Column::new("answered yes", NumberFormat::Percent),
        ],
        rows: kinds.into_iter().map(row).collect(),
    }
}

/// CHAIR against recall when things below a rising threshold are left out.
fn threshold_plot(
    evidence: &RewardReportInputs<'_>,
    reported: &[&ComparedText],
    read: &[(Reading, Vec<Reading>)],
) -> Plot {
    let curve = |i: usize| {
        let rewarded: Vec<Rewarded> = reported
            .iter()
            .zip(read)
            .map(|(text, (caption, references))| {
                let references: Vec<&Reading> = references.iter().collect();
                Rewarded::new(Lexicon::shared(), caption, &references, |range| {
                    text.worst(i, range).unwrap_or(f32::INFINITY)
                })
            })
            .collect();
        // Thresholds at equal shares of the mentions, so that every contender's curve has as many
        // points.
        let mut rewards: Vec<f32> = rewarded
            .iter()
            .flat_map(|c| &c.mentions)
            .map(|m| m.0)
            .collect();
        rewards.sort_by(f32::total_cmp);
        let thresholds: Vec<f32> = (0..15)
            .filter_map(|n| rewards.get(n * rewards.len() / 20).copied())
            .collect();
        tradeoff::curve(&rewarded, &thresholds)
            .into_iter()
            .map(|p| (p.recall, p.chair_i))
            .collect()
    };
    let shown = |i: usize| {
        i == evidence.chosen
            || ["log-probability", "probe"].contains(&evidence.contenders[i].name.as_str())
    };
    let one = |i: usize| Series {
        name: evidence.contenders[i].name.clone(),
        points: curve(i),
        marks: true,
        ..Series::default()
    };
    Plot::Lines {
        title: "CHAIR_i against recall as the threshold moves".into(),
        x: Axis {
            label: "recall".into(),
            range: None,
        },
        y: Axis {
            label: "CHAIR_i".into(),
            range: None,
        },
        series: (0..evidence.contenders.len())
            .filter(|&i| shown(i))
            .map(one)
            .collect(),
        diagonal: false,
    }
}

fn noun_plot(nouns: BTreeMap<&str, (usize, usize)>) -> Plot {
    let mut nouns: Vec<(&str, (usize, usize))> = nouns.into_iter().collect();
    nouns.sort_by_key(|(noun, (wrong, _))| (usize::MAX - wrong, *noun));
    let bar = |(noun, (wrong, all)): (&str, (usize, usize))| PlotBar {
        name: noun.into(),
        value: wrong as f64,
        text: Some(format!("{wrong} of {all}")),
    };
    Plot::Bars {
        title: "Most hallucinated things".into(),
        label: "mentions without support".into(),
        bars: nouns
            .into_iter()
            .take(NOUNS)
            .filter(|n| n.1.0 > 0)
            .map(bar)
            .collect(),
    }
}

/// The captions that invent most, those of which the scorer noticed least first.
pub(super) fn captions(evidence: &RewardReportInputs<'_>) -> Section {
    let (chosen, calibration) = (evidence.chosen, &evidence.calibrations[evidence.chosen]);
    let mut worst: Vec<(usize, f32, &ComparedText)> = evidence
        .judged
        .captions
        .iter()
        .filter(|t| DevelopmentHalf::of(t.image) == DevelopmentHalf::Report)
        .map(|text| {
            let bad = || text.ranges(chosen).filter(|(_, s)| !s.good);
            (
                bad().count(),
                bad()
                    .map(|(_, s)| s.reward)
                    .fold(f32::NEG_INFINITY, f32::max),
                text,
            )
        })
        .collect();
    worst.sort_by(|a, b| b.0.cmp(&a.0).then(b.1.total_cmp(&a.1)));
    let card = |(_, _, text): &(usize, f32, &ComparedText)| {
        let image = &evidence.images[text.image];
        CaptionCard {
            id: image.name.clone(),
            photo: Photo::thumbnail(&image.path),
            words: card_words(text, chosen, calibration.default_threshold),
            references: image.captions.clone(),
            ..CaptionCard::default()
        }
    };
    Section {
        title: "Worst captions".into(),
        text: vec![format!(
            "Those that name most things without support; underlined words are below the threshold \
             of {:.2} that is served by default.",
            calibration.default_threshold
        )],
        cards: worst.iter().take(SHOWN).map(card).collect(),
        ..Section::default()
    }
}

/// The words of a text with their rewards.
fn card_words(text: &ComparedText, contender: usize, threshold: f32) -> Vec<CardWord> {
    let mut words = label_words(&text.text);
    let mut from = 0;
    for word in &mut words {
        let range = from..from + word.text.len();
        from = range.end;
        word.reward = text.worst(contender, &range);
        word.flagged = word.reward.is_some_and(|r| r < threshold);
    }
    words
}

/// The words of a text with what is known of them, each with what stands before it.
pub(super) fn label_words(text: &LabeledText) -> Vec<CardWord> {
    let line = text.text.as_str();
    let (mut from, mut out) = (0, Vec::new());
    for range in words(line).into_iter().map(|w| w.range) {
        let labels = || {
            text.ranges
                .iter()
                .filter(|(r, _)| r.start < range.end && range.start < r.end)
                .filter_map(|(_, good)| *good)
        };
        let hallucinated = labels()
            .next()
            .is_some()
            .then(|| labels().any(|good| !good));
        out.push(CardWord {
            text: line[from..range.end].to_owned(),
            hallucinated,
            ..CardWord::default()
        });
        from = range.end;
    }
    if from < line.len() {
        out.push(CardWord {
            text: line[from..].to_owned(),
            ..CardWord::default()
        });
    }
    out
}
