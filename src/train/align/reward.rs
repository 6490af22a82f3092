//! Rewards of answers: a frozen scorer's token rewards on claims (object mentions, colors,
//! numbers), and the terminal reward.

use std::{collections::BTreeSet, ops::Range, sync::Arc};

use candle_core::{Device, Result as CandleResult, Tensor};

use super::{answers::AnswerShard, config::RewardShape};
use crate::{
    bundle::Bundle,
    eval::objects,
    lexicon::{ConceptId, Lexicon, Reading, Support},
    reward::RewardKind,
    reward::{
        calibration::Calibration,
        evidence::Evidence,
        finish::{Finisher, WrittenBy},
        scorer,
    },
    train::{
        TrainError,
        compared_scorers::{self, ScoreSource},
        policy::Policy,
        scorers::{Net, ScorerInput},
    },
    vlm::{decoder::Regular, nn, processor::tokenizer::TextTokenizer},
};

/// Frozen models of a run: the standalone scorer with its calibration and evidence. The reference
/// policy is the run's own.
pub(super) struct FrozenModels {
    net: Net,
    calibration: Calibration,
    evidence: Option<Arc<Evidence>>,
}

/// Outputs of the frozen models for some tokens.
#[derive(Debug, Clone, Default)]
pub(super) struct FrozenOutputs {
    /// Calibrated rewards of the scorer, 0 to 1.
    rewards: Vec<f32>,
    /// Log-probabilities under the reference at the policy's sampling temperature.
    pub(super) reference: Vec<f32>,
    /// Log-probabilities under the reference at temperature 1, an input of the calibration.
    plain: Vec<f32>,
}

impl FrozenOutputs {
    /// Final rewards of one answer, whose tokens are at `range`, as a server computes them.
    pub(super) fn rewards(
        &self,
        range: Range<usize>,
        tokens: &[u32],
        tokenizer: &TextTokenizer,
        finisher: Option<&Finisher>,
    ) -> Vec<f32> {
        let slice = |values: &[f32]| {
            values
                .get(range.clone())
                .map(<[f32]>::to_vec)
                .unwrap_or_default()
        };
        let mut scored = scorer::TextRewards {
            rewards: slice(&self.rewards),
            log_probabilities: slice(&self.plain),
        };
        if let Some(finisher) = finisher {
            finisher.finish_scored(tokens.iter().map(|&id| tokenizer.bytes(id)), &mut scored);
        }
        scored.rewards
    }
}

impl FrozenModels {
    /// Opens the standalone scorer of the policy's bundle. It shares no weights with the policy, so
    /// training cannot move it.
    pub(super) fn open(policy: &Policy) -> Result<Self, TrainError> {
        let missing = || {
            TrainError::Run(format!(
                "bundle {}: no standalone scorer (detached) to take rewards from",
                policy.name
            ))
        };
        let calibration = compared_scorers::calibrations(policy)?
            .remove(&RewardKind::Detached)
            .ok_or_else(missing)?;
        let scorer = compared_scorers::from_bundle(policy)?
            .into_iter()
            .find(|c| c.name == RewardKind::Detached.name())
            .ok_or_else(missing)?;
        match scorer.scorer {
            ScoreSource::Net(net) => {
                let evidence = Bundle::evidence_of(&policy.name)
                    .map_err(|e| TrainError::Run(e.to_string()))?
                    .map(Arc::new);
                Ok(Self {
                    net: *net,
                    calibration,
                    evidence,
                })
            }
            _ => Err(missing()),
        }
    }

    /// Finisher of rewards about an image `(image_tokens, channels)`; `None` if the bundle has no
    /// evidence model.
    pub(super) fn finisher(&self, image: &Tensor) -> CandleResult<Option<Finisher>> {
        let finisher = |evidence: &Arc<Evidence>| {
            Ok(Finisher::new(
                Arc::clone(evidence),
                evidence.evaluate(image)?,
                WrittenBy::Policy,
            ))
        };
        self.evidence.as_ref().map(finisher).transpose()
    }

    /// Scores the answers of a shard, token by token.
    pub(super) fn judge(
        &self,
        policy: &Policy,
        shard: &AnswerShard,
        temperature: f32,
    ) -> CandleResult<FrozenOutputs> {
        let pass = ScorerInput::new(policy, &shard.images, &shard.batch)?;
        let own = Tensor::new(shard.own.as_slice(), &Device::Cpu)?;
        let targets: Vec<u32> = shard
            .own
            .iter()
            .map(|&i| shard.batch.targets[i as usize])
            .collect();
        let logits = policy
            .model
            .llama()
            .logits(&pass.predicting()?.index_select(&own, 0)?)?;
        let plain = nn::log_probs(&logits, &targets)?.to_vec1::<f32>()?;
        let reference = match temperature == 1.0 {
            true => plain.clone(),
            false => nn::log_probs(&(logits / f64::from(temperature))?, &targets)?.to_vec1()?,
        };
        let scores = self
            .net
            .score(&pass.with_images(&shard.clear), Regular::default())?
            .logits
            .index_select(&own, 0)?;
        // The calibration reads the reference's log-probability, not the policy's: growing
        // confident must not raise rewards.
        Ok(FrozenOutputs {
            rewards: scores
                .to_vec1::<f32>()?
                .into_iter()
                .zip(&plain)
                .map(|(score, lp)| self.calibration.reward(score, *lp))
                .collect(),
            reference,
            plain,
        })
    }
}

/// Word of an answer that makes a checkable claim.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Claim {
    /// Byte range of the word.
    pub(super) range: Range<usize>,
    /// Object that the word names; `None` for a color or number.
    pub(super) object: Option<ConceptId>,
    /// `true` if the answer named the same object before.
    pub(super) again: bool,
}

/// Object mentions, colors and numbers of a text, in order. All other words earn nothing.
pub(super) fn claims(text: &str) -> Vec<Claim> {
    let lexicon = Lexicon::shared();
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for phrase in lexicon.phrases(text) {
        let attributes = phrase.colors.iter().chain(&phrase.count).map(|a| Claim {
            range: a.range.clone(),
            object: None,
            again: false,
        });
        out.extend(attributes);
        let concept = phrase.mention.concept;
        out.push(Claim {
            range: phrase.mention.range,
            object: Some(concept),
            again: !seen.insert(concept),
        });
    }
    out.sort_by_key(|claim| claim.range.start);
    out
}

/// Claim with its reward.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ScoredClaim {
    /// Index of the last token of the word, which receives the reward.
    pub(super) token: usize,
    /// Lowest reward of the word's tokens.
    pub(super) reward: f32,
    /// `true` for an object mention.
    pub(super) object: bool,
    /// `true` if the object was named before.
    pub(super) again: bool,
}

/// Scores claims by the rewards of the answer's tokens, given the tokens' byte ranges.
pub(super) fn scored_claims(
    claims: &[Claim],
    token_ranges: &[Range<usize>],
    rewards: &[f32],
) -> Vec<ScoredClaim> {
    let score = |claim: &Claim| {
        let hits = || {
            token_ranges.iter().enumerate().filter(|(_, p)| {
                !p.is_empty() && p.start < claim.range.end && claim.range.start < p.end
            })
        };
        let reward = hits()
            .filter_map(|(i, _)| rewards.get(i).copied())
            .min_by(f32::total_cmp)?;
        Some(ScoredClaim {
            token: hits().next_back()?.0,
            reward,
            object: claim.object.is_some(),
            again: claim.again,
        })
    };
    claims.iter().filter_map(score).collect()
}

impl RewardShape {
    /// Reward of each of the answer's `tokens` from its claims. A repeated object mention earns
    /// nothing and may cost.
    pub(super) fn token_rewards(
        &self,
        claims: &[ScoredClaim],
        baseline: f32,
        tokens: usize,
    ) -> Vec<f32> {
        let mut out = vec![0.0; tokens];
        for claim in claims {
            let earned =
                (claim.reward - baseline) * if claim.object { 1.0 } else { self.attributes };
            out[claim.token] += if claim.again { earned.min(0.0) } else { earned };
        }
        out
    }

    /// Terminal reward of an answer: `complete` is the share of commonly named nouns that it
    /// supports, `consensus` its CIDEr-D, `short` the missing share of the human length.
    pub(super) fn terminal(&self, complete: f32, consensus: f32, short: f32, ended: bool) -> f32 {
        let lost = self.brevity * short + if ended { 0.0 } else { self.missing_end };
        self.completeness * complete + self.consensus * consensus - lost
    }
}

/// Adds the terminal reward to the last token, the end token if the answer has one.
pub(super) fn add_terminal(rewards: &mut [f32], earned: f32) {
    if let Some(last) = rewards.last_mut() {
        *last += earned;
    }
}

/// Missing share of the references' mean length in words; 0 if the text is as long or there are no
/// references.
pub(super) fn shortness<'a>(text: &str, references: impl ExactSizeIterator<Item = &'a str>) -> f32 {
    let words = |text: &str| {
        text.split_whitespace()
            .filter(|word| word.contains(char::is_alphanumeric))
            .count() as f32
    };
    let people = references.len() as f32;
    let usual = references.map(words).sum::<f32>();
    if usual == 0.0 {
        0.0
    } else {
        (1.0 - words(text) * people / usual).max(0.0)
    }
}

/// Share of the nouns named by two people that a text supports; 1 if there are none.
pub(super) fn completeness(text: &str, references: &[Reading]) -> f32 {
    let lexicon = Lexicon::shared();
    let named = objects::often_named(&references.iter().collect::<Vec<_>>());
    if named.is_empty() {
        return 1.0;
    }
    let reading = Reading::new(lexicon, text);
    named
        .iter()
        .filter(|&&concept| reading.support(lexicon, concept) == Support::Named)
        .count() as f32
        / named.len() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: RewardShape = RewardShape {
        center: None,
        attributes: 0.5,
        completeness: 2.0,
        consensus: 0.1,
        brevity: 2.0,
        missing_end: 1.0,
    };

    #[test]
    fn token_rewards_claims_earn_at_their_last_token() {
        // "A| red| fris|bee| .|<end>"
        let text = "A red frisbee.";
        let token_ranges = [0..1, 2..5, 6..10, 10..13, 13..14, 14..14];
        let claims = scored_claims(
            &claims(text),
            &token_ranges,
            &[0.9, 0.3, 0.8, 0.2, 0.9, 0.9],
        );
        let found: Vec<(usize, f32, bool)> = claims
            .iter()
            .map(|c| (c.token, c.reward, c.object))
            .collect();
        assert_eq!(
            found,
            [(1, 0.3, false), (3, 0.2, true)],
            "a word is worth its worst token"
        );
        let earned = SHAPE.token_rewards(&claims, 0.5, 6);
        let want = [0.0, -0.1, 0.0, -0.3, 0.0, 0.0];
        earned
            .iter()
            .zip(want)
            .for_each(|(a, b)| assert!((a - b).abs() < 1e-6, "{earned:?}"));
    }

    #[test]
    fn token_rewards_repeated_mention_earns_nothing_but_costs() {
        let text = "A dog and a dog.";
        let token_ranges = [0..1, 2..5, 6..9, 10..11, 12..15, 15..16];
        let claims = scored_claims(&claims(text), &token_ranges, &[0.9; 6]);
        let earned = SHAPE.token_rewards(&claims, 0.5, 6);
        assert!(
            (earned.iter().sum::<f32>() - 0.4).abs() < 1e-6 && earned[4] == 0.0,
            "{earned:?}"
        );
        let low = scored_claims(&self::claims(text), &token_ranges, &[0.1; 6]);
        assert!(
            (SHAPE.token_rewards(&low, 0.5, 6).iter().sum::<f32>() + 0.8).abs() < 1e-6,
            "but it costs twice"
        );
    }

    #[test]
    fn add_terminal_lands_on_the_end_token() {
        let eos = 3u32;
        let answers = [vec![7, 8, eos], vec![9, eos]];
        let mut flat: Vec<Vec<f32>> = answers.iter().map(|a| vec![0.0; a.len()]).collect();
        flat.iter_mut()
            .for_each(|rewards| add_terminal(rewards, 5.0));
        for (tokens, rewards) in answers.iter().zip(&flat) {
            let paid: Vec<u32> = tokens
                .iter()
                .zip(rewards)
                .filter(|(_, r)| **r != 0.0)
                .map(|(t, _)| *t)
                .collect();
            assert_eq!(
                (paid, rewards.len()),
                (vec![eos], tokens.len()),
                "no reward outside the answer"
            );
        }
        assert_eq!(SHAPE.terminal(0.5, 2.0, 0.0, true), 1.2);
        assert!((SHAPE.terminal(0.5, 2.0, 0.25, false) + 0.3).abs() < 1e-6);
    }

    #[test]
    fn shortness_is_the_missing_share_of_the_mean_length() {
        let people = ["A dog runs in deep snow .", "A dog ."];
        let short = |text: &str| shortness(text, people.iter().copied());
        assert_eq!(
            (
                short(""),
                short("A dog"),
                short("A dog in the snow"),
                short("A dog in the snow on a hill")
            ),
            (1.0, 0.5, 0.0, 0.0)
        );
        assert_eq!(shortness("A dog", std::iter::empty()), 0.0);
    }

    #[test]
    fn completeness_counts_nouns_named_by_two_people() {
        let lexicon = Lexicon::shared();
        let references: Vec<Reading> = [
            "A dog in the snow.",
            "A puppy in snow.",
            "A dog with a ball.",
        ]
        .iter()
        .map(|r| Reading::new(lexicon, r))
        .collect();
        assert_eq!(completeness("A dog.", &references), 0.5);
        assert_eq!(
            completeness("A cat in the snow with a dog.", &references),
            1.0
        );
        assert_eq!(completeness("", &[]), 1.0);
    }
}
