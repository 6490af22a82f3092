//! What answers earn: rewards of a frozen scorer on the words that claim something, and what an
//! answer earns as a whole.

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
    vlm::{decoder::llama::Regular, ops, tokenizer::TextTokenizer},
};

/// The frozen side of a run: the reference policy, and the scorer, which never learns.
pub(super) struct FrozenModels {
    net: Net,
    calibration: Calibration,
    evidence: Option<Arc<Evidence>>,
}

/// What the frozen side says of some tokens.
#[derive(Debug, Clone, Default)]
pub(super) struct FrozenOutputs {
    /// Rewards of the scorer, 0 to 1.
    rewards: Vec<f32>,
    /// Log-probabilities under the reference at the policy's temperature.
    pub(super) reference: Vec<f32>,
    /// Log-probabilities under the reference itself, which the rewards know.
    plain: Vec<f32>,
}

impl FrozenOutputs {
    /// The rewards of one answer, whose tokens are `at` of all: those that a server would give.
    pub(super) fn rewards(
        &self,
        at: Range<usize>,
        tokens: &[u32],
        tokenizer: &TextTokenizer,
        finisher: Option<&Finisher>,
    ) -> Vec<f32> {
        let of = |values: &[f32]| {
            values
                .get(at.clone())
                .map(<[f32]>::to_vec)
                .unwrap_or_default()
        };
        let mut scored = scorer::TextRewards {
            rewards: of(&self.rewards),
            log_probabilities: of(&self.plain),
        };
        if let Some(finisher) = finisher {
            finisher.finish_scored(tokens.iter().map(|&id| tokenizer.bytes(id)), &mut scored);
        }
        scored.rewards
    }
}

impl FrozenModels {
    /// The detached scorer of the policy's bundle: it shares no weight with the policy, so that it
    /// cannot be bent by what it judges.
    pub(super) fn open(policy: &Policy) -> Result<Self, TrainError> {
        let missing = || {
            TrainError::Run(format!(
                "bundle {}: there is no detached scorer to learn from",
                policy.name
            ))
        };
        let calibration = compared_scorers::calibrations(policy)?
            .remove(&RewardKind::Detached)
            .ok_or_else(missing)?;
        let scorer = compared_scorers::of_bundle(policy)?
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

    /// Returns what finishes the rewards of answers about an image, `(image_tokens, channels)`,
    /// where the bundle has evidence of what images show.
    pub(super) fn finisher(&self, image: &Tensor) -> CandleResult<Option<Finisher>> {
        let of = |evidence: &Arc<Evidence>| {
            Ok(Finisher::new(
                Arc::clone(evidence),
                evidence.of(image)?,
                WrittenBy::Policy,
            ))
        };
        self.evidence.as_ref().map(of).transpose()
    }

    /// Judges the answers of a shard, token by token.
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
        let plain = ops::log_probs(&logits, &targets)?.to_vec1::<f32>()?;
        let reference = match temperature == 1.0 {
            true => plain.clone(),
            false => ops::log_probs(&(logits / f64::from(temperature))?, &targets)?.to_vec1()?,
        };
        let scores = self
            .net
            .score(&pass.seeing(&shard.clear), Regular::default())?
            .logits
            .index_select(&own, 0)?;
        // The scorer is helped by the reference's log-probability, not by the policy's: being sure
        // of itself must not pay.
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

/// A word of an answer that claims something.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Claim {
    /// Its bytes.
    pub(super) range: Range<usize>,
    /// The thing that it names; `None` for a colour or a number.
    pub(super) thing: Option<ConceptId>,
    /// Indicates whether the answer named the same thing before.
    pub(super) again: bool,
}

/// The words of a text that claim something, in order: things, colours and numbers. All others earn
/// nothing.
pub(super) fn claims(text: &str) -> Vec<Claim> {
    let lexicon = Lexicon::shared();
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for phrase in lexicon.phrases(text) {
        let attributes = phrase.colours.iter().chain(&phrase.count).map(|a| Claim {
            range: a.range.clone(),
            thing: None,
            again: false,
        });
        out.extend(attributes);
        let concept = phrase.mention.concept;
        out.push(Claim {
            range: phrase.mention.range,
            thing: Some(concept),
            again: !seen.insert(concept),
        });
    }
    out.sort_by_key(|claim| claim.range.start);
    out
}

/// A claim with what the scorer makes of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ScoredClaim {
    /// The token that completes the word: what the word earns, it earns there.
    pub(super) token: usize,
    /// The lowest reward of its tokens.
    pub(super) reward: f32,
    /// Indicates whether it names a thing.
    pub(super) thing: bool,
    /// Indicates whether that thing was named before.
    pub(super) again: bool,
}

/// Scores claims by the rewards of the answer's tokens, whose bytes are `places`.
pub(super) fn scored(
    claims: &[Claim],
    places: &[Range<usize>],
    rewards: &[f32],
) -> Vec<ScoredClaim> {
    let of = |claim: &Claim| {
        let hits = || {
            places.iter().enumerate().filter(|(_, p)| {
                !p.is_empty() && p.start < claim.range.end && claim.range.start < p.end
            })
        };
        let reward = hits()
            .filter_map(|(i, _)| rewards.get(i).copied())
            .min_by(f32::total_cmp)?;
        Some(ScoredClaim {
            token: hits().next_back()?.0,
            reward,
            thing: claim.thing.is_some(),
            again: claim.again,
        })
    };
    claims.iter().filter_map(of).collect()
}

impl RewardShape {
    /// Returns what each of an answer's `tokens` earns by its claims. Naming a thing once more
    /// earns nothing, and may cost.
    pub(super) fn of_claims(&self, claims: &[ScoredClaim], centre: f32, tokens: usize) -> Vec<f32> {
        let mut out = vec![0.0; tokens];
        for claim in claims {
            let earned = (claim.reward - centre) * if claim.thing { 1.0 } else { self.attributes };
            out[claim.token] += if claim.again { earned.min(0.0) } else { earned };
        }
        out
    }

    /// What an answer earns as a whole, at its last token: `complete` is the share of what people
    /// agree on that it names, `consensus` its CIDEr-D, `short` the share of people's length that
    /// it lacks.
    pub(super) fn of_answer(&self, complete: f32, consensus: f32, short: f32, ended: bool) -> f32 {
        let lost = self.brevity * short + if ended { 0.0 } else { self.missing_end };
        self.completeness * complete + self.consensus * consensus - lost
    }
}

/// Puts what an answer earns as a whole on its last token, its end where it has one: never behind
/// it, where nothing is learnt.
pub(super) fn at_the_end(rewards: &mut [f32], earned: f32) {
    if let Some(last) = rewards.last_mut() {
        *last += earned;
    }
}

/// The share of the references' mean length in words that a text lacks; 0 where it is as long, or
/// there are none.
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

/// The share of the nouns that two people named which a text supports; 1 where there are none.
pub(super) fn completeness(text: &str, references: &[Reading]) -> f32 {
    let lexicon = Lexicon::shared();
    let asked = objects::often_named(&references.iter().collect::<Vec<_>>());
    if asked.is_empty() {
        return 1.0;
    }
    let said = Reading::new(lexicon, text);
    asked
        .iter()
        .filter(|&&concept| said.support(lexicon, concept) == Support::Named)
        .count() as f32
        / asked.len() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: RewardShape = RewardShape {
        centre: None,
        attributes: 0.5,
        completeness: 2.0,
        consensus: 0.1,
        brevity: 2.0,
        missing_end: 1.0,
    };

    #[test]
    fn words_that_claim_earn_at_their_last_token_and_others_nothing() {
        // "A| red| fris|bee| .|<end>"
        let text = "A red frisbee.";
        let places = [0..1, 2..5, 6..10, 10..13, 13..14, 14..14];
        let claims = scored(&claims(text), &places, &[0.9, 0.3, 0.8, 0.2, 0.9, 0.9]);
        let found: Vec<(usize, f32, bool)> = claims
            .iter()
            .map(|c| (c.token, c.reward, c.thing))
            .collect();
        assert_eq!(
            found,
            [(1, 0.3, false), (3, 0.2, true)],
            "a word is worth its worst token"
        );
        let earned = SHAPE.of_claims(&claims, 0.5, 6);
        let want = [0.0, -0.1, 0.0, -0.3, 0.0, 0.0];
        earned
            .iter()
            .zip(want)
            .for_each(|(a, b)| assert!((a - b).abs() < 1e-6, "{earned:?}"));
    }

    #[test]
    fn saying_it_twice_does_not_pay_twice() {
        let text = "A dog and a dog.";
        let places = [0..1, 2..5, 6..9, 10..11, 12..15, 15..16];
        let claims = scored(&claims(text), &places, &[0.9; 6]);
        let earned = SHAPE.of_claims(&claims, 0.5, 6);
        assert!(
            (earned.iter().sum::<f32>() - 0.4).abs() < 1e-6 && earned[4] == 0.0,
            "{earned:?}"
        );
        let doubted = scored(&self::claims(text), &places, &[0.1; 6]);
        assert!(
            (SHAPE.of_claims(&doubted, 0.5, 6).iter().sum::<f32>() + 0.8).abs() < 1e-6,
            "but it costs twice"
        );
    }

    #[test]
    fn what_an_answer_earns_lands_on_its_end_and_never_behind_it() {
        let eos = 3u32;
        let answers = [vec![7, 8, eos], vec![9, eos]];
        let mut flat: Vec<Vec<f32>> = answers.iter().map(|a| vec![0.0; a.len()]).collect();
        flat.iter_mut().for_each(|rewards| at_the_end(rewards, 5.0));
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
                "nothing but tokens of the answer exists to be paid"
            );
        }
        assert_eq!(SHAPE.of_answer(0.5, 2.0, 0.0, true), 1.2);
        assert!((SHAPE.of_answer(0.5, 2.0, 0.25, false) + 0.3).abs() < 1e-6);
    }

    #[test]
    fn an_answer_is_short_by_what_it_lacks_of_the_usual_length() {
        let people = ["A dog runs in deep snow .", "A dog ."];
        let of = |text: &str| shortness(text, people.iter().copied());
        assert_eq!(
            (
                of(""),
                of("A dog"),
                of("A dog in the snow"),
                of("A dog in the snow on a hill")
            ),
            (1.0, 0.5, 0.0, 0.0)
        );
        assert_eq!(shortness("A dog", std::iter::empty()), 0.0);
    }

    #[test]
    fn completeness_asks_for_what_two_people_named() {
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
