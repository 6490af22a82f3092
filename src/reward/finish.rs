//! The last step of a reward: words that name a thing the photograph has evidence of get the calibrated probability that the thing is there.
//!
//! One pure function for texts that are being written and for texts that are there: a word's reward depends on the text up to its end and on the one word
//! after it (`fire` names nothing before `hydrant`), so that whoever sees the text grow finishes a word as soon as that one has closed, and gets what the
//! whole text would have given. Words without an output of [`Evidence`] keep the scorer's reward.

use std::{ops::Range, sync::Arc};

use super::{
    evidence::{Evidence, FeatureCalibration, ImageEvidence, MentionFeatures},
    scorer::Scored,
};
use crate::{
    guard::words::{Word, words},
    lexicon::{ConceptId, Lexicon},
};

/// Words before a word that say what sort of word it is: as many as are read with it, and none of another sentence.
const CONTEXT: usize = 12;

/// Who wrote a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrittenBy {
    /// The policy: how likely it found its words counts.
    Policy,
    /// Somebody else.
    Others,
}

/// What becomes of a word's reward.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Finish {
    /// The word after it has not closed, and may change what it names.
    Open,
    /// The scorer's reward stays.
    Unchanged,
    /// The reward of all its tokens.
    Reward(f32),
}

/// A text with its closed words, and what the scorer and the policy said of its tokens.
#[derive(Debug, Clone, Copy)]
pub struct Written<'a, F> {
    /// The text so far.
    pub text: &'a str,
    /// Whether nothing follows.
    pub whole: bool,
    /// Its words that have closed.
    pub words: &'a [Word],
    /// The scorer's rewards of the leading tokens.
    pub rewards: &'a [f32],
    /// How likely the policy found each token: natural logarithms.
    pub log_probability: F,
}

/// Finishes the rewards of texts about one photograph.
#[derive(Debug)]
pub struct Finisher {
    evidence: Arc<Evidence>,
    image: ImageEvidence,
    writer: WrittenBy,
}

impl Finisher {
    /// For texts of `writer` about the photograph of `image`.
    pub fn new(evidence: Arc<Evidence>, image: ImageEvidence, writer: WrittenBy) -> Self {
        Self { evidence, image, writer }
    }

    /// What becomes of the reward of word `at`.
    pub fn finish(&self, written: &Written<'_, impl Fn(usize) -> f32>, at: usize) -> Finish {
        let Written { text, words, .. } = *written;
        let Some(word) = words.get(at).filter(|word| word.reward.is_some()) else { return Finish::Unchanged };
        let from = context(text, words, at);
        let mut named = mention(text, from, word, word.bytes.end);
        if named.is_none() && !begins_compound(&text[word.bytes.clone()]) {
            return Finish::Unchanged;
        }
        match next(written, at) {
            Next::Open => return Finish::Open,
            Next::None => {}
            Next::Word(end) => named = mention(text, from, word, end),
        }
        let reward = named.and_then(|(bytes, concept)| self.reward(written, &bytes, concept));
        reward.map_or(Finish::Unchanged, Finish::Reward)
    }

    /// Finishes what was scored of a whole text, whose tokens have the bytes `tokens`.
    pub fn finish_scored<'a>(&self, tokens: impl IntoIterator<Item = &'a [u8]>, scored: &mut Scored) {
        let (text, words) = words(tokens, &scored.rewards);
        let rewards = scored.rewards.clone();
        let log_probability = |token: usize| scored.log_probabilities.get(token).copied().unwrap_or(0.0);
        let written = Written { text: &text, whole: true, words: &words, rewards: &rewards, log_probability };
        for (at, word) in words.iter().enumerate() {
            if let (Finish::Reward(reward), Some(tokens)) = (self.finish(&written, at), scored.rewards.get_mut(word.tokens.clone())) {
                tokens.fill(reward);
            }
        }
    }

    /// The reward of the tokens that write a mention; `None` where there is no evidence of what it names.
    fn reward(&self, written: &Written<'_, impl Fn(usize) -> f32>, bytes: &Range<usize>, concept: ConceptId) -> Option<f32> {
        let output = self.evidence.concept_of(concept)?;
        let mut its = written.words.iter().filter(|word| overlap(&word.bytes, bytes));
        let first = its.next()?;
        let tokens = first.tokens.start..its.next_back().unwrap_or(first).tokens.end;
        let reward = written.rewards.get(tokens.clone())?.iter().copied().reduce(f32::min)?;
        let log_probability = tokens.map(&written.log_probability).sum();
        let person = Evidence::is_person(concept);
        let features = MentionFeatures::new(&self.evidence, &self.image, output, reward, log_probability, person)?;
        Some(self.calibration().probability(|name| features.value(name)))
    }

    fn calibration(&self) -> &FeatureCalibration {
        let calibrations = &self.evidence.config().calibration;
        match self.writer {
            WrittenBy::Policy => &calibrations.own,
            WrittenBy::Others => &calibrations.others,
        }
    }
}

/// The byte from which on word `at` is read.
fn context(text: &str, words: &[Word], at: usize) -> usize {
    let first = words[at.saturating_sub(CONTEXT)].bytes.start;
    let before = &text[first..words[at].bytes.start];
    before.rfind(['.', '!', '?', '\n']).map_or(first, |end| first + end + 1)
}

/// The thing that a word names, or is part of the name of, in a text that is read up to byte `end`: its bytes, and what it is.
fn mention(text: &str, from: usize, word: &Word, end: usize) -> Option<(Range<usize>, ConceptId)> {
    let mentions = Lexicon::shared().mentions(&text[from..end]);
    let mut places = mentions.iter().map(|mention| (from + mention.range.start..from + mention.range.end, mention.concept));
    places.find(|(bytes, _)| overlap(bytes, &word.bytes))
}

fn begins_compound(word: &str) -> bool {
    Lexicon::shared().begins_compound(&word.to_lowercase())
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

/// What follows a word, with nothing but white space before it.
enum Next {
    /// A word that may still grow, or nothing yet.
    Open,
    /// No word.
    None,
    /// A word that ends at this byte.
    Word(usize),
}

fn next<F>(written: &Written<'_, F>, at: usize) -> Next {
    let Written { text, whole, words, .. } = written;
    let end = words[at].bytes.end;
    let open = if *whole { Next::None } else { Next::Open };
    match (text[end..].chars().find(|c| !c.is_whitespace()), words.get(at + 1)) {
        (None, _) => open,
        (Some(c), _) if !c.is_alphanumeric() => Next::None,
        (Some(_), None) => open,
        (Some(_), Some(next)) if text[end..next.bytes.start].trim().is_empty() => Next::Word(next.bytes.end),
        // What follows is part of markup.
        (Some(_), Some(_)) => Next::None,
    }
}
