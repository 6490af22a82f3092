//! Object mentions in texts, with rewards and truth: the data that calibrations are fitted on.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use super::{
    super::{
        TrainError,
        answers::ImageStatement,
        compared_scorers::{self, ComparedScorer},
        features::Features,
        labels::LabeledText,
        reward_data::own_captions,
        scored_split::{ComparedText, score},
        setup::Setup,
        text::normalize_caption,
    },
    labels::{KnownAbsences, truth},
    origins::{AllPhotographs, LabeledPhotograph},
};
use crate::{
    eval::{
        chair::ChairVocabulary,
        data::flickr8k::Image,
        honesty::{
            PhotographOrigin,
            texts::{MixedText, SENTENCES, mixed},
        },
    },
    lexicon::{ConceptId, Lexicon, Mention, ReferenceTexts},
    reward::{
        calibration::Calibration,
        evidence::{Evidence, ImageEvidence},
        finish::{Finisher, WrittenBy, sentence_around},
        scorer::TextRewards,
    },
};

/// Origins with human captions, and the number of captions scored per photograph (and as many of
/// another one).
const CAPTIONED: [(PhotographOrigin, usize); 2] = [
    (PhotographOrigin::Flickr8k, 2),
    (PhotographOrigin::CocoMini, 5),
];

/// Maximum tokens of a text of several captions.
const MAX_TOKENS: usize = 64;

/// Author of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextSource {
    /// The policy's greedy caption.
    Greedy,
    /// Sampled caption of the policy.
    Sampled,
    /// Human text.
    Person,
}

/// Object mention in a text, with reward and truth.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct JudgedMention {
    /// Index of the photograph.
    pub(super) photograph: usize,
    pub(super) author: TextSource,
    pub(super) concept: ConceptId,
    /// `true` if the object is present, `false` if absent, `None` if unknown.
    pub(super) truth: Option<bool>,
    /// Truth by COCO's annotations, if the mention names one of COCO's objects and they are known.
    pub(super) coco: Option<bool>,
    /// Lowest reward of its tokens.
    pub(super) reward: f32,
    /// Sum of the policy's log-probabilities of its tokens.
    pub(super) log_probability: f32,
    /// Sentence around the mention.
    pub(super) sentence: String,
}

impl JudgedMention {
    /// Returns `true` if the mention names people.
    pub(super) fn is_person(&self) -> bool {
        Evidence::is_person(self.concept)
    }
}

/// Text about a photograph.
pub(super) struct PhotographText {
    pub(super) photograph: usize,
    /// Index of the photograph that it was written about.
    pub(super) source: usize,
    pub(super) author: TextSource,
    pub(super) text: String,
}

/// Default scorer of a bundle with its calibration.
pub(super) struct BundleScorer {
    pub(super) scorer: [ComparedScorer; 1],
    pub(super) calibration: Calibration,
}

impl BundleScorer {
    /// Opens the scorer that a bundle serves by default.
    ///
    /// # Errors
    /// When it has none.
    pub(super) fn open(setup: &Setup) -> Result<Self, TrainError> {
        let policy = &setup.policy;
        let missing = || {
            TrainError::Run(format!(
                "policy {}: it has no scorer, train one first with candor train reward",
                policy.name
            ))
        };
        let kind = policy.config.reward.as_ref().ok_or_else(missing)?.default;
        let scorer = compared_scorers::from_bundle(policy)?
            .into_iter()
            .find(|c| c.name == kind.name())
            .ok_or_else(missing)?;
        let calibration = compared_scorers::calibrations(policy)?
            .remove(&kind)
            .ok_or_else(missing)?;
        Ok(Self {
            scorer: [scorer],
            calibration,
        })
    }
}

/// Scorer of texts about photographs outside the training split.
pub(super) struct MentionScorer<'a> {
    pub(super) setup: &'a Setup,
    pub(super) photographs: &'a AllPhotographs,
    /// Features of all photographs after the training split.
    pub(super) features: &'a Features,
    pub(super) scorer: &'a BundleScorer,
}

impl MentionScorer<'_> {
    /// Samples the policy's captions of photographs given by index.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub(super) fn captions(
        &self,
        numbers: &[usize],
        temperature: f32,
        seed: u64,
    ) -> Result<Vec<PhotographText>, TrainError> {
        let images: Vec<Image> = numbers
            .iter()
            .map(|&i| self.photographs.all[i].image.clone())
            .collect();
        let indices: Vec<usize> = numbers.iter().map(|i| i - self.photographs.train).collect();
        let texts = own_captions(
            self.setup,
            &images,
            &self.features.plain(&indices),
            temperature,
            seed,
        )?;
        let author = if temperature > 0.0 {
            TextSource::Sampled
        } else {
            TextSource::Greedy
        };
        Ok(numbers
            .iter()
            .zip(texts)
            .map(|(&photograph, (_, text))| PhotographText {
                photograph,
                source: photograph,
                author,
                text: text.text,
            })
            .collect())
    }

    /// Photographs of an origin with captions, each paired with the next one, whose captions are
    /// wrong about it.
    fn captioned(&self, numbers: &[usize], origin: PhotographOrigin) -> Vec<(usize, usize)> {
        let has_captions = |i: &usize| {
            self.photographs.all[*i].origin == origin
                && !self.photographs.all[*i].image.captions.is_empty()
        };
        let captioned: Vec<usize> = numbers.iter().copied().filter(has_captions).collect();
        let next = captioned.iter().copied().cycle().skip(1);
        captioned.iter().copied().zip(next).collect()
    }

    /// First normalized captions of a photograph, at most `most`.
    fn captions_of(&self, photograph: usize, most: usize) -> Vec<String> {
        let captions = self.photographs.all[photograph]
            .image
            .captions
            .iter()
            .take(most);
        captions
            .map(|caption| normalize_caption(caption))
            .filter(|caption| !caption.is_empty())
            .collect()
    }

    /// Human captions of photographs, and of the next photograph of the same origin.
    pub(super) fn human_captions(&self, numbers: &[usize]) -> Vec<PhotographText> {
        let mut written = Vec::new();
        for (origin, most) in CAPTIONED {
            for (photograph, other) in self.captioned(numbers, origin) {
                let sources = if other == photograph {
                    vec![photograph]
                } else {
                    vec![photograph, other]
                };
                for source in sources {
                    let texts = self.captions_of(source, most).into_iter();
                    written.extend(texts.map(|text| PhotographText {
                        photograph,
                        source,
                        author: TextSource::Person,
                        text,
                    }));
                }
            }
        }
        written
    }

    /// Texts that join several captions of a photograph with one of another, by photograph; those
    /// too long to be scored at once are dropped.
    ///
    /// # Errors
    /// When a text cannot be tokenized.
    pub(super) fn mixed(
        &self,
        numbers: &[usize],
    ) -> Result<BTreeMap<usize, MixedText>, TrainError> {
        let mut found = BTreeMap::new();
        for (origin, _) in CAPTIONED {
            for (turn, (photograph, other)) in
                self.captioned(numbers, origin).into_iter().enumerate()
            {
                let (own, others) = (
                    self.captions_of(photograph, usize::MAX),
                    self.captions_of(other, usize::MAX),
                );
                // The last caption, since calibrations are fitted on the first ones.
                let text = others.last().filter(|_| other != photograph);
                let Some(text) = text.and_then(|wrong| {
                    mixed(&own[own.len().saturating_sub(SENTENCES - 1)..], wrong, turn)
                }) else {
                    continue;
                };
                let tokens = self
                    .setup
                    .policy
                    .tokenizer
                    .encode(&text.text)
                    .map_err(|e| TrainError::Run(e.to_string()))?;
                if tokens.len() <= MAX_TOKENS {
                    found.insert(photograph, text);
                }
            }
        }
        Ok(found)
    }

    /// Scores nonempty texts, sorted by photograph.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub(super) fn scored(
        &self,
        mut texts: Vec<PhotographText>,
    ) -> Result<Vec<(PhotographText, ComparedText)>, TrainError> {
        texts.retain(|written| !written.text.is_empty());
        texts.sort_by_key(|written| written.photograph);
        let mut statements = vec![Vec::new(); self.photographs.all.len() - self.photographs.train];
        for written in &texts {
            let text = LabeledText {
                text: written.text.clone(),
                ranges: Vec::new(),
                rest: None,
                recorded: None,
            };
            statements[written.photograph - self.photographs.train]
                .push((ImageStatement::from(text), None));
        }
        let scored = score(self.setup, self.features, &self.scorer.scorer, &statements)?;
        Ok(texts.into_iter().zip(scored).collect())
    }

    /// Labels the object mentions in texts, with rewards from `calibration`.
    pub(super) fn mentions(
        &self,
        texts: &[(PhotographText, ComparedText)],
        calibration: &Calibration,
    ) -> Vec<JudgedMention> {
        let lexicon = Lexicon::shared();
        let absence = KnownAbsences::new(lexicon);
        let mut found = Vec::new();
        for (written, scored) in texts {
            let photograph = &self.photographs.all[written.photograph];
            let references = ReferenceTexts::new(lexicon, &photograph.texts);
            for mention in lexicon.mentions(&written.text) {
                let Some((reward, log_probability)) = rewards(scored, &mention.range, calibration)
                else {
                    continue;
                };
                found.push(JudgedMention {
                    photograph: written.photograph,
                    author: written.author,
                    concept: mention.concept,
                    truth: truth(photograph, &references, &mention, &absence),
                    coco: coco_truth(photograph, &written.text, &mention),
                    reward,
                    log_probability,
                    sentence: written.text[sentence_around(&written.text, mention.range.start)]
                        .to_owned(),
                });
            }
        }
        found
    }

    /// Rewards of a text's tokens by the scorer; a yes or no that answers a question uses its own
    /// calibration.
    pub(super) fn rewards(&self, text: &ComparedText) -> TextRewards {
        self.rewards_by(text, &self.scorer.calibration)
    }

    fn rewards_by(&self, text: &ComparedText, calibration: &Calibration) -> TextRewards {
        let scores = text
            .scores
            .first()
            .into_iter()
            .flatten()
            .zip(&text.log_probabilities)
            .enumerate();
        let reward = |(i, (score, lp)): (usize, (&f32, &f32))| {
            calibration
                .for_token(text.is_yes_or_no(i))
                .reward(*score, *lp)
        };
        TextRewards {
            rewards: scores.map(reward).collect(),
            log_probabilities: text.log_probabilities.clone(),
        }
    }

    /// Served rewards of a text by the policy: words with an output have rewards from evidence.
    ///
    /// # Errors
    /// When the text cannot be tokenized.
    pub(super) fn served(
        &self,
        text: &ComparedText,
        evidence: &Arc<Evidence>,
        image: &ImageEvidence,
    ) -> Result<(Vec<u32>, TextRewards), TrainError> {
        self.served_by(WrittenBy::Policy, text, evidence, image)
    }

    /// Served rewards of a text by `writer`.
    ///
    /// # Errors
    /// As [`Self::served`].
    pub(super) fn served_by(
        &self,
        writer: WrittenBy,
        text: &ComparedText,
        evidence: &Arc<Evidence>,
        image: &ImageEvidence,
    ) -> Result<(Vec<u32>, TextRewards), TrainError> {
        let calibration = match writer {
            WrittenBy::Policy => &self.scorer.calibration,
            WrittenBy::Others => self.scorer.calibration.for_others(),
        };
        let tokenizer = &self.setup.policy.tokenizer;
        let tokens = tokenizer
            .encode(&text.text.text)
            .map_err(|e| TrainError::Run(e.to_string()))?;
        let mut scored = self.rewards_by(text, calibration);
        let finisher = Finisher::new(Arc::clone(evidence), image.clone(), writer);
        finisher.finish_scored(
            tokens.iter().map(|&token| tokenizer.bytes(token)),
            &mut scored,
        );
        Ok((tokens, scored))
    }
}

/// Lowest reward of the tokens in a range, and the sum of their log-probabilities.
pub(super) fn rewards(
    scored: &ComparedText,
    range: &Range<usize>,
    calibration: &Calibration,
) -> Option<(f32, f32)> {
    let scores = scored
        .tokens
        .iter()
        .zip(scored.scores.first()?)
        .zip(&scored.log_probabilities);
    let own = scores.filter(|((token, _), _)| token.start < range.end && range.start < token.end);
    let rewards: Vec<(f32, f32)> = own
        .map(|((_, score), lp)| (calibration.reward(*score, *lp), *lp))
        .collect();
    let lowest = rewards
        .iter()
        .map(|(reward, _)| *reward)
        .min_by(f32::total_cmp)?;
    Some((lowest, rewards.iter().map(|(_, lp)| lp).sum()))
}

/// Truth of a mention by COCO's objects: present if annotated or named by a human caption.
fn coco_truth(photograph: &LabeledPhotograph, text: &str, mention: &Mention) -> Option<bool> {
    photograph.objects.as_ref()?;
    let vocabulary = ChairVocabulary::coco80();
    let overlaps =
        |range: &Range<usize>| range.start < mention.range.end && mention.range.start < range.end;
    let named = vocabulary.mentions(text);
    let object = named
        .iter()
        .find(|named| overlaps(&named.range))
        .map(|named| &named.object)?;
    let is_named = |caption: &String| {
        vocabulary
            .mentions(caption)
            .iter()
            .any(|shown| shown.object == *object)
    };
    Some(
        photograph.objects.iter().flatten().any(|own| own == object)
            || photograph.image.captions.iter().any(is_named),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn coco_truth_is_annotated_or_named() {
        let marked = |objects: Option<&[&str]>, captions: &[&str]| LabeledPhotograph {
            origin: PhotographOrigin::CocoMini,
            image: Image {
                name: "a.jpg".into(),
                path: "a.jpg".into(),
                captions: captions.iter().map(|&caption| caption.to_owned()).collect(),
            },
            texts: Vec::new(),
            objects: objects.map(|objects| {
                objects
                    .iter()
                    .map(|&object| object.to_owned())
                    .collect::<BTreeSet<_>>()
            }),
            boxes: Vec::new(),
            fold: 0,
        };
        let text = "A man with a pizza and a puppy near a fountain.";
        let truths = |photograph: &LabeledPhotograph| {
            let mentions = Lexicon::shared().mentions(text);
            mentions
                .iter()
                .map(|mention| coco_truth(photograph, text, mention))
                .collect::<Vec<_>>()
        };
        let found = truths(&marked(Some(&["pizza"]), &["A dog sits."]));
        assert_eq!(
            found,
            [Some(false), Some(true), Some(true), None],
            "a puppy is a dog, and a fountain is no object of theirs"
        );
        assert_eq!(
            truths(&marked(None, &["A dog sits."])),
            [None; 4],
            "nobody looked for objects"
        );
    }

    #[test]
    fn rewards_are_the_lowest_reward_and_summed_log_probabilities() {
        let text = LabeledText {
            text: "A fire hydrant.".into(),
            ranges: Vec::new(),
            rest: None,
            recorded: None,
        };
        let scored = ComparedText {
            image: 0,
            question: None,
            kind: None,
            tokens: vec![0..1, 2..6, 7..9, 9..14, 14..15],
            labels: vec![None; 5],
            log_probabilities: vec![-0.1, -0.5, -1.0, -0.25, -9.0],
            scores: vec![vec![9.0, 1.0, -1.0, 2.0, -9.0]],
            text,
        };
        let calibration: Calibration = serde_json::from_value(serde_json::json!({
            "slope": 1.0, "offset": 0.0, "default_threshold": 0.5, "thresholds": [],
            "fitted_on": "a test", "tokens": 1
        }))
        .unwrap();
        let mention = &Lexicon::shared().mentions(&scored.text.text)[0];
        let (reward, log_probability) = rewards(&scored, &mention.range, &calibration).unwrap();
        assert!((reward - 1.0 / (1.0 + 1f32.exp())).abs() < 1e-6, "{reward}");
        assert!((log_probability + 1.75).abs() < 1e-6, "{log_probability}");
    }
}
