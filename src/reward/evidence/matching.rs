//! Matching of texts with photographs: both are embedded in one space, in which their cosine
//! measures the match.
//!
//! The embedding of a photograph is computed by a small network from the same standardized features
//! as the evidence; that of a text is the mean of its word vectors, each weighted by a gate. Words
//! are in their base form; beside them stand the outputs of the evidence, so that a mention counts
//! once more as its concept. The cosine is a feature of the calibrations of texts by others (see
//! [`super::EvidenceCalibrations`]).

use std::{collections::HashMap, sync::Arc};

use candle_core::{Device, Result as CandleResult, Tensor};
use serde::{Deserialize, Serialize};

use super::{files::EvidenceError, tensor_file::TensorFile};
use crate::{
    lexicon::{ConceptId, Lexicon, words},
    vlm::nn::affine,
};

/// Configuration of matching: `match` in `evidence.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatchConfig {
    /// Words with vectors, in base form and lower case; after them there is one vector for each
    /// output of the evidence.
    pub words: Vec<String>,
    /// Number of pairs of networks, whose cosines are averaged.
    pub members: usize,
}

/// Indices of vectors by word.
#[derive(Debug, Clone, Default)]
pub(crate) struct WordVectors(HashMap<String, usize>);

impl WordVectors {
    /// Indexes words in their order.
    pub(crate) fn new(words: &[String]) -> Self {
        Self(
            words
                .iter()
                .enumerate()
                .map(|(i, word)| (word.clone(), i))
                .collect(),
        )
    }

    /// Returns the indices of the vectors of a text: those of its words, and those of the outputs
    /// that `output` returns for its mentions. Words and mentions without a vector are skipped.
    pub(crate) fn entries(
        &self,
        text: &str,
        output: impl Fn(ConceptId) -> Option<usize>,
    ) -> Vec<usize> {
        let lexicon = Lexicon::shared();
        let base = words(text)
            .into_iter()
            .filter_map(|word| self.0.get(lexicon.base_form(&word.text)).copied());
        let concepts = lexicon
            .all_mentions(text)
            .into_iter()
            .filter_map(|mention| Some(self.0.len() + output(mention.concept)?));
        base.chain(concepts).collect()
    }
}

/// Loaded networks.
pub(super) struct Matcher {
    vocabulary: WordVectors,
    members: Vec<MatchMember>,
}

/// Pair of networks: one for photographs, one for texts.
struct MatchMember {
    fc1: (Tensor, Tensor),
    fc2: (Tensor, Tensor),
    /// Dimension of the embedding space.
    width: usize,
    /// Vectors of words, then of outputs, concatenated.
    vectors: Vec<f32>,
    /// Logarithms of the weights of the vectors.
    gates: Vec<f32>,
}

impl Matcher {
    /// Loads the arrays `match.*` for an evidence with the given channels and outputs.
    pub(super) fn load(
        stored: &TensorFile<'_>,
        config: &MatchConfig,
        channels: usize,
        outputs: usize,
    ) -> Result<Self, EvidenceError> {
        let vocabulary = WordVectors::new(&config.words);
        if vocabulary.0.len() != config.words.len() {
            return Err(EvidenceError::config("match.words", "names a word twice"));
        }
        if config.members == 0 {
            return Err(EvidenceError::config(
                "match.members",
                "is 0; must be at least 1",
            ));
        }
        let entries = config.words.len() + outputs;
        let members = (0..config.members)
            .map(|member| MatchMember::load(stored, &format!("match.{member}"), channels, entries));
        Ok(Self {
            members: members.collect::<Result<_, _>>()?,
            vocabulary,
        })
    }

    /// Returns the embeddings of a photograph with these standardized features, `(1, channels)`:
    /// one unit vector per member, concatenated.
    pub(super) fn photograph(&self, features: &Tensor) -> CandleResult<Arc<[f32]>> {
        let embeddings = self
            .members
            .iter()
            .map(|member| member.photograph(features));
        Ok(embeddings
            .collect::<CandleResult<Vec<_>>>()?
            .concat()
            .into())
    }

    /// Returns the mean cosine between a text and a photograph's embeddings; `None` if the text has
    /// no known word.
    pub(super) fn cosine(
        &self,
        photograph: &[f32],
        text: &str,
        output: impl Fn(ConceptId) -> Option<usize>,
    ) -> Option<f64> {
        let entries = self.vocabulary.entries(text, output);
        let (mut rest, mut sum) = (photograph, 0.0);
        for member in &self.members {
            let (embedding, after) = rest.split_at_checked(member.width)?;
            sum += member.cosine(embedding, &entries)?;
            rest = after;
        }
        let mean = sum / self.members.len() as f64;
        (!entries.is_empty() && mean.is_finite()).then_some(mean)
    }
}

impl MatchMember {
    fn load(
        stored: &TensorFile<'_>,
        prefix: &str,
        channels: usize,
        entries: usize,
    ) -> Result<Self, EvidenceError> {
        let name = |name: &str| format!("{prefix}.{name}");
        let (hidden, width) = (
            stored.length(&name("fc1.bias"))?,
            stored.length(&name("fc2.bias"))?,
        );
        let tensor = |key: &str, shape: &[usize]| {
            let key = name(key);
            Tensor::from_vec(stored.floats(&key, shape)?, shape, &Device::Cpu)
                .map_err(|e| stored.error(&key, e.to_string()))
        };
        Ok(Self {
            fc1: (
                tensor("fc1.weight", &[hidden, channels])?,
                tensor("fc1.bias", &[hidden])?,
            ),
            fc2: (
                tensor("fc2.weight", &[width, hidden])?,
                tensor("fc2.bias", &[width])?,
            ),
            width,
            vectors: stored.floats(&name("vectors"), &[entries, width])?,
            gates: stored.floats(&name("gates"), &[entries])?,
        })
    }

    fn photograph(&self, features: &Tensor) -> CandleResult<Vec<f32>> {
        let layer = |x: &Tensor, (weight, bias): &(Tensor, Tensor)| affine(x, weight, Some(bias));
        let embedding = layer(&layer(features, &self.fc1)?.gelu_erf()?, &self.fc2)?
            .flatten_all()?
            .to_vec1::<f32>()?;
        let norm = norm(&embedding);
        Ok(embedding.iter().map(|x| x / norm).collect())
    }

    fn cosine(&self, photograph: &[f32], entries: &[usize]) -> Option<f64> {
        let mut embedding = vec![0f32; self.width];
        for &entry in entries {
            let (vector, gate) = (
                self.vectors
                    .get(entry * self.width..(entry + 1) * self.width)?,
                self.gates.get(entry)?.exp(),
            );
            embedding
                .iter_mut()
                .zip(vector)
                .for_each(|(sum, x)| *sum += gate * x);
        }
        let product: f32 = embedding.iter().zip(photograph).map(|(a, b)| a * b).sum();
        Some(f64::from(product / norm(&embedding)))
    }
}

fn norm(vector: &[f32]) -> f32 {
    vector
        .iter()
        .map(|x| x * x)
        .sum::<f32>()
        .sqrt()
        .max(f32::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::{
        evidence::Evidence,
        testing::{f32s, file, matching},
    };

    #[test]
    fn cosines_equal_those_computed_by_hand() {
        let (arrays, config) = matching();
        let evidence =
            Evidence::from_files(Some(config.to_string().as_bytes()), Some(&file(&arrays)))
                .unwrap()
                .unwrap();
        // Standardized, the mean of the two cells is (1.5, 0).
        let map = Tensor::from_vec(vec![3.0f32, 1.0, 5.0, 3.0], (2, 2), &Device::Cpu).unwrap();
        let image = evidence.evaluate(&map).unwrap();
        let embedding = image.embedding.clone().unwrap();
        assert!(
            (embedding[0] - 0.799_957).abs() < 1e-5 && (embedding[1] - 0.600_058).abs() < 1e-5,
            "{embedding:?}"
        );
        for (text, expected) in [
            ("A dog runs.", 0.960_340),
            ("Dogs are running!", 0.960_340),
            ("the men", -0.799_957),
            ("RED DOG", 0.920_231),
        ] {
            let cosine = evidence.cosine(&image, text).unwrap();
            assert!((cosine - expected).abs() < 1e-5, "{text}: {cosine}");
        }
        for text in ["", "It is.", "?!"] {
            assert_eq!(evidence.cosine(&image, text), None, "{text}");
        }
        let without = crate::reward::testing::evidence();
        let image = without.evaluate(&map).unwrap();
        assert_eq!(
            (
                image.embedding.clone(),
                without.cosine(&image, "A dog runs.")
            ),
            (None, None)
        );
    }

    #[test]
    fn matching_files_that_do_not_fit_are_refused() {
        let error = |words: serde_json::Value, name: Option<(&'static str, &[usize])>| {
            let (mut arrays, mut config) = matching();
            config["match"]["words"] = words;
            if let Some((name, shape)) = name {
                arrays.insert(name, f32s(&vec![1.0; shape.iter().product()], shape));
            }
            Evidence::from_files(Some(config.to_string().as_bytes()), Some(&file(&arrays)))
                .unwrap_err()
                .to_string()
        };
        let words = serde_json::json!(["dog", "run", "red"]);
        let (arrays, mut config) = matching();
        config["match"]["members"] = 0.into();
        let none = Evidence::from_files(Some(config.to_string().as_bytes()), Some(&file(&arrays)))
            .unwrap_err();
        assert!(none.to_string().starts_with("match.members: is 0"));
        assert!(
            error(serde_json::json!(["dog", "dog", "red"]), None)
                .starts_with("match.words: names a word twice")
        );
        assert!(
            error(serde_json::json!(["dog"]), None)
                .starts_with("match.0.vectors: has shape [6, 2]; [4, 2] is expected")
        );
        assert!(
            error(words.clone(), Some(("match.0.gates", &[5])))
                .starts_with("match.0.gates: has shape [5]; [6] is expected")
        );
        assert!(
            error(words, Some(("match.0.fc1.weight", &[2, 3])))
                .starts_with("match.0.fc1.weight: has shape [2, 3]; [2, 2] is expected")
        );
    }
}
