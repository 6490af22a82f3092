//! Things that texts mention, with their rewards and whether they are there: what calibrations are fitted on.

use super::{
    super::{
        TrainError,
        answers::Said,
        contenders::{self, Contender},
        features::Features,
        judged::{ScoredText, score},
        labels::LabelledText,
        reward_data::own_captions,
        setup::Setup,
        text::normalize_caption,
    },
    labels::{Absence, truth},
    origins::{Photograph, Photographs},
};
use crate::{
    eval::{chair::Vocabulary, data::flickr8k::Image, honesty::Origin},
    lexicon::{ConceptId, Lexicon, Mention, References},
    reward::{calibration::Calibration, evidence::Evidence},
};

/// Origins with people's captions; how many of a photograph are scored, and as many of another's.
const PEOPLES: [(Origin, usize); 2] = [(Origin::Flickr8k, 2), (Origin::CocoMini, 5)];

/// Who wrote a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Author {
    /// The policy: its likeliest caption.
    Greedy,
    /// The policy: a sample.
    Sampled,
    /// A person.
    Person,
}

/// A thing that a text mentions.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct JudgedMention {
    /// Number of the photograph.
    pub(super) photograph: usize,
    pub(super) author: Author,
    pub(super) concept: ConceptId,
    /// Whether it is there, where that is known.
    pub(super) truth: Option<bool>,
    /// The same by COCO's objects, where it names one and they are known.
    pub(super) coco: Option<bool>,
    /// Lowest reward of its tokens.
    pub(super) reward: f32,
    /// Sum of the policy's log-probabilities of its tokens.
    pub(super) log_probability: f32,
}

impl JudgedMention {
    /// Whether it names people.
    pub(super) fn is_person(&self) -> bool {
        Evidence::is_person(self.concept)
    }
}

/// A text about a photograph.
pub(super) struct Written {
    pub(super) photograph: usize,
    pub(super) author: Author,
    pub(super) text: String,
}

/// The bundle's scorer, and what its numbers mean.
pub(super) struct BundleScorer {
    pub(super) contender: [Contender; 1],
    pub(super) calibration: Calibration,
}

impl BundleScorer {
    /// That which a bundle serves by default.
    ///
    /// # Errors
    /// When it has none.
    pub(super) fn open(setup: &Setup) -> Result<Self, TrainError> {
        let policy = &setup.policy;
        let missing = || TrainError::Run(format!("policy {}: it has no scorer, train one first with candor train reward", policy.name));
        let kind = policy.config.reward.as_ref().ok_or_else(missing)?.default;
        let contender = contenders::of_bundle(policy)?.into_iter().find(|c| c.name == kind.name()).ok_or_else(missing)?;
        let calibration = contenders::calibrations(policy)?.remove(&kind).ok_or_else(missing)?;
        Ok(Self { contender: [contender], calibration })
    }
}

/// Photographs that nobody learned from, their features as they are, and who judges what is said of them.
pub(super) struct Judge<'a> {
    pub(super) setup: &'a Setup,
    pub(super) photographs: &'a Photographs,
    /// Of all photographs behind the training split.
    pub(super) features: &'a Features,
    pub(super) scorer: &'a BundleScorer,
}

impl Judge<'_> {
    /// Lets the policy caption photographs, by their numbers.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub(super) fn captions(&self, numbers: &[usize], temperature: f32, seed: u64) -> Result<Vec<Written>, TrainError> {
        let images: Vec<Image> = numbers.iter().map(|&i| self.photographs.all[i].image.clone()).collect();
        let places: Vec<usize> = numbers.iter().map(|i| i - self.photographs.train).collect();
        let texts = own_captions(self.setup, &images, &self.features.plain(&places), temperature, seed)?;
        let author = if temperature > 0.0 { Author::Sampled } else { Author::Greedy };
        Ok(numbers.iter().zip(texts).map(|(&photograph, (_, text))| Written { photograph, author, text: text.text }).collect())
    }

    /// People's captions of photographs, and those of the next photograph of the same origin.
    pub(super) fn peoples(&self, numbers: &[usize]) -> Vec<Written> {
        let of = |(origin, most): (Origin, usize)| {
            let captions = |i: usize| self.photographs.all[i].image.captions.iter().take(most);
            let is_captioned = |i: &usize| self.photographs.all[*i].origin == origin && captions(*i).len() > 0;
            let captioned: Vec<usize> = numbers.iter().copied().filter(is_captioned).collect();
            let mut written = Vec::new();
            for (i, &photograph) in captioned.iter().enumerate() {
                let other = captioned[(i + 1) % captioned.len()];
                let texts = captions(photograph).chain(captions(other).filter(|_| other != photograph));
                written.extend(texts.map(|text| Written { photograph, author: Author::Person, text: normalize_caption(text) }));
            }
            written
        };
        PEOPLES.into_iter().flat_map(of).collect()
    }

    /// Scores texts and judges what they mention, by `calibration`.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub(super) fn mentions(&self, texts: &[Written], calibration: &Calibration) -> Result<Vec<JudgedMention>, TrainError> {
        let lexicon = Lexicon::shared();
        let absence = Absence::new(lexicon);
        let mut by_photograph: Vec<Vec<&Written>> = vec![Vec::new(); self.photographs.all.len() - self.photographs.train];
        texts.iter().for_each(|text| by_photograph[text.photograph - self.photographs.train].push(text));
        let bare = |written: &&Written| {
            let text = LabelledText { text: written.text.clone(), ranges: Vec::new(), rest: None };
            (Said::from(text), None)
        };
        let said: Vec<_> = by_photograph.iter().map(|of| of.iter().map(bare).collect()).collect();
        let scored = score(self.setup, self.features, &self.scorer.contender, &said)?;
        let mut found = Vec::new();
        for (scored, written) in scored.iter().zip(by_photograph.iter().flatten()) {
            let photograph = &self.photographs.all[written.photograph];
            let references = References::new(lexicon, &photograph.texts);
            for mention in lexicon.mentions(&written.text) {
                let Some((reward, log_probability)) = rewards(scored, &mention, calibration) else { continue };
                found.push(JudgedMention {
                    photograph: written.photograph,
                    author: written.author,
                    concept: mention.concept,
                    truth: truth(photograph, &references, &mention, &absence),
                    coco: coco_truth(photograph, &written.text, &mention),
                    reward,
                    log_probability,
                });
            }
        }
        Ok(found)
    }
}

/// The lowest reward of a mention's tokens, and the sum of their log-probabilities.
fn rewards(scored: &ScoredText, mention: &Mention, calibration: &Calibration) -> Option<(f32, f32)> {
    let scores = scored.tokens.iter().zip(scored.scores.first()?).zip(&scored.log_probabilities);
    let own = scores.filter(|((token, _), _)| token.start < mention.range.end && mention.range.start < token.end);
    let rewards: Vec<(f32, f32)> = own.map(|((_, score), lp)| (calibration.reward(*score, *lp), *lp)).collect();
    let lowest = rewards.iter().map(|(reward, _)| *reward).min_by(f32::total_cmp)?;
    Some((lowest, rewards.iter().map(|(_, lp)| lp).sum()))
}

/// Whether a photograph with COCO's objects shows the one that a mention names: it was marked, or a person's caption names it.
fn coco_truth(photograph: &Photograph, text: &str, mention: &Mention) -> Option<bool> {
    if photograph.origin != Origin::CocoMini {
        return None;
    }
    let vocabulary = Vocabulary::coco80();
    let overlaps = |range: &std::ops::Range<usize>| range.start < mention.range.end && mention.range.start < range.end;
    let named = vocabulary.mentions(text);
    let object = named.iter().find(|named| overlaps(&named.range)).map(|named| &named.object)?;
    Some(photograph.texts.iter().any(|text| vocabulary.mentions(text).iter().any(|shown| shown.object == *object)))
}
