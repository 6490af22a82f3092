//! Effects of repairs: the same photographs' captions before and after.

use std::collections::{BTreeMap, BTreeSet};

use similar::{Algorithm, DiffTag, capture_diff_slices};

use super::{Evaluation, Form, JudgedCaption};
use crate::{
    eval::{
        bootstrap::estimates,
        report::{
            CaptionCard, CardWord, Column, GoodDirection, NumberFormat, Photo, ReportTable,
            Section, TableCell, TableRow, WordChange,
        },
    },
    guard::words::is_function_word,
    lexicon::{Lexicon, words},
};

/// Number of cards per outcome.
const SHOWN: usize = 12;

/// Number of words listed.
const LISTED: usize = 15;

/// Outcome of a repair, by which examples are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Corrected,
    Lost,
    Broken,
    Invented,
    Reworded,
}

impl Outcome {
    const ALL: [Self; 5] = [
        Self::Corrected,
        Self::Lost,
        Self::Broken,
        Self::Invented,
        Self::Reworded,
    ];

    fn title(self) -> &'static str {
        match self {
            Self::Corrected => "Repairs: a hallucination removed",
            Self::Lost => "Repairs: a right thing lost",
            Self::Broken => "Repairs: a fragment or a loop left",
            Self::Invented => "Repairs: a hallucination added",
            Self::Reworded => "Repairs: the same things in other words",
        }
    }
}

/// One caption before and after repair.
#[derive(Debug)]
struct Repair<'a> {
    before: &'a JudgedCaption<'a>,
    after: &'a JudgedCaption<'a>,
    /// Unsupported objects that only the caption before names.
    corrected: Vec<&'a str>,
    /// Supported objects that the caption after no longer names.
    lost: Vec<&'a str>,
    /// Unsupported objects that only the caption after names.
    invented: Vec<&'a str>,
    /// `true` if only the caption after is a fragment.
    is_fragment: bool,
    /// `true` if only the caption after repeats itself.
    is_loop: bool,
}

/// Objects that a caption names, each with `true` if the references support it: of the open
/// vocabulary if there are reference captions, else of the closed one.
fn named_objects<'a>(caption: &'a JudgedCaption<'_>) -> Vec<(&'a str, bool)> {
    match (&caption.open, &caption.closed) {
        (Some(judgment), _) => caption
            .nouns
            .iter()
            .copied()
            .zip(judgment.mentions.iter().map(|m| m.1))
            .collect(),
        (None, Some(objects)) => objects.mentions.iter().map(|m| (m.1, m.2)).collect(),
        (None, None) => Vec::new(),
    }
}

/// Returns `true` if two nouns are the same, or one is more general than the other.
fn are_related(first: &str, second: &str) -> bool {
    let lexicon = Lexicon::shared();
    let concepts = lexicon.concept(first).zip(lexicon.concept(second));
    first == second || concepts.is_some_and(|(a, b)| lexicon.related(a, b))
}

/// Nouns of `named` with the given support that nothing in `other` is related to, each once.
fn missing<'a>(named: &[(&'a str, bool)], supported: bool, other: &[(&str, bool)]) -> Vec<&'a str> {
    let gone = |(noun, truth): &&(&'a str, bool)| {
        *truth == supported && !other.iter().any(|(other, _)| are_related(noun, other))
    };
    let found: BTreeSet<&str> = named.iter().filter(gone).map(|(noun, _)| *noun).collect();
    found.into_iter().collect()
}

impl<'a> Repair<'a> {
    fn new(before: &'a JudgedCaption<'a>, after: &'a JudgedCaption<'a>) -> Self {
        let (old, new) = (named_objects(before), named_objects(after));
        let (form, new_form) = (Form::detect(before.text), Form::detect(after.text));
        Self {
            before,
            after,
            corrected: missing(&old, false, &new),
            lost: missing(&old, true, &new),
            invented: missing(&new, false, &old),
            is_fragment: new_form.is_fragment() && !form.is_fragment(),
            is_loop: new_form.is_loop && !form.is_loop,
        }
    }

    fn has_changed(&self) -> bool {
        self.before.text != self.after.text
    }

    /// Worst outcome that applies.
    fn outcome(&self) -> Outcome {
        match self {
            _ if self.is_fragment || self.is_loop => Outcome::Broken,
            _ if !self.lost.is_empty() => Outcome::Lost,
            _ if !self.invented.is_empty() => Outcome::Invented,
            _ if !self.corrected.is_empty() => Outcome::Corrected,
            _ => Outcome::Reworded,
        }
    }

    fn findings(&self) -> Vec<(String, String)> {
        let list = |name: &str, nouns: &[&str]| {
            (!nouns.is_empty()).then(|| (name.to_owned(), nouns.join(", ")))
        };
        let form = [(self.is_fragment, "a fragment"), (self.is_loop, "a loop")];
        let form: Vec<&str> = form.into_iter().filter(|f| f.0).map(|f| f.1).collect();
        [
            list("Hallucination removed", &self.corrected),
            list("Right thing lost", &self.lost),
            list("Hallucination added", &self.invented),
            list("What is left is", &form),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn card(&self) -> CaptionCard {
        let image = self.after.image;
        let (removed, added) = changed_words(self.before.text, self.after.text);
        let objects = image.objects.iter().filter(|_| image.captions.is_empty());
        let annotated = objects.map(|objects| {
            format!(
                "Annotated objects: {}",
                objects.iter().cloned().collect::<Vec<_>>().join(", ")
            )
        });
        CaptionCard {
            id: image.name().to_owned(),
            photo: image.photo.as_deref().and_then(Photo::thumbnail),
            before: card_words(self.before, &removed, Some(WordChange::Removed)),
            words: card_words(self.after, &added, Some(WordChange::Added)),
            facts: self.findings(),
            references: image.captions.iter().cloned().chain(annotated).collect(),
            ..CaptionCard::default()
        }
    }
}

/// Indices of the words that only the first text has, and of those that only the second has,
/// ignoring case.
fn changed_words(before: &str, after: &str) -> (BTreeSet<usize>, BTreeSet<usize>) {
    let texts = |text| {
        words(text)
            .into_iter()
            .map(|word| word.text)
            .collect::<Vec<String>>()
    };
    let (mut removed, mut added) = (BTreeSet::new(), BTreeSet::new());
    for op in capture_diff_slices(Algorithm::Myers, &texts(before), &texts(after)) {
        if op.tag() != DiffTag::Equal {
            removed.extend(op.old_range());
            added.extend(op.new_range());
        }
    }
    (removed, added)
}

/// Words of a caption with the support of the objects that they name, and some marked as changed.
pub(super) fn card_words(
    caption: &JudgedCaption<'_>,
    marked: &BTreeSet<usize>,
    change: Option<WordChange>,
) -> Vec<CardWord> {
    let text = caption.text;
    let mentions: Vec<(&std::ops::Range<usize>, bool)> = match (&caption.open, &caption.closed) {
        (Some(judgment), _) => judgment.mentions.iter().map(|m| (&m.0, m.1)).collect(),
        (None, Some(objects)) => objects.mentions.iter().map(|m| (&m.0, m.2)).collect(),
        (None, None) => Vec::new(),
    };
    let (mut from, mut shown) = (0, Vec::new());
    for (i, range) in words(text).into_iter().map(|word| word.range).enumerate() {
        let mention = mentions
            .iter()
            .find(|(m, _)| m.start < range.end && range.start < m.end);
        shown.push(CardWord {
            text: text[from..range.end].to_owned(),
            hallucinated: mention.map(|m| !m.1),
            change: change.filter(|_| marked.contains(&i)),
            ..CardWord::default()
        });
        from = range.end;
    }
    if from < text.len() {
        shown.push(CardWord {
            text: text[from..].to_owned(),
            ..CardWord::default()
        });
    }
    shown
}

/// Builds the sections on repairs: tables and cards. `before` and `after` are captions of the same
/// photographs in the same order.
pub fn sections(
    before: &Evaluation<'_>,
    after: &Evaluation<'_>,
    repeats: usize,
    seed: u64,
) -> Vec<Section> {
    let repairs: Vec<Repair<'_>> = before
        .captions
        .iter()
        .zip(&after.captions)
        .map(|(old, new)| Repair::new(old, new))
        .collect();
    let mut sections = vec![Section {
        title: "What repairs change".into(),
        tables: vec![
            outcome_table(&repairs, repeats, seed),
            word_table(&repairs, WordChange::Removed),
            word_table(&repairs, WordChange::Added),
            phrase_table(&repairs),
        ],
        ..Section::default()
    }];
    for outcome in Outcome::ALL {
        let mut found: Vec<&Repair<'_>> = repairs
            .iter()
            .filter(|r| r.has_changed() && r.outcome() == outcome)
            .collect();
        found.sort_by_key(|r| usize::MAX - (r.corrected.len() + r.lost.len() + r.invented.len()));
        let shown = found.len().min(SHOWN);
        let text = match outcome {
            _ if found.is_empty() => "None.".to_owned(),
            Outcome::Corrected => format!(
                "{shown} of {} photographs on which nothing else went wrong.",
                found.len()
            ),
            Outcome::Reworded => format!("{shown} of {} photographs.", found.len()),
            _ => format!(
                "{shown} of {} photographs. Each photograph is shown once, under its worst \
                 outcome.",
                found.len()
            ),
        };
        sections.push(Section {
            title: outcome.title().into(),
            text: vec![text],
            cards: found
                .iter()
                .take(SHOWN)
                .map(|repair| repair.card())
                .collect(),
            ..Section::default()
        });
    }
    sections
}

fn outcome_table(repairs: &[Repair<'_>], repeats: usize, seed: u64) -> ReportTable {
    type Test = fn(&Repair<'_>) -> bool;
    let outcomes: [(&str, Test); 6] = [
        ("caption changed", |r| r.has_changed()),
        ("a hallucination removed", |r| !r.corrected.is_empty()),
        ("a right thing lost", |r| !r.lost.is_empty()),
        ("a hallucination added", |r| !r.invented.is_empty()),
        ("a fragment left", |r| r.is_fragment),
        ("a loop left", |r| r.is_loop),
    ];
    let shares = |weights: &[u32]| {
        let all: f64 = weights.iter().map(|&w| f64::from(w)).sum();
        let count = |test: Test| {
            repairs
                .iter()
                .zip(weights)
                .filter(|(r, _)| test(r))
                .map(|(_, &w)| f64::from(w))
                .sum::<f64>()
        };
        outcomes
            .iter()
            .map(|(_, test)| count(*test) / all)
            .collect()
    };
    let found = estimates(repairs.len(), repeats, seed, shares);
    let row = |((name, test), share): (&(&str, Test), _)| {
        let count = repairs.iter().filter(|r| test(r)).count();
        TableRow::new(*name, vec![TableCell::from(share), count.into()])
    };
    ReportTable {
        title: "What became of the captions".into(),
        note: "Mode off against regenerate with its defaults. Several rows can apply to a \
               photograph. An object is lost or added if the other caption names neither it nor a \
               more general or more specific one; a fragment or loop is counted if the caption \
               before was none."
            .into(),
        columns: vec![
            Column::new("share", NumberFormat::Percent),
            Column::new("photographs", NumberFormat::Count),
        ],
        rows: outcomes.iter().zip(found).map(row).collect(),
    }
}

/// Table of the phrases that repairs insert, most frequent first, beside those that they replace.
fn phrase_table(repairs: &[Repair<'_>]) -> ReportTable {
    let mut added: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for repair in repairs.iter().filter(|r| r.has_changed()) {
        let [old, new] = [repair.before, repair.after].map(|caption| {
            words(caption.text)
                .into_iter()
                .map(|word| word.text)
                .collect::<Vec<_>>()
        });
        for op in capture_diff_slices(Algorithm::Myers, &old, &new) {
            let (before, after) = (old[op.old_range()].join(" "), new[op.new_range()].join(" "));
            if op.tag() != DiffTag::Equal && !after.is_empty() {
                *added.entry(after).or_default().entry(before).or_default() += 1;
            }
        }
    }
    let mut rows: Vec<_> = added
        .into_iter()
        .map(|(phrase, replaced)| {
            let mut replaced: Vec<(String, usize)> = replaced.into_iter().collect();
            replaced.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
            (
                replaced.iter().map(|r| r.1).sum::<usize>(),
                phrase,
                replaced,
            )
        })
        .collect();
    rows.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    let shown = |replaced: &[(String, usize)]| {
        let name = |(before, count): &(String, usize)| {
            let before = if before.is_empty() { "nothing" } else { before };
            if *count > 1 {
                format!("{before} ({count})")
            } else {
                before.to_owned()
            }
        };
        replaced
            .iter()
            .take(5)
            .map(name)
            .collect::<Vec<_>>()
            .join(", ")
    };
    ReportTable {
        title: "Phrases that repairs add most often".into(),
        note: "Phrases that were inserted, and those that they replaced, most frequent first: a \
             phrase that replaces many others is not specific to any."
            .into(),
        columns: vec![
            Column::new("times", NumberFormat::Count),
            Column::new("replaced", NumberFormat::Count)
                .help("number of different phrases that it replaced"),
            Column::new("in place of", NumberFormat::Text),
        ],
        rows: rows
            .into_iter()
            .take(LISTED)
            .map(|(count, phrase, replaced)| {
                TableRow::new(
                    phrase,
                    vec![
                        count.into(),
                        replaced.len().into(),
                        TableCell::Text(shown(&replaced)),
                    ],
                )
            })
            .collect(),
    }
}

/// Table of the content words that repairs remove or insert most often.
fn word_table(repairs: &[Repair<'_>], change: WordChange) -> ReportTable {
    let mut counts: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for repair in repairs.iter().filter(|r| r.has_changed()) {
        let (removed, added) = changed_words(repair.before.text, repair.after.text);
        let (caption, marked) = if change == WordChange::Removed {
            (repair.before, removed)
        } else {
            (repair.after, added)
        };
        for word in card_words(caption, &marked, Some(change))
            .into_iter()
            .filter(|word| word.change.is_some())
        {
            let name = words(&word.text)
                .into_iter()
                .map(|w| w.text)
                .collect::<String>();
            if !is_function_word(&name) {
                let count = counts.entry(name).or_default();
                count[0] += 1;
                count[1] += usize::from(word.hallucinated == Some(true));
            }
        }
    }
    let mut counts: Vec<(String, [usize; 2])> = counts.into_iter().collect();
    counts.sort_by(|a, b| b.1[0].cmp(&a.1[0]).then(a.0.cmp(&b.0)));
    let verb = if change == WordChange::Removed {
        "remove"
    } else {
        "add"
    };
    ReportTable {
        title: format!("Words that repairs {verb} most often"),
        note: "Articles, prepositions and auxiliaries are left out.".into(),
        columns: vec![
            Column::new("times", NumberFormat::Count),
            Column::new("not in the references", NumberFormat::Count)
                .help("number of mentions of an object that the references do not support")
                .better(if change == WordChange::Removed {
                    GoodDirection::Higher
                } else {
                    GoodDirection::Lower
                }),
        ],
        rows: counts
            .into_iter()
            .take(LISTED)
            .map(|(word, [all, wrong])| TableRow::new(word, vec![all.into(), wrong.into()]))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{
        captions::Measures,
        data::{AnnotatedImage, Hypothesis, RowPosition},
    };

    const REFERENCES: [&str; 2] = [
        "A dog runs on the grass with a ball.",
        "A brown dog plays with a ball on grass.",
    ];

    fn evaluated(image: &AnnotatedImage, texts: &[&str], check: impl FnOnce(&Evaluation<'_>)) {
        let captions: Vec<Hypothesis> = texts
            .iter()
            .map(|&caption| Hypothesis {
                image: image.id.clone(),
                caption: caption.into(),
                objects: None,
                position: RowPosition::File,
            })
            .collect();
        let pairs: Vec<_> = captions.iter().map(|caption| (image, caption)).collect();
        check(&Evaluation::new(
            &pairs,
            Measures {
                open: true,
                ..Measures::default()
            },
        ));
    }

    fn photograph() -> AnnotatedImage {
        AnnotatedImage {
            id: "1.jpg".into(),
            captions: REFERENCES.map(str::to_owned).into(),
            ..AnnotatedImage::default()
        }
    }

    #[test]
    fn repair_with_several_effects_has_the_worst_outcome() {
        let outcome = |before: &str, after: &str| {
            let mut found = None;
            evaluated(&photograph(), &[before, after], |e| {
                found = Some(Repair::new(&e.captions[0], &e.captions[1]).outcome())
            });
            found.unwrap()
        };
        let before = "A dog with a frisbee runs on the grass.";
        for (after, wanted) in [
            ("A dog with a ball runs on the grass.", Outcome::Corrected),
            (
                "An animal with a ball runs on the grass.",
                Outcome::Corrected,
            ),
            ("A dog with a ball is running here.", Outcome::Lost),
            ("A dog with a hat runs on the grass.", Outcome::Invented),
            ("A dog runs.", Outcome::Broken),
            ("A dog runs on the grass and the grass.", Outcome::Broken),
            (
                "A dog with a frisbee plays on the grass.",
                Outcome::Reworded,
            ),
        ] {
            assert_eq!(outcome(before, after), wanted, "{after}");
        }
    }

    #[test]
    fn sections_count_outcomes_and_show_changed_words() {
        let texts = [
            "A dog with a frisbee runs on the grass.",
            "A dog with a ball runs on the grass.",
            "A dog runs on the grass.",
        ];
        let (before, after) = ([texts[0], texts[2]], [texts[1], texts[2]]);
        evaluated(&photograph(), &before, |before| {
            evaluated(&photograph(), &after, |after| {
                let sections = sections(before, after, 100, 1);
                let numbers = |table: &ReportTable| {
                    table
                        .rows
                        .iter()
                        .map(|r| (r.name.clone(), r.cells[1].clone()))
                        .collect::<Vec<_>>()
                };
                let counted = numbers(&sections[0].tables[0]);
                assert_eq!(counted[0], ("caption changed".to_owned(), 1usize.into()));
                assert_eq!(
                    counted[1],
                    ("a hallucination removed".to_owned(), 1usize.into())
                );
                assert_eq!(counted[2], ("a right thing lost".to_owned(), 0usize.into()));
                let phrases = &sections[0].tables[3].rows;
                assert_eq!(
                    (
                        phrases.len(),
                        phrases[0].name.as_str(),
                        &phrases[0].cells[2]
                    ),
                    (1, "ball", &TableCell::Text("frisbee".into()))
                );
                assert_eq!(
                    numbers(&sections[0].tables[1]),
                    [("frisbee".to_owned(), 1usize.into())]
                );
                assert_eq!(
                    numbers(&sections[0].tables[2]),
                    [("ball".to_owned(), 0usize.into())]
                );
                let cards: usize = sections.iter().map(|s| s.cards.len()).sum();
                let card = &sections[1].cards[0];
                let marked = |words: &[CardWord]| {
                    words
                        .iter()
                        .filter(|w| w.change.is_some())
                        .map(|w| w.text.trim().to_owned())
                        .collect::<Vec<_>>()
                };
                assert_eq!(
                    (cards, marked(&card.before), marked(&card.words)),
                    (1, vec!["frisbee".to_owned()], vec!["ball".to_owned()])
                );
                assert_eq!(
                    card.facts,
                    [("Hallucination removed".to_owned(), "frisbee".to_owned())]
                );
                assert_eq!(card.references, REFERENCES);
            });
        });
    }
}
