//! Question-answer pairs derived from the captions of an image.
//!
//! A question is asked only if the captions settle its answer: a color on which all agree, or an
//! object that nobody names although it would have been named. Absent objects are asked about as
//! often as present ones, weighted by frequency and by lift with the present ones.

mod activity;
mod objects;

use std::collections::{BTreeSet, HashMap};

use rand::{
    Rng,
    seq::{IndexedRandom, SliceRandom},
};

use self::{activity::clause, objects::Scene};
use super::{
    stats::CaptionStats,
    text::{capitalized, normalize_caption},
};
use crate::eval::data::flickr8k::Image;
use crate::lexicon::{self, Lexicon};

/// Kind of question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QaKind {
    /// Presence of an object, yes or no: "Is there a dog?"
    Presence,
    /// Color of an object: "What color is the dog?"
    Color,
    /// Given color, yes or no: "Is the dog black?"
    IsColor,
    /// Number of objects: "How many dogs are there?"
    Count,
    /// Activity: "What is the dog doing?"
    Activity,
    /// Place: "Where is the dog?"
    Place,
    /// Clothing: "What is the man wearing?"
    Clothing,
    /// List of objects: "What is in the picture?"
    List,
}

impl QaKind {
    /// Returns `true` if the captions settle the whole answer, so that any other is wrong.
    pub fn is_closed(self) -> bool {
        matches!(
            self,
            Self::Presence | Self::Color | Self::IsColor | Self::Count
        )
    }
}

/// Question with its answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Qa {
    /// Question in sentence case, with a question mark.
    pub question: String,
    /// Short answer, capitalized, with a final period.
    pub answer: String,
    /// Kind of question.
    pub kind: QaKind,
}

impl Qa {
    /// Returns `true` for the answer yes, `false` for no, `None` for other answers.
    pub fn yes(&self) -> Option<bool> {
        match self.answer.as_str() {
            "Yes." => Some(true),
            "No." => Some(false),
            _ => None,
        }
    }
}

/// Question with its topic.
#[derive(Debug)]
struct DraftQuestion {
    qa: Qa,
    topic: String,
}

impl DraftQuestion {
    fn new(kind: QaKind, topic: &str, question: String, answer: String) -> Self {
        Self {
            qa: Qa {
                question,
                answer,
                kind,
            },
            topic: topic.to_owned(),
        }
    }

    /// Returns `true` if two questions ask the same, or one gives the other's answer away.
    fn repeats(&self, other: &Self) -> bool {
        let is_color = |kind| matches!(kind, QaKind::Color | QaKind::IsColor);
        self.topic == other.topic
            && (self.qa.kind == other.qa.kind || is_color(self.qa.kind) && is_color(other.qa.kind))
    }
}

/// Generator of questions in the style of the split that the statistics come from.
#[derive(Debug)]
pub struct QaBuilder<'a> {
    stats: &'a CaptionStats,
    lexicon: &'a Lexicon,
    templates: Templates,
    askable: BTreeSet<&'static str>,
}

impl<'a> QaBuilder<'a> {
    /// Creates a generator from the noun statistics of a training split.
    pub fn new(stats: &'a CaptionStats, lexicon: &'a Lexicon) -> Self {
        Self {
            stats,
            lexicon,
            templates: Templates::parse(include_str!("templates.txt")),
            askable: objects::askable(lexicon, stats),
        }
    }

    /// At most `max` different questions about an image, with equally many yes and no answers.
    /// Deterministic in the state of `rng`.
    pub fn pairs(&self, image: &Image, rng: &mut impl Rng, max: usize) -> Vec<Qa> {
        let texts: Vec<String> = image
            .captions
            .iter()
            .map(|c| normalize_caption(c))
            .collect();
        let scene = Scene::new(self.lexicon, self.stats, &self.askable, &texts);
        let mut open = scene.colors(&self.templates, rng);
        open.extend(scene.counts(&self.templates, rng));
        open.extend(scene.list(&self.templates, rng));
        open.extend(self.activities(&texts, rng));
        open.shuffle(rng);
        let (mut chosen, mut balance) = (Vec::<DraftQuestion>::new(), 0);
        let mut lean = rng.random_bool(0.5);
        let mut presence = rng.random_bool(0.5);
        let mut misses = 0;
        while chosen.len() < max && misses < 4 {
            let next = if presence {
                let yes = if balance == 0 { lean } else { balance < 0 };
                lean = !lean;
                if yes {
                    scene.present(&self.templates, rng)
                } else {
                    scene.absent(&self.templates, rng)
                }
            } else {
                open.pop()
            };
            presence = !presence;
            let fits = |draft: &DraftQuestion| {
                !chosen.iter().any(|c| c.repeats(draft)) && (balance + sign(&draft.qa)).abs() <= 1
            };
            match next.filter(fits) {
                Some(draft) => {
                    balance += sign(&draft.qa);
                    chosen.push(draft);
                    misses = 0;
                }
                None => misses += 1,
            }
        }
        // Drops the last question of the majority answer.
        if let Some(last) = chosen
            .iter()
            .rposition(|c| balance != 0 && sign(&c.qa) == balance)
        {
            chosen.remove(last);
        }
        chosen.into_iter().map(|draft| draft.qa).collect()
    }

    /// Questions on activity, place and clothing, each from one caption.
    fn activities(&self, texts: &[String], rng: &mut impl Rng) -> Vec<DraftQuestion> {
        let mut found = Vec::new();
        for text in texts {
            let Some(clause) = clause(self.lexicon, text) else {
                continue;
            };
            let person = self.lexicon.kind(clause.concept) == lexicon::ConceptKind::Person;
            let number = if clause.plural { "many" } else { "one" };
            let answers = [
                ("doing", QaKind::Activity, clause.doing),
                ("where", QaKind::Place, clause.place),
                (
                    "wearing",
                    QaKind::Clothing,
                    clause.wearing.filter(|_| person),
                ),
            ];
            for (class, kind, text) in answers {
                let Some(text) = text else { continue };
                let question =
                    self.templates
                        .fill(&format!("{class} {number}"), &clause.subject, "", rng);
                found.push(DraftQuestion::new(
                    kind,
                    &clause.subject,
                    question,
                    answer(&text),
                ));
            }
        }
        // One question of each kind: all captions describe the same activity.
        found.shuffle(rng);
        let mut kinds = Vec::new();
        found.retain(|draft: &DraftQuestion| {
            !kinds.contains(&draft.qa.kind) && {
                kinds.push(draft.qa.kind);
                true
            }
        });
        found
    }
}

fn sign(qa: &Qa) -> i32 {
    qa.yes().map_or(0, |yes| if yes { 1 } else { -1 })
}

/// Text fragment as an answer: capitalized, with a period.
fn answer(text: &str) -> String {
    format!("{}.", capitalized(text))
}

/// Question templates of `templates.txt`.
#[derive(Debug)]
struct Templates(HashMap<&'static str, Vec<&'static str>>);

impl Templates {
    fn parse(text: &'static str) -> Self {
        let mut all: HashMap<&str, Vec<&str>> = HashMap::new();
        let mut class = "";
        for line in text
            .lines()
            .filter(|l| !l.is_empty() && !l.starts_with('#'))
        {
            match line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                Some(name) => class = name,
                None => all.entry(class).or_default().push(line),
            }
        }
        Self(all)
    }

    /// Random template of a class with its blanks filled in.
    fn fill(&self, class: &str, object: &str, color: &str, rng: &mut impl Rng) -> String {
        let template = self
            .0
            .get(class)
            .and_then(|lines| lines.choose(rng))
            .copied()
            .unwrap_or_default();
        template.replace("{x}", object).replace("{c}", color)
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::train::stats::tests::image;

    fn images() -> Vec<Image> {
        let dogs = image(&[
            "A black dog runs through the grass with a frisbee .",
            "A black dog is running on grass .",
            "A dog with a red frisbee in its mouth .",
            "Black dog in the grass .",
            "The black dog catches a frisbee .",
        ]);
        let cats = image(&[
            "Two white cats on a sofa .",
            "Two cats sleep on a couch .",
            "Two cats on a red sofa .",
            "Two cats .",
            "White cats lying on a couch .",
        ]);
        let men = image(&[
            "A man rides a bike .",
            "A man on a bicycle .",
            "The man wearing a blue helmet rides a bike .",
            "A man on a bike .",
            "A man .",
        ]);
        let brown = image(&[
            "A brown dog on a bench .",
            "A brown dog sits on a bench .",
            "A dog .",
            "A brown dog .",
            "A brown dog lies on a bench .",
        ]);
        (0..10)
            .flat_map(|_| [dogs.clone(), cats.clone(), men.clone(), brown.clone()])
            .collect()
    }

    fn ask(index: usize, seeds: u64) -> Vec<Qa> {
        let (images, lexicon) = (images(), Lexicon::shared());
        let stats = CaptionStats::new(&images, lexicon);
        let builder = QaBuilder::new(&stats, lexicon);
        (0..seeds)
            .flat_map(|seed| builder.pairs(&images[index], &mut SmallRng::seed_from_u64(seed), 8))
            .collect()
    }

    #[test]
    fn pairs_answers_are_right() {
        for qa in ask(0, 200) {
            let about = |noun: &str| {
                Lexicon::shared()
                    .all_mentions(&qa.question)
                    .iter()
                    .any(|m| m.lemma == noun)
            };
            match qa.kind {
                QaKind::Presence => assert_eq!(
                    qa.answer == "Yes.",
                    about("dog")
                        || about("frisbee")
                        || about("grass")
                        || about("animal")
                        || about("toy"),
                    "{qa:?}"
                ),
                QaKind::Color => assert!(
                    about("dog") && qa.answer == "Black."
                        || about("frisbee") && qa.answer == "Red.",
                    "{qa:?}"
                ),
                QaKind::IsColor => assert_eq!(
                    qa.answer == "Yes.",
                    qa.question == "Is the dog black?",
                    "{qa:?}"
                ),
                QaKind::Count => assert_eq!(qa.answer, "One.", "{qa:?}"),
                _ => {}
            }
        }
        let cats = ask(1, 50);
        assert!(
            cats.iter()
                .filter(|qa| qa.kind == QaKind::Count)
                .all(|qa| qa.answer == "Two.")
        );
        assert!(
            cats.iter().any(|qa| qa.kind == QaKind::Count)
                && cats
                    .iter()
                    .any(|qa| qa.question == "What color are the cats?")
        );
        assert!(
            ask(2, 50)
                .iter()
                .any(|qa| qa.kind == QaKind::Clothing && qa.answer == "A blue helmet.")
        );
    }

    #[test]
    fn pairs_yes_and_no_are_balanced() {
        let sum: i32 = ask(0, 100).iter().map(sign).sum();
        assert_eq!(sum, 0);
        assert!(ask(0, 100).iter().any(|qa| qa.yes() == Some(false)));
    }

    #[test]
    fn pairs_same_seed_gives_same_questions() {
        assert_eq!(ask(0, 3), ask(0, 3));
        let all = ask(0, 40);
        assert!(
            all.iter().any(|qa| !ask(0, 1).contains(qa)),
            "other seeds ask other questions"
        );
    }

    #[test]
    fn pairs_without_captions_are_empty() {
        let (images, lexicon) = (images(), Lexicon::shared());
        let stats = CaptionStats::new(&images, lexicon);
        let empty = image(&[]);
        for seed in 0..20 {
            assert!(
                QaBuilder::new(&stats, lexicon)
                    .pairs(&empty, &mut SmallRng::seed_from_u64(seed), 8)
                    .is_empty()
            );
        }
    }
}
