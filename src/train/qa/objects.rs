//! Questions about objects: presence, color, number.

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng, seq::IndexedRandom};

use super::{DraftQuestion, QaKind, Templates, answer};
use crate::{
    lexicon::{self, Lexicon, Phrase, ReferenceTexts, Support},
    train::stats::{CaptionStats, weighted},
};

/// Minimum salience (probability that another annotator names it) to take an unnamed object as
/// absent.
const MIN_SALIENCE: f64 = 0.45;
/// Bounds of the lift, so that rare co-occurrences do not dominate.
const LIFT: std::ops::RangeInclusive<f64> = 0.1..=8.0;
/// Weight of an object that a single caption names.
const LONE_MENTION: f64 = 0.3;

/// Weight of people, who are in most images and would otherwise dominate the questions.
const PERSON_WEIGHT: f64 = 0.4;

/// General nouns to ask about when a hyponym is named.
const GENERAL: [&str; 10] = [
    "animal",
    "dog",
    "bird",
    "vehicle",
    "boat",
    "toy",
    "ball",
    "food",
    "instrument",
    "water",
];

/// Nouns for people with a bit mask of the meanings man (1), woman (2), boy (4) and girl (8).
const PEOPLE: [(&str, u8); 15] = [
    ("man", 1),
    ("guy", 5),
    ("gentleman", 1),
    ("male", 5),
    ("woman", 2),
    ("lady", 2),
    ("female", 10),
    ("boy", 4),
    ("girl", 10),
    ("child", 12),
    ("kid", 12),
    ("baby", 12),
    ("toddler", 12),
    ("infant", 12),
    ("adult", 3),
];
/// Words that imply people.
const PERSON_WORDS: [&str; 11] = [
    "someone", "somebody", "his", "her", "their", "he", "she", "they", "one", "group", "hand",
];

/// Named objects of an image's captions.
pub(super) struct Scene<'a> {
    pub(super) lexicon: &'a Lexicon,
    pub(super) stats: &'a CaptionStats,
    pub(super) captions: Vec<Vec<Phrase>>,
    pub(super) texts: &'a [String],
    /// Nouns whose presence may be asked.
    pub(super) askable: &'a BTreeSet<&'static str>,
    pub(super) references: ReferenceTexts<'a>,
}

impl<'a> Scene<'a> {
    /// Parses normalized captions.
    pub(super) fn new(
        lexicon: &'a Lexicon,
        stats: &'a CaptionStats,
        askable: &'a BTreeSet<&'static str>,
        texts: &'a [String],
    ) -> Self {
        let captions = texts.iter().map(|t| lexicon.phrases(t)).collect();
        Self {
            lexicon,
            stats,
            captions,
            texts,
            askable,
            references: ReferenceTexts::new(lexicon, texts),
        }
    }

    /// Phrases with exactly this noun, by caption.
    fn phrases_of(&self, lemma: &str) -> Vec<Vec<(usize, &Phrase)>> {
        let in_caption = |i: usize| {
            self.captions[i]
                .iter()
                .filter(|p| p.mention.lemma == lemma)
                .map(|p| (i, p))
                .collect::<Vec<_>>()
        };
        (0..self.captions.len())
            .map(in_caption)
            .filter(|found| !found.is_empty())
            .collect()
    }

    /// Nouns with the number of captions that name each.
    pub(super) fn nouns(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for caption in &self.captions {
            for lemma in caption
                .iter()
                .map(|p| p.mention.lemma)
                .collect::<BTreeSet<_>>()
            {
                *counts.entry(lemma).or_insert(0) += 1;
            }
        }
        counts
    }

    /// Returns `true` if most mentions of a noun are plural.
    fn is_plural(&self, lemma: &str) -> bool {
        let uses: Vec<bool> = self
            .phrases_of(lemma)
            .iter()
            .flatten()
            .map(|(_, p)| p.mention.plural)
            .collect();
        2 * uses.iter().filter(|&&plural| plural).count() > uses.len()
    }

    /// Question on the presence of `lemma`.
    fn ask_presence(
        &self,
        lemma: &str,
        plural: bool,
        yes: bool,
        templates: &Templates,
        rng: &mut impl Rng,
    ) -> DraftQuestion {
        let (mut class, object) = match () {
            () if lexicon_plural(lemma) => ("are there", lemma.to_owned()),
            () if plural && !self.stats.is_mass(lemma) => ("are there", self.lexicon.plural(lemma)),
            () => ("is there", self.stats.with_article(lemma)),
        };
        if object.starts_with("the ") {
            class = "see";
        }
        DraftQuestion::new(
            QaKind::Presence,
            lemma,
            templates.fill(class, &object, "", rng),
            yes_no(yes),
        )
    }

    /// Question about an object that is present.
    pub(super) fn present(
        &self,
        templates: &Templates,
        rng: &mut impl Rng,
    ) -> Option<DraftQuestion> {
        let named: Vec<(&str, usize)> = self
            .nouns()
            .into_iter()
            .filter(|(lemma, _)| self.askable.contains(lemma))
            .collect();
        let support = |lemma: &'static str| {
            let concept = self.lexicon.concept(lemma);
            self.captions
                .iter()
                .filter(|c| {
                    c.iter().any(|p| {
                        concept.is_some_and(|id| self.lexicon.related(p.mention.concept, id))
                    })
                })
                .count()
        };
        let common = |lemma: &str| {
            if PEOPLE.iter().any(|&(word, _)| word == lemma) || lemma == "person" {
                PERSON_WEIGHT
            } else {
                1.0
            }
        };
        let weights: Vec<f64> = named
            .iter()
            .map(|&(n, _)| common(n) * if support(n) > 1 { 1.0 } else { LONE_MENTION })
            .collect();
        let (lemma, _) = named[weighted(&weights, rng)?];
        if rng.random_bool(0.1)
            && let Some(general) = self.more_general(lemma, rng)
        {
            return Some(self.ask_presence(general, false, true, templates, rng));
        }
        Some(self.ask_presence(lemma, self.is_plural(lemma), true, templates, rng))
    }

    /// Random general noun above `lemma`.
    fn more_general(&self, lemma: &str, rng: &mut impl Rng) -> Option<&'static str> {
        let concept = self.lexicon.concept(lemma)?;
        let above = |other: &&'static str| {
            self.lexicon
                .concept(other)
                .is_some_and(|id| *other != lemma && self.lexicon.is_a(concept, id))
        };
        GENERAL
            .iter()
            .copied()
            .filter(above)
            .collect::<Vec<_>>()
            .choose(rng)
            .copied()
    }

    /// Question about a plausible object that is absent.
    pub(super) fn absent(
        &self,
        templates: &Templates,
        rng: &mut impl Rng,
    ) -> Option<DraftQuestion> {
        let named: Vec<&'static str> = self
            .nouns()
            .into_keys()
            .filter(|n| self.stats.images_with(n) > 0)
            .collect();
        let candidates: Vec<&'static str> = self
            .askable
            .iter()
            .copied()
            .filter(|n| self.is_absent(n))
            .collect();
        let weights: Vec<f64> = candidates
            .iter()
            .map(|&lemma| {
                let lift = named
                    .iter()
                    .map(|&other| self.stats.lift(lemma, other))
                    .sum::<f64>()
                    / named.len().max(1) as f64;
                self.stats.images_with(lemma) as f64 * lift.clamp(*LIFT.start(), *LIFT.end())
            })
            .collect();
        let lemma = candidates[weighted(&weights, rng)?];
        let plural = self.stats.is_countable(lemma) && rng.random_bool(0.2);
        Some(self.ask_presence(lemma, plural, false, templates, rng))
    }

    /// Returns `true` if no caption names a noun, anything related, or anything that implies it.
    fn is_absent(&self, lemma: &str) -> bool {
        let Some(concept) = self.lexicon.concept(lemma) else {
            return false;
        };
        if self.lexicon.kind(concept) == lexicon::ConceptKind::Person {
            return self.is_absent_person(lemma);
        }
        self.references.support(concept) == Support::None && !self.references.has_word(lemma)
    }

    /// Returns `true` if a noun for people is absent. Men, women, boys and girls count as different
    /// only if enough captions distinguish them.
    fn is_absent_person(&self, lemma: &str) -> bool {
        let people: Vec<&Phrase> = self
            .captions
            .iter()
            .flatten()
            .filter(|p| self.lexicon.kind(p.mention.concept) == lexicon::ConceptKind::Person)
            .collect();
        if people.is_empty() {
            return !PERSON_WORDS
                .iter()
                .any(|word| self.references.has_word(word));
        }
        let bits = |lemma: &str| {
            PEOPLE
                .iter()
                .find(|&&(word, _)| word == lemma)
                .map_or(15, |&(_, bits)| bits)
        };
        let seen = people
            .iter()
            .fold(0, |seen, p| seen | bits(p.mention.lemma));
        let distinguishing = self
            .captions
            .iter()
            .filter(|c| c.iter().any(|p| bits(p.mention.lemma) != 15))
            .count();
        distinguishing >= 3 && seen & bits(lemma) == 0
    }

    /// Questions on the color of an object, and on whether it has a given color.
    pub(super) fn colors(&self, templates: &Templates, rng: &mut impl Rng) -> Vec<DraftQuestion> {
        let mut found = Vec::new();
        for lemma in self.nouns().into_keys() {
            let Some((colors, agreeing, plural)) = self.agreed_colors(lemma) else {
                continue;
            };
            let object = format!(
                "the {}",
                if plural && !lexicon_plural(lemma) {
                    self.lexicon.plural(lemma)
                } else {
                    lemma.to_owned()
                }
            );
            let class = if plural {
                "what color are"
            } else {
                "what color is"
            };
            found.push(DraftQuestion::new(
                QaKind::Color,
                lemma,
                templates.fill(class, &object, "", rng),
                answer(&colors),
            ));
            // Asked only where "no" could have been the answer, too.
            if let Some(other) = self.other_color(lemma, rng).filter(|_| agreeing > 1) {
                let yes = rng.random_bool(0.5);
                let class = if plural { "are they" } else { "is it" };
                let question =
                    templates.fill(class, &object, if yes { &colors } else { &other }, rng);
                found.push(DraftQuestion::new(
                    QaKind::IsColor,
                    lemma,
                    question,
                    yes_no(yes),
                ));
            }
        }
        found
    }

    /// Colors of an object on which all captions that give any agree, the number of these captions,
    /// and `true` if it is plural.
    fn agreed_colors(&self, lemma: &str) -> Option<(String, usize, bool)> {
        let phrases = self.phrases_of(lemma);
        let alone = phrases.iter().all(|c| c.len() == 1);
        let concept = phrases.first()?[0].1.mention.concept;
        if !alone
            || self.stats.images_with(lemma) == 0
            || self.lexicon.kind(concept) == lexicon::ConceptKind::Person
            || self.has_another(lemma, concept)
        {
            return None;
        }
        let uses: Vec<(usize, &Phrase)> = phrases.into_iter().flatten().collect();
        let colored: Vec<&(usize, &Phrase)> =
            uses.iter().filter(|(_, p)| !p.colors.is_empty()).collect();
        let &&(caption, phrase) = colored.first()?;
        let plural = phrase.mention.plural;
        let agree = colored
            .iter()
            .all(|(_, p)| p.color_groups() == phrase.color_groups())
            && uses.iter().all(|(_, p)| p.mention.plural == plural);
        // "Navy blue" is one color, blue.
        let shades = |i: usize| {
            phrase
                .colors
                .get(i + 1)
                .is_none_or(|next| next.group != phrase.colors[i].group)
        };
        let mut ranges: Vec<_> = (0..phrase.colors.len())
            .filter(|&i| shades(i))
            .map(|i| phrase.colors[i].range.clone())
            .collect();
        ranges.dedup();
        let mut words: Vec<String> = ranges
            .into_iter()
            .map(|range| self.texts[caption][range].to_lowercase())
            .collect();
        let last = words.pop()?;
        // A hyphenated word ("black-and-white") holds all of its colors.
        let joined = if words.is_empty() || last.contains('-') {
            last.replace('-', " ")
        } else {
            format!("{} and {last}", words.join(", "))
        };
        agree.then_some((joined, colored.len(), plural))
    }

    /// Returns `true` if a caption names a related object by another noun, so that "the dog" is
    /// ambiguous.
    fn has_another(&self, lemma: &str, concept: lexicon::ConceptId) -> bool {
        let both = |c: &Vec<Phrase>| {
            let any = |same: bool| {
                c.iter().any(|p| {
                    (p.mention.lemma == lemma) == same
                        && self.lexicon.related(p.mention.concept, concept)
                })
            };
            any(true) && any(false)
        };
        self.captions.iter().any(both)
    }

    /// Color that is common for the object and given to no related object.
    fn other_color(&self, lemma: &str, rng: &mut impl Rng) -> Option<String> {
        let classes = self.lexicon.classes();
        let concept = self.lexicon.concept(lemma)?;
        let related = |p: &&Phrase| self.lexicon.related(p.mention.concept, concept);
        let seen: BTreeSet<usize> = self
            .captions
            .iter()
            .flatten()
            .filter(related)
            .flat_map(|p| p.color_groups())
            .collect();
        let plain = |word: &str| {
            classes
                .color(word)
                .filter(|group| !seen.contains(group))
                .is_some()
        };
        let others: Vec<(&str, usize)> = self
            .stats
            .colors(lemma)
            .into_iter()
            .filter(|(word, _)| plain(word))
            .collect();
        let weights: Vec<f64> = others.iter().map(|&(_, n)| n as f64).collect();
        weighted(&weights, rng).map(|i| others[i].0.to_owned())
    }

    /// Questions on the number of objects, if the captions that count agree.
    pub(super) fn counts(&self, templates: &Templates, rng: &mut impl Rng) -> Vec<DraftQuestion> {
        let mut found = Vec::new();
        for lemma in self.nouns().into_keys() {
            let Some(number) = self.agreed_number(lemma) else {
                continue;
            };
            // Most objects are alone; asked at that rate, the answer would be predictable.
            if number == 1 && (!self.is_worth_counting(lemma) || rng.random_bool(0.6)) {
                continue;
            }
            let question = templates.fill("how many", &self.lexicon.plural(lemma), "", rng);
            let word = self
                .lexicon
                .classes()
                .groups("count")
                .get(number - 1)
                .map_or("", |words| words[0]);
            found.push(DraftQuestion::new(
                QaKind::Count,
                lemma,
                question,
                answer(word),
            ));
        }
        found
    }

    /// Returns `true` if several of an object may be expected.
    fn is_worth_counting(&self, lemma: &str) -> bool {
        let Some(concept) = self.lexicon.concept(lemma) else {
            return false;
        };
        let is_a = |other: &str| {
            self.lexicon
                .concept(other)
                .is_some_and(|id| self.lexicon.is_a(concept, id))
        };
        matches!(
            self.lexicon.kind(concept),
            lexicon::ConceptKind::Person | lexicon::ConceptKind::Animal
        ) || ["vehicle", "ball", "chair", "toy"].into_iter().any(is_a)
    }

    fn agreed_number(&self, lemma: &str) -> Option<usize> {
        let phrases = self.phrases_of(lemma);
        let concept = phrases.first()?[0].1.mention.concept;
        if lexicon_plural(lemma) && lemma != "people" || self.stats.is_mass(lemma) {
            return None;
        }
        let person = self.lexicon.kind(concept) == lexicon::ConceptKind::Person;
        let uses: Vec<Vec<&Phrase>> = self
            .captions
            .iter()
            .map(|c| {
                c.iter()
                    .filter(|p| self.lexicon.related(p.mention.concept, concept))
                    .collect::<Vec<_>>()
            })
            .filter(|uses| !uses.is_empty())
            .collect();
        let numbers: Vec<usize> = uses.iter().flatten().filter_map(|p| p.number()).collect();
        let first = *numbers.first()?;
        let fits = |uses: &Vec<&Phrase>| {
            uses.len() == 1
                && uses[0].number().is_none_or(|n| n == first)
                && uses[0].mention.plural == (first > 1)
        };
        let agree = (1..=10).contains(&first) && uses.iter().all(fits);
        let enough = numbers.len() >= if first == 1 { 3 } else { 2 };
        // "How many men?" is settled only if every caption says man.
        let same_word = !person || phrases.len() == uses.len();
        (agree && enough && same_word && self.stats.salience(lemma) >= MIN_SALIENCE)
            .then_some(first)
    }

    /// Question for a list of what at least two captions name: "A dog, a frisbee and grass."
    pub(super) fn list(&self, templates: &Templates, rng: &mut impl Rng) -> Option<DraftQuestion> {
        let mut nouns: Vec<(&'static str, usize)> = self
            .nouns()
            .into_iter()
            .filter(|&(n, c)| c >= 2 && self.stats.images_with(n) > 0 && n != "people")
            .collect();
        nouns.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        let mut chosen: Vec<&'static str> = Vec::new();
        for (lemma, _) in nouns {
            let concept = self.lexicon.concept(lemma)?;
            let new = chosen.iter().all(|c| {
                self.lexicon
                    .concept(c)
                    .is_none_or(|id| !self.lexicon.related(id, concept))
            });
            if new && chosen.len() < 3 && self.lexicon.kind(concept) != lexicon::ConceptKind::Body {
                chosen.push(lemma);
            }
        }
        if chosen.len() < 2 {
            return None;
        }
        let named: Vec<String> = chosen.iter().map(|lemma| self.indefinite(lemma)).collect();
        let text = format!(
            "{} and {}",
            named[..named.len() - 1].join(", "),
            named[named.len() - 1]
        );
        Some(DraftQuestion::new(
            QaKind::List,
            "",
            templates.fill("list", "", "", rng),
            answer(&text),
        ))
    }

    /// Indefinite form: `a dog`, `two dogs`, `dogs`, `snow`.
    fn indefinite(&self, lemma: &str) -> String {
        if self.stats.is_mass(lemma) || lexicon_plural(lemma) {
            return lemma.to_owned();
        }
        match self.agreed_number(lemma) {
            Some(n) if n > 1 => format!(
                "{} {}",
                self.lexicon.classes().groups("count")[n - 1][0],
                self.lexicon.plural(lemma)
            ),
            _ if self.is_several(lemma) => self.lexicon.plural(lemma),
            _ => self.stats.with_article(lemma),
        }
    }

    /// Returns `true` if most captions that name an object name several of it.
    fn is_several(&self, lemma: &str) -> bool {
        let phrases = self.phrases_of(lemma);
        let several = |uses: &&Vec<(usize, &Phrase)>| {
            uses.len() > 1 || uses.iter().any(|(_, p)| p.mention.plural)
        };
        2 * phrases.iter().filter(several).count() > phrases.len()
    }
}

/// Nouns whose absence is certain if unnamed, since they would have been named.
pub(super) fn askable(lexicon: &Lexicon, stats: &CaptionStats) -> BTreeSet<&'static str> {
    let clothing = lexicon.concept("clothing");
    let sure = |lemma: &&'static str| {
        let Some(concept) = lexicon.concept(lemma) else {
            return false;
        };
        let worn = clothing.is_some_and(|c| lexicon.is_a(concept, c));
        match lexicon.kind(concept) {
            lexicon::ConceptKind::Person => {
                PEOPLE
                    .iter()
                    .any(|&(word, bits)| word == *lemma && bits.count_ones() < 3)
                    || *lemma == "person"
            }
            lexicon::ConceptKind::Body | lexicon::ConceptKind::Plant => false,
            _ => {
                !worn
                    && stats.usual_noun(lexicon, concept) == Some(lemma)
                    && stats.salience(lemma) >= MIN_SALIENCE
            }
        }
    };
    stats.nouns().filter(sure).collect()
}

/// Returns `true` if a noun has no singular (`pants`).
fn lexicon_plural(lemma: &str) -> bool {
    lexicon::is_always_plural(lemma)
}

fn yes_no(yes: bool) -> String {
    if yes { "Yes." } else { "No." }.to_owned()
}
