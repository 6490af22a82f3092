//! How likely a short answer is right: what calibrations read of a question and its answer.

use std::sync::Arc;

use super::evidence::{Evidence, ImageEvidence};
use crate::{
    guard::{
        abstain::{AnswerGate, WrittenAnswer},
        question::{self, QuestionKind},
    },
    lexicon::{Lexicon, words},
};

/// What sort of thing an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerKind {
    /// Yes or no.
    YesNo,
    /// A number.
    Count,
    /// A color.
    Color,
    /// A thing or a person.
    Thing,
    /// Anything else.
    Other,
}

impl AnswerKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::YesNo, Self::Count, Self::Color, Self::Thing, Self::Other];

    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::YesNo => "yes_no",
            Self::Count => "count",
            Self::Color => "color",
            Self::Thing => "thing",
            Self::Other => "other",
        }
    }

    /// What an answer says first, by the words that decide: yes and no, else what it names, else numbers and colors.
    pub fn of(answer: &str) -> Self {
        let (lexicon, words) = (Lexicon::shared(), words(answer));
        if said(answer).is_some() {
            return Self::YesNo;
        }
        if !lexicon.mentions(answer).is_empty() {
            return Self::Thing;
        }
        let has = |is: &dyn Fn(&str) -> bool| words.iter().any(|word| is(&word.text));
        match () {
            () if has(&|word| lexicon.classes().colour(word).is_some()) => Self::Color,
            () if has(&|word| lexicon.classes().count(word).is_some() || word.bytes().all(|byte| byte.is_ascii_digit())) => Self::Count,
            () => Self::Other,
        }
    }
}

/// Returns what an answer says to a question of yes or no.
fn said(answer: &str) -> Option<bool> {
    match words(answer).first()?.text.as_str() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

/// Nouns by which a question calls the photograph.
const PHOTOGRAPH: [&str; 4] = ["picture", "photo", "photograph", "image"];

/// What calibrations read of a question about a photograph and a short answer to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnswerFeatures {
    question: QuestionKind,
    answer: AnswerKind,
    /// Lowest evidence of a thing that the question names.
    asked: Option<f64>,
    /// 1 where the answer says that what the question names is there, -1 where it denies that, 0 where it says neither.
    claim: f64,
    /// Lowest evidence of a thing that the answer names.
    answered: Option<f64>,
    familiarity: f64,
    reward_logit: f64,
    log_probability: f64,
}

impl AnswerFeatures {
    /// Those that are no pair of a kind of question and a kind of answer; such a pair is `count>thing`: 1 where both are of these kinds, else 0.
    pub const NAMES: [&str; 8] = [
        "asked_evidence",
        "asked_evidence_claimed",
        "asked_unknown",
        "answered_evidence",
        "answered_unknown",
        "familiarity",
        "reward_logit",
        "log_probability",
    ];

    /// Of a written answer. Evidence that there is not of a thing counts as unknown.
    pub fn new(evidence: &Evidence, image: &ImageEvidence, question: &str, answer: &WrittenAnswer<'_>) -> Self {
        let lowest = |text: &str| {
            let mentions = Lexicon::shared().mentions(text);
            let things = mentions.iter().filter(|mention| !PHOTOGRAPH.contains(&mention.lemma));
            let logits = things.filter_map(|mention| image.logits.get(evidence.concept_of(mention.concept)?).copied());
            logits.reduce(f32::min).map(|logit| f64::from(logit).clamp(-8.0, 8.0))
        };
        let claim = |yes: bool| if yes == question::is_negated(question) { -1.0 } else { 1.0 };
        let reward = f64::from(answer.score.unwrap_or(0.5)).clamp(1e-4, 1.0 - 1e-4);
        Self {
            question: question::kind(question),
            answer: AnswerKind::of(answer.text),
            asked: lowest(question),
            claim: said(answer.text).map_or(0.0, claim),
            answered: lowest(answer.text),
            familiarity: image.familiarity.into(),
            reward_logit: (reward / (1.0 - reward)).ln(),
            log_probability: f64::from(answer.log_probability).clamp(-12.0, 0.0),
        }
    }

    /// The value of the feature of that name.
    pub fn value(&self, name: &str) -> Option<f64> {
        let unknown = |evidence: Option<f64>| f64::from(u8::from(evidence.is_none()));
        Some(match name {
            "asked_evidence" => self.asked.unwrap_or(0.0),
            "asked_evidence_claimed" => self.claim * self.asked.unwrap_or(0.0),
            "asked_unknown" => unknown(self.asked),
            "answered_evidence" => self.answered.unwrap_or(0.0),
            "answered_unknown" => unknown(self.answered),
            "familiarity" => self.familiarity,
            "reward_logit" => self.reward_logit,
            "log_probability" => self.log_probability,
            pair => {
                let (question, answer) = kinds(pair)?;
                f64::from(u8::from((self.question, self.answer) == (question, answer)))
            }
        })
    }

    /// Whether there is a feature of that name.
    pub fn is_known(name: &str) -> bool {
        Self::NAMES.contains(&name) || kinds(name).is_some()
    }
}

/// The kinds of question and answer of a feature such as `count>thing`.
fn kinds(name: &str) -> Option<(QuestionKind, AnswerKind)> {
    let (question, answer) = name.split_once('>')?;
    let question = QuestionKind::ALL.into_iter().find(|kind| kind.name() == question)?;
    Some((question, AnswerKind::ALL.into_iter().find(|kind| kind.name() == answer)?))
}

/// Returns what decides whether a short answer to `question` about a photograph is given: those that are right with a lower probability than `below` are not.
/// `None` where there is no calibration of answers, and for captions.
pub fn answer_gate(evidence: &Arc<Evidence>, image: &ImageEvidence, question: &str, below: f32) -> Option<Arc<AnswerGate>> {
    evidence.config().calibration.answers.as_ref()?;
    if question::kind(question) == QuestionKind::Caption {
        return None;
    }
    let (evidence, image, question) = (Arc::clone(evidence), image.clone(), question.to_owned());
    let estimate = move |answer: &WrittenAnswer<'_>| {
        let features = AnswerFeatures::new(&evidence, &image, &question, answer);
        let calibration = evidence.config().calibration.answers.as_ref();
        calibration.map_or(1.0, |calibration| calibration.probability(|name| features.value(name)))
    };
    Some(Arc::new(AnswerGate::new(below, estimate)))
}

/// Whether a photograph is so unlike those that the model learnt from that no question about it is answered.
pub fn is_too_unfamiliar(evidence: &Evidence, image: &ImageEvidence, question: &str) -> bool {
    let line = evidence.config().abstain_below_familiarity;
    line.is_some_and(|line| image.familiarity < line) && question::kind(question) != QuestionKind::Caption
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_by_what_they_say() {
        for (answer, kind) in [
            ("Yes.", AnswerKind::YesNo),
            ("no", AnswerKind::YesNo),
            ("No, there is no dog.", AnswerKind::YesNo),
            ("Two.", AnswerKind::Count),
            ("3", AnswerKind::Count),
            ("Red.", AnswerKind::Color),
            ("Light blue.", AnswerKind::Color),
            ("A dog.", AnswerKind::Thing),
            ("Two dogs.", AnswerKind::Thing),
            ("A red ball.", AnswerKind::Thing),
            ("Running.", AnswerKind::Other),
            ("", AnswerKind::Other),
        ] {
            assert_eq!(AnswerKind::of(answer), kind, "{answer}");
        }
    }

    #[test]
    fn features_have_names() {
        for name in AnswerFeatures::NAMES.into_iter().chain(["count>thing", "yes_no>yes_no", "presence>other"]) {
            assert!(AnswerFeatures::is_known(name), "{name}");
        }
        for name in ["", ">", "count", "count>", "count>dog", "evidence"] {
            assert!(!AnswerFeatures::is_known(name), "{name}");
        }
    }
}
