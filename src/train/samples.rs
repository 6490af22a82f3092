//! Summary of the scorers' training data: counts by origin and kind, right and wrong words by
//! class, and sample texts.

use std::{collections::BTreeMap, fmt};

use rand::{SeedableRng, rngs::SmallRng};
use serde::{Deserialize, Serialize};

use super::{
    TrainError,
    labels::LabeledText,
    perturb::PerturbationCounts,
    reward::RewardTraining,
    reward_data::{ExampleOrigin, Examples},
    reward_report::label_words,
};
use crate::{
    eval::report::{
        CaptionCard, Column, EvaluationReport, NumberFormat, Photo, ReportTable, Section, TableRow,
    },
    lexicon::{Lexicon, WordClass},
};

/// Images per origin in the summary.
const IMAGES: usize = 500;

/// Samples per example origin.
const SHOWN: usize = 12;

/// Number of texts and of their good, bad and unknown tokens.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    texts: usize,
    tokens: [usize; 3],
}

/// Classes of words that name objects; training data must contain wrong ones of each.
const NAMING: [WordClass; 3] = [WordClass::Person, WordClass::Animal, WordClass::Object];

/// Counts of right and wrong words of a class in texts about the photographs of an origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ClassCount {
    class: String,
    origin: String,
    right: usize,
    wrong: usize,
}

/// Right and wrong words by class and by the photograph's origin.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Negatives(Vec<ClassCount>);

impl Negatives {
    fn from_counts(words: &BTreeMap<(WordClass, &str), [usize; 2]>) -> Self {
        let count =
            |(&(class, origin), &[right, wrong]): (&(WordClass, &str), &[usize; 2])| ClassCount {
                class: class.to_string(),
                origin: origin.to_owned(),
                right,
                wrong,
            };
        Self(words.iter().map(count).collect())
    }

    fn wrong(&self, class: WordClass) -> usize {
        self.0
            .iter()
            .filter(|count| count.class == class.to_string())
            .map(|count| count.wrong)
            .sum()
    }

    /// First class of object-naming words without a wrong one.
    pub(super) fn missing(&self) -> Option<WordClass> {
        NAMING.into_iter().find(|&class| self.wrong(class) == 0)
    }

    /// Counts as a table.
    pub(super) fn table(&self) -> ReportTable {
        let row = |count: &ClassCount| {
            TableRow::new(
                format!("{}, {}", count.class, count.origin),
                vec![count.right.into(), count.wrong.into()],
            )
        };
        ReportTable {
            title: "Negatives by class of word".into(),
            note: format!(
                "Words whose truth is known, in one epoch's texts about at most {IMAGES} \
                 photographs of each origin."
            ),
            columns: vec![
                Column::new("right", NumberFormat::Count),
                Column::new("wrong", NumberFormat::Count),
            ],
            rows: self.0.iter().map(row).collect(),
        }
    }
}

impl fmt::Display for Negatives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = |class: &WordClass| format!("{class} {}", self.wrong(*class));
        f.write_str(
            &WordClass::ALL
                .iter()
                .map(class)
                .collect::<Vec<_>>()
                .join(", "),
        )
    }
}

/// Counts the labeled words of a text by class.
fn count_words(
    text: &LabeledText,
    origin: &'static str,
    counts: &mut BTreeMap<(WordClass, &'static str), [usize; 2]>,
) {
    for (range, class) in Lexicon::shared().word_classes(&text.text) {
        if let Some(good) = text.label(&range) {
            counts.entry((class, origin)).or_default()[usize::from(!good)] += 1;
        }
    }
}

/// Summarizes a run's training data, drawn as an epoch draws it, and counts right and wrong words;
/// deterministic in the run's seed.
///
/// # Errors
/// When a text cannot be tokenized.
pub(super) fn summarize(
    training: &RewardTraining,
    examples: &Examples<'_>,
) -> Result<(EvaluationReport, Negatives), TrainError> {
    let tokenizer = &training.setup.policy.tokenizer;
    let (mut rng, mut tally) = (
        SmallRng::seed_from_u64(training.config.seed),
        PerturbationCounts::default(),
    );
    let mut by_origin: BTreeMap<ExampleOrigin, (Counts, Vec<CaptionCard>)> = BTreeMap::new();
    let (mut summarized, mut words) = (BTreeMap::<&str, usize>::new(), BTreeMap::new());
    for i in training.training_images() {
        let (image, photographs_of) = (training.image(i), training.origin(i));
        let count = summarized.entry(photographs_of).or_default();
        if *count == IMAGES {
            continue;
        }
        *count += 1;
        // Creates entries with zero counts, so that the table shows them.
        WordClass::ALL
            .iter()
            .for_each(|&class| _ = words.entry((class, photographs_of)).or_default());
        for (origin, statement) in examples.statements(i, &mut rng, &mut tally) {
            count_words(&statement.text, photographs_of, &mut words);
            let tokens = tokenizer
                .encode(&statement.text.text)
                .map_err(|e| TrainError::Run(e.to_string()))?;
            let (counts, cards) = by_origin.entry(origin).or_default();
            counts.texts += 1;
            for label in statement.text.token_labels(tokenizer, &tokens) {
                counts.tokens[label.map_or(2, |good| usize::from(!good))] += 1;
            }
            // Spread over the images, so that the page shows different photographs.
            if cards.len() < SHOWN
                && cards.last().is_none_or(|last| last.id != image.name)
                && i % 3 == cards.len() % 3
            {
                cards.push(CaptionCard {
                    id: image.name.clone(),
                    photo: Photo::thumbnail(&image.path),
                    words: label_words(&statement.text),
                    note: statement.question.unwrap_or_default(),
                    references: image.captions.clone(),
                    ..CaptionCard::default()
                });
            }
        }
    }
    let (counts, cards): (Vec<_>, Vec<_>) = by_origin
        .into_iter()
        .map(|(origin, (counts, cards))| ((origin, counts), (origin, cards)))
        .unzip();
    let section = |(origin, cards): (ExampleOrigin, Vec<CaptionCard>)| Section {
        title: origin.to_string(),
        cards,
        ..Section::default()
    };
    let negatives = Negatives::from_counts(&words);
    let tables = vec![table(&counts, &tally), negatives.table()];
    let mut sections = vec![Section {
        title: "Counts".into(),
        tables,
        ..Section::default()
    }];
    sections.extend(cards.into_iter().map(section));
    let summarized: Vec<String> = summarized
        .into_iter()
        .map(|(origin, n)| format!("{n} {origin}"))
        .collect();
    let report = EvaluationReport {
        title: "What the scorers learn from".into(),
        command: "candor train reward".into(),
        facts: vec![
            ("images looked at".into(), summarized.join(", ")),
            ("seed".into(), training.config.seed.to_string()),
        ],
        notes: vec![
            "Words with a wavy underline are labeled as ungrounded. Tokens of which nothing is \
             known are masked, never taken for good."
                .into(),
        ],
        sections,
    };
    Ok((report, negatives))
}

fn table(counts: &[(ExampleOrigin, Counts)], tally: &PerturbationCounts) -> ReportTable {
    let row = |(
        origin,
        Counts {
            texts,
            tokens: [good, bad, unknown],
        },
    ): &(ExampleOrigin, Counts)| {
        let dropped = if let ExampleOrigin::Perturbed(kind) = origin {
            Some(tally.paraphrases.get(kind).copied().unwrap_or(0))
        } else {
            None
        };
        TableRow::new(
            origin.to_string(),
            vec![
                (*texts).into(),
                (*good).into(),
                (*bad).into(),
                (*unknown).into(),
                dropped.into(),
            ],
        )
    };
    ReportTable {
        title: "Texts and tokens by origin".into(),
        note: "Paraphrases: edits that were dropped, for a caption of the image says the same in \
               other words."
            .into(),
        columns: [
            "texts",
            "good tokens",
            "bad tokens",
            "unknown tokens",
            "paraphrases",
        ]
        .map(|name| Column::new(name, NumberFormat::Count))
        .into(),
        rows: counts.iter().map(row).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_finds_the_class_without_wrong_words() {
        let text = |text: &str, wrong: &str| {
            let at = text.find(wrong).unwrap();
            LabeledText {
                text: text.into(),
                ranges: vec![(at..at + wrong.len(), Some(false))],
                rest: Some(true),
                recorded: None,
            }
        };
        let mut words = BTreeMap::new();
        count_words(&text("A man with a dog.", "man"), "flickr8k", &mut words);
        count_words(&text("A man and a red dog.", "dog"), "daquar", &mut words);
        count_words(
            &LabeledText {
                rest: None,
                ..text("A cat on a table.", "table")
            },
            "daquar",
            &mut words,
        );
        let people: Vec<_> = words
            .iter()
            .filter(|((class, _), _)| *class == WordClass::Person)
            .map(|(key, count)| (key.1, *count))
            .collect();
        assert_eq!(people, [("daquar", [1, 0]), ("flickr8k", [0, 1])]);
        assert_eq!(
            words[&(WordClass::Animal, "daquar")],
            [0, 1],
            "of the cat nothing is known"
        );
        let negatives = Negatives::from_counts(&words);
        assert_eq!(negatives.missing(), None);
        assert!(
            negatives
                .to_string()
                .starts_with("person 1, animal 1, other thing 1, attribute 0"),
            "{negatives}"
        );
        assert_eq!(negatives.table().rows[0].name, "person, daquar");
        words.insert((WordClass::Person, "flickr8k"), [4, 0]);
        assert_eq!(
            Negatives::from_counts(&words).missing(),
            Some(WordClass::Person)
        );
    }
}
