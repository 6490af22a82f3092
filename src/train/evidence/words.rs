//! Words that claim something and name nothing that has an output, with their rewards and whether
//! they are right: what calibrations of words are fitted on.

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

/// How many right and how many wrong words a class must have to be calibrated.
const LEAST: usize = 30;

/// A word without an output.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LabeledWord {
    /// Number of the photograph.
    pub(super) photograph: usize,
    pub(super) author: TextSource,
    pub(super) class: WordClass,
    /// Whether it is right, where that is known.
    pub(super) truth: Option<bool>,
    /// Lowest reward of its tokens.
    pub(super) reward: f32,
    /// Sum of the policy's log-probabilities of its tokens.
    pub(super) log_probability: f32,
    /// The sentence that it is in.
    pub(super) sentence: String,
}

/// What is known of a photograph that a text is about.
struct Known<'a> {
    lexicon: &'a Lexicon,
    references: &'a ReferenceTexts<'a>,
    /// Whether the things that the text mentions are there.
    mentions: Vec<(Option<bool>, Mention)>,
    /// Its colors and counts of which the captions say whether they are right.
    properties: Vec<(Range<usize>, bool)>,
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

impl Known<'_> {
    /// The truth of a mention that a range is part of.
    fn mentioned(&self, range: &Range<usize>) -> Option<Option<bool>> {
        self.mentions
            .iter()
            .find(|(_, mention)| overlap(&mention.range, range))
            .map(|(truth, _)| *truth)
    }

    /// Returns whether the captions have a word in some form.
    fn has(&self, word: &str) -> bool {
        self.references
            .has_word(self.lexicon.base_form(&word.to_lowercase()))
    }

    /// Of a word in a caption of another photograph: wrong unless this one's captions have it too.
    fn in_foreign(&self, range: &Range<usize>, word: &str) -> Option<bool> {
        self.mentioned(range)
            .unwrap_or_else(|| Some(self.has(word)))
    }

    /// Of a word in what the policy wrote. What is said of a thing that is not there is wrong; of
    /// other words only those that the captions have, and the colors and counts of which they
    /// speak, are known.
    fn in_own(&self, range: &Range<usize>, word: &str, class: WordClass) -> Option<bool> {
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
    /// Judges the words of texts that claim something, with rewards by `calibration`; those that
    /// name something for which `has_output` are left out.
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
            let about = &self.photographs.all[*photograph];
            let references = ReferenceTexts::new(lexicon, &about.texts);
            let judged =
                |mention: Mention| (truth(about, &references, &mention, &absence), mention);
            let properties = judge(lexicon, text, &about.image.captions);
            let known = Known {
                lexicon,
                references: &references,
                mentions: lexicon.mentions(text).into_iter().map(judged).collect(),
                properties: [properties.colors, properties.counts].concat(),
            };
            for (range, class) in lexicon.word_classes(text) {
                let word = &text[range.clone()];
                let has_evidence = known
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
                    TextSource::Person => known.in_foreign(&range, word),
                    TextSource::Greedy | TextSource::Sampled => known.in_own(&range, word, class),
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

/// The classes that have enough words of which `counts` says that they are right, and that they are
/// wrong.
pub(super) fn calibrated_classes<'w>(
    counts: impl Iterator<Item = (&'w LabeledWord, bool)>,
) -> Vec<WordClass> {
    let mut by_class: BTreeMap<WordClass, [usize; 2]> = BTreeMap::new();
    counts.for_each(|(word, is_right)| {
        by_class.entry(word.class).or_default()[usize::from(is_right)] += 1
    });
    by_class
        .into_iter()
        .filter(|(_, counts)| counts.iter().all(|&count| count >= LEAST))
        .map(|(class, _)| class)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lexicon::Support;

    /// Every word of a text that claims something, with what captions say of it.
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
        let known = Known {
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
                known.in_own(&range, word, class)
            } else {
                known.in_foreign(&range, word)
            };
            (word.to_owned(), truth)
        };
        claims.map(truth).collect()
    }

    fn said(words: &[(&str, Option<bool>)]) -> Vec<(String, Option<bool>)> {
        words
            .iter()
            .map(|&(word, truth)| (word.to_owned(), truth))
            .collect()
    }

    #[test]
    fn what_is_said_of_absent_things_is_wrong_and_much_is_unknown() {
        let (right, wrong) = (Some(true), Some(false));
        assert_eq!(
            judged("A man rides.", true),
            said(&[("man", right), ("rides", right)])
        );
        assert_eq!(
            judged("A man jumps.", true),
            said(&[("man", right), ("jumps", None)])
        );
        assert_eq!(
            judged("A dog jumps.", true),
            said(&[("dog", wrong), ("jumps", wrong)])
        );
        assert_eq!(
            judged("A blue shirt.", true),
            said(&[("blue", wrong), ("shirt", right)])
        );
        assert_eq!(
            judged("A red bike.", true),
            said(&[("red", None), ("bike", right)])
        );
        assert_eq!(
            judged("Three dogs.", true),
            said(&[("Three", wrong), ("dogs", wrong)])
        );
    }

    #[test]
    fn captions_of_another_photograph_are_wrong_but_for_words_that_fit_too() {
        let (right, wrong) = (Some(true), Some(false));
        assert_eq!(
            judged("A man jumps.", false),
            said(&[("man", right), ("jumps", wrong)])
        );
        assert_eq!(
            judged("A red dog rides.", false),
            said(&[("red", right), ("dog", wrong), ("rides", right)])
        );
    }

    #[test]
    fn classes_need_right_and_wrong_words() {
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
        let all = (0..2 * LEAST).flat_map(|i| [(&action, i % 2 == 0), (&count, i > 0)]);
        assert_eq!(calibrated_classes(all), [WordClass::Action]);
    }
}
