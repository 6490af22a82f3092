//! Minimal-edit perturbations of true captions: one fact is made wrong, the rest stays, and the
//! text stays fluent.
//!
//! The kinds follow TLDR (Fu et al., ICLR 2025). Replacements are drawn by their co-occurrence with
//! the surrounding words in the training captions, so that language alone does not give them away,
//! and never from what another caption of the image supports.

mod check;
mod objects;
mod people;
mod properties;
mod scenes;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Range,
};

use rand::{
    Rng,
    seq::{IndexedRandom, SliceRandom},
};

use super::{
    labels::LabeledText,
    stats::CaptionStats,
    text::{capitalized, normalize_caption},
};
use crate::eval::data::flickr8k::Image;
use crate::lexicon::{self, Lexicon, Phrase, ReferenceTexts, VerbForm, indefinite_article};
use objects::Donors;
use scenes::relation_before;

/// Kind of fact that a perturbation makes wrong.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum PerturbationKind {
    /// Object: dog to cat.
    Object,
    /// Small object, worn or held or lying about: hat to ball.
    SmallObject,
    /// Whole phrase, replaced with one from another caption behind the same words: `in the snow` to
    /// `in a shallow pool`.
    Phrase,
    /// Color or size: red to blue.
    Attribute,
    /// Number: two to three.
    Count,
    /// Action: runs to swims.
    Action,
    /// Spatial relation: in front of to behind.
    Relation,
    /// Attribute binding: the colors of two objects swapped.
    Binding,
    /// Person: added where there is none, or replaced by another object.
    Person,
}

impl PerturbationKind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Object,
        Self::SmallObject,
        Self::Phrase,
        Self::Attribute,
        Self::Count,
        Self::Action,
        Self::Relation,
        Self::Binding,
        Self::Person,
    ];

    /// Name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::SmallObject => "small object",
            Self::Phrase => "phrase",
            Self::Attribute => "attribute",
            Self::Count => "count",
            Self::Action => "action",
            Self::Relation => "relation",
            Self::Binding => "binding",
            Self::Person => "person",
        }
    }
}

/// Caption with one wrong fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Perturbed {
    /// Perturbed text.
    pub text: String,
    /// Normalized true caption.
    pub original: String,
    /// Kind of the wrong fact.
    pub kind: PerturbationKind,
    /// Wrong byte ranges of `text`.
    pub bad: Vec<Range<usize>>,
    /// Replaced byte ranges of `text`; the part of them that is not wrong is unknown.
    pub replaced: Vec<Range<usize>>,
}

impl From<Perturbed> for LabeledText {
    fn from(p: Perturbed) -> Self {
        let bad = p.bad.into_iter().map(|r| (r, Some(false)));
        Self {
            ranges: bad
                .chain(p.replaced.into_iter().map(|r| (r, None)))
                .collect(),
            text: p.text,
            rest: Some(true),
            recorded: None,
        }
    }
}

/// Replacement of a byte range.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Edit {
    range: Range<usize>,
    replacement: String,
    /// Wrong bytes of the replacement.
    bad: Range<usize>,
}

impl Edit {
    /// Edit whose replacement is wrong throughout.
    fn wrong(range: Range<usize>, replacement: impl Into<String>) -> Self {
        let replacement = replacement.into();
        Self {
            range,
            bad: 0..replacement.len(),
            replacement,
        }
    }
}

/// Probability of trying people before any other kind, for captions that name some and that name
/// none. On unfamiliar photographs a policy mostly hallucinates people, and photographs without
/// people are rare.
const PEOPLE_FIRST: [f64; 2] = [0.15, 0.5];

/// Caption to perturb, with what is known of its image.
struct Source<'a> {
    text: &'a str,
    phrases: Vec<Phrase>,
    /// All captions of the image, and other texts about it.
    texts: &'a [String],
    references: ReferenceTexts<'a>,
}

/// Number of perturbations and of dropped paraphrases, by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct PerturbationCounts {
    /// Perturbations made.
    pub made: BTreeMap<PerturbationKind, usize>,
    /// Edits dropped as paraphrases.
    pub paraphrases: BTreeMap<PerturbationKind, usize>,
}

/// Generator of perturbations in the style of a training split.
#[derive(Debug)]
pub struct Perturber {
    stats: CaptionStats,
    lexicon: &'static Lexicon,
    nouns: BTreeMap<lexicon::ConceptKind, Vec<&'static str>>,
    /// Verbs with counts, by form and following word.
    verbs: HashMap<(VerbForm, String), BTreeMap<&'static str, usize>>,
    /// Relations seen before a noun.
    relations: HashSet<(&'static str, &'static str)>,
    donors: Donors,
}

impl Perturber {
    /// Collects word statistics from the captions of `images`.
    pub fn new(images: &[Image]) -> Self {
        let lexicon = Lexicon::shared();
        let stats = CaptionStats::new(images, lexicon);
        let mut nouns: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for noun in stats.nouns() {
            if let Some(concept) = lexicon.concept(noun) {
                nouns.entry(lexicon.kind(concept)).or_default().push(noun);
            }
        }
        let mut this = Self {
            stats,
            lexicon,
            nouns,
            verbs: HashMap::new(),
            relations: HashSet::new(),
            donors: Donors::default(),
        };
        for caption in images.iter().flat_map(|i| &i.captions) {
            this.learn(&normalize_caption(caption));
        }
        this
    }

    /// Noun statistics of those captions.
    pub fn stats(&self) -> &CaptionStats {
        &self.stats
    }

    fn learn(&mut self, text: &str) {
        let words = lexicon::words(text);
        for pair in words.windows(2) {
            if let Some((base, form)) = self.lexicon.verbs().analyze(&pair[0].text) {
                *self
                    .verbs
                    .entry((form, pair[1].text.clone()))
                    .or_default()
                    .entry(base)
                    .or_default() += 1;
            }
        }
        let phrases = self.lexicon.phrases(text);
        self.donors.learn(text, &phrases);
        for phrase in phrases {
            if let Some((relation, _)) = relation_before(text, phrase.start) {
                self.relations.insert((relation, phrase.mention.lemma));
            }
        }
    }

    /// Perturbs a random caption of the image with a random kind that the captions allow; `None` if
    /// there is none. Deterministic in the state of `rng`. `shown` are texts that name further
    /// objects in the image; counts are added to `tally`.
    pub fn perturb(
        &self,
        image: &Image,
        shown: &[String],
        rng: &mut impl Rng,
        tally: &mut PerturbationCounts,
    ) -> Option<Perturbed> {
        let mut texts: Vec<String> = image
            .captions
            .iter()
            .map(|c| normalize_caption(c))
            .collect();
        let text = &texts.choose(rng)?.clone();
        texts.extend_from_slice(shown);
        let source = Source {
            text,
            phrases: self.lexicon.phrases(text),
            texts: &texts,
            references: ReferenceTexts::new(self.lexicon, &texts),
        };
        let mut kinds = PerturbationKind::ALL;
        kinds.shuffle(rng);
        if rng.random_bool(PEOPLE_FIRST[usize::from(self.names_nobody(&source))]) {
            kinds.sort_by_key(|kind| *kind != PerturbationKind::Person);
        }
        kinds.into_iter().find_map(|kind| {
            let perturbed = self.make_wrong(kind, &source, rng)?;
            let paraphrase = check::is_paraphrase(self.lexicon, &perturbed, &source);
            *if paraphrase {
                &mut tally.paraphrases
            } else {
                &mut tally.made
            }
            .entry(kind)
            .or_default() += 1;
            (!paraphrase).then_some(perturbed)
        })
    }

    /// Perturbation of one kind, if the caption allows it.
    fn make_wrong(
        &self,
        kind: PerturbationKind,
        source: &Source<'_>,
        rng: &mut impl Rng,
    ) -> Option<Perturbed> {
        let edits = match kind {
            PerturbationKind::Object => self.object(source, false, rng)?,
            PerturbationKind::SmallObject => self.object(source, true, rng)?,
            PerturbationKind::Phrase => self.phrase(source, rng)?,
            PerturbationKind::Attribute => self.attribute(source, rng)?,
            PerturbationKind::Count => self.count(source, rng)?,
            PerturbationKind::Action => self.action(source, rng)?,
            PerturbationKind::Relation => self.relation(source, rng)?,
            PerturbationKind::Binding => self.binding(source)?,
            PerturbationKind::Person => self.person(source, rng)?,
        };
        let (text, bad, replaced) = apply(source.text, edits);
        Some(Perturbed {
            text,
            original: source.text.to_owned(),
            kind,
            bad,
            replaced,
        })
    }

    /// Phrases of a text about the same object as `phrase`.
    fn phrases_about(&self, text: &str, phrase: &Phrase) -> impl Iterator<Item = Phrase> {
        let concept = phrase.mention.concept;
        self.lexicon
            .phrases(text)
            .into_iter()
            .filter(move |p| self.lexicon.related(p.mention.concept, concept))
    }
}

/// Applies edits in text order and corrects the article before each. Returns the text, its wrong
/// ranges and its replaced ranges.
fn apply(text: &str, mut edits: Vec<Edit>) -> (String, Vec<Range<usize>>, Vec<Range<usize>>) {
    edits.sort_by_key(|edit| edit.range.start);
    let (mut out, mut bad, mut replaced, mut from) = (String::new(), Vec::new(), Vec::new(), 0);
    for Edit {
        range,
        replacement,
        bad: wrong,
    } in edits
    {
        out.push_str(&text[from..range.start]);
        for article in ["a ", "an ", "A ", "An "] {
            let is_word = |rest: &str| rest.is_empty() || rest.ends_with(' ');
            if let Some(rest) = out.strip_suffix(article).filter(|rest| is_word(rest)) {
                let right = indefinite_article(&replacement);
                let right = if article.starts_with('A') {
                    capitalized(right)
                } else {
                    right.to_owned()
                };
                out = format!("{rest}{right} ");
                break;
            }
        }
        let start = out.len();
        out.push_str(&replacement);
        bad.push(start + wrong.start..start + wrong.end);
        replaced.push(start..out.len());
        from = range.end;
    }
    out.push_str(&text[from..]);
    // Capitalizing the first letter of a caption keeps its length in bytes.
    (capitalized(&out), bad, replaced)
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::train::stats::tests::image;

    #[test]
    fn apply_corrects_the_article() {
        let edits = vec![
            Edit::wrong(14..19, "banana"),
            Edit {
                bad: 6..11,
                ..Edit::wrong(2..5, "brown otter")
            },
        ];
        let (text, bad, replaced) = apply("A dog eats an apple.", edits);
        assert_eq!(text, "A brown otter eats a banana.");
        assert_eq!(
            bad.iter().map(|r| &text[r.clone()]).collect::<Vec<_>>(),
            ["otter", "banana"]
        );
        assert_eq!(
            replaced
                .iter()
                .map(|r| &text[r.clone()])
                .collect::<Vec<_>>(),
            ["brown otter", "banana"]
        );
    }

    /// Images whose captions agree in different words, so that there are statistics to learn.
    pub(super) fn images() -> Vec<Image> {
        let scenes = [
            [
                "Two black dogs run in the snow .",
                "Two dogs in front of a red car .",
                "A dog holds a small ball .",
            ],
            [
                "A man in a red hat sits on a bench .",
                "A man with a blue bag on a wooden bench .",
                "A man holds a cup .",
            ],
            [
                "Three girls jump in a pool .",
                "Girls swim in the blue water .",
                "A girl in a pink hat holds a toy .",
            ],
            [
                "A brown dog runs in the tall grass .",
                "A dog jumps over a log .",
                "A dog with a frisbee in the grass .",
            ],
            [
                "A man in a black hat stands behind a white car .",
                "A man wears a hat and a green shirt .",
                "A man holds a camera .",
            ],
        ];
        (0..12)
            .flat_map(|_| scenes.iter().map(|captions| image(captions)))
            .collect()
    }

    #[test]
    fn perturb_makes_every_kind_and_only_unsupported_facts() {
        let images = images();
        let perturber = Perturber::new(&images);
        let (mut rng, mut tally) = (SmallRng::seed_from_u64(3), PerturbationCounts::default());
        for image in images.iter().cycle().take(600) {
            let Some(found) = perturber.perturb(image, &[], &mut rng, &mut tally) else {
                continue;
            };
            assert_ne!(found.text, found.original);
            assert!(!found.bad.is_empty(), "{found:?}");
            let references = ReferenceTexts::new(Lexicon::shared(), &image.captions);
            if matches!(
                found.kind,
                PerturbationKind::Object
                    | PerturbationKind::SmallObject
                    | PerturbationKind::Phrase
                    | PerturbationKind::Person
            ) {
                let wrong = &found.text[found.bad[0].clone()];
                let mentions = Lexicon::shared().mentions(wrong);
                assert!(
                    mentions
                        .iter()
                        .all(|m| references.supports(m) == lexicon::Support::None),
                    "{wrong}: {found:?}"
                );
            }
        }
        assert_eq!(
            tally.made.keys().copied().collect::<Vec<_>>(),
            PerturbationKind::ALL
                .into_iter()
                .collect::<std::collections::BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>(),
            "{tally:?}"
        );
    }

    #[test]
    fn perturb_same_seed_gives_same_result() {
        let images = images();
        let perturber = Perturber::new(&images);
        let run = |seed| {
            let mut rng = SmallRng::seed_from_u64(seed);
            images
                .iter()
                .map(|i| perturber.perturb(i, &[], &mut rng, &mut PerturbationCounts::default()))
                .collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }
}
