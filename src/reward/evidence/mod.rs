//! Evidence of a photograph: the concepts that it shows, computed once from the features of the
//! vision tower.
//!
//! A small network maps the pooled features to one logit per concept, and the familiarity of the
//! photograph measures its similarity to the training photographs. Together with the scorer's
//! reward they determine the final reward of object mentions (see [`super::finish`]). Two files of
//! a bundle hold the evidence, `evidence.safetensors` and `evidence.json` ([`EvidenceConfig`]);
//! without them rewards are the scorer's alone.

mod calibration;
mod config;
mod familiarity;
mod features;
mod files;
mod matching;
pub(super) mod names;
mod tensor_file;

use std::{collections::HashMap, fs, path::Path, sync::Arc};

use candle_core::{DType, Device, Result as CandleResult, Tensor, bail};

pub(crate) use self::matching::WordVectors;
pub use self::{
    calibration::{EvidenceThresholds, FamiliarityThresholds, FeatureCalibration},
    config::{EvidenceCalibrations, EvidenceConfig, FORMAT, ScopeConfig},
    familiarity::FamiliarityScale,
    features::{MentionFeatures, SentenceFeatures, WordFeatures},
    files::{CONFIG_FILE, EvidenceError, WEIGHTS_FILE},
    matching::MatchConfig,
    names::AnswerKind,
};
use self::{
    config::outputs, familiarity::ReferencePhotographs, matching::Matcher, tensor_file::TensorFile,
};
use crate::{
    lexicon::{ConceptId, ConceptKind, Lexicon},
    vlm::nn::affine,
};

/// Minimum probability of a likely object.
pub const LIKELY_PROBABILITY: f32 = 0.85;

/// Maximum number of likely objects.
pub const MAX_LIKELY_OBJECTS: usize = 3;

/// Bound to which standardized channels are clipped.
const CLIP: f64 = 6.0;

/// Evidence of one photograph.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageEvidence {
    /// Logit of each concept, in the order of [`EvidenceConfig::concepts`].
    pub logits: Arc<[f32]>,
    /// Familiarity: 1 if the photograph resembles the training photographs, 0 if not.
    pub familiarity: f32,
    /// Embedding in the space that texts share, if texts are matched with it.
    pub embedding: Option<Arc<[f32]>>,
    /// Mean cosine to the nearest photographs of all origins, if the bundle has them.
    pub scope: Option<f32>,
}

/// Loaded network, concepts and calibrations.
pub struct Evidence {
    config: EvidenceConfig,
    /// Mean and scale of the pooled channels, `(1, channels)`.
    standardize: (Tensor, Tensor),
    fc1: (Tensor, Tensor),
    fc2: (Tensor, Tensor),
    /// Log-odds of each concept in the training captions.
    prior: Vec<f32>,
    outputs: HashMap<ConceptId, usize>,
    familiarity: ReferencePhotographs,
    scope: Option<ReferencePhotographs>,
    matcher: Option<Matcher>,
}

impl std::fmt::Debug for Evidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evidence")
            .field("concepts", &self.config.concepts.len())
            .finish_non_exhaustive()
    }
}

impl Evidence {
    /// Loads both files from a bundle's folder; `None` if neither exists.
    ///
    /// # Errors
    /// When one of them is missing or does not fit.
    pub fn load(dir: &Path) -> Result<Option<Self>, EvidenceError> {
        let read = |file: &'static str| {
            let path = dir.join(file);
            let failed = |e: std::io::Error| EvidenceError {
                file,
                key: String::new(),
                message: e.to_string(),
            };
            path.exists()
                .then(|| fs::read(&path).map_err(failed))
                .transpose()
        };
        Self::from_files(
            read(CONFIG_FILE)?.as_deref(),
            read(WEIGHTS_FILE)?.as_deref(),
        )
    }

    /// Loads evidence from the contents of both files; `None` if neither is given.
    ///
    /// # Errors
    /// When one of them is missing or does not fit.
    pub fn from_files(
        config: Option<&[u8]>,
        weights: Option<&[u8]>,
    ) -> Result<Option<Self>, EvidenceError> {
        let missing = |file, other: &str| EvidenceError {
            file,
            key: String::new(),
            message: format!("is missing beside {other}"),
        };
        match (config, weights) {
            (None, None) => Ok(None),
            (Some(config), Some(weights)) => {
                Self::new(EvidenceConfig::parse(config)?, weights).map(Some)
            }
            (None, Some(_)) => Err(missing(CONFIG_FILE, WEIGHTS_FILE)),
            (Some(_), None) => Err(missing(WEIGHTS_FILE, CONFIG_FILE)),
        }
    }

    fn new(config: EvidenceConfig, weights: &[u8]) -> Result<Self, EvidenceError> {
        let stored = TensorFile::parse(WEIGHTS_FILE, weights)?;
        let (channels, hidden, concepts) = (
            stored.length("mean")?,
            stored.length("fc1.bias")?,
            config.concepts.len(),
        );
        let tensor = |name: &str, shape: &[usize]| {
            let values = stored.floats(name, shape)?;
            Tensor::from_vec(values, shape, &Device::Cpu)
                .map_err(|e| stored.error(name, e.to_string()))
        };
        let standardize = (tensor("mean", &[channels])?, tensor("scale", &[channels])?);
        if stored
            .floats("scale", &[channels])?
            .iter()
            .any(|&scale| scale <= 0.0)
        {
            return Err(stored.error("scale", "must be positive"));
        }
        let fc1 = (
            tensor("fc1.weight", &[hidden, channels])?,
            tensor("fc1.bias", &[hidden])?,
        );
        let fc2 = (
            tensor("fc2.weight", &[concepts, hidden])?,
            tensor("fc2.bias", &[concepts])?,
        );
        let prior = stored.floats("prior", &[concepts])?;
        let familiarity = ReferencePhotographs::load(&stored, "reference", channels, config.k)?;
        let scope = config
            .scope
            .map(|scope| ReferencePhotographs::load(&stored, "scope", channels, scope.k))
            .transpose()?;
        let matcher = config
            .matching
            .as_ref()
            .map(|words| Matcher::load(&stored, words, channels, concepts))
            .transpose()?;
        let outputs = outputs(&config.concepts)?;
        Ok(Self {
            config,
            standardize,
            fc1,
            fc2,
            prior,
            outputs,
            familiarity,
            scope,
            matcher,
        })
    }

    /// Returns the content of `evidence.json`.
    pub fn config(&self) -> &EvidenceConfig {
        &self.config
    }

    /// Returns the number of channels of the tower's features.
    pub fn channels(&self) -> usize {
        self.standardize.0.elem_count()
    }

    /// Returns the names of the concepts that a photograph shows with a probability of at least
    /// [`LIKELY_PROBABILITY`], the most likely first: at most [`MAX_LIKELY_OBJECTS`], no two of
    /// them related.
    pub fn likely_objects(&self, image: &ImageEvidence) -> Vec<&'static str> {
        let lexicon = Lexicon::shared();
        let line = (LIKELY_PROBABILITY / (1.0 - LIKELY_PROBABILITY)).ln();
        let logit = |output: usize| {
            image
                .logits
                .get(output)
                .copied()
                .unwrap_or(f32::NEG_INFINITY)
        };
        let named = &self.config.named;
        let is_named = |output: usize| {
            named.is_empty()
                || self
                    .config
                    .concepts
                    .get(output)
                    .is_some_and(|name| named.contains(name))
        };
        let mut likely: Vec<(ConceptId, f32)> = (self.outputs.iter())
            .map(|(&concept, &output)| (concept, logit(output), output))
            .filter(|&(_, logit, output)| logit >= line && is_named(output))
            .map(|(concept, logit, _)| (concept, logit))
            .collect();
        likely.sort_by(|a, b| {
            b.1.total_cmp(&a.1)
                .then_with(|| lexicon.name(a.0).cmp(lexicon.name(b.0)))
        });
        let mut named: Vec<ConceptId> = Vec::new();
        for (concept, _) in likely {
            if named.len() < MAX_LIKELY_OBJECTS
                && !named.iter().any(|&other| lexicon.related(other, concept))
            {
                named.push(concept);
            }
        }
        named
            .into_iter()
            .map(|concept| lexicon.name(concept))
            .collect()
    }

    /// Returns the log-odds of each concept in the training captions.
    pub fn prior(&self) -> &[f32] {
        &self.prior
    }

    /// Computes the evidence of a photograph from the tower's features, `(cells, channels)`.
    ///
    /// # Errors
    /// When the map has another shape or a tensor operation fails.
    pub fn evaluate(&self, features: &Tensor) -> CandleResult<ImageEvidence> {
        let (_, channels) = features.dims2()?;
        if channels != self.channels() {
            bail!(
                "the evidence expects {} channels, and the tower has {channels}",
                self.channels()
            );
        }
        let pooled = features
            .to_device(&Device::Cpu)?
            .to_dtype(DType::F32)?
            .mean_keepdim(0)?;
        let (mean, scale) = &self.standardize;
        let x = pooled
            .broadcast_sub(mean)?
            .broadcast_div(scale)?
            .clamp(-CLIP, CLIP)?;
        let layer = |x: &Tensor, (weight, bias): &(Tensor, Tensor)| affine(x, weight, Some(bias));
        let logits = layer(&layer(&x, &self.fc1)?.gelu_erf()?, &self.fc2)?
            .flatten_all()?
            .to_vec1::<f32>()?;
        let embedding = self
            .matcher
            .as_ref()
            .map(|matcher| matcher.photograph(&x))
            .transpose()?;
        let pooled = pooled.flatten_all()?.to_vec1::<f32>()?;
        let people = Lexicon::shared()
            .concept("person")
            .and_then(|people| logits.get(self.output_for(people)?));
        let cosine = self.familiarity.mean_cosine(&pooled);
        let familiarity = self
            .config
            .familiarity
            .familiarity(cosine, people.copied().unwrap_or_default().into());
        let scope = self
            .scope
            .as_ref()
            .map(|scope| scope.mean_cosine(&pooled) as f32);
        Ok(ImageEvidence {
            logits: logits.into(),
            familiarity,
            embedding,
            scope,
        })
    }

    /// Returns the match of a text with a photograph as a cosine; `None` if it is unknown.
    pub fn cosine(&self, image: &ImageEvidence, text: &str) -> Option<f64> {
        self.matcher
            .as_ref()?
            .cosine(image.embedding.as_ref()?, text, |concept| {
                self.output_for(concept)
            })
    }

    /// Returns the output of the network for a concept: its own, or that of its nearest hypernym
    /// that has one. All people are one concept.
    pub fn output_for(&self, concept: ConceptId) -> Option<usize> {
        Lexicon::shared().nearest(concept, |concept| self.outputs.get(&concept).copied())
    }

    /// Returns `true` if a concept is a person.
    pub fn is_person(concept: ConceptId) -> bool {
        Lexicon::shared().kind(concept) == ConceptKind::Person
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::testing::{Array, arrays, config, evidence, f32s, file, matching};
    use serde_json::{Value, json};

    fn map(cells: &[[f32; 2]]) -> Tensor {
        Tensor::from_vec(cells.concat(), (cells.len(), 2), &Device::Cpu).unwrap()
    }

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
    fn evidence_and_familiarity_equal_those_computed_by_hand() {
        let found = evidence()
            .evaluate(&map(&[[3.0, 1.0], [5.0, 3.0]]))
            .unwrap();
        near(&found.logits, &[1.899_789, -0.654_269, 1.054_058]);
        near(&[found.familiarity], &[0.683_710]);
        // Far channels are clipped.
        near(
            &evidence()
                .evaluate(&map(&[[1000.0, -1000.0]]))
                .unwrap()
                .logits,
            &[6.5, -1.0, 6.0],
        );
        assert!(
            evidence()
                .evaluate(&Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap())
                .is_err()
        );
    }

    #[test]
    fn output_for_a_concept_is_that_of_its_nearest_hypernym() {
        let evidence = evidence();
        let output = |word: &str| evidence.output_for(Lexicon::shared().concept(word).unwrap());
        let found = ["dog", "poodle", "man", "firefighter", "fire hydrant", "car"].map(output);
        assert_eq!(found, [Some(0), Some(0), Some(1), Some(1), Some(2), None]);
    }

    #[test]
    fn likely_objects_are_named_by_their_evidence() {
        let named = |logits: [f32; 3]| {
            evidence().likely_objects(&ImageEvidence {
                logits: logits.into(),
                familiarity: 0.5,
                embedding: None,
                scope: None,
            })
        };
        assert_eq!(named([1.9, 3.0, 2.0]), ["person", "fire hydrant", "dog"]);
        assert_eq!(
            named([2.5, -9.0, 1.25]),
            ["dog"],
            "0.78 is not likely enough"
        );
        assert_eq!(named([-1.0, -1.0, 0.8]), [""; 0]);
        let mut config = config();
        config["named"] = json!(["fire hydrant.n", "dog.n"]);
        let few = Evidence::from_files(Some(config.to_string().as_bytes()), Some(&file(&arrays())))
            .unwrap()
            .unwrap();
        let image = ImageEvidence {
            logits: [1.9, 3.0, 2.0].into(),
            familiarity: 0.5,
            embedding: None,
            scope: None,
        };
        assert_eq!(few.likely_objects(&image), ["fire hydrant", "dog"]);
    }

    #[test]
    fn evidence_files_that_do_not_fit_are_refused_by_key() {
        let load = |config: &Value, arrays: &HashMap<&'static str, Array>| {
            let error =
                Evidence::from_files(Some(config.to_string().as_bytes()), Some(&file(arrays)))
                    .unwrap_err();
            (error.file, error.to_string())
        };
        let with_config = |pointer: &str, value: Value| {
            let mut config = config();
            *config.pointer_mut(pointer).unwrap() = value;
            load(&config, &arrays())
        };
        for (pointer, value, expected) in [
            ("/format", json!(2), "format: is 2; this version reads 1"),
            ("/k", json!(0), "k: is 0"),
            (
                "/concepts/1",
                json!("unicorn-thing.n"),
                "concepts[1]: 'unicorn-thing' is not a noun of the lexicon",
            ),
            (
                "/named",
                json!(["cat.n"]),
                "named: 'cat.n' is not one of the concepts",
            ),
            (
                "/concepts/1",
                json!("puppy"),
                "concepts[1]: 'puppy' does not end with the letter",
            ),
            (
                "/concepts/2",
                json!("woman.n"),
                "concepts[2]: 'woman.n' and 'person.n' (concepts[1]) name the same concept",
            ),
            (
                "/familiarity/slope",
                json!(-1.0),
                "familiarity: 'slope' must be positive",
            ),
            (
                "/familiarity",
                json!({"slope": 1.0}),
                "familiarity: missing field `offset`",
            ),
            (
                "/calibration/own/mean",
                json!([1.0]),
                "calibration.own.mean: has 1 numbers for 5 features",
            ),
            (
                "/calibration/others/scale/0",
                json!(0.0),
                "calibration.others.scale: must be positive",
            ),
            (
                "/calibration/others/features/0",
                json!("color"),
                "calibration.others.features: 'color' is not a feature of a mention",
            ),
            (
                "/calibration/own/thresholds/default",
                json!(2.0),
                "calibration.own.thresholds: must lie between 0 and 1",
            ),
            (
                "/calibration/own/thresholds/by_fpr/0/threshold",
                json!(0.9),
                "calibration.own.thresholds: must rise",
            ),
        ] {
            let (file, error) = with_config(pointer, value);
            assert!(
                file == CONFIG_FILE && error.starts_with(expected),
                "{pointer}: {file}: {error}"
            );
        }
        let (arrays_of_match, mut config_of_match) = matching();
        config_of_match["calibration"]["other_words"]["features"][0] = json!("evidence");
        let (_, error) = load(&config_of_match, &arrays_of_match);
        assert!(
            error.starts_with(
                "calibration.other_words.features: 'evidence' is not a feature of \
                               a word; known features: familiarity"
            ),
            "{error}"
        );
        let with_array = |name: &'static str, array: Option<Array>| {
            let mut arrays = arrays();
            match array {
                Some(array) => drop(arrays.insert(name, array)),
                None => drop(arrays.remove(name)),
            }
            load(&config(), &arrays)
        };
        for (name, array, expected) in [
            ("prior", None, "prior: is missing"),
            (
                "prior",
                Some(f32s(&[1.0; 4], &[4])),
                "prior: has shape [4]; [3] is expected",
            ),
            (
                "fc2.bias",
                Some(f32s(&[1.0; 2], &[2])),
                "fc2.bias: has shape [2]; [3] is expected",
            ),
            (
                "fc1.weight",
                Some(f32s(&[f32::NAN; 4], &[2, 2])),
                "fc1.weight: has a number that is not finite",
            ),
            (
                "scale",
                Some(f32s(&[0.0; 2], &[2])),
                "scale: must be positive",
            ),
            (
                "reference.points",
                Some(f32s(&[1.0; 6], &[3, 2])),
                "reference.points: is of type F32; I8 is expected",
            ),
            (
                "reference.points",
                Some((vec![1, 2], safetensors::Dtype::I8, vec![1, 2])),
                "reference.points: has 1 photographs; k",
            ),
            (
                "reference.basis",
                Some(f32s(&[1.0; 6], &[2, 3])),
                "reference.basis: has 3 channels; the tower has 2",
            ),
        ] {
            let (file, error) = with_array(name, array);
            assert!(
                file == WEIGHTS_FILE && error.starts_with(expected),
                "{name}: {file}: {error}"
            );
        }
        let config = config().to_string();
        assert!(Evidence::from_files(None, None).unwrap().is_none());
        assert_eq!(
            Evidence::from_files(Some(config.as_bytes()), None)
                .unwrap_err()
                .file,
            WEIGHTS_FILE
        );
        assert_eq!(
            Evidence::from_files(None, Some(b"")).unwrap_err().file,
            CONFIG_FILE
        );
        assert_eq!(
            Evidence::from_files(Some(config.as_bytes()), Some(b"no tensors"))
                .unwrap_err()
                .file,
            WEIGHTS_FILE
        );
    }
}
