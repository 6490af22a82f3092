//! Features from which calibrations compute rewards: the evidence of a mention, the sentence of a
//! word, and the class of a word without evidence.

use super::{Evidence, ImageEvidence, names};
use crate::lexicon::{Lexicon, WordClass};

/// Features of an object mention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MentionFeatures {
    evidence: f64,
    evidence_minus_prior: f64,
    familiarity: f64,
    reward_logit: f64,
    log_probability: f64,
    is_person: bool,
    sentence: SentenceFeatures,
}

impl MentionFeatures {
    /// Names of the features, in the order of [`Self::value`].
    pub const NAMES: [&str; 8] = names::MENTION;

    /// Computes the features of a mention with output `concept`. `reward` is the lowest reward of
    /// its tokens by the scorer's own calibration, `log_probability` the sum of theirs. `None` if
    /// there is no such output.
    pub fn new(
        evidence: &Evidence,
        image: &ImageEvidence,
        concept: usize,
        reward: f32,
        log_probability: f32,
        is_person: bool,
    ) -> Option<Self> {
        let (logit, prior) = (
            f64::from(*image.logits.get(concept)?),
            f64::from(*evidence.prior.get(concept)?),
        );
        Some(Self {
            evidence: logit.clamp(-8.0, 8.0),
            evidence_minus_prior: (logit - prior).clamp(-8.0, 8.0),
            familiarity: image.familiarity.into(),
            reward_logit: reward_logit(reward),
            log_probability: bounded(log_probability),
            is_person,
            sentence: SentenceFeatures::default(),
        })
    }

    /// Adds the features of the sentence that contains the mention.
    pub fn with_sentence(self, sentence: SentenceFeatures) -> Self {
        Self { sentence, ..self }
    }

    /// Returns the value of a feature by name.
    pub fn value(&self, name: &str) -> Option<f64> {
        let person = f64::from(u8::from(self.is_person));
        Some(match name {
            "evidence" => self.evidence,
            "evidence_minus_prior" => self.evidence_minus_prior,
            "familiarity" => self.familiarity,
            "reward_logit" => self.reward_logit,
            "log_probability" => self.log_probability,
            "is_person" => person,
            "person_evidence" => person * self.evidence,
            "person_reward" => person * self.reward_logit,
            _ => return self.sentence.value(name),
        })
    }
}

/// Returns the log-odds of a reward, bounded.
fn reward_logit(reward: f32) -> f64 {
    let reward = f64::from(reward).clamp(1e-4, 1.0 - 1e-4);
    (reward / (1.0 - reward)).ln()
}

/// Returns a log-probability, bounded.
fn bounded(log_probability: f32) -> f64 {
    f64::from(log_probability).clamp(-12.0, 0.0)
}

/// Features of the sentence that contains a word; known for complete texts, which others wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SentenceFeatures {
    matching: Option<f64>,
    evidence: Option<f64>,
}

impl SentenceFeatures {
    /// Names of the features, in the order of [`Self::value`].
    pub const NAMES: [&str; 2] = names::SENTENCE;

    /// Computes the features of a sentence about a photograph: its match, and the mean evidence,
    /// minus the prior, of the objects that it mentions.
    pub fn new(evidence: &Evidence, image: &ImageEvidence, sentence: &str) -> Self {
        let mentions = Lexicon::shared().mentions(sentence);
        let above_prior = mentions.iter().filter_map(|mention| {
            let output = evidence.output_for(mention.concept)?;
            Some(
                f64::from(image.logits.get(output)? - evidence.prior().get(output)?)
                    .clamp(-8.0, 8.0),
            )
        });
        let (sum, count) = above_prior.fold((0.0, 0u32), |(sum, count), x| (sum + x, count + 1));
        Self {
            matching: evidence.cosine(image, sentence),
            evidence: (count > 0).then(|| sum / f64::from(count)),
        }
    }

    /// Returns the value of a feature by name, if it is known.
    pub fn value(&self, name: &str) -> Option<f64> {
        match name {
            "match" => self.matching,
            "sentence_evidence" => self.evidence,
            _ => None,
        }
    }
}

/// Features of a content word without an output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WordFeatures {
    class: WordClass,
    familiarity: f64,
    reward_logit: f64,
    log_probability: f64,
    sentence: SentenceFeatures,
}

impl WordFeatures {
    /// Features of words of every class, beside [`SentenceFeatures::NAMES`].
    pub const NAMES: [&str; 3] = names::WORD;

    /// Computes the features of a word. `reward` is the lowest reward of its tokens by the scorer's
    /// own calibration, `log_probability` the sum of theirs.
    pub fn new(
        class: WordClass,
        image: &ImageEvidence,
        reward: f32,
        log_probability: f32,
        sentence: SentenceFeatures,
    ) -> Self {
        Self {
            class,
            familiarity: image.familiarity.into(),
            reward_logit: reward_logit(reward),
            log_probability: bounded(log_probability),
            sentence,
        }
    }

    /// Returns the name of the feature that is 1 for words of a class and 0 for others. A
    /// calibration without it does not apply to the class.
    pub fn class_feature(class: WordClass) -> &'static str {
        names::class_feature(class)
    }

    /// Returns the value of a feature by name, if it is known.
    pub fn value(&self, name: &str) -> Option<f64> {
        match name {
            "familiarity" => Some(self.familiarity),
            "reward_logit" => Some(self.reward_logit),
            "log_probability" => Some(self.log_probability),
            _ if WordClass::ALL
                .iter()
                .any(|&class| Self::class_feature(class) == name) =>
            {
                Some(f64::from(u8::from(Self::class_feature(self.class) == name)))
            }
            _ => self.sentence.value(name),
        }
    }
}
