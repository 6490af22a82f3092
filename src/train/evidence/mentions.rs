//! Things that texts mention, with their rewards and whether they are there: what calibrations are
//! fitted on.

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

/// Origins with people's captions; how many of a photograph are scored, and as many of another's.
const PEOPLES: [(PhotographOrigin, usize); 2] = [
    (PhotographOrigin::Flickr8k, 2),
    (PhotographOrigin::CocoMini, 5),
];

/// Most tokens of a text of several captions.
const MOST_TOKENS: usize = 64;

/// Who wrote a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextSource {
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
    pub(super) author: TextSource,
    pub(super) concept: ConceptId,
    /// Whether it is there, where that is known.
    pub(super) truth: Option<bool>,
    /// The same by COCO's objects, where it names one and they are known.
    pub(super) coco: Option<bool>,
    /// Lowest reward of its tokens.
    pub(super) reward: f32,
    /// Sum of the policy's log-probabilities of its tokens.
    pub(super) log_probability: f32,
    /// The sentence that it is in.
    pub(super) sentence: String,
}

impl JudgedMention {
    /// Returns `true` if it names people.
    pub(super) fn is_person(&self) -> bool {
        Evidence::is_person(self.concept)
    }
}

/// A text about a photograph.
pub(super) struct PhotographText {
    pub(super) photograph: usize,
    /// Number of the photograph that it was written of.
    pub(super) source: usize,
    pub(super) author: TextSource,
    pub(super) text: String,
}

/// The bundle's scorer, and what its numbers mean.
pub(super) struct BundleScorer {
    pub(super) contender: [ComparedScorer; 1],
    pub(super) calibration: Calibration,
}

impl BundleScorer {
    /// That which a bundle serves by default.
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
        let contender = compared_scorers::of_bundle(policy)?
            .into_iter()
            .find(|c| c.name == kind.name())
            .ok_or_else(missing)?;
        let calibration = compared_scorers::calibrations(policy)?
            .remove(&kind)
            .ok_or_else(missing)?;
        Ok(Self {
            contender: [contender],
            calibration,
        })
    }
}

/// Photographs that nobody learned from, their features as they are, and who judges what is said of
/// them.
pub(super) struct MentionScorer<'a> {
    pub(super) setup: &'a Setup,
    pub(super) photographs: &'a AllPhotographs,
    /// Of all photographs behind the training split.
    pub(super) features: &'a Features,
    pub(super) scorer: &'a BundleScorer,
}

impl MentionScorer<'_> {
    /// Lets the policy caption photographs, by their numbers.
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
        let places: Vec<usize> = numbers.iter().map(|i| i - self.photographs.train).collect();
        let texts = own_captions(
            self.setup,
            &images,
            &self.features.plain(&places),
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

    /// Photographs of an origin with captions, each with the next one, whose captions are wrong
    /// about it.
    fn captioned(&self, numbers: &[usize], origin: PhotographOrigin) -> Vec<(usize, usize)> {
        let of = |i: &usize| {
            self.photographs.all[*i].origin == origin
                && !self.photographs.all[*i].image.captions.is_empty()
        };
        let captioned: Vec<usize> = numbers.iter().copied().filter(of).collect();
        let next = captioned.iter().copied().cycle().skip(1);
        captioned.iter().copied().zip(next).collect()
    }

    /// A photograph's first captions as they are scored.
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

    /// People's captions of photographs, and those of the next photograph of the same origin.
    pub(super) fn peoples(&self, numbers: &[usize]) -> Vec<PhotographText> {
        let mut written = Vec::new();
        for (origin, most) in PEOPLES {
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

    /// Texts of several captions of a photograph, one of which is of another; each with its
    /// photograph. Those that are too long to be scored at once are left out.
    ///
    /// # Errors
    /// When a text cannot be cut into tokens.
    pub(super) fn mixed(
        &self,
        numbers: &[usize],
    ) -> Result<BTreeMap<usize, MixedText>, TrainError> {
        let mut found = BTreeMap::new();
        for (origin, _) in PEOPLES {
            for (turn, (photograph, other)) in
                self.captioned(numbers, origin).into_iter().enumerate()
            {
                let (own, others) = (
                    self.captions_of(photograph, usize::MAX),
                    self.captions_of(other, usize::MAX),
                );
                // The last ones: those that calibrations are fitted on are the first.
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
                if tokens.len() <= MOST_TOKENS {
                    found.insert(photograph, text);
                }
            }
        }
        Ok(found)
    }

    /// Scores texts that say something; those of a photograph stand behind one another then.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub(super) fn scored(
        &self,
        mut texts: Vec<PhotographText>,
    ) -> Result<Vec<(PhotographText, ComparedText)>, TrainError> {
        texts.retain(|written| !written.text.is_empty());
        texts.sort_by_key(|written| written.photograph);
        let mut said = vec![Vec::new(); self.photographs.all.len() - self.photographs.train];
        for written in &texts {
            let text = LabeledText {
                text: written.text.clone(),
                ranges: Vec::new(),
                rest: None,
                recorded: None,
            };
            said[written.photograph - self.photographs.train]
                .push((ImageStatement::from(text), None));
        }
        let scored = score(self.setup, self.features, &self.scorer.contender, &said)?;
        Ok(texts.into_iter().zip(scored).collect())
    }

    /// Judges what texts mention, with rewards by `calibration`.
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

    /// Rewards of a text's tokens by the scorer, a yes or no that answers by the calibration of its
    /// own.
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

    /// The rewards of a text of the policy as they are served: words that name things have those
    /// that evidence gives them.
    ///
    /// # Errors
    /// When the text cannot be cut into tokens.
    pub(super) fn served(
        &self,
        text: &ComparedText,
        evidence: &Arc<Evidence>,
        image: &ImageEvidence,
    ) -> Result<(Vec<u32>, TextRewards), TrainError> {
        self.served_by(WrittenBy::Policy, text, evidence, image)
    }

    /// The same of a text of `writer`.
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

/// The lowest reward of the tokens of a range, and the sum of their log-probabilities.
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

/// Returns whether a photograph with COCO's objects shows the one that a mention names: it was
/// marked, or a person's caption names it.
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
    fn objects_are_there_where_they_were_marked_or_named() {
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
    fn a_mention_has_the_lowest_reward_and_all_log_probabilities_of_its_tokens() {
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
