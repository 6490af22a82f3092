//! Names of the features that calibrations may use, and of the kinds of answers in them.

use crate::{
    guard::question::QuestionKind,
    lexicon::{Lexicon, WordClass, words},
};

/// Features of an object mention.
pub(in crate::reward) const MENTION: [&str; 8] = [
    "evidence",
    "evidence_minus_prior",
    "familiarity",
    "reward_logit",
    "log_probability",
    "is_person",
    "person_evidence",
    "person_reward",
];

/// Features of the sentence that contains a word.
pub(in crate::reward) const SENTENCE: [&str; 2] = ["match", "sentence_evidence"];

/// Features of words of every class, beside [`SENTENCE`].
pub(in crate::reward) const WORD: [&str; 3] = ["familiarity", "reward_logit", "log_probability"];

/// Basic features of a question and its short answer.
pub(in crate::reward) const ANSWER: [&str; 11] = [
    "asked_evidence",
    "asked_evidence_claimed",
    "asked_evidence_minus_prior_claimed",
    "asked_unknown",
    "claim",
    "answered_evidence",
    "answered_evidence_minus_prior",
    "answered_unknown",
    "familiarity",
    "reward_logit",
    "log_probability",
];

/// Returns the names of the features of a word without evidence: those of every class, those of
/// sentences, and one per class.
pub(in crate::reward) fn word_features() -> impl Iterator<Item = &'static str> {
    WORD.into_iter()
        .chain(SENTENCE)
        .chain(WordClass::ALL.map(class_feature))
}

/// Returns the name of the feature that is 1 for words of a class and 0 for others.
pub(in crate::reward) fn class_feature(class: WordClass) -> &'static str {
    match class {
        WordClass::Person => "is_person",
        WordClass::Animal => "is_animal",
        WordClass::Object => "is_thing",
        WordClass::Attribute => "is_attribute",
        WordClass::Count => "is_count",
        WordClass::Action => "is_action",
        WordClass::Relation => "is_relation",
        WordClass::Other => "is_other",
    }
}

/// Returns `true` if an answer has a feature of that name.
pub(in crate::reward) fn is_answer_feature(name: &str) -> bool {
    ANSWER.contains(&name) || kinds(name).is_some() || scoped(name).is_some()
}

/// Kind of a short answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerKind {
    /// Yes or no.
    YesNo,
    /// A number.
    Count,
    /// A color.
    Color,
    /// An object or a person.
    Object,
    /// Anything else.
    Other,
}

impl AnswerKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [
        Self::YesNo,
        Self::Count,
        Self::Color,
        Self::Object,
        Self::Other,
    ];

    /// Returns its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::YesNo => "yes_no",
            Self::Count => "count",
            Self::Color => "color",
            Self::Object => "thing",
            Self::Other => "other",
        }
    }

    /// Classifies an answer by its decisive words: yes or no, else an object mention, else a color
    /// or number.
    pub fn classify(answer: &str) -> Self {
        let (lexicon, words) = (Lexicon::shared(), words(answer));
        if yes_or_no(answer).is_some() {
            return Self::YesNo;
        }
        if !lexicon.mentions(answer).is_empty() {
            return Self::Object;
        }
        let has = |is: &dyn Fn(&str) -> bool| words.iter().any(|word| is(&word.text));
        match () {
            () if has(&|word| lexicon.classes().color(word).is_some()) => Self::Color,
            () if has(&|word| {
                lexicon.classes().count(word).is_some()
                    || word.bytes().all(|byte| byte.is_ascii_digit())
            }) =>
            {
                Self::Count
            }
            () => Self::Other,
        }
    }
}

/// Returns the reply of an answer to a yes-or-no question: `true` for yes.
pub(in crate::reward) fn yes_or_no(answer: &str) -> Option<bool> {
    match words(answer).first()?.text.as_str() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

/// Parses a name such as `presence:claim` into kind of question and feature.
pub(in crate::reward) fn scoped(name: &str) -> Option<(QuestionKind, &str)> {
    let (kind, feature) = name.split_once(':')?;
    let kind = QuestionKind::ALL
        .into_iter()
        .find(|own| own.name() == kind)?;
    ANSWER.contains(&feature).then_some((kind, feature))
}

/// Parses a name such as `count>thing` into kinds of question and answer.
pub(in crate::reward) fn kinds(name: &str) -> Option<(QuestionKind, AnswerKind)> {
    let (question, answer) = name.split_once('>')?;
    let question = QuestionKind::ALL
        .into_iter()
        .find(|kind| kind.name() == question)?;
    Some((
        question,
        AnswerKind::ALL
            .into_iter()
            .find(|kind| kind.name() == answer)?,
    ))
}
