//! How a doubted word is written again: where to go back to, what to try there, and which version is the best. Pure: rewards in, choices out.

use super::words::Word;

/// Where a repair begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// At the doubted word.
    Word,
    /// At the preposition, conjunction or verb that opens its phrase: after "in a blue" all that can follow is a garment.
    Phrase,
    /// At the start of its sentence.
    Sentence,
}

/// How candidates begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// With the likeliest tokens that were not tried; they go on as the answer does.
    NextBest,
    /// Sampled, each at a tenth more than the one before.
    Sampled,
}

/// One attempt at a place: several candidates, written side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rung {
    /// Where it begins.
    pub reach: Reach,
    /// How its candidates begin.
    pub how: How,
}

/// What is tried at one place, in order, until a candidate passes.
pub const LADDER: [Rung; 3] = [
    Rung { reach: Reach::Word, how: How::NextBest },
    Rung { reach: Reach::Phrase, how: How::NextBest },
    Rung { reach: Reach::Sentence, how: How::Sampled },
];

/// How much sampling is warmed a candidate, and at most.
const WARMER: (f64, f64) = (0.1, 0.5);

/// The temperature of the `number`-th sampled candidate, from 0, of an answer written at `base`.
pub fn temperature(base: f64, number: usize) -> f64 {
    base + (WARMER.0 * (number + 1) as f64).min(WARMER.1)
}

/// The word at which a repair of word `at` begins; `at` itself when nothing opens its phrase.
pub fn start(reach: Reach, text: &str, words: &[Word], at: usize) -> usize {
    let ends_before = |i: usize| text[words[i - 1].bytes.end..words[i].bytes.start].contains(['.', '!', '?', ';', '\n']);
    let mut first = at;
    while first > 0 && !ends_before(first) {
        first -= 1;
    }
    match reach {
        Reach::Word => at,
        Reach::Sentence => first,
        Reach::Phrase => {
            let opens = |i: usize| opens_phrase(&text[words[i].bytes.clone()]);
            let Some(mut opener) = (first..at).rev().find(|&i| opens(i)) else { return first };
            while opener > first && opens(opener - 1) {
                opener -= 1;
            }
            opener
        }
    }
}

fn opens_phrase(word: &str) -> bool {
    let lower = word.to_lowercase();
    OPENERS.binary_search(&lower.as_str()).is_ok() || (lower.len() > 4 && lower.ends_with("ing"))
}

/// Prepositions, conjunctions, and the nouns in "in front of" and its like. Sorted.
const OPENERS: [&str; 54] = [
    "about", "above", "across", "after", "against", "along", "amid", "among", "and", "are", "around", "as", "at", "back", "before",
    "behind", "below", "beneath", "beside", "between", "beyond", "but", "by", "down", "for", "from", "front", "in", "inside", "into", "is",
    "like", "near", "next", "of", "off", "on", "onto", "or", "out", "outside", "over", "side", "that", "through", "to", "top", "toward",
    "towards", "under", "up", "while", "who", "with",
];

/// A version of an answer from some place on, as far as it was written.
#[derive(Debug, Clone, Copy)]
pub struct Version<'a> {
    /// Its words; those before `from` are the same in all versions that are compared.
    pub words: &'a [Word],
    /// The first word that differs.
    pub from: usize,
    /// How likely the policy found the tokens from there on, each.
    pub log_probabilities: &'a [f32],
}

/// What versions are ranked by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weights {
    /// Candidates a rung.
    pub candidates: usize,
    /// Words with claims that a candidate writes before it is judged.
    pub horizon: usize,
    /// Weight of a token's mean log-probability.
    pub likelihood: f32,
    /// Weight of the log-probability of the worst token.
    pub worst: f32,
    /// Claims from which the threshold is subtracted: the worth of an ending is 0.
    pub claim: f32,
    /// Least log-probability of the first token.
    pub floor: f32,
    /// What a doubted word of a version costs beside its low reward.
    pub doubt: f32,
    /// First rung of the ladder.
    pub ladder: usize,
    /// Added to the threshold for candidates: they must be surer than what they replace had to be.
    pub margin: f32,
    /// Worth of ending.
    pub ending: f32,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            candidates: 4,
            horizon: 2,
            likelihood: 0.2,
            worst: 0.0,
            claim: 1.0,
            floor: -6.0,
            doubt: 0.5,
            ladder: 0,
            margin: 0.0,
            ending: 0.0,
        }
    }
}

impl Version<'_> {
    fn claims(&self) -> impl Iterator<Item = &Word> {
        self.words[self.from.min(self.words.len())..].iter().filter(|w| !w.function)
    }

    /// Words from the first that differs on that claim something.
    pub fn len(&self) -> usize {
        self.claims().count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether none of them is doubted.
    pub fn passes(&self, margin: f32) -> bool {
        self.claims().all(|word| !word.doubted() && word.reward.is_some_and(|r| r >= word.threshold + margin))
    }

    /// The lowest reward of them; `None` without any.
    pub fn score(&self) -> Option<f32> {
        self.claims().filter_map(|w| w.reward).reduce(f32::min)
    }

    /// What the version is worth: what its claims add over their thresholds, and how likely the policy found it.
    pub fn value(&self, weights: &Weights) -> f32 {
        let claims = self.claims().map(|word| {
            let (reward, threshold) = (word.reward.unwrap_or(0.0), word.threshold);
            reward - threshold * weights.claim - if reward < threshold { weights.doubt } else { 0.0 }
        });
        let n = self.log_probabilities.len().max(1) as f32;
        let likelihood = self.log_probabilities.iter().sum::<f32>() / n;
        let worst = self.log_probabilities.iter().copied().fold(0.0, f32::min);
        claims.sum::<f32>() + weights.likelihood * likelihood + weights.worst * worst
    }
}
