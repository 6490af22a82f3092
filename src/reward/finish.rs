//! Final rewards: words that name an object of which the photograph has evidence get the calibrated
//! probability that the object is present.
//!
//! The same pure function serves growing and complete texts: a word's final reward depends on the
//! text up to its end and on the next word (`fire` names nothing before `hydrant`), so it is known
//! as soon as the next word has closed, and equals that for the complete text. Other content words,
//! without an output of [`Evidence`], have a calibration by word class, so that one threshold has
//! the same meaning for all words of a text; without such a calibration they keep the scorer's
//! reward. Texts that the policy did not write are complete: the match of the sentence with the
//! photograph counts as well.

use std::{ops::Range, sync::Arc};

use super::{
    evidence::{
        Evidence, FeatureCalibration, ImageEvidence, MentionFeatures, SentenceFeatures,
        WordFeatures,
    },
    scorer::TextRewards,
};
use crate::{
    guard::{
        thresholds::is_yes_or_no,
        words::{Word, words},
    },
    lexicon::{ConceptId, Lexicon, WordClass},
};

/// Number of preceding words of the sentence that are read to classify a word.
const CONTEXT: usize = 12;

/// Characters that end a sentence.
const ENDS: [char; 4] = ['.', '!', '?', '\n'];

/// Author of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrittenBy {
    /// The policy, whose log-probabilities then count.
    Policy,
    /// Anyone else.
    Others,
}

/// Final reward of a word, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FinishedReward {
    /// Unknown: the next word has not closed and may change what this one names.
    Pending,
    /// The scorer's reward is final.
    Unchanged,
    /// Final reward of all tokens of the word.
    Reward(f32),
}

/// Text with its closed words, rewards and log-probabilities.
#[derive(Debug, Clone, Copy)]
pub struct ScoredText<'a, F> {
    /// Text so far.
    pub text: &'a str,
    /// `true` if the text is complete.
    pub whole: bool,
    /// Words that have closed.
    pub words: &'a [Word],
    /// The scorer's rewards of the leading tokens.
    pub rewards: &'a [f32],
    /// Log-probability of each token under the policy: natural logarithms.
    pub log_probability: F,
}

/// Computes the final rewards of texts about one photograph.
#[derive(Debug)]
pub struct Finisher {
    evidence: Arc<Evidence>,
    image: ImageEvidence,
    writer: WrittenBy,
}

impl Finisher {
    /// Creates a finisher for texts by `writer` about the photograph of `image`.
    pub fn new(evidence: Arc<Evidence>, image: ImageEvidence, writer: WrittenBy) -> Self {
        Self {
            evidence,
            image,
            writer,
        }
    }

    /// Returns the final reward of word `at`. `waits` is `true` if it was
    /// [`FinishedReward::Pending`] before.
    pub fn finish(
        &self,
        written: &ScoredText<'_, impl Fn(usize) -> f32>,
        at: usize,
        waits: bool,
    ) -> FinishedReward {
        let sentence = match (self.writer, written.words.get(at)) {
            (WrittenBy::Others, Some(word)) => {
                let bytes = sentence_around(written.text, word.bytes.start);
                SentenceFeatures::new(&self.evidence, &self.image, &written.text[bytes])
            }
            _ => SentenceFeatures::default(),
        };
        self.finish_within(written, at, waits, sentence)
    }

    fn finish_within(
        &self,
        written: &ScoredText<'_, impl Fn(usize) -> f32>,
        at: usize,
        waits: bool,
        sentence: SentenceFeatures,
    ) -> FinishedReward {
        let ScoredText { text, words, .. } = *written;
        let Some(word) = words
            .get(at)
            .filter(|word| word.score.is_some() && !word.function)
        else {
            return FinishedReward::Unchanged;
        };
        let (next, from) = (following_text(written, at), context_start(text, words, at));
        let begins =
            self.word_calibration().is_some() && text[..word.bytes.start].trim().is_empty();
        let names_nothing = !waits
            && !begins
            && mention_at(text, from, word, word.bytes.end).is_none()
            && !begins_compound(&text[word.bytes.clone()]);
        let end = match next {
            _ if names_nothing => word.bytes.end,
            FollowingText::Open => return FinishedReward::Pending,
            FollowingText::None => word.bytes.end,
            FollowingText::Word(end) => end,
        };
        // "Yes." and "Two." are answers; calibrations of words are fitted on descriptions.
        let answers = begins && (matches!(next, FollowingText::None) || is_yes_or_no(text, word));
        let named = if names_nothing {
            None
        } else {
            mention_at(text, from, word, end)
        };
        let reward = named
            .and_then(|(bytes, concept)| self.mention_reward(written, &bytes, concept, sentence));
        let word_reward = || {
            (!answers).then(|| {
                self.word_reward(written, word, word_class(text, from, word, end), sentence)
            })?
        };
        reward
            .or_else(word_reward)
            .map_or(FinishedReward::Unchanged, FinishedReward::Reward)
    }

    /// Replaces the rewards of a complete text, whose tokens have the bytes `tokens`, by the final
    /// ones.
    pub fn finish_scored<'a>(
        &self,
        tokens: impl IntoIterator<Item = &'a [u8]>,
        scored: &mut TextRewards,
    ) {
        let (text, words) = words(tokens, &scored.rewards);
        let rewards = scored.rewards.clone();
        let log_probability =
            |token: usize| scored.log_probabilities.get(token).copied().unwrap_or(0.0);
        let written = ScoredText {
            text: &text,
            whole: true,
            words: &words,
            rewards: &rewards,
            log_probability,
        };
        let mut sentence = (0..0, SentenceFeatures::default());
        for (at, word) in words.iter().enumerate() {
            if self.writer == WrittenBy::Others && word.bytes.start >= sentence.0.end {
                let bytes = sentence_around(&text, word.bytes.start);
                sentence = (
                    bytes.clone(),
                    SentenceFeatures::new(&self.evidence, &self.image, &text[bytes]),
                );
            }
            let finish = self.finish_within(&written, at, false, sentence.1);
            if let (FinishedReward::Reward(reward), Some(tokens)) =
                (finish, scored.rewards.get_mut(word.tokens.clone()))
            {
                tokens.fill(reward);
            }
        }
    }

    /// Returns the threshold that flags a share `target` of the correct words about photographs as
    /// familiar as this one; `None` if nothing was measured.
    pub fn threshold_for_fpr(&self, target: f64) -> Option<f32> {
        self.calibration()
            .thresholds
            .for_fpr(target, self.image.familiarity)
    }

    /// Returns the familiarity of the photograph, 0 to 1.
    pub fn familiarity(&self) -> f32 {
        self.image.familiarity
    }

    /// Returns the names of likely objects, the most likely first.
    pub fn likely_objects(&self) -> Vec<&'static str> {
        self.evidence.likely_objects(&self.image)
    }

    /// Returns the reward of a mention's tokens; `None` if there is no evidence about its concept.
    fn mention_reward(
        &self,
        written: &ScoredText<'_, impl Fn(usize) -> f32>,
        bytes: &Range<usize>,
        concept: ConceptId,
        sentence: SentenceFeatures,
    ) -> Option<f32> {
        let output = self.evidence.output_for(concept)?;
        let mut own_words = written
            .words
            .iter()
            .filter(|word| overlap(&word.bytes, bytes));
        let first = own_words.next()?;
        let tokens = first.tokens.start..own_words.next_back().unwrap_or(first).tokens.end;
        let reward = written
            .rewards
            .get(tokens.clone())?
            .iter()
            .copied()
            .reduce(f32::min)?;
        let log_probability = tokens.map(&written.log_probability).sum();
        let person = Evidence::is_person(concept);
        let features = MentionFeatures::new(
            &self.evidence,
            &self.image,
            output,
            reward,
            log_probability,
            person,
        )?
        .with_sentence(sentence);
        Some(self.calibration().probability(|name| features.value(name)))
    }

    fn word_calibration(&self) -> Option<&FeatureCalibration> {
        let calibrations = &self.evidence.config().calibration;
        match self.writer {
            WrittenBy::Policy => calibrations.own_words.as_ref(),
            WrittenBy::Others => calibrations.other_words.as_ref(),
        }
    }

    /// Returns the reward of a word without evidence; `None` if the calibration does not cover its
    /// class.
    fn word_reward(
        &self,
        written: &ScoredText<'_, impl Fn(usize) -> f32>,
        word: &Word,
        class: WordClass,
        sentence: SentenceFeatures,
    ) -> Option<f32> {
        let calibration = self.word_calibration()?;
        calibration
            .features
            .iter()
            .find(|name| *name == WordFeatures::class_feature(class))?;
        let reward = written
            .rewards
            .get(word.tokens.clone())?
            .iter()
            .copied()
            .reduce(f32::min)?;
        let log_probability = word.tokens.clone().map(&written.log_probability).sum();
        let features = WordFeatures::new(class, &self.image, reward, log_probability, sentence);
        Some(calibration.probability(|name| features.value(name)))
    }

    fn calibration(&self) -> &FeatureCalibration {
        let calibrations = &self.evidence.config().calibration;
        match self.writer {
            WrittenBy::Policy => &calibrations.own,
            WrittenBy::Others => &calibrations.others,
        }
    }
}

/// Returns the byte from which the context of word `at` begins.
fn context_start(text: &str, words: &[Word], at: usize) -> usize {
    let first = words[at.saturating_sub(CONTEXT)].bytes.start;
    let before = &text[first..words[at].bytes.start];
    before.rfind(ENDS).map_or(first, |end| first + end + 1)
}

/// Returns the byte range of the sentence that contains byte `at` of a complete text.
pub(crate) fn sentence_around(text: &str, at: usize) -> Range<usize> {
    // A line that begins in lower case continues the sentence.
    let ends = |(byte, c): &(usize, char)| {
        let goes_on = || {
            text[byte + c.len_utf8()..]
                .trim_start()
                .starts_with(char::is_lowercase)
        };
        ENDS.contains(c) && !(*c == '\n' && goes_on())
    };
    let start = text[..at]
        .char_indices()
        .rev()
        .find(ends)
        .map_or(0, |(byte, c)| byte + c.len_utf8());
    let end = text[at..]
        .char_indices()
        .map(|(byte, c)| (at + byte, c))
        .find(ends);
    start..end.map_or(text.len(), |(byte, c)| byte + c.len_utf8())
}

/// Returns the class of a word in a text that is read up to byte `end`.
fn word_class(text: &str, from: usize, word: &Word, end: usize) -> WordClass {
    let classes = Lexicon::shared().word_classes(&text[from..end]);
    let own = classes
        .into_iter()
        .find(|(bytes, _)| overlap(&(from + bytes.start..from + bytes.end), &word.bytes));
    own.map_or(WordClass::Other, |(_, class)| class)
}

/// Returns the byte range and concept of the mention to which a word belongs, in a text that is
/// read up to byte `end`.
fn mention_at(
    text: &str,
    from: usize,
    word: &Word,
    end: usize,
) -> Option<(Range<usize>, ConceptId)> {
    let mentions = Lexicon::shared().mentions(&text[from..end]);
    let mut ranges = mentions.iter().map(|mention| {
        (
            from + mention.range.start..from + mention.range.end,
            mention.concept,
        )
    });
    ranges.find(|(bytes, _)| overlap(bytes, &word.bytes))
}

fn begins_compound(word: &str) -> bool {
    Lexicon::shared().begins_compound(&word.to_lowercase())
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

/// Text directly after a word and white space.
enum FollowingText {
    /// A word that may grow, or nothing yet.
    Open,
    /// Not a word.
    None,
    /// A word that ends at this byte.
    Word(usize),
}

fn following_text<F>(written: &ScoredText<'_, F>, at: usize) -> FollowingText {
    let ScoredText {
        text, whole, words, ..
    } = written;
    let end = words[at].bytes.end;
    let open = if *whole {
        FollowingText::None
    } else {
        FollowingText::Open
    };
    match (
        text[end..].chars().find(|c| !c.is_whitespace()),
        words.get(at + 1),
    ) {
        (None, _) => open,
        (Some(c), _) if !c.is_alphanumeric() => FollowingText::None,
        (Some(_), None) => open,
        (Some(_), Some(next)) if text[end..next.bytes.start].trim().is_empty() => {
            FollowingText::Word(next.bytes.end)
        }
        // The following text is markup.
        (Some(_), Some(_)) => FollowingText::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::testing::{file, finisher, matching};

    /// Logits computed by hand for a feature map: evidence of a dog, none of people, little of a
    /// fire hydrant.
    const LOGITS: [f32; 3] = [1.899_789, -0.654_269, 1.054_058];

    fn finished(finisher: &Finisher, tokens: &[(&str, f32, f32)]) -> Vec<f32> {
        let mut scored = TextRewards {
            rewards: tokens.iter().map(|t| t.1).collect(),
            log_probabilities: tokens.iter().map(|t| t.2).collect(),
        };
        finisher.finish_scored(tokens.iter().map(|t| t.0.as_bytes()), &mut scored);
        assert_eq!(
            scored.log_probabilities,
            tokens.iter().map(|t| t.2).collect::<Vec<_>>()
        );
        scored.rewards
    }

    #[track_caller]
    fn near(found: &[f32], expected: &[f32]) {
        assert!(
            found.len() == expected.len()
                && found
                    .iter()
                    .zip(expected)
                    .all(|(a, b)| (a - b).abs() < 1e-5),
            "{found:?} {expected:?}"
        );
    }

    #[test]
    fn rewards_of_mentions_equal_those_computed_by_hand_and_others_stay() {
        let own = finisher(LOGITS, WrittenBy::Policy);
        let tokens = [
            ("A", 0.9, -0.1),
            (" black", 0.7, -0.2),
            (" do", 0.8, -0.6),
            ("g", 0.95, -0.4),
            (" near", 0.5, -1.0),
            (" a", 0.5, -1.0),
        ];
        // The lowest reward of its tokens and the sum of their log-probabilities.
        near(
            &finished(&own, &tokens),
            &[0.9, 0.7, 0.811_603, 0.811_603, 0.5, 0.5],
        );
        near(
            &finished(
                &own,
                &[("A", 0.9, -0.1), (" man", 0.6, -1.0), (".", 0.3, 0.0)],
            ),
            &[0.9, 0.463_864, 0.3],
        );
        // There is no evidence about cars, and "walking" is not a mention.
        near(
            &finished(
                &own,
                &[
                    ("A", 0.9, -0.1),
                    (" car", 0.6, -1.0),
                    (" walking", 0.3, 0.0),
                ],
            ),
            &[0.9, 0.6, 0.3],
        );
        // Independent of the scorer and the policy.
        near(
            &finished(&finisher(LOGITS, WrittenBy::Others), &tokens)[2..4],
            &[0.883_637; 2],
        );
    }

    #[test]
    fn compound_noun_has_one_reward() {
        let own = finisher(LOGITS, WrittenBy::Policy);
        let with = |last: &str| {
            finished(
                &own,
                &[
                    ("a", 0.9, -0.1),
                    (" fire", 0.6, -0.2),
                    (last, 0.8, -0.6),
                    (".", 0.9, 0.0),
                ],
            )
        };
        let hydrant = with(" hydrant");
        assert!(
            hydrant[1] == hydrant[2] && hydrant[1] != 0.6 && (hydrant[0], hydrant[3]) == (0.9, 0.9),
            "{hydrant:?}"
        );
        assert_eq!(with(" engine")[0], 0.9);
        // Plurals and any case are mentions; a noun that only modifies another is not.
        for (text, is_named) in [
            ("Dogs", true),
            ("DOG", true),
            ("dogs", true),
            ("cats", false),
        ] {
            let found = finished(
                &own,
                &[("Two ", 0.9, -0.1), (text, 0.6, -0.2), (" run.", 0.5, -0.3)],
            );
            assert_eq!(found[1] != 0.6, is_named, "{text}: {found:?}");
        }
        let qualifying = finished(
            &own,
            &[
                ("a", 0.9, -0.1),
                (" dog", 0.6, -0.2),
                (" bowl", 0.8, -0.6),
                (" is", 0.8, -0.1),
            ],
        );
        assert_eq!(qualifying[1], 0.6);
    }

    #[test]
    fn rewards_by_sentence_and_word_class_equal_those_computed_by_hand() {
        let (arrays, config) = matching();
        let evidence = Arc::new(
            Evidence::from_files(Some(config.to_string().as_bytes()), Some(&file(&arrays)))
                .unwrap()
                .unwrap(),
        );
        let image = ImageEvidence {
            logits: LOGITS.into(),
            familiarity: 0.68371,
            embedding: Some([0.799_957, 0.600_058, 0.799_957, 0.600_058].into()),
            scope: None,
        };
        let others = Finisher::new(Arc::clone(&evidence), image.clone(), WrittenBy::Others);
        let text = [
            ("A", 0.9, 0.0),
            (" dog", 0.8, 0.0),
            (" runs", 0.7, 0.0),
            (".", 0.6, 0.0),
            (" A", 0.5, 0.0),
            (" man", 0.4, 0.0),
        ];
        let found = finished(
            &others,
            &[
                &text[..],
                &[(" in", 0.3, 0.0), (" red", 0.2, 0.0), ("!", 0.1, 0.0)],
            ]
            .concat(),
        );
        near(&found[..5], &[0.9, 0.968_795, 0.650_373, 0.6, 0.5]);
        near(&found[5..6], &[0.501_710]);
        assert_eq!(
            found[6..],
            [0.3, 0.2, 0.1],
            "nothing is known of colors in texts by others"
        );
        near(
            &finished(&others, &[&text[4..], &[(".", 0.6, 0.0)]].concat()),
            &[0.5, 0.124_446, 0.6],
        );
        // Sentence features are not used for text by the policy.
        let own = Finisher::new(evidence, image, WrittenBy::Policy);
        let found = finished(
            &own,
            &[
                ("A", 0.9, 0.0),
                (" red", 0.7, -0.2),
                (" dog", 0.8, -1.0),
                (" runs", 0.6, -1.0),
            ],
        );
        near(&[found[1], found[3]], &[0.783_070, 0.6]);
        near(
            &[found[2]],
            &finished(&finisher(LOGITS, WrittenBy::Policy), &[(" dog", 0.8, -1.0)]),
        );
    }

    #[test]
    fn reward_of_a_one_word_answer_is_unchanged() {
        let (arrays, config) = matching();
        let evidence = Arc::new(
            Evidence::from_files(Some(config.to_string().as_bytes()), Some(&file(&arrays)))
                .unwrap()
                .unwrap(),
        );
        let image = ImageEvidence {
            logits: LOGITS.into(),
            familiarity: 0.68371,
            embedding: None,
            scope: None,
        };
        let own = Finisher::new(evidence, image, WrittenBy::Policy);
        let is_finished = |tokens: &[&str], at: usize| {
            let tokens: Vec<(&str, f32, f32)> =
                tokens.iter().map(|&token| (token, 0.6, -0.5)).collect();
            finished(&own, &tokens)[at] != 0.6
        };
        assert!(
            !is_finished(&["Red", "."], 0)
                && !is_finished(&["Red", ", it is."], 0)
                && !is_finished(&["Red"], 0)
        );
        assert!(is_finished(&["Red", " cars", "."], 0) && is_finished(&["It is", " red", "."], 1));
        let open = |text: &str| {
            let mut transcript = crate::guard::words::Transcript::default();
            transcript.push(text.as_bytes());
            let words: Vec<Word> =
                std::iter::from_fn(|| transcript.next_word(&[0.6], Some(usize::MAX))).collect();
            own.finish(
                &ScoredText {
                    text,
                    whole: false,
                    words: &words,
                    rewards: &[0.6],
                    log_probability: |_| -0.5,
                },
                0,
                false,
            )
        };
        assert_eq!(
            (open("Red ca"), open("Red. ")),
            (FinishedReward::Pending, FinishedReward::Unchanged)
        );
        assert!(matches!(open("Red cars are on"), FinishedReward::Reward(_)));
    }

    #[test]
    fn sentence_around_a_byte_ends_at_its_mark() {
        let text = "A dog. A cat runs!\nA man";
        let found = [0, 2, 7, 13, 19, 21].map(|at| &text[sentence_around(text, at)]);
        assert_eq!(
            &"A dog\nruns. It"[sentence_around("A dog\nruns. It", 2)],
            "A dog\nruns."
        );
        assert_eq!(
            found,
            [
                "A dog.",
                "A dog.",
                " A cat runs!",
                " A cat runs!",
                "A man",
                "A man"
            ]
        );
    }

    #[test]
    fn reward_is_pending_until_the_next_word_has_closed() {
        let own = finisher(LOGITS, WrittenBy::Policy);
        let reward_at = |text: &str, whole: bool, at: usize| {
            let mut transcript = crate::guard::words::Transcript::default();
            transcript.push(text.as_bytes());
            if whole {
                transcript.close(None);
            }
            let words: Vec<Word> =
                std::iter::from_fn(|| transcript.next_word(&[0.6], Some(usize::MAX))).collect();
            own.finish(
                &ScoredText {
                    text,
                    whole,
                    words: &words,
                    rewards: &[0.6],
                    log_probability: |_| -1.0,
                },
                at,
                false,
            )
        };
        assert_eq!(reward_at("a dog is", false, 1), FinishedReward::Pending);
        assert!(matches!(
            reward_at("a dog is running", false, 1),
            FinishedReward::Reward(_)
        ));
        assert!(matches!(
            reward_at("a dog. ", false, 1),
            FinishedReward::Reward(_)
        ));
        assert!(matches!(
            reward_at("a dog", true, 1),
            FinishedReward::Reward(_)
        ));
        assert_eq!(reward_at("a dog", true, 0), FinishedReward::Unchanged);
        assert_eq!(
            reward_at("a red dog is", false, 1),
            FinishedReward::Unchanged
        );
        assert_eq!(reward_at("a dog", true, 7), FinishedReward::Unchanged);
    }
}
