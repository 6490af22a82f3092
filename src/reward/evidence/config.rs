//! Format of `evidence.json` and its validation.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{
    calibration::FeatureCalibration,
    familiarity::FamiliarityScale,
    files::EvidenceError,
    matching::MatchConfig,
    names::{self, is_answer_feature},
};
use crate::lexicon::{ConceptId, Lexicon};

/// Version of [`EvidenceConfig`] that is read and written.
pub const FORMAT: u32 = 1;

/// `evidence.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceConfig {
    /// Version of this format: [`FORMAT`].
    pub format: u32,
    /// Name of each output: a noun of the lexicon with `.n` (`dog.n`), or another word with the
    /// letter of its class (`red.a`, `run.v`).
    pub concepts: Vec<String>,
    /// Concepts with names in common use: only these are named as likely objects; if empty, all
    /// are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub named: Vec<String>,
    /// Number of nearest reference photographs that familiarity averages.
    pub k: usize,
    /// Function from their mean cosine to familiarity.
    pub familiarity: FamiliarityScale,
    /// Calibrations from features to rewards.
    pub calibration: EvidenceCalibrations,
    /// Bound below which questions about a photograph are not answered; absent: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<ScopeConfig>,
    /// Matching of texts with photographs; absent: none.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub matching: Option<MatchConfig>,
}

/// Scope of questions: photographs too unlike the nearest photographs of all origins get no
/// answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScopeConfig {
    /// Number of nearest photographs that are averaged.
    pub k: usize,
    /// Mean cosine below which questions about a photograph are not answered.
    pub abstain_below: f32,
}

/// Calibrations in `evidence.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceCalibrations {
    /// Calibration of mentions in texts by the policy.
    pub own: FeatureCalibration,
    /// Calibration of mentions in texts by others.
    pub others: FeatureCalibration,
    /// Calibration of short answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<FeatureCalibration>,
    /// Calibration of words without an output in texts by the policy, for the classes that its
    /// features name; absent: they keep the scorer's reward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_words: Option<FeatureCalibration>,
    /// The same for texts by others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_words: Option<FeatureCalibration>,
}

impl EvidenceConfig {
    /// Reads and checks `evidence.json`.
    ///
    /// # Errors
    /// When the file cannot be used; the error names the key and the fault.
    pub fn parse(json: &[u8]) -> Result<Self, EvidenceError> {
        let read =
            serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(json));
        let config: Self =
            read.map_err(|e| EvidenceError::config(e.path().to_string(), e.inner().to_string()))?;
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<(), EvidenceError> {
        if self.format != FORMAT {
            return Err(EvidenceError::config(
                "format",
                format!("is {}; this version reads {FORMAT}", self.format),
            ));
        }
        if self.k == 0 {
            return Err(EvidenceError::config("k", "is 0; must be at least 1"));
        }
        if let Some(other) = self.named.iter().find(|name| !self.concepts.contains(name)) {
            return Err(EvidenceError::config(
                "named",
                format!("'{other}' is not one of the concepts"),
            ));
        }
        if !self.familiarity.is_rising() {
            return Err(EvidenceError::config(
                "familiarity",
                "'slope' must be positive and 'offset' a finite number",
            ));
        }
        if self.scope.is_some_and(|scope| scope.k == 0) {
            return Err(EvidenceError::config("scope.k", "is 0; must be at least 1"));
        }
        if self
            .scope
            .is_some_and(|scope| !(-1.0..=1.0).contains(&scope.abstain_below))
        {
            return Err(EvidenceError::config(
                "scope.abstain_below",
                "must lie between -1 and 1",
            ));
        }
        let EvidenceCalibrations {
            own,
            others,
            answers,
            own_words,
            other_words,
        } = &self.calibration;
        let optional = [
            ("answers", answers),
            ("own_words", own_words),
            ("other_words", other_words),
        ];
        let all = [("own", Some(own)), ("others", Some(others))]
            .into_iter()
            .chain(optional.map(|(name, of)| (name, of.as_ref())));
        for (name, calibration) in all {
            let key = |at: &str| format!("calibration.{name}.{at}");
            calibration
                .map_or(Ok(()), FeatureCalibration::validate)
                .map_err(|(field, message)| EvidenceError::config(key(field), message))?;
        }
        let mentions = [&names::MENTION[..], &names::SENTENCE].concat();
        let words: Vec<&str> = names::word_features().collect();
        for (name, calibration, unit, known) in [
            ("own", Some(own), "a mention", &mentions),
            ("others", Some(others), "a mention", &mentions),
            ("own_words", own_words.as_ref(), "a word", &words),
            ("other_words", other_words.as_ref(), "a word", &words),
        ] {
            let mut features = calibration
                .into_iter()
                .flat_map(|calibration| &calibration.features);
            if let Some(unknown) = features.find(|feature| !known.contains(&feature.as_str())) {
                let message = format!(
                    "'{unknown}' is not a feature of {unit}; known features: {}",
                    known.join(", ")
                );
                return Err(EvidenceError::config(
                    format!("calibration.{name}.features"),
                    message,
                ));
            }
        }
        let features = answers.iter().flat_map(|answers| &answers.features);
        if let Some(unknown) = features
            .into_iter()
            .find(|feature| !is_answer_feature(feature))
        {
            let known = names::ANSWER.join(", ");
            let message = format!(
                "'{unknown}' is not a feature of an answer; known features: {known}, those of one \
                 kind of question such as presence:claim, and pairs of kinds such as count>thing"
            );
            return Err(EvidenceError::config(
                "calibration.answers.features",
                message,
            ));
        }
        Ok(())
    }
}

/// Returns the concepts with the index of their output.
pub(super) fn outputs(concepts: &[String]) -> Result<HashMap<ConceptId, usize>, EvidenceError> {
    let mut outputs = HashMap::new();
    for (i, name) in concepts.iter().enumerate() {
        let error = |message: String| EvidenceError::config(format!("concepts[{i}]"), message);
        let Some(noun) = name.strip_suffix(".n") else {
            let class = name.rsplit_once('.').map(|(_, class)| class);
            if class.is_some_and(|class| class.len() == 1) {
                continue;
            }
            return Err(error(format!(
                "'{name}' does not end with the letter of its class, as 'dog.n' does"
            )));
        };
        let concept = Lexicon::shared()
            .concept(noun)
            .ok_or_else(|| error(format!("'{noun}' is not a noun of the lexicon")))?;
        if let Some(other) = outputs.insert(concept, i) {
            return Err(error(format!(
                "'{name}' and '{}' (concepts[{other}]) name the same concept",
                concepts[other]
            )));
        }
    }
    Ok(outputs)
}
