//! Repair of a flagged word: the word to go back to, the candidates to try there, and their
//! ranking.

use super::words::Word;

/// Word at which a repair begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairStart {
    /// The flagged word.
    Word,
    /// The preposition, conjunction or verb that opens its phrase: after "in a blue" only a garment
    /// can follow.
    Phrase,
    /// The first word of its sentence.
    Sentence,
}

/// Source of an attempt's candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CandidateStart {
    /// The likeliest first tokens that were not tried, continued as the answer is decoded.
    NextBest,
    /// Samples, each at a temperature 0.1 higher than the one before.
    Sampled,
    /// A sentence that states what is trusted and what the photograph has evidence of, if there is
    /// any.
    Stated,
}

/// One attempt at a repair: several candidates, decoded side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepairAttempt {
    /// Word at which it begins.
    pub reach: RepairStart,
    /// Source of its candidates.
    pub how: CandidateStart,
}

/// Attempts at one flagged word, in order, until a candidate passes.
pub const LADDER: [RepairAttempt; 4] = [
    RepairAttempt {
        reach: RepairStart::Word,
        how: CandidateStart::NextBest,
    },
    RepairAttempt {
        reach: RepairStart::Phrase,
        how: CandidateStart::NextBest,
    },
    RepairAttempt {
        reach: RepairStart::Sentence,
        how: CandidateStart::Sampled,
    },
    RepairAttempt {
        reach: RepairStart::Sentence,
        how: CandidateStart::Stated,
    },
];

/// Number of tokens reserved for a statement out of the repair budget.
pub const STATEMENT: usize = 14;

/// Rise of the sampling temperature per candidate, and its limit.
const WARMER: (f64, f64) = (0.1, 0.5);

/// Returns the temperature of the sampled candidate with index `number` for an answer decoded at
/// temperature `base`.
pub fn temperature(base: f64, number: usize) -> f64 {
    base + (WARMER.0 * (number + 1) as f64).min(WARMER.1)
}

/// Returns the index of the word at which a repair of word `at` begins. Without a word that opens
/// its phrase, a phrase begins with the sentence.
pub fn start(reach: RepairStart, text: &str, words: &[Word], at: usize) -> usize {
    let mut first = at;
    while first > 0 && !begins_sentence(text, words, first) {
        first -= 1;
    }
    match reach {
        RepairStart::Word => at,
        RepairStart::Sentence => first,
        RepairStart::Phrase => {
            let opens = |i: usize| opens_phrase(&text[words[i].bytes.clone()]);
            let Some(mut opener) = (first..at).rev().find(|&i| opens(i)) else {
                return first;
            };
            while opener > first && opens(opener - 1) {
                opener -= 1;
            }
            opener
        }
    }
}

/// Returns `true` if a sentence begins with word `at`.
pub fn begins_sentence(text: &str, words: &[Word], at: usize) -> bool {
    at == 0
        || text[words[at - 1].bytes.end..words[at].bytes.start].contains(['.', '!', '?', ';', '\n'])
}

fn opens_phrase(word: &str) -> bool {
    let lower = word.to_lowercase();
    connects(&lower) || (lower.len() > 4 && lower.ends_with("ing"))
}

/// Returns `true` if a word in lower case connects phrases, as prepositions and conjunctions do.
pub fn connects(word: &str) -> bool {
    OPENERS.binary_search(&word).is_ok()
}

/// Prepositions, conjunctions, and the nouns of phrases such as "in front of". Sorted.
const OPENERS: [&str; 54] = [
    "about", "above", "across", "after", "against", "along", "amid", "among", "and", "are",
    "around", "as", "at", "back", "before", "behind", "below", "beneath", "beside", "between",
    "beyond", "but", "by", "down", "for", "from", "front", "in", "inside", "into", "is", "like",
    "near", "next", "of", "off", "on", "onto", "or", "out", "outside", "over", "side", "that",
    "through", "to", "top", "toward", "towards", "under", "up", "while", "who", "with",
];

/// Version of an answer from some word on, as far as it was decoded.
#[derive(Debug, Clone, Copy)]
pub struct RepairVersion<'a> {
    /// Words; those before `from` are the same in all versions compared.
    pub words: &'a [Word],
    /// Index of the first word that differs.
    pub from: usize,
    /// Log-probability under the policy of each token from there on.
    pub log_probabilities: &'a [f32],
}

/// Number of versions tried, and the weights of their ranking. Only the threshold was tuned; the
/// defaults are initial values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RankingWeights {
    /// Number of versions decoded side by side.
    pub candidates: usize,
    /// Number of content words decoded before a version is judged.
    pub horizon: usize,
    /// Minimum log-probability of a version's first token.
    pub floor: f32,
    /// Weight of the mean log-probability of tokens, relative to scores.
    pub likelihood: f32,
    /// Cost of a flagged word in addition to its low score.
    pub doubt: f32,
    /// Minimum gain in score for a short answer to be replaced.
    pub gain: f32,
    /// Selection bias: the best of `n` versions looks better than it is, so its logit is lowered by
    /// this times `ln n`.
    pub optimism: f32,
}

/// Minimum gain of a short answer: about the standard error of a reward near 0.5, as calibrated on
/// a few hundred answers and applied to an unseen kind of photograph. A constant until a
/// calibration provides it.
const GAIN: f32 = 0.15;

/// Returns the reward of the best of `tried` versions, corrected for selection bias.
pub fn unselected(reward: f32, optimism: f32, tried: usize) -> f32 {
    let shift = optimism * (tried.max(1) as f32).ln();
    if shift == 0.0 {
        return reward;
    }
    let p = reward.clamp(1e-6, 1.0 - 1e-6);
    1.0 / (1.0 + (shift - (p / (1.0 - p)).ln()).exp())
}

impl Default for RankingWeights {
    fn default() -> Self {
        Self {
            candidates: 4,
            horizon: 2,
            floor: -6.0,
            likelihood: 0.2,
            doubt: 0.5,
            gain: GAIN,
            optimism: 0.0,
        }
    }
}

impl RepairVersion<'_> {
    fn claims(&self) -> impl Iterator<Item = &Word> {
        self.words[self.from.min(self.words.len())..]
            .iter()
            .filter(|w| !w.function)
    }

    /// Returns the number of content words from the first that differs.
    pub fn len(&self) -> usize {
        self.claims().count()
    }

    /// Returns `true` if the version has no content words.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns `true` if none of its content words is flagged.
    pub fn passes(&self) -> bool {
        !self.claims().any(Word::doubted)
    }

    /// Returns the lowest score of its content words; `None` if there are none.
    pub fn score(&self) -> Option<f32> {
        self.claims().filter_map(|w| w.reward).reduce(f32::min)
    }

    /// Returns the rank value of the version: the sum of its content words' scores above their
    /// thresholds, less the cost of flagged words, plus the weighted mean log-probability. Ending
    /// early is thus worth nothing.
    pub fn value(&self, weights: &RankingWeights) -> f32 {
        let claims = self.claims().map(|word| {
            let doubt = if word.doubted() { weights.doubt } else { 0.0 };
            word.reward.unwrap_or(0.0) - word.threshold - doubt
        });
        let n = self.log_probabilities.len().max(1) as f32;
        claims.sum::<f32>() + weights.likelihood * self.log_probabilities.iter().sum::<f32>() / n
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::words::{doubting, words};

    fn judged(text: &[(&str, f32)]) -> (String, Vec<Word>) {
        let rewards: Vec<f32> = text.iter().map(|t| t.1).collect();
        let (text, words) = words(text.iter().map(|t| t.0.as_bytes()), &rewards);
        (text, doubting(words, 0.5))
    }

    #[test]
    fn a_phrase_begins_where_it_opens() {
        let begins = |text: &str, word: &str, reach: RepairStart| {
            let (text, words) = judged(&[(text, 0.9)]);
            let at = words
                .iter()
                .position(|w| &text[w.bytes.clone()] == word)
                .unwrap();
            text[words[start(reach, &text, &words, at)].bytes.start..].to_owned()
        };
        let text = "It rains. A man in a blue shirt is sitting next to a dog.";
        assert_eq!(
            begins(text, "shirt", RepairStart::Word),
            "shirt is sitting next to a dog."
        );
        assert_eq!(
            begins(text, "shirt", RepairStart::Phrase),
            "in a blue shirt is sitting next to a dog."
        );
        assert_eq!(
            begins(text, "dog", RepairStart::Phrase),
            "is sitting next to a dog."
        );
        assert_eq!(
            begins(text, "man", RepairStart::Phrase),
            "A man in a blue shirt is sitting next to a dog."
        );
        assert_eq!(
            begins(text, "dog", RepairStart::Sentence),
            "A man in a blue shirt is sitting next to a dog."
        );
    }

    #[test]
    fn a_version_that_claims_nothing_beats_one_that_is_doubted_and_loses_to_one_that_is_sure() {
        let worth = |text: &[(&str, f32)]| {
            let (_, words) = judged(text);
            let version = RepairVersion {
                words: &words,
                from: 1,
                log_probabilities: &[-1.0],
            };
            (version.passes(), version.value(&RankingWeights::default()))
        };
        let (ends, doubted, sure) = (
            worth(&[("man", 0.9), (".", 0.9)]),
            worth(&[("man", 0.9), (" hat", 0.4)]),
            worth(&[("man", 0.9), (" dog", 0.8)]),
        );
        assert!(ends.0 && sure.0 && !doubted.0);
        assert!(
            doubted.1 < ends.1 && ends.1 < sure.1,
            "{doubted:?} {ends:?} {sure:?}"
        );
    }

    #[test]
    fn the_best_of_several_loses_what_selection_added() {
        assert_eq!(unselected(0.7, 0.0, 9), 0.7);
        assert_eq!(unselected(0.7, 0.5, 1), 0.7);
        let of = |tried| unselected(0.7, 0.5, tried);
        assert!(of(2) < 0.7 && of(9) < of(2), "{} {}", of(2), of(9));
        // A logit of 0 less half the logarithm of 9.
        assert!((unselected(0.5, 0.5, 9) - 0.25).abs() < 1e-5);
        assert!(
            (0.0..=1.0).contains(&unselected(1.0, 1.0, 100))
                && (0.0..=1.0).contains(&unselected(0.0, 1.0, 100))
        );
    }

    #[test]
    fn sampling_gets_warmer_and_stops_getting_warmer() {
        let at: Vec<f64> = (0..7).map(|number| temperature(0.2, number)).collect();
        assert!(
            at.is_sorted() && (at[0] - 0.3).abs() < 1e-9 && (at[6] - 0.7).abs() < 1e-9,
            "{at:?}"
        );
        assert!(OPENERS.is_sorted());
    }
}
