//! Content words without an output, with rewards and truth: the data that calibrations of words are
//! fitted on.

use std::{collections::BTreeMap, ops::Range};

use super::{
    super::scored_split::ComparedText,
    labels::{KnownAbsences, truth},
    mentions::{MentionScorer, PhotographText, TextSource, rewards},
};
use crate::{
    eval::objects::judge,
    guard::words::is_function_word,
    lexicon::{ConceptId, Lexicon, Mention, ReferenceTexts, WordClass},
    reward::{calibration::Calibration, finish::sentence_around},
};

/// Minimum number of right and of wrong words of a class for it to be calibrated.
const MIN_WORDS: usize = 30;

/// Content word without an output.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LabeledWord {
    /// Index of the photograph.
    pub(super) photograph: usize,
    pub(super) author: TextSource,
    pub(super) class: WordClass,
    /// `true` if the word is right, `false` if wrong, `None` if unknown.
    pub(super) truth: Option<bool>,
    /// Lowest reward of its tokens.
    pub(super) reward: f32,
    /// Sum of the policy's log-probabilities of its tokens.
    pub(super) log_probability: f32,
    /// Sentence around the word.
    pub(super) sentence: String,
}

/// Labels of a text about a photograph.
struct TextLabels<'a> {
    lexicon: &'a Lexicon,
    references: &'a ReferenceTexts<'a>,
    /// Object mentions in the text with their truth.
    mentions: Vec<(Option<bool>, Mention)>,
    /// Colors and counts in the text that the captions confirm (`true`) or contradict.
    properties: Vec<(Range<usize>, bool)>,
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

impl TextLabels<'_> {
    /// Truth of the mention that a range overlaps, if there is one.
    fn mentioned(&self, range: &Range<usize>) -> Option<Option<bool>> {
        self.mentions
            .iter()
            .find(|(_, mention)| overlap(&mention.range, range))
            .map(|(truth, _)| *truth)
    }

    /// Returns `true` if the captions contain a form of the word.
    fn has(&self, word: &str) -> bool {
        self.references
            .has_word(self.lexicon.base_form(&word.to_lowercase()))
    }

    /// Truth of a word in a caption of another photograph: wrong unless this one's captions contain
    /// it.
    fn truth_in_foreign(&self, range: &Range<usize>, word: &str) -> Option<bool> {
        self.mentioned(range)
            .unwrap_or_else(|| Some(self.has(word)))
    }

    /// Truth of a word in the policy's text. Words about an absent object are wrong; otherwise only
    /// words that the captions contain, and colors and counts that they mention, are known.
    fn truth_in_own(&self, range: &Range<usize>, word: &str, class: WordClass) -> Option<bool> {
        if let Some(truth) = self.mentioned(range) {
            return truth;
        }
        if let Some((_, right)) = self.properties.iter().find(|(own, _)| overlap(own, range)) {
            return Some(*right);
        }
        let describes = matches!(class, WordClass::Attribute | WordClass::Count);
        if !describes && self.has(word) {
            return Some(true);
        }
        let before = self
            .mentions
            .iter()
            .rev()
            .find(|(_, mention)| mention.range.end <= range.start);
        let after = self
            .mentions
            .iter()
            .find(|(_, mention)| mention.range.start >= range.end);
        let (truth, _) = if describes { after } else { before.or(after) }?;
        truth.filter(|right| !right)
    }
}

impl MentionScorer<'_> {
    /// Labels the content words of texts, with rewards from `calibration`; words with an output are
    /// left out.
    pub(super) fn words(
        &self,
        texts: &[(PhotographText, ComparedText)],
        calibration: &Calibration,
        has_output: impl Fn(ConceptId) -> bool,
    ) -> Vec<LabeledWord> {
        let lexicon = Lexicon::shared();
        let absence = KnownAbsences::new(lexicon);
        let mut found = Vec::new();
        for (
            PhotographText {
                photograph,
                source,
                author,
                text,
            },
            scored,
        ) in texts
        {
            let described = &self.photographs.all[*photograph];
            let references = ReferenceTexts::new(lexicon, &described.texts);
            let labeled =
                |mention: Mention| (truth(described, &references, &mention, &absence), mention);
            let properties = judge(lexicon, text, &described.image.captions);
            let labels = TextLabels {
                lexicon,
                references: &references,
                mentions: lexicon.mentions(text).into_iter().map(labeled).collect(),
                properties: [properties.colors, properties.counts].concat(),
            };
            for (range, class) in lexicon.word_classes(text) {
                let word = &text[range.clone()];
                let has_evidence = labels
                    .mentions
                    .iter()
                    .any(|(_, m)| overlap(&m.range, &range) && has_output(m.concept));
                if !word.starts_with(char::is_alphanumeric)
                    || is_function_word(word)
                    || has_evidence
                {
                    continue;
                }
                let Some((reward, log_probability)) = rewards(scored, &range, calibration) else {
                    continue;
                };
                let truth = match author {
                    TextSource::Person if source == photograph => Some(true),
                    TextSource::Person => labels.truth_in_foreign(&range, word),
                    TextSource::Greedy | TextSource::Sampled => {
                        labels.truth_in_own(&range, word, class)
                    }
                };
                let sentence = text[sentence_around(text, range.start)].to_owned();
                found.push(LabeledWord {
                    photograph: *photograph,
                    author: *author,
                    class,
                    truth,
                    reward,
                    log_probability,
                    sentence,
                });
            }
        }
        found
    }
}

/// Classes with enough right and enough wrong words.
pub(super) fn calibrated_classes<'w>(
    counts: impl Iterator<Item = (&'w LabeledWord, bool)>,
) -> Vec<WordClass> {
    let mut by_class: BTreeMap<WordClass, [usize; 2]> = BTreeMap::new();
    counts.for_each(|(word, is_right)| {
        by_class.entry(word.class).or_default()[usize::from(is_right)] += 1
    });
    by_class
        .into_iter()
        .filter(|(_, counts)| counts.iter().all(|&count| count >= MIN_WORDS))
        .map(|(class, _)| class)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lexicon::Support;

    /// Content words of a text with their truth.
    fn judged(text: &str, is_own: bool) -> Vec<(String, Option<bool>)> {
        let captions = ["A man in a red shirt is riding a bike.", "Somebody rides."];
        let lexicon = Lexicon::shared();
        let references = ReferenceTexts::new(lexicon, captions);
        let properties = judge(lexicon, text, &captions);
        let mentions = lexicon.mentions(text).into_iter().map(|mention| {
            (
                Some(references.supports(&mention) == Support::Named),
                mention,
            )
        });
        let labels = TextLabels {
            lexicon,
            references: &references,
            mentions: mentions.collect(),
            properties: [properties.colors, properties.counts].concat(),
        };
        let claims = lexicon
            .word_classes(text)
            .into_iter()
            .filter(|(range, _)| !is_function_word(&text[range.clone()]));
        let truth = |(range, class): (Range<usize>, WordClass)| {
            let word = &text[range.clone()];
            let truth = if is_own {
                labels.truth_in_own(&range, word, class)
            } else {
                labels.truth_in_foreign(&range, word)
            };
            (word.to_owned(), truth)
        };
        claims.map(truth).collect()
    }

    fn expected(words: &[(&str, Option<bool>)]) -> Vec<(String, Option<bool>)> {
        words
            .iter()
            .map(|&(word, truth)| (word.to_owned(), truth))
            .collect()
    }

    #[test]
    fn truth_in_own_words_about_absent_objects_are_wrong() {
        let (right, wrong) = (Some(true), Some(false));
        assert_eq!(
            judged("A man rides.", true),
            expected(&[("man", right), ("rides", right)])
        );
        assert_eq!(
            judged("A man jumps.", true),
            expected(&[("man", right), ("jumps", None)])
        );
        assert_eq!(
            judged("A dog jumps.", true),
            expected(&[("dog", wrong), ("jumps", wrong)])
        );
        assert_eq!(
            judged("A blue shirt.", true),
            expected(&[("blue", wrong), ("shirt", right)])
        );
        assert_eq!(
            judged("A red bike.", true),
            expected(&[("red", None), ("bike", right)])
        );
        assert_eq!(
            judged("Three dogs.", true),
            expected(&[("Three", wrong), ("dogs", wrong)])
        );
    }

    #[test]
    fn truth_in_foreign_words_are_wrong_unless_captions_have_them() {
        let (right, wrong) = (Some(true), Some(false));
        assert_eq!(
            judged("A man jumps.", false),
            expected(&[("man", right), ("jumps", wrong)])
        );
        assert_eq!(
            judged("A red dog rides.", false),
            expected(&[("red", right), ("dog", wrong), ("rides", right)])
        );
    }

    #[test]
    fn calibrated_classes_need_right_and_wrong_words() {
        let word = |class| LabeledWord {
            photograph: 0,
            author: TextSource::Person,
            class,
            truth: None,
            reward: 0.5,
            log_probability: 0.0,
            sentence: String::new(),
        };
        let (action, count) = (word(WordClass::Action), word(WordClass::Count));
        let all = (0..2 * MIN_WORDS).flat_map(|i| [(&action, i % 2 == 0), (&count, i > 0)]);
        assert_eq!(calibrated_classes(all), [WordClass::Action]);
    }
}
