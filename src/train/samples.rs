//! A look at what scorers learn from: counts by origin and kind, and examples to read.

use std::collections::BTreeMap;

use rand::{SeedableRng, rngs::SmallRng};

use super::{
    TrainError,
    perturb::Tally,
    reward::RewardTraining,
    reward_cards::label_words,
    reward_data::{Examples, Origin},
};
use crate::eval::report::{CaptionCard, Column, Format, Photo, Report, Section, Table, TableRow};

/// Images looked at.
const IMAGES: usize = 500;

/// Examples shown of each origin.
const SHOWN: usize = 12;

/// Texts, and their tokens by what is known of them: good, bad, unknown.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    texts: usize,
    tokens: [usize; 3],
}

/// Statistics and examples of a run's data, drawn as an epoch draws them; a function of its seed.
///
/// # Errors
/// When a text cannot be cut into tokens.
pub(super) fn look(training: &RewardTraining, examples: &Examples<'_>) -> Result<Report, TrainError> {
    let images = &training.setup.data.train;
    let tokenizer = &training.setup.policy.tokenizer;
    let (mut rng, mut tally) = (SmallRng::seed_from_u64(training.config.seed), Tally::default());
    let mut seen: BTreeMap<Origin, (Counts, Vec<CaptionCard>)> = BTreeMap::new();
    for (i, image) in training.learnt_from().take(IMAGES).map(|i| (i, &images[i])) {
        for (origin, said) in examples.said(i, &mut rng, &mut tally) {
            let tokens = tokenizer.encode(&said.text.text).map_err(|e| TrainError::Run(e.to_string()))?;
            let (counts, cards) = seen.entry(origin).or_default();
            counts.texts += 1;
            for label in said.text.token_labels(tokenizer, &tokens) {
                counts.tokens[label.map_or(2, |good| usize::from(!good))] += 1;
            }
            // Spread over the images, so that the page does not show one photograph over and over.
            if cards.len() < SHOWN && cards.last().is_none_or(|last| last.id != image.name) && i % 3 == cards.len() % 3 {
                cards.push(CaptionCard {
                    id: image.name.clone(),
                    photo: Photo::thumbnail(&image.path),
                    words: label_words(&said.text),
                    note: said.question.unwrap_or_default(),
                    references: image.captions.clone(),
                    ..CaptionCard::default()
                });
            }
        }
    }
    let (counts, cards): (Vec<_>, Vec<_>) = seen.into_iter().map(|(origin, (counts, cards))| ((origin, counts), (origin, cards))).unzip();
    let section = |(origin, cards): (Origin, Vec<CaptionCard>)| Section { title: origin.to_string(), cards, ..Section::default() };
    let mut sections = vec![Section { title: "Counts".into(), tables: vec![table(&counts, &tally)], ..Section::default() }];
    sections.extend(cards.into_iter().map(section));
    Ok(Report {
        title: "What the scorers learn from".into(),
        command: "candor train reward".into(),
        facts: vec![("images looked at".into(), images.len().min(IMAGES).to_string()), ("seed".into(), training.config.seed.to_string())],
        notes: vec![
            "Words with a wavy underline are labelled as ungrounded. Tokens of which nothing is known are masked, never taken for good."
                .into(),
        ],
        sections,
    })
}

fn table(counts: &[(Origin, Counts)], tally: &Tally) -> Table {
    let row = |(origin, Counts { texts, tokens: [good, bad, unknown] }): &(Origin, Counts)| {
        let dropped = if let Origin::Perturbed(kind) = origin { Some(tally.paraphrases.get(kind).copied().unwrap_or(0)) } else { None };
        TableRow::new(origin.to_string(), vec![(*texts).into(), (*good).into(), (*bad).into(), (*unknown).into(), dropped.into()])
    };
    Table {
        title: "Texts and tokens by origin".into(),
        note: "Paraphrases: edits that were dropped, for a caption of the image says the same in other words.".into(),
        columns: ["texts", "good tokens", "bad tokens", "unknown tokens", "paraphrases"]
            .map(|name| Column::new(name, Format::Count))
            .into(),
        rows: counts.iter().map(row).collect(),
    }
}
