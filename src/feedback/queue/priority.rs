//! Priority of an answer in the queue by the expected value of its correction. Pure.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::item::{TokenWord, token_words};
use crate::{
    feedback::record::{Feedback, RecordedChoice},
    lexicon::{ConceptId, Lexicon},
    util::digest::sha256,
};

/// Weights of the components of a priority. Only their proportions matter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PriorityWeights {
    /// Closeness of a word's reward to the threshold.
    pub closeness: f64,
    /// Disagreement of the reward with the policy's own probability of the word.
    pub disagreement: f64,
    /// Novelty of the concept that the word names.
    pub novelty: f64,
}

impl Default for PriorityWeights {
    fn default() -> Self {
        Self {
            closeness: 0.5,
            disagreement: 0.25,
            novelty: 0.25,
        }
    }
}

/// Returns the priority of an answer, 0 to 1: the highest of its words. `novelty` returns the
/// novelty of a concept, 0 to 1.
pub fn priority(
    answer: &RecordedChoice,
    weights: &PriorityWeights,
    novelty: impl Fn(ConceptId) -> f64,
) -> f64 {
    let mentions = Lexicon::shared().mentions(&answer.response);
    let word_priority = |word: &TokenWord| {
        let named = mentions
            .iter()
            .find(|m| m.range.start <= word.bytes.start && word.bytes.end <= m.range.end);
        let parts = [
            (
                weights.closeness,
                word.reward
                    .map_or(0.0, |reward| closeness(reward, answer.threshold)),
            ),
            (
                weights.disagreement,
                word.reward
                    .zip(word.probability)
                    .map_or(0.0, |(reward, p)| f64::from((reward - p).abs())),
            ),
            (
                weights.novelty,
                named.map_or(0.0, |mention| novelty(mention.concept)),
            ),
        ];
        let whole: f64 = parts.iter().map(|(weight, _)| weight).sum();
        parts
            .iter()
            .map(|(weight, part)| weight * part)
            .sum::<f64>()
            / whole.max(f64::MIN_POSITIVE)
    };
    let words = token_words(&answer.response, &answer.tokens);
    words
        .iter()
        .filter(|word| !word.function)
        .map(word_priority)
        .fold(0.0, f64::max)
}

/// Returns 1 at the threshold, falling linearly to 0 at rewards of 0 and 1.
fn closeness(reward: f32, threshold: f32) -> f64 {
    let (reward, threshold) = (f64::from(reward), f64::from(threshold));
    let room = if reward < threshold {
        threshold
    } else {
        1.0 - threshold
    };
    if room <= 0.0 {
        1.0
    } else {
        (1.0 - (reward - threshold).abs() / room).clamp(0.0, 1.0)
    }
}

/// Number of records that mention a concept, by owner: an order changed by the feedback of others
/// would reveal it.
#[derive(Debug, Default)]
pub struct Novelty(HashMap<String, HashMap<ConceptId, u32>>);

impl Novelty {
    /// Counts the concepts that the record's answer and corrections name.
    pub fn learn(&mut self, record: &Feedback) {
        let corrections = record
            .errors
            .iter()
            .filter_map(|error| error.correction.as_deref());
        let texts = corrections
            .chain(record.missing.iter().map(String::as_str))
            .chain([record.response.as_str()]);
        let mut concepts: Vec<ConceptId> = texts
            .flat_map(|text| Lexicon::shared().mentions(text))
            .map(|mention| mention.concept)
            .collect();
        concepts.sort_unstable();
        concepts.dedup();
        let counts = self.0.entry(record.owner.clone()).or_default();
        for concept in concepts {
            let seen = counts.entry(concept).or_default();
            *seen = seen.saturating_add(1);
        }
    }

    /// Returns the novelty of a concept to an owner, 0 to 1: the bonus of count-based exploration,
    /// `1/√(1 + n)` (Strehl and Littman, 2008).
    pub fn bonus(&self, owner: &str, concept: ConceptId) -> f64 {
        let seen = self
            .0
            .get(owner)
            .and_then(|counts| counts.get(&concept))
            .copied()
            .unwrap_or_default();
        1.0 / (1.0 + f64::from(seen)).sqrt()
    }
}

/// Pseudo-random numbers in 0 to 1 that depend on the answer alone, so that a restart draws the
/// same answers.
pub(super) struct PseudoRandom {
    pub(super) unassisted: f64,
    pub(super) overlap: f64,
    pub(super) rank: f64,
}

pub(super) fn draws(completion: &str, choice: usize) -> PseudoRandom {
    let digest = sha256(format!("annotation queue {completion} {choice}"));
    let number = |at: usize| {
        digest[at..at + 4]
            .iter()
            .fold(0.0, |sum, byte| (sum + f64::from(*byte)) / 256.0)
    };
    PseudoRandom {
        unassisted: number(0),
        overlap: number(4),
        rank: number(8),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;
    use crate::{
        feedback::record::{ResponseToken, TokenLabel},
        guard::Verdict,
    };

    /// Answer with a token a word, each with a reward and a probability.
    fn answer(words: &[(&str, f32, f32)]) -> RecordedChoice {
        let mut response = String::new();
        let mut token = |&(word, reward, p): &(&str, f32, f32)| {
            let start = response.chars().count();
            response += word;
            let end = response.chars().count();
            ResponseToken {
                id: 0,
                text: word.to_owned(),
                start,
                end,
                logprob: Some(p.ln()),
                reward: Some(reward),
                label: TokenLabel::None,
            }
        };
        let tokens = words.iter().map(&mut token).collect();
        RecordedChoice {
            response,
            tokens,
            verdict: Verdict::Clean,
            threshold: 0.4,
            spans: Vec::new(),
            familiarity: None,
        }
    }

    fn only(closeness: f64, disagreement: f64, novelty: f64) -> PriorityWeights {
        PriorityWeights {
            closeness,
            disagreement,
            novelty,
        }
    }

    #[test]
    fn priority_follows_each_weighted_component() {
        let near = answer(&[("A", 0.9, 0.9), (" dog", 0.45, 0.45)]);
        let sure = answer(&[("A", 0.4, 0.9), (" dog", 0.95, 0.95)]);
        let at_odds = answer(&[("A", 0.9, 0.9), (" dog", 0.05, 0.95)]);
        let closeness = only(1.0, 0.0, 0.0);
        let of =
            |answer: &RecordedChoice, weights: &PriorityWeights| priority(answer, weights, |_| 1.0);
        assert!(of(&near, &closeness) > 0.9);
        assert!(
            (of(&sure, &closeness) - 0.05 / 0.6).abs() < 1e-6,
            "the function word at the threshold counts nothing"
        );
        let disagreement = only(0.0, 1.0, 0.0);
        assert!((of(&at_odds, &disagreement) - 0.9).abs() < 1e-6);
        assert!(of(&near, &disagreement) < 1e-6);
        assert_eq!(priority(&near, &only(0.0, 0.0, 2.0), |_| 0.5), 0.5);
        assert_eq!(of(&answer(&[]), &PriorityWeights::default()), 0.0);
        assert_eq!(of(&near, &only(0.0, 0.0, 0.0)), 0.0);
    }

    #[test]
    fn closeness_at_any_threshold_stays_within_bounds() {
        for threshold in [0.0, 0.3, 1.0] {
            for reward in [0.0, 0.3, 1.0] {
                let got = closeness(reward, threshold);
                assert!((0.0..=1.0).contains(&got), "{reward} {threshold}");
            }
            assert_eq!(closeness(threshold, threshold), 1.0);
        }
    }

    #[test]
    fn draws_are_uniform_and_independent() {
        let draws: Vec<PseudoRandom> = (0..4000)
            .map(|i| draws(&format!("chatcmpl-{i}"), i % 2))
            .collect();
        let share = |chosen: fn(&PseudoRandom) -> bool| {
            draws.iter().filter(|d| chosen(d)).count() as f64 / 4000.0
        };
        assert!((share(|d| d.unassisted < 0.1) - 0.1).abs() < 0.02);
        assert!((share(|d| d.overlap < 0.5) - 0.5).abs() < 0.04);
        assert!((share(|d| d.rank < 0.5 && d.overlap < 0.5) - 0.25).abs() < 0.04);
    }

    #[test]
    fn novelty_of_concept_falls_for_its_owner_only() {
        let record: Feedback = from_value(json!({
            "id": "fb_1", "created": 1, "owner": "a", "image": "0".repeat(64), "prompt": "",
            "response": "A dog.", "tokens": [], "kind": "good",
            "versions": {}
        }))
        .unwrap();
        let dog = Lexicon::shared()
            .mentions("A dog.")
            .into_iter()
            .next()
            .unwrap()
            .concept;
        let mut novelty = Novelty::default();
        novelty.learn(&record);
        assert!(novelty.bonus("a", dog) < 1.0);
        assert_eq!(
            (novelty.bonus("b", dog), novelty.bonus("", dog)),
            (1.0, 1.0)
        );
    }
}
