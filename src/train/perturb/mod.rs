//! Minimal-edit perturbations of true captions: one fact is made wrong, everything else stays, and
//! the text stays fluent.
//!
//! The kinds follow TLDR (Fu et al., ICLR 2025). Replacements are drawn by how they occur with the
//! words around them in the training captions, so that language alone does not give them away, and
//! never among things that another caption of the image supports.

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

/// What kind of fact is made wrong.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum PerturbationKind {
    /// A thing: dog to cat.
    Object,
    /// A small thing, worn or held or lying about: hat to ball.
    SmallObject,
    /// A whole phrase in the place of one that people wrote behind the same words of another
    /// caption: `in the snow` to `in a shallow pool`.
    Phrase,
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
    /// A person where nobody is, or something else in the place of one.
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

    /// Its name in tables and files.
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

/// A caption with something wrong in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Perturbed {
    /// The perturbed text.
    pub text: String,
    /// The true caption that it was made of, normalised.
    pub original: String,
    /// What was made wrong.
    pub kind: PerturbationKind,
    /// Bytes of `text` that are wrong.
    pub bad: Vec<Range<usize>>,
    /// Bytes of `text` that were written anew; what of them is not wrong is unknown.
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
        }
    }
}

/// A replacement of some bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Edit {
    range: Range<usize>,
    replacement: String,
    /// Bytes of the replacement that are wrong.
    bad: Range<usize>,
}

impl Edit {
    /// A replacement that is wrong as a whole.
    fn wrong(range: Range<usize>, replacement: impl Into<String>) -> Self {
        let replacement = replacement.into();
        Self {
            range,
            bad: 0..replacement.len(),
            replacement,
        }
    }
}

/// How often people are tried before any other kind, where a caption names some and where none
/// does: what a policy invents on photographs that it does not know are people, and photographs
/// without any are few.
const PEOPLE_FIRST: [f64; 2] = [0.15, 0.5];

/// A caption to be made wrong, and what is known of its image.
struct Source<'a> {
    text: &'a str,
    phrases: Vec<Phrase>,
    /// All captions of the image, and whatever else is known of it.
    texts: &'a [String],
    references: ReferenceTexts<'a>,
}

/// How often each kind was made, and how often it said what people had said in other words.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct PerturbationCounts {
    /// Perturbations made.
    pub made: BTreeMap<PerturbationKind, usize>,
    /// Edits dropped as paraphrases.
    pub paraphrases: BTreeMap<PerturbationKind, usize>,
}

/// Makes perturbations in the manner of a training split.
#[derive(Debug)]
pub struct Perturber {
    stats: CaptionStats,
    lexicon: &'static Lexicon,
    nouns: BTreeMap<lexicon::ConceptKind, Vec<&'static str>>,
    /// Form and following word to verbs with counts.
    verbs: HashMap<(VerbForm, String), BTreeMap<&'static str, usize>>,
    /// Relations seen before a noun.
    relations: HashSet<(&'static str, &'static str)>,
    donors: Donors,
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

    /// The statistics of those captions.
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

    /// One perturbation of a random caption of the image, of a random kind that its captions allow;
    /// `None` when none is found. The same generator state gives the same perturbation. `shown` are
    /// texts that name what else the image shows; `tally` is added to.
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

    /// A perturbation of one kind, where the caption allows it.
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

    /// Returns where a text names the thing that `phrase` names.
    fn same_thing(&self, text: &str, phrase: &Phrase) -> impl Iterator<Item = Phrase> {
        let concept = phrase.mention.concept;
        self.lexicon
            .phrases(text)
            .into_iter()
            .filter(move |p| self.lexicon.related(p.mention.concept, concept))
    }
}

/// Applies edits in the text's order and puts the article before each right. Returns the text, what
/// of it is wrong, and what was written anew.
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
    // A capital of a letter that captions begin with is as long as the letter.
    (capitalized(&out), bad, replaced)
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::train::stats::tests::image;

    #[test]
    fn edits_keep_the_article_right() {
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

    /// Images that say the same in different words, so that there is something to learn from.
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
    fn every_kind_is_made_and_what_is_wrong_is_nowhere_said() {
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
    fn the_seed_decides() {
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
