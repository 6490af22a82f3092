//! Defects of form in captions: fragments and loops, which a guard that rewrites or cuts text may
//! leave behind.

use super::Evaluation;
use crate::{
    eval::{
        bootstrap::estimates,
        report::{Column, GoodDirection, NumberFormat, ReportTable, TableCell, TableRow},
    },
    guard::{sentence::repeats, words::is_function_word},
    lexicon::{Lexicon, words},
};

/// A caption of at most this many words is a fragment.
const FEW_WORDS: usize = 4;

/// Words that cannot end a sentence of a caption although [`is_function_word`] does not list them.
const OPEN_ENDS: [&str; 22] = [
    "above", "across", "against", "along", "among", "around", "behind", "below", "beneath",
    "beside", "between", "beyond", "during", "near", "next", "over", "through", "toward",
    "towards", "under", "wearing", "without",
];

/// Function words that may end a sentence.
const CLOSED_ENDS: [&str; 12] = [
    "also", "another", "each", "hers", "him", "it", "itself", "other", "them", "there", "this",
    "us",
];

/// Defects in the form of a caption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// At most four words.
    pub is_short: bool,
    /// Does not end like a sentence, or has no verb.
    pub is_unfinished: bool,
    /// Repeats itself.
    pub is_loop: bool,
}

impl Form {
    /// Finds the defects of an English caption.
    pub fn detect(text: &str) -> Self {
        let found = words(text);
        let words: Vec<&str> = found.iter().map(|word| word.text.as_str()).collect();
        let ends = text
            .trim_end()
            .trim_end_matches(['"', '\'', '”', '’', ')'])
            .ends_with(['.', '!', '?']);
        let open = |word: &&str| {
            OPEN_ENDS.contains(word) || is_function_word(word) && !CLOSED_ENDS.contains(word)
        };
        let is_unfinished =
            !ends || words.last().is_none_or(open) || !words.iter().any(|word| is_verb(word));
        Self {
            is_short: words.len() <= FEW_WORDS,
            is_unfinished,
            is_loop: repeats(text),
        }
    }

    /// Returns `true` if the caption is less than a sentence.
    pub fn is_fragment(self) -> bool {
        self.is_short || self.is_unfinished
    }
}

fn is_verb(word: &str) -> bool {
    const AUXILIARIES: [&str; 16] = [
        "am", "are", "be", "been", "being", "can", "could", "did", "do", "does", "had", "has",
        "have", "is", "was", "were",
    ];
    let lexicon = Lexicon::shared();
    let inflected = |end: &str| {
        word.len() > end.len() + 2 && word.ends_with(end) && lexicon.concept(word).is_none()
    };
    AUXILIARIES.contains(&word)
        || lexicon.verbs().analyze(word).is_some()
        || inflected("ing")
        || inflected("ed")
}

/// Shares of fragments and loops among `captions`, which has one entry per image.
fn form_row(name: &str, captions: &[Vec<&str>], repeats: usize, seed: u64) -> TableRow {
    let counts: Vec<[f64; 5]> = captions
        .iter()
        .map(|texts| {
            let forms: Vec<Form> = texts.iter().map(|text| Form::detect(text)).collect();
            let count =
                |test: fn(&Form) -> bool| forms.iter().filter(|form| test(form)).count() as f64;
            [
                texts.len() as f64,
                count(|f| f.is_fragment()),
                count(|f| f.is_short),
                count(|f| f.is_unfinished),
                count(|f| f.is_loop),
            ]
        })
        .collect();
    let shares = |weights: &[u32]| {
        let sum = |i: usize| {
            counts
                .iter()
                .zip(weights)
                .map(|(c, &w)| c[i] * f64::from(w))
                .sum::<f64>()
        };
        (1..5).map(|i| sum(i) / sum(0)).collect()
    };
    let whole: [f64; 2] = [1, 4].map(|i| counts.iter().map(|c| c[i]).sum());
    let mut cells: Vec<TableCell> = estimates(counts.len(), repeats, seed, shares)
        .into_iter()
        .map(TableCell::from)
        .collect();
    cells.extend(whole.map(TableCell::from));
    TableRow::new(name, cells)
}

/// Builds the table of fragments and loops, with a row per model and one for people.
pub fn form_table(models: &[(&str, &Evaluation<'_>)], repeats: usize, seed: u64) -> ReportTable {
    let row = |name: &str, captions: &[Vec<&str>]| form_row(name, captions, repeats, seed);
    let mut rows: Vec<TableRow> = models
        .iter()
        .map(|(name, evaluation)| {
            row(
                name,
                &evaluation
                    .captions
                    .iter()
                    .map(|caption| vec![caption.text])
                    .collect::<Vec<_>>(),
            )
        })
        .collect();
    if let Some((_, first)) = models
        .first()
        .filter(|m| m.1.captions.iter().any(|c| !c.image.captions.is_empty()))
    {
        let people: Vec<Vec<&str>> = first
            .captions
            .iter()
            .map(|c| c.image.captions.iter().map(String::as_str).collect())
            .collect();
        rows.push(row("people", &people));
    }
    let share = |name: &str, help: &str| {
        Column::new(name, NumberFormat::Percent)
            .better(GoodDirection::Lower)
            .help(help)
    };
    ReportTable {
        title: "Fragments and loops".into(),
        note: "People leave out verbs and full stops too: compare each row with theirs and with \
               the first."
            .into(),
        columns: vec![
            share(
                "fragments",
                "captions of at most four words or without a whole sentence",
            ),
            share("at most 4 words", "captions of at most four words"),
            share(
                "no whole sentence",
                "captions without a final full stop or a verb, or that end in a word that needs \
                 another one",
            ),
            share(
                "loops",
                "captions that repeat words in a row (\"and\" may be in between), or five words in \
                 the same order",
            ),
            Column::new("fragments, number", NumberFormat::Count),
            Column::new("loops, number", NumberFormat::Count),
        ],
        rows,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragment_is_short_or_not_a_sentence() {
        for whole in [
            "A dog runs through the grass.",
            "Two men are sitting on a bench!",
            "A man in a hat looks at it.",
            "A little girl wearing a red hat (she smiles).",
            "A dog and a cat play with each other.",
        ] {
            assert!(
                !Form::detect(whole).is_fragment(),
                "{whole}: {:?}",
                Form::detect(whole)
            );
        }
        for fragment in [
            "",
            "A brown.",
            "Two dogs are.",
            "A small child.",
            "A man is standing in front of",
            "A man is standing in front of the.",
            "A man with a hat is sitting next to a.",
            "A woman with long hair on a red bench.",
            "A man in front of a building.",
            "A dog runs through the grass",
            "Two children are playing and.",
            "A boy is standing near.",
        ] {
            assert!(Form::detect(fragment).is_fragment(), "{fragment}");
        }
        assert!(
            Form::detect("Two dogs run.").is_short && !Form::detect("Two dogs run.").is_unfinished
        );
    }
}
