//! Hallucinated objects in an open vocabulary: CHAIR (Rohrbach et al., EMNLP 2018) over every
//! concrete noun of the lexicon.
//!
//! A mention is supported if a reference names the same noun, a synonym, or a more general or more
//! specific one; all nouns for people count as one. CHAIR_i is the share of mentions without
//! support, CHAIR_s the share of captions with at least one, recall the share of nouns named by at
//! least two references that the caption supports. References are incomplete, so a person's caption
//! does not score 0 either: [`floor`] measures by how much, and belongs beside every result.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use crate::lexicon::{ConceptId, Lexicon, Phrase, Reading, ReferenceTexts, Support};

/// Number of references that must name a noun for it to count for recall.
const NAMED_BY: usize = 2;

/// Judgment of one caption by the references of its image. Ranges are in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectJudgment {
    /// Object mentions, each with `true` if the references support it.
    pub mentions: Vec<(Range<usize>, bool)>,
    /// The nouns without support, in the singular.
    pub hallucinated: Vec<&'static str>,
    /// Color words of objects whose color a reference states, with `true` if one agrees.
    pub colors: Vec<(Range<usize>, bool)>,
    /// Numbers of objects that a reference counts, with `true` if one agrees.
    pub counts: Vec<(Range<usize>, bool)>,
    /// Number of nouns that at least two references name.
    pub expected: usize,
    /// Number of those that the caption supports.
    pub recalled: usize,
    /// Length of the caption in words.
    pub words: usize,
}

/// Judges a caption by the references of its image.
pub fn judge<S: AsRef<str>>(lexicon: &Lexicon, caption: &str, references: &[S]) -> ObjectJudgment {
    let read: Vec<Reading> = references
        .iter()
        .map(|r| Reading::new(lexicon, r.as_ref()))
        .collect();
    judge_read(
        lexicon,
        &Reading::new(lexicon, caption),
        &read.iter().collect::<Vec<_>>(),
    )
}

/// Judges a caption by the references of its image, all of them already read.
pub fn judge_read(lexicon: &Lexicon, caption: &Reading, references: &[&Reading]) -> ObjectJudgment {
    let support = ReferenceTexts::from_readings(lexicon, references.iter().copied());
    let mut judgment = ObjectJudgment {
        words: caption.words,
        ..ObjectJudgment::default()
    };
    for phrase in &caption.phrases {
        let mention = &phrase.mention;
        let supported = support.supports(mention) == Support::Named;
        judgment.mentions.push((mention.range.clone(), supported));
        if !supported {
            judgment.hallucinated.push(mention.lemma);
            continue;
        }
        if phrase.colors.is_empty() && phrase.count.is_none() {
            continue;
        }
        let is_same_object = |p: &&Phrase| lexicon.related(p.mention.concept, mention.concept);
        let uses: Vec<Vec<&Phrase>> = references
            .iter()
            .map(|reading| reading.phrases.iter().filter(is_same_object).collect())
            .collect();
        judgment.colors.extend(colors(phrase, &uses));
        judgment.counts.extend(count(phrase, &uses));
    }
    let expected = often_named(references);
    judgment.expected = expected.len();
    judgment.recalled = expected
        .into_iter()
        .filter(|&concept| caption.support(lexicon, concept) == Support::Named)
        .count();
    judgment
}

/// Concepts that enough references name.
pub(crate) fn often_named(references: &[&Reading]) -> Vec<ConceptId> {
    let mut by: BTreeMap<ConceptId, usize> = BTreeMap::new();
    for reading in references {
        for concept in reading
            .phrases
            .iter()
            .map(|p| p.mention.concept)
            .collect::<BTreeSet<_>>()
        {
            *by.entry(concept).or_default() += 1;
        }
    }
    by.into_iter()
        .filter(|&(_, n)| n >= NAMED_BY)
        .map(|(concept, _)| concept)
        .collect()
}

/// Colors of a phrase, if a reference states the object's color; right if any reference states the
/// same.
fn colors(phrase: &Phrase, uses: &[Vec<&Phrase>]) -> Vec<(Range<usize>, bool)> {
    let stated: BTreeSet<usize> = uses
        .iter()
        .flatten()
        .flat_map(|p| p.color_groups())
        .collect();
    if stated.is_empty() {
        return Vec::new();
    }
    phrase
        .colors
        .iter()
        .map(|color| (color.range.clone(), stated.contains(&color.group)))
        .collect()
}

/// Number in a phrase, if a reference counts the objects; right if any reference has the same
/// number, in one phrase or in total.
fn count(phrase: &Phrase, uses: &[Vec<&Phrase>]) -> Option<(Range<usize>, bool)> {
    let count = phrase.count.as_ref()?;
    let mut stated = BTreeSet::new();
    for phrases in uses {
        let numbers: Vec<usize> = phrases.iter().filter_map(|p| p.number()).collect();
        stated.extend(&numbers);
        stated.extend(
            (numbers.len() == phrases.len() && !numbers.is_empty())
                .then(|| numbers.iter().sum::<usize>()),
        );
    }
    (!stated.is_empty()).then(|| (count.range.clone(), stated.contains(&count.group)))
}

/// Sums over many captions. Rates are `None` if there was nothing to count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectScores {
    /// Captions judged.
    pub captions: usize,
    /// Captions with at least one unsupported object.
    pub captions_hallucinating: usize,
    /// Object mentions.
    pub mentions: usize,
    /// Mentions that no reference supports.
    pub hallucinated: usize,
    /// Nouns that at least two references name.
    pub expected: usize,
    /// Number of those that the caption supports.
    pub recalled: usize,
    /// Color words of objects whose color a reference states.
    pub colors: usize,
    /// Color words that all references contradict.
    pub colors_wrong: usize,
    /// Numbers of objects that a reference counts.
    pub counts: usize,
    /// Numbers that all references contradict.
    pub counts_wrong: usize,
    /// Words.
    pub words: usize,
}

impl From<&ObjectJudgment> for ObjectScores {
    fn from(judgment: &ObjectJudgment) -> Self {
        let mut scores = Self::default();
        scores.add(judgment);
        scores
    }
}

impl ObjectScores {
    /// Adds one caption.
    pub fn add(&mut self, judgment: &ObjectJudgment) {
        let wrong =
            |judged: &[(Range<usize>, bool)]| judged.iter().filter(|(_, right)| !right).count();
        self.captions += 1;
        self.captions_hallucinating += usize::from(!judgment.hallucinated.is_empty());
        self.mentions += judgment.mentions.len();
        self.hallucinated += judgment.hallucinated.len();
        self.expected += judgment.expected;
        self.recalled += judgment.recalled;
        self.colors += judgment.colors.len();
        self.colors_wrong += wrong(&judgment.colors);
        self.counts += judgment.counts.len();
        self.counts_wrong += wrong(&judgment.counts);
        self.words += judgment.words;
    }

    /// Judges captions by their references and sums them up.
    pub fn judge_all<'a, S: AsRef<str> + 'a>(
        lexicon: &Lexicon,
        captions: impl IntoIterator<Item = (&'a str, &'a [S])>,
    ) -> Self {
        let mut sum = Self::default();
        for (caption, references) in captions {
            sum.add(&judge(lexicon, caption, references));
        }
        sum
    }

    /// Share of mentions that no reference supports.
    pub fn chair_i(&self) -> Option<f64> {
        rate(self.hallucinated, self.mentions)
    }

    /// Share of captions with at least one such mention.
    pub fn chair_s(&self) -> Option<f64> {
        rate(self.captions_hallucinating, self.captions)
    }

    /// Share of the expected nouns that the captions support.
    pub fn recall(&self) -> Option<f64> {
        rate(self.recalled, self.expected)
    }

    /// Share of color words that are wrong.
    pub fn wrong_colors(&self) -> Option<f64> {
        rate(self.colors_wrong, self.colors)
    }

    /// Share of numbers that are wrong.
    pub fn wrong_counts(&self) -> Option<f64> {
        rate(self.counts_wrong, self.counts)
    }

    /// Mean length in words: a model that says less hallucinates less.
    pub fn mean_words(&self) -> Option<f64> {
        rate(self.words, self.captions)
    }
}

fn rate(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Scores of people's captions, each judged by the others of its image. Images with a single
/// caption do not count.
pub fn floor<'a>(
    lexicon: &Lexicon,
    images: impl IntoIterator<Item = &'a [String]>,
) -> ObjectScores {
    let mut sum = ObjectScores::default();
    for captions in images {
        let read: Vec<Reading> = captions.iter().map(|c| Reading::new(lexicon, c)).collect();
        judge_people(lexicon, &read)
            .iter()
            .for_each(|judgment| sum.add(judgment));
    }
    sum
}

/// Judges every caption of one image by the others; empty if there are no others.
pub fn judge_people(lexicon: &Lexicon, captions: &[Reading]) -> Vec<ObjectJudgment> {
    if captions.len() < 2 {
        return Vec::new();
    }
    let judge = |(i, caption): (usize, &Reading)| {
        let others: Vec<&Reading> = captions
            .iter()
            .enumerate()
            .filter(|&(j, _)| j != i)
            .map(|(_, c)| c)
            .collect();
        judge_read(lexicon, caption, &others)
    };
    captions.iter().enumerate().map(judge).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::eval::data::flickr8k::Dataset;

    const REFERENCES: [&str; 5] = [
        "A black dog chases a red ball in the snow .",
        "A dog runs after a ball .",
        "Two people watch a black puppy .",
        "A dog in the snow .",
        "A poodle plays .",
    ];

    fn judged(caption: &str) -> ObjectJudgment {
        judge(Lexicon::shared(), caption, &REFERENCES)
    }

    #[test]
    fn judgment_follows_the_support_rule() {
        let caption =
            "A brown dog with a frisbee near three men and two women on a bench in the snow.";
        let found = judged(caption);
        assert_eq!(found.hallucinated, ["frisbee", "bench"]);
        let texts = |judged: &[(Range<usize>, bool)]| {
            judged
                .iter()
                .map(|(r, ok)| (caption[r.clone()].to_owned(), *ok))
                .collect::<Vec<_>>()
        };
        assert_eq!(texts(&found.mentions)[0], ("dog".to_owned(), true));
        assert_eq!(texts(&found.colors), [("brown".to_owned(), false)]);
        assert_eq!(
            texts(&found.counts),
            [("three".to_owned(), false), ("two".to_owned(), true)]
        );
        assert_eq!(
            (found.expected, found.recalled),
            (3, 2),
            "dog and snow of dog, ball and snow"
        );
    }

    #[test]
    fn more_general_and_more_specific_nouns_are_supported() {
        assert!(
            judged("An animal plays with a toy poodle in snow.")
                .hallucinated
                .is_empty()
        );
        assert_eq!(judged("A cat.").hallucinated, ["cat"]);
        assert_eq!(
            judged("A woman and a boy.").hallucinated,
            [""; 0],
            "people are one thing"
        );
    }

    #[test]
    fn scores_sum_judgments_and_empty_ones_have_no_rates() {
        let lexicon = Lexicon::shared();
        let scores = ObjectScores::judge_all(
            lexicon,
            [
                ("A dog on a sofa.", &REFERENCES[..]),
                ("A black dog.", &REFERENCES[..]),
                ("", &REFERENCES[..]),
            ],
        );
        assert_eq!(
            (scores.chair_i(), scores.chair_s()),
            (Some(1.0 / 3.0), Some(1.0 / 3.0))
        );
        assert_eq!(scores.recall(), Some(2.0 / 9.0));
        assert_eq!(
            (scores.wrong_colors(), scores.wrong_counts()),
            (Some(0.0), None)
        );
        assert_eq!(ObjectScores::default().chair_i(), None);
        assert_eq!(
            ObjectScores::judge_all::<&str>(lexicon, [("A dog.", &[][..])]).chair_i(),
            Some(1.0),
            "nothing supports it"
        );
    }

    proptest! {
        #[test]
        fn reference_supports_itself_in_any_order(order in Just(vec![0usize, 1, 2, 3, 4])
            .prop_shuffle(), pick in 0usize..5) {
            let shuffled: Vec<&str> = order.iter().map(|&i| REFERENCES[i]).collect();
            let caption = REFERENCES[pick];
            let found = judge(Lexicon::shared(), caption, &shuffled);
            prop_assert!(found.hallucinated.is_empty());
            prop_assert!(found.colors.iter().chain(&found.counts).all(|(_, right)| *right));
            prop_assert_eq!(found, judge(Lexicon::shared(), caption, &REFERENCES));
        }
    }

    #[test]
    fn floor_of_people_is_near_the_known_one() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/flickr8k");
        if !dir.is_dir() {
            println!("skipped: {} is absent", dir.display());
            return;
        }
        let data = Dataset::open(&dir).unwrap();
        let scores = floor(
            Lexicon::shared(),
            data.dev.iter().map(|image| image.captions.as_slice()),
        );
        println!(
            "{scores:?} CHAIR_i {:?} CHAIR_s {:?} recall {:?}",
            scores.chair_i(),
            scores.chair_s(),
            scores.recall()
        );
        assert_eq!(scores.captions, 5 * data.dev.len());
        assert!((0.10..0.20).contains(&scores.chair_i().unwrap()));
        assert!((0.22..0.38).contains(&scores.chair_s().unwrap()));
    }
}
