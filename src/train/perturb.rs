//! Minimal-edit perturbations of true captions: one fact is made wrong, everything else stays, and the text stays fluent.
//!
//! Replacements are drawn by how they occur with the words around them in the training captions, so that language alone does not give them away, and never
//! among things that another caption of the image supports.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Range,
};

use rand::{
    Rng,
    seq::{IndexedRandom, SliceRandom},
};

use super::{
    flickr8k::Image,
    labels::LabelledText,
    stats::CaptionStats,
    text::{capitalized, normalize_caption},
};
use crate::lexicon::{self, Lexicon, Phrase, References, Support, VerbForm, indefinite_article};

/// What kind of fact is made wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A thing: dog to cat.
    Object,
    /// A colour or size: red to blue.
    Attribute,
    /// A number: two to three.
    Count,
    /// An action: runs to swims.
    Action,
    /// A spatial relation: in front of to behind.
    Relation,
    /// Whose attribute it is: two colours swapped.
    Binding,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 6] = [Self::Object, Self::Attribute, Self::Count, Self::Action, Self::Relation, Self::Binding];
}

/// A caption with something wrong in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Perturbed {
    /// The perturbed text.
    pub text: String,
    /// The true caption that it was made of, normalised.
    pub original: String,
    /// What was made wrong.
    pub kind: Kind,
    /// Bytes of `text` that are wrong.
    pub bad: Vec<Range<usize>>,
}

impl From<Perturbed> for LabelledText {
    fn from(p: Perturbed) -> Self {
        Self { text: p.text, ranges: p.bad.into_iter().map(|r| (r, false)).collect(), rest: Some(true) }
    }
}

/// A replacement of some bytes.
type Edit = (Range<usize>, String);

/// Actions that look alike: none replaces another of its line.
const ALIKE: [&[&str]; 14] = [
    &["run", "race", "jog", "sprint", "chase", "play", "dash", "rush", "walk"],
    &["jump", "leap", "hop", "fly", "skip"],
    &["hold", "carry", "have", "grab", "grip", "clutch"],
    &["look", "stare", "watch", "gaze", "peer", "view", "smile", "face"],
    &["sit", "rest", "relax", "perch"],
    &["stand", "pose", "wait", "walk"],
    &["lie", "lay", "sleep", "rest"],
    &["walk", "stroll", "hike", "wander", "cross"],
    &["talk", "chat", "speak", "sing", "yell", "shout"],
    &["eat", "chew", "bite", "lick", "drink"],
    &["throw", "toss", "pitch"],
    &["catch", "fetch", "retrieve", "reach"],
    &["splash", "swim", "wade", "play"],
    &["wear", "dress"],
];

/// Relations and what contradicts them.
const RELATIONS: [(&str, &[&str]); 20] = [
    ("in front of", &["behind", "under", "on top of", "inside"]),
    ("behind", &["in front of", "under", "on"]),
    ("next to", &["under", "on top of", "behind", "inside"]),
    ("beside", &["under", "on top of", "inside"]),
    ("near", &["under", "inside", "on top of"]),
    ("on top of", &["under", "behind", "beside", "in front of"]),
    ("on", &["under", "behind", "in front of", "over", "above"]),
    ("in", &["under", "behind", "above", "outside", "over"]),
    ("under", &["on", "over", "on top of", "above"]),
    ("over", &["under", "behind", "beside"]),
    ("above", &["under", "below", "beneath"]),
    ("below", &["above", "over"]),
    ("inside", &["outside", "behind", "under"]),
    ("outside", &["inside", "in"]),
    ("into", &["out of", "over", "under"]),
    ("out of", &["into", "under"]),
    ("through", &["over", "around", "under", "above"]),
    ("across", &["under", "around", "behind"]),
    ("up", &["down"]),
    ("down", &["up"]),
];

/// Sizes and their opposites.
const SIZES: [(&str, &str); 10] = [
    ("small", "large"),
    ("little", "big"),
    ("tiny", "huge"),
    ("large", "small"),
    ("big", "little"),
    ("huge", "tiny"),
    ("tall", "short"),
    ("short", "tall"),
    ("long", "short"),
    ("giant", "tiny"),
];

/// Makes perturbations in the manner of a training split.
#[derive(Debug)]
pub struct Perturber {
    stats: CaptionStats,
    lexicon: &'static Lexicon,
    nouns: BTreeMap<lexicon::Kind, Vec<&'static str>>,
    /// Form and following word to verbs with counts.
    verbs: HashMap<(VerbForm, String), BTreeMap<&'static str, usize>>,
    /// Relations seen before a noun.
    relations: HashSet<(&'static str, &'static str)>,
}

impl Perturber {
    /// Learns from the captions of `images` how words go together.
    pub fn new(images: &[Image]) -> Self {
        let lexicon = Lexicon::shared();
        let stats = CaptionStats::new(images, lexicon);
        let mut nouns: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for noun in stats.nouns() {
            if let Some(concept) = lexicon.concept(noun) {
                nouns.entry(lexicon.kind(concept)).or_default().push(noun);
            }
        }
        let mut this = Self { stats, lexicon, nouns, verbs: HashMap::new(), relations: HashSet::new() };
        for caption in images.iter().flat_map(|i| &i.captions) {
            this.learn(&normalize_caption(caption));
        }
        this
    }

    /// The statistics of those captions.
    pub fn stats(&self) -> &CaptionStats {
        &self.stats
    }

    fn learn(&mut self, text: &str) {
        let words = lexicon::words(text);
        for pair in words.windows(2) {
            if let Some((base, form)) = self.lexicon.verbs().analyze(&pair[0].text) {
                *self.verbs.entry((form, pair[1].text.clone())).or_default().entry(base).or_default() += 1;
            }
        }
        for phrase in self.lexicon.phrases(text) {
            if let Some((relation, _)) = relation_before(text, phrase.start) {
                self.relations.insert((relation, phrase.mention.lemma));
            }
        }
    }

    /// One perturbation of a random caption of the image, of a random kind that its captions allow; `None` when none is found. The same generator state
    /// gives the same perturbation.
    pub fn perturb(&self, image: &Image, rng: &mut impl Rng) -> Option<Perturbed> {
        let texts: Vec<String> = image.captions.iter().map(|c| normalize_caption(c)).collect();
        let references = References::new(self.lexicon, &texts);
        let original = texts.choose(rng)?;
        let mut kinds = Kind::ALL;
        kinds.shuffle(rng);
        kinds.into_iter().find_map(|kind| self.make_wrong(kind, original, &texts, &references, rng))
    }

    /// A perturbation of one kind, where the caption allows it and none of the image's texts says the same.
    fn make_wrong(
        &self,
        kind: Kind,
        original: &str,
        texts: &[String],
        references: &References<'_>,
        rng: &mut impl Rng,
    ) -> Option<Perturbed> {
        let phrases = self.lexicon.phrases(original);
        let edits = match kind {
            Kind::Object => self.object(original, &phrases, references, rng)?,
            Kind::Attribute => self.attribute(original, &phrases, references, rng)?,
            Kind::Count => self.count(original, &phrases, references, rng)?,
            Kind::Action => self.action(original, references, rng)?,
            Kind::Relation => self.relation(original, &phrases, texts, rng)?,
            Kind::Binding => self.binding(original, &phrases, texts)?,
        };
        let (text, bad) = apply(original, edits);
        Some(Perturbed { text, original: original.to_owned(), kind, bad })
    }

    fn object(&self, text: &str, phrases: &[Phrase], references: &References<'_>, rng: &mut impl Rng) -> Option<Vec<Edit>> {
        let changeable: Vec<&Phrase> = phrases.iter().filter(|p| self.lexicon.kind(p.mention.concept) != lexicon::Kind::Person).collect();
        let phrase = changeable.choose(rng)?;
        let mention = &phrase.mention;
        let counted = mention.plural || phrase.count.is_some() || matches!(phrase.determiner.as_deref(), Some("a" | "an" | "another"));
        let fits =
            |noun: &str| if counted { self.stats.is_countable(noun) } else { phrase.determiner.is_some() || self.stats.is_mass(noun) };
        // What stands behind "on" must be something that things are on.
        let place = relation_before(text, phrase.start);
        let others: Vec<&'static str> = phrases.iter().filter(|p| p.mention.range != mention.range).map(|p| p.mention.lemma).collect();
        let candidates: Vec<(&'static str, f64)> = self
            .nouns
            .get(&self.lexicon.kind(mention.concept))?
            .iter()
            .filter(|noun| {
                fits(noun) && !references.has_word(noun) && place.as_ref().is_none_or(|(r, _)| self.relations.contains(&(*r, **noun)))
            })
            .filter(|noun| {
                self.lexicon
                    .concept(noun)
                    .is_some_and(|c| !self.lexicon.related(c, mention.concept) && references.support(c) == Support::None)
            })
            .map(|noun| {
                let lift: f64 = others.iter().map(|other| self.stats.lift(noun, other).min(20.0)).product::<f64>();
                (*noun, self.stats.images_with(noun) as f64 * lift.powf(1.0 / others.len().max(1) as f64))
            })
            .collect();
        let noun = candidates.choose_weighted(rng, |c| c.1).ok()?.0;
        let noun = if mention.plural { self.lexicon.plural(noun) } else { noun.to_owned() };
        Some(vec![(mention.range.clone(), noun)])
    }

    fn attribute(&self, text: &str, phrases: &[Phrase], references: &References<'_>, rng: &mut impl Rng) -> Option<Vec<Edit>> {
        let coloured: Vec<&Phrase> = phrases.iter().filter(|p| p.colours.len() == 1 || !p.sizes.is_empty()).collect();
        let phrase = coloured.choose(rng)?;
        if let ([colour], true) = (phrase.colours.as_slice(), phrase.sizes.is_empty() || rng.random_bool(0.8)) {
            let usual = self.stats.colours(phrase.mention.lemma);
            let classes = self.lexicon.classes();
            let said = |group: Option<usize>| {
                group.is_none_or(|g| {
                    g == colour.group || classes.groups("colour").get(g).is_some_and(|g| g.iter().any(|w| references.has_word(w)))
                })
            };
            let others: Vec<(&str, usize)> = usual.into_iter().filter(|(word, _)| !said(classes.colour(word))).collect();
            let word = others.choose_weighted(rng, |o| o.1 as f64).ok()?.0;
            return Some(vec![(colour.range.clone(), word.to_owned())]);
        }
        let size = phrase.sizes.first()?;
        let word = text[size.range.clone()].to_lowercase();
        let opposite = SIZES.iter().find(|(w, _)| *w == word)?.1;
        (!references.has_word(opposite)).then(|| vec![(size.range.clone(), opposite.to_owned())])
    }

    fn count(&self, text: &str, phrases: &[Phrase], references: &References<'_>, rng: &mut impl Rng) -> Option<Vec<Edit>> {
        let counted: Vec<_> = phrases.iter().filter(|p| p.mention.plural).filter_map(|p| p.count.as_ref()).collect();
        let count = counted.choose(rng)?;
        let near = [("two", 2usize), ("three", 3), ("four", 4), ("five", 5), ("six", 6)];
        let fits = |&&(word, n): &&(&str, usize)| n != count.group && n.abs_diff(count.group) <= 2 && !references.has_word(word);
        let others: Vec<_> = near.iter().filter(fits).collect();
        let word = others.choose(rng)?.0;
        // "both" and "the two" do not count in a way that another number could.
        (text[count.range.clone()].to_lowercase() != "both").then(|| vec![(count.range.clone(), word.to_owned())])
    }

    fn action(&self, text: &str, references: &References<'_>, rng: &mut impl Rng) -> Option<Vec<Edit>> {
        let words = lexicon::words(text);
        let mut at: Vec<usize> = (1..words.len().saturating_sub(1)).collect();
        at.shuffle(rng);
        at.into_iter().find_map(|i| {
            let (base, form) = self.lexicon.verbs().analyze(&words[i].text).filter(|(_, form)| *form != VerbForm::Base)?;
            let alike = |a: &str, b: &str| ALIKE.iter().any(|group| group.contains(&a) && group.contains(&b));
            let said = |verb: &str| {
                references.has_word(verb) || ALIKE.iter().filter(|g| g.contains(&verb)).any(|g| g.iter().any(|v| references.has_word(v)))
            };
            let seen = self.verbs.get(&(form, words[i + 1].text.clone()))?;
            let others: Vec<(&&str, &usize)> =
                seen.iter().filter(|(verb, _)| **verb != base && !alike(verb, base) && !said(verb)).collect();
            let verb = others.choose_weighted(rng, |o| *o.1 as f64).ok()?.0;
            // Only what the captions do use as a verb here: its own count tells.
            (seen.get(base).copied().unwrap_or(0) > 1).then(|| vec![(words[i].range.clone(), self.lexicon.verbs().inflect(verb, form))])
        })
    }

    fn relation(&self, text: &str, phrases: &[Phrase], texts: &[String], rng: &mut impl Rng) -> Option<Vec<Edit>> {
        let mut phrases: Vec<&Phrase> = phrases.iter().collect();
        phrases.shuffle(rng);
        phrases.into_iter().find_map(|phrase| {
            let (relation, range) = relation_before(text, phrase.start)?;
            let opposites = RELATIONS.iter().find(|(r, _)| *r == relation)?.1;
            let said = |relation: &str| {
                texts.iter().any(|t| self.same_thing(t, phrase).any(|p| relation_before(t, p.start).is_some_and(|(r, _)| r == relation)))
            };
            let fits = |r: &&&str| self.relations.contains(&(**r, phrase.mention.lemma)) && !said(r);
            let seen: Vec<&&str> = opposites.iter().filter(fits).collect();
            seen.choose(rng).map(|word| vec![(range, (**word).to_owned())])
        })
    }

    /// Where a text names the thing that `phrase` names.
    fn same_thing(&self, text: &str, phrase: &Phrase) -> impl Iterator<Item = Phrase> {
        let concept = phrase.mention.concept;
        self.lexicon.phrases(text).into_iter().filter(move |p| self.lexicon.related(p.mention.concept, concept))
    }

    fn binding(&self, text: &str, phrases: &[Phrase], texts: &[String]) -> Option<Vec<Edit>> {
        let single: Vec<&Phrase> = phrases.iter().filter(|p| p.colours.len() == 1).collect();
        single.windows(2).find_map(|pair| {
            let (a, b) = (&pair[0].colours[0], &pair[1].colours[0]);
            let word = |r: &Range<usize>| text[r.clone()].to_lowercase();
            let said = |phrase: &Phrase, group: usize| {
                texts.iter().any(|t| self.same_thing(t, phrase).any(|p| p.colours.iter().any(|c| c.group == group)))
            };
            let wrong = a.group != b.group && !said(pair[0], b.group) && !said(pair[1], a.group);
            wrong.then(|| vec![(a.range.clone(), word(&b.range)), (b.range.clone(), word(&a.range))])
        })
    }
}

/// The relation that stands right before byte `at`, the longest where one is the end of another.
fn relation_before(text: &str, at: usize) -> Option<(&'static str, Range<usize>)> {
    let before = text[..at].trim_end();
    let ends = |relation: &str| before.strip_suffix(relation).filter(|rest| rest.ends_with(' ')).map(|rest| rest.len()..before.len());
    RELATIONS.iter().filter_map(|(relation, _)| ends(relation).map(|range| (*relation, range))).max_by_key(|(relation, _)| relation.len())
}

/// Applies edits in the text's order and puts the article before each right. Returns the text and where the replacements stand.
fn apply(text: &str, mut edits: Vec<Edit>) -> (String, Vec<Range<usize>>) {
    edits.sort_by_key(|(range, _)| range.start);
    let (mut out, mut bad, mut from) = (String::new(), Vec::new(), 0);
    for (range, replacement) in edits {
        out.push_str(&text[from..range.start]);
        for article in ["a ", "an ", "A ", "An "] {
            let is_word = |rest: &str| rest.is_empty() || rest.ends_with(' ');
            if let Some(rest) = out.strip_suffix(article).filter(|rest| is_word(rest)) {
                let right = indefinite_article(&replacement);
                let right = if article.starts_with('A') { capitalized(right) } else { right.to_owned() };
                out = format!("{rest}{right} ");
                break;
            }
        }
        let start = out.len();
        out.push_str(&replacement);
        bad.push(start..out.len());
        from = range.end;
    }
    out.push_str(&text[from..]);
    // Replacements are ASCII, so that a capital changes no offset.
    (capitalized(&out), bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_keep_the_article_right() {
        let (text, bad) = apply("A dog eats an apple.", vec![(14..19, "banana".into()), (2..5, "otter".into())]);
        assert_eq!(text, "An otter eats a banana.");
        assert_eq!(bad.iter().map(|r| &text[r.clone()]).collect::<Vec<_>>(), ["otter", "banana"]);
    }

    #[test]
    fn the_longest_relation_counts() {
        let text = "A dog sits in front of the house.";
        let at = text.find("the house").unwrap();
        assert_eq!(relation_before(text, at).unwrap().0, "in front of");
        assert_eq!(relation_before("A dog on the bed.", 9).unwrap().0, "on");
        assert_eq!(relation_before("A dog and the bed.", 10), None);
    }
}
