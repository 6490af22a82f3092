//! Features of a question and its short answer, from which a calibration estimates the probability
//! that the answer is correct.

use std::sync::Arc;

pub use super::evidence::AnswerKind;
use super::evidence::{
    Evidence, ImageEvidence,
    names::{self, kinds, scoped, yes_or_no},
};
use crate::{
    guard::{
        abstain::{AnswerGate, WrittenAnswer},
        question::{self, QuestionKind},
    },
    lexicon::Lexicon,
};

/// Evidence of an object: its logit, and the logit minus the log-odds of the object in the training
/// captions.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct ObjectEvidence {
    logit: f64,
    minus_prior: f64,
}

impl ObjectEvidence {
    /// Returns the lowest evidence of the objects that a text mentions; `None` if there is evidence
    /// about none.
    fn lowest(evidence: &Evidence, image: &ImageEvidence, text: &str) -> Option<Self> {
        let mentions = Lexicon::shared().mentions(text);
        let objects = mentions
            .iter()
            .filter(|mention| !question::PHOTOGRAPH.contains(&mention.lemma));
        let logit_and_prior =
            |output: usize| Some((*image.logits.get(output)?, *evidence.prior().get(output)?));
        let clamped = |x: f32| f64::from(x).clamp(-8.0, 8.0);
        objects
            .filter_map(|mention| logit_and_prior(evidence.output_for(mention.concept)?))
            .map(|(logit, prior)| Self {
                logit: clamped(logit),
                minus_prior: clamped(logit - prior),
            })
            .reduce(|a, b| Self {
                logit: a.logit.min(b.logit),
                minus_prior: a.minus_prior.min(b.minus_prior),
            })
    }
}

/// Features of a question about a photograph and of its short answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnswerFeatures {
    question: QuestionKind,
    answer: AnswerKind,
    /// Lowest evidence of an object that the question mentions.
    in_question: Option<ObjectEvidence>,
    /// 1 if the answer affirms the presence of what the question mentions, -1 if it denies it, 0
    /// otherwise.
    claim: f64,
    /// Lowest evidence of an object that the answer mentions.
    in_answer: Option<ObjectEvidence>,
    familiarity: f64,
    reward_logit: f64,
    log_probability: f64,
}

impl AnswerFeatures {
    /// Names of the basic features. Derived ones are `kind:feature` (`presence:claim`), a basic
    /// feature that is 0 unless the question is of that kind, and `kind>kind` (`count>thing`),
    /// which is 1 if question and answer are of these kinds, else 0.
    pub const NAMES: [&str; 11] = names::ANSWER;

    /// Features of the claim of a yes-or-no answer. Their meaning depends on the kind of question:
    /// evidence of a dog indicates its presence, not whether it is black.
    pub const CLAIMS: [&str; 3] = [
        "asked_evidence_claimed",
        "asked_evidence_minus_prior_claimed",
        "claim",
    ];

    /// Computes the features of an answer. Objects without evidence count as unknown.
    pub fn new(
        evidence: &Evidence,
        image: &ImageEvidence,
        question: &str,
        answer: &WrittenAnswer<'_>,
    ) -> Self {
        let claim = |yes: bool| {
            if yes == question::is_negated(question) {
                -1.0
            } else {
                1.0
            }
        };
        let reward = f64::from(answer.score.unwrap_or(0.5)).clamp(1e-4, 1.0 - 1e-4);
        Self {
            question: question::kind(question),
            answer: AnswerKind::classify(answer.text),
            in_question: ObjectEvidence::lowest(evidence, image, question),
            claim: yes_or_no(answer.text).map_or(0.0, claim),
            in_answer: ObjectEvidence::lowest(evidence, image, answer.text),
            familiarity: image.familiarity.into(),
            reward_logit: (reward / (1.0 - reward)).ln(),
            log_probability: f64::from(answer.log_probability).clamp(-12.0, 0.0),
        }
    }

    /// Returns the value of a feature by name.
    pub fn value(&self, name: &str) -> Option<f64> {
        if let Some((question, answer)) = kinds(name) {
            return Some(f64::from(u8::from(
                (self.question, self.answer) == (question, answer),
            )));
        }
        if let Some((kind, feature)) = scoped(name) {
            return self
                .plain(feature)
                .map(|value| if self.question == kind { value } else { 0.0 });
        }
        self.plain(name)
    }

    /// Returns the value of one of [`Self::NAMES`].
    fn plain(&self, name: &str) -> Option<f64> {
        let unknown = |evidence: Option<ObjectEvidence>| f64::from(u8::from(evidence.is_none()));
        let (in_question, in_answer) = (
            self.in_question.unwrap_or_default(),
            self.in_answer.unwrap_or_default(),
        );
        Some(match name {
            "asked_evidence" => in_question.logit,
            "asked_evidence_claimed" => self.claim * in_question.logit,
            "asked_evidence_minus_prior_claimed" => self.claim * in_question.minus_prior,
            "asked_unknown" => unknown(self.in_question),
            "claim" => self.claim,
            "answered_evidence" => in_answer.logit,
            "answered_evidence_minus_prior" => in_answer.minus_prior,
            "answered_unknown" => unknown(self.in_answer),
            "familiarity" => self.familiarity,
            "reward_logit" => self.reward_logit,
            "log_probability" => self.log_probability,
            _ => return None,
        })
    }

    /// Returns `true` if a feature of that name exists.
    pub fn is_known(name: &str) -> bool {
        names::is_answer_feature(name)
    }
}

/// Returns the gate for short answers to `question` about a photograph, which withholds answers
/// whose probability of being correct is lower than `minimum`. `None` without a calibration of
/// answers, and for captions.
pub fn answer_gate(
    evidence: &Arc<Evidence>,
    image: &ImageEvidence,
    question: &str,
    minimum: f32,
) -> Option<Arc<AnswerGate>> {
    evidence.config().calibration.answers.as_ref()?;
    if question::kind(question) == QuestionKind::Caption {
        return None;
    }
    let (evidence, image, question) = (Arc::clone(evidence), image.clone(), question.to_owned());
    let estimate = move |answer: &WrittenAnswer<'_>| {
        let features = AnswerFeatures::new(&evidence, &image, &question, answer);
        let calibration = evidence.config().calibration.answers.as_ref();
        calibration.map_or(1.0, |calibration| {
            calibration.probability(|name| features.value(name))
        })
    };
    Some(Arc::new(AnswerGate::new(minimum, estimate)))
}

/// Returns `true` if a photograph is so unlike all training photographs that questions about it are
/// not answered.
pub fn is_too_unfamiliar(evidence: &Evidence, image: &ImageEvidence, question: &str) -> bool {
    let line = evidence.config().scope.zip(image.scope);
    line.is_some_and(|(scope, cosine)| cosine < scope.abstain_below)
        && question::kind(question) != QuestionKind::Caption
}

#[cfg(test)]
mod tests {
    use super::{super::testing, *};

    #[test]
    fn answers_are_classified_by_their_decisive_words() {
        for (answer, kind) in [
            ("Yes.", AnswerKind::YesNo),
            ("no", AnswerKind::YesNo),
            ("No, there is no dog.", AnswerKind::YesNo),
            ("Two.", AnswerKind::Count),
            ("3", AnswerKind::Count),
            ("Red.", AnswerKind::Color),
            ("Light blue.", AnswerKind::Color),
            ("A dog.", AnswerKind::Object),
            ("Two dogs.", AnswerKind::Object),
            ("A red ball.", AnswerKind::Object),
            ("Running.", AnswerKind::Other),
            ("", AnswerKind::Other),
        ] {
            assert_eq!(AnswerKind::classify(answer), kind, "{answer}");
        }
    }

    #[test]
    fn feature_names_are_known_and_others_refused() {
        for name in AnswerFeatures::NAMES.into_iter().chain([
            "count>thing",
            "yes_no>yes_no",
            "presence>other",
            "presence:claim",
            "color:reward_logit",
        ]) {
            assert!(AnswerFeatures::is_known(name), "{name}");
        }
        assert!(
            AnswerFeatures::CLAIMS
                .iter()
                .all(|name| AnswerFeatures::NAMES.contains(name))
        );
        for name in [
            "",
            ">",
            ":",
            "count",
            "count>",
            "count>dog",
            "evidence",
            "dog:claim",
            "presence:",
            "presence:presence:claim",
            "presence:count>thing",
        ] {
            assert!(!AnswerFeatures::is_known(name), "{name}");
        }
    }

    /// Logits of dog, person and fire hydrant.
    const LOGITS: [f32; 3] = [1.5, -9.0, 0.25];

    fn image() -> ImageEvidence {
        ImageEvidence {
            logits: LOGITS.into(),
            familiarity: 0.68,
            embedding: None,
            scope: Some(0.2),
        }
    }

    fn written(text: &str) -> WrittenAnswer<'_> {
        WrittenAnswer {
            text,
            score: Some(0.5),
            log_probability: -0.25,
        }
    }

    #[test]
    fn answer_features_have_the_evidence_of_question_and_answer() {
        let names = [
            "asked_evidence",
            "asked_evidence_claimed",
            "asked_unknown",
            "answered_evidence",
            "answered_unknown",
        ];
        for (question, answer, values) in [
            ("Is there a dog?", "Yes.", [1.5, 1.5, 0.0, 0.0, 1.0]),
            (
                "Is there a dog in the picture?",
                "No.",
                [1.5, -1.5, 0.0, 0.0, 1.0],
            ),
            ("Is there no dog?", "Yes.", [1.5, -1.5, 0.0, 0.0, 1.0]),
            ("Is there a man?", "No.", [-8.0, 8.0, 0.0, 0.0, 1.0]),
            (
                "Is the man with a dog?",
                "Yes.",
                [-8.0, -8.0, 0.0, 0.0, 1.0],
            ),
            (
                "What is this?",
                "A fire hydrant.",
                [0.0, 0.0, 1.0, 0.25, 0.0],
            ),
            ("What color is the ball?", "Red.", [0.0, 0.0, 1.0, 0.0, 1.0]),
        ] {
            let features =
                AnswerFeatures::new(&testing::evidence(), &image(), question, &written(answer));
            assert_eq!(
                names.map(|name| features.value(name).unwrap()),
                values,
                "{question} {answer}"
            );
            assert_eq!(
                (
                    features.value("reward_logit"),
                    features.value("log_probability")
                ),
                (Some(0.0), Some(-0.25))
            );
        }
        let features = AnswerFeatures::new(
            &testing::evidence(),
            &image(),
            "How many dogs are there?",
            &written("Two."),
        );
        assert_eq!(
            (
                features.value("count>count"),
                features.value("count>thing"),
                features.value("dog")
            ),
            (Some(1.0), Some(0.0), None)
        );
    }

    #[test]
    fn feature_scoped_to_a_kind_is_zero_for_other_questions() {
        // The prior of a dog is -2: its logit of 1.5 is 3.5 higher.
        let names = [
            "claim",
            "presence:claim",
            "yes_no:claim",
            "presence:asked_evidence_claimed",
            "asked_evidence_minus_prior_claimed",
        ];
        for (question, answer, values) in [
            ("Is there a dog?", "Yes.", [1.0, 1.0, 0.0, 1.5, 3.5]),
            (
                "Can you see any dogs?",
                "No.",
                [-1.0, -1.0, 0.0, -1.5, -3.5],
            ),
            ("Is there no dog?", "No.", [1.0, 1.0, 0.0, 1.5, 3.5]),
            ("Is the dog black?", "No.", [-1.0, 0.0, -1.0, 0.0, -3.5]),
            ("What is this?", "A dog.", [0.0; 5]),
        ] {
            let features =
                AnswerFeatures::new(&testing::evidence(), &image(), question, &written(answer));
            let found = names.map(|name| features.value(name).unwrap());
            assert!(
                found.iter().zip(values).all(|(a, b)| (a - b).abs() < 1e-6),
                "{question} {answer}: {found:?}"
            );
        }
        let features = AnswerFeatures::new(
            &testing::evidence(),
            &image(),
            "What is this?",
            &written("A dog."),
        );
        assert!((features.value("answered_evidence_minus_prior").unwrap() - 3.5).abs() < 1e-6);
        assert_eq!(
            (
                features.value("open:answered_evidence"),
                features.value("open:dog")
            ),
            (Some(1.5), None)
        );
    }

    #[test]
    fn answer_gate_requires_a_question_and_a_calibration() {
        let mut config = testing::config();
        let load = |config: &serde_json::Value| {
            let mut arrays = testing::arrays();
            for (scope, reference) in [
                ("scope.center", "reference.center"),
                ("scope.basis", "reference.basis"),
                ("scope.points", "reference.points"),
                ("scope.scale", "reference.scale"),
            ] {
                arrays.insert(scope, arrays[reference].clone());
            }
            let weights = testing::file(&arrays);
            Evidence::from_files(Some(config.to_string().as_bytes()), Some(&weights))
                .map(|evidence| Arc::new(evidence.unwrap()))
        };
        let plain = load(&config).unwrap();
        assert!(answer_gate(&plain, &image(), "Is there a dog?", 0.5).is_none());
        assert!(!is_too_unfamiliar(&plain, &image(), "Is there a dog?"));
        config["scope"] = serde_json::json!({"k": 2, "abstain_below": 0.25});
        config["calibration"]["answers"] = serde_json::json!({
            "features": ["asked_evidence_claimed", "presence>yes_no"], "mean": [0.5, 0.0],
            "scale": [2.0, 1.0], "weights": [1.0, -1.0],
            "offset": 0.25, "thresholds": {"default": 0.5, "by_fpr": []}, "fitted_on": "nothing",
        });
        let calibrated = load(&config).unwrap();
        let (probability, is_given) = answer_gate(&calibrated, &image(), "Is there a dog?", 0.5)
            .unwrap()
            .judge(&written("Yes."));
        // (1.5 - .5) / 2 - 1 + .25 = -.25
        assert!(
            (probability - 1.0 / (1.0 + 0.25f32.exp())).abs() < 1e-6 && !is_given,
            "{probability}"
        );
        assert!(answer_gate(&calibrated, &image(), "Describe it.", 0.5).is_none());
        assert!(
            is_too_unfamiliar(&calibrated, &image(), "Is there a dog?")
                && !is_too_unfamiliar(&calibrated, &image(), "")
        );
        config["calibration"]["answers"]["features"][0] = "asked".into();
        let error = load(&config).unwrap_err();
        assert_eq!(
            (
                error.key.as_str(),
                error.message.starts_with("'asked' is not a feature")
            ),
            ("calibration.answers.features", true)
        );
        config["calibration"]["answers"] = serde_json::Value::Null;
        config["scope"]["abstain_below"] = 1.5.into();
        assert_eq!(load(&config).unwrap_err().key, "scope.abstain_below");
        config["scope"] = serde_json::json!({"k": 0, "abstain_below": 0.25});
        assert_eq!(load(&config).unwrap_err().key, "scope.k");
    }
}
