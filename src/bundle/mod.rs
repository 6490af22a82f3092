//! Bundles: a servable model in a directory or embedded in the binary.
//!
//! Files: `config.json` ([`BundleConfig`]), `tokenizer.json`, `model.safetensors`,
//! `reward.safetensors`, `calibration.json` (one calibration for each scorer) and `card.md`;
//! optionally `evidence.safetensors` and `evidence.json` ([`Evidence`]). Weights are stored in f16
//! and computed in f32.

mod open;
pub mod probe_folder;
mod summary;

pub use open::OpenOptions;

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use crate::{
    reward::{
        RewardKind, TokenReward,
        calibration::{Calibration, Calibrator},
        evidence::{self, Evidence, FeatureCalibration, ImageEvidence},
        finish::{Finisher, WrittenBy},
        probe::{Probe, ProbeConfig, ProbeNet},
        reader::TextReader,
        standalone::{StandaloneNet, StandaloneScorer},
    },
    vlm::{
        Spec, VisionLanguageModel,
        models::{
            ModelLicense, ModelLoadError,
            candor_mini::{ARCHITECTURE, CandorMini, CandorMiniConfig, PrefixDecoderConfig},
        },
        processor::{
            Processor, candor_mini::CandorMiniProcessor, casing::Casing, template::ChatTemplate,
            tokenizer::TextTokenizer, vocabulary::PolicyVocabulary,
        },
        weights::{WeightsDtype, hub::HubError},
    },
};

/// Content of a bundle's `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleConfig {
    /// Version of the format.
    pub format: u32,
    /// Model name, as listed by `/v1/models`.
    pub name: String,
    /// Version of the bundle.
    pub version: String,
    /// Unix time of creation.
    pub created: u64,
    /// End-of-sequence token.
    pub eos: String,
    /// Jinja template that renders messages as a prompt.
    pub chat_template: String,
    /// Casing of the policy's output.
    #[serde(default, skip_serializing_if = "Casing::is_default")]
    pub casing: Casing,
    /// License of the weights, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<ModelLicense>,
    /// Policy network.
    pub model: CandorMiniConfig,
    /// Scorers; a bundle without any serves mode `off` only.
    pub reward: Option<ScorersConfig>,
}

/// Scorers of a bundle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScorersConfig {
    /// Scorer to use by default.
    pub default: RewardKind,
    /// Probe on the policy's hidden states.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeConfig>,
    /// Standalone scorer, a network of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detached: Option<PrefixDecoderConfig>,
}

/// Error of loading a bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The bundle does not exist.
    #[error(
        "there is no model '{name}': it is neither embedded ({embedded}), nor a directory with a \
         config.json, nor a .gguf file, nor a repository on the Hub (OWNER/MODEL)"
    )]
    Unknown {
        /// Requested name.
        name: String,
        /// Names of the embedded bundles.
        embedded: String,
    },
    /// A file is missing or invalid.
    #[error("bundle {bundle}: {file}: {message}")]
    File {
        /// Name or directory of the bundle.
        bundle: String,
        /// Name of the file.
        file: String,
        /// Description of the problem.
        message: String,
    },
    /// A checkpoint cannot be loaded.
    #[error("{name}: {error}")]
    Checkpoint {
        /// Name as it was given.
        name: String,
        /// Description of the problem.
        error: Box<ModelLoadError>,
    },
    /// A repository cannot be had.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The bundle that was named as a scorer has none.
    #[error("bundle {bundle} has no scorer of texts")]
    NoScorer {
        /// Name of the bundle.
        bundle: String,
    },
    /// The bundle lacks the requested scorer.
    #[error("bundle {bundle} has no scorer '{kind}'")]
    NoReward {
        /// Name or directory of the bundle.
        bundle: String,
        /// Requested scorer.
        kind: &'static str,
    },
}

/// Loaded bundle: everything needed to serve the model.
pub struct Bundle {
    /// Model name, as listed by `/v1/models`.
    pub name: String,
    /// Version of the bundle.
    pub version: String,
    /// Unix time of creation.
    pub created: u64,
    /// License of the weights.
    pub license: ModelLicense,
    /// Casing of the policy's output.
    pub casing: Casing,
    /// Device that holds the weights.
    pub device: Device,
    /// Policy network.
    pub vlm: Arc<dyn VisionLanguageModel>,
    /// Processor between requests and the policy.
    pub processor: Arc<dyn Processor>,
    /// Scorer of the policy's own answers, if the bundle has one.
    pub reward: Option<Arc<dyn TokenReward>>,
    /// Calibration of the scorer's rewards and its thresholds.
    pub calibration: Option<Calibration>,
    /// Scorer of texts by other authors, with its calibration.
    pub reader: Option<(Arc<dyn TokenReward>, Calibration)>,
    /// Evidence network, if the bundle has one.
    pub evidence: Option<Arc<Evidence>>,
    /// Bundle whose scorer reads this policy's texts; `None` if the scorer is the bundle's own.
    pub scorer: Option<Arc<Bundle>>,
}

/// Location of a bundle's files.
enum Source {
    Dir(PathBuf),
    Embedded(&'static str),
}

impl Source {
    /// Finds the embedded bundle with this name or, if there is none, the directory.
    fn find(name: &str) -> Result<Self, BundleError> {
        match embedded::NAMES.iter().find(|n| **n == name) {
            Some(name) => Ok(Self::Embedded(name)),
            None if Path::new(name).join("config.json").is_file() => Ok(Self::Dir(name.into())),
            None => Err(BundleError::Unknown {
                name: name.to_owned(),
                embedded: embedded::NAMES.join(", "),
            }),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Dir(dir) => dir.display().to_string(),
            Self::Embedded(name) => (*name).to_owned(),
        }
    }

    fn read(&self, file: &str) -> Result<Cow<'static, [u8]>, BundleError> {
        let fail = |message: String| BundleError::File {
            bundle: self.name(),
            file: file.to_owned(),
            message,
        };
        match self {
            Self::Dir(dir) => fs::read(dir.join(file))
                .map(Cow::Owned)
                .map_err(|e| fail(e.to_string())),
            Self::Embedded(name) => embedded::file(name, file)
                .map(Cow::Borrowed)
                .ok_or_else(|| fail("is not embedded".into())),
        }
    }

    fn json<T: serde::de::DeserializeOwned>(&self, file: &str) -> Result<T, BundleError> {
        serde_json::from_slice(&self.read(file)?).map_err(|e| self.fail(file, e))
    }

    fn weights(&self, file: &str, device: &Device) -> Result<HashMap<String, Tensor>, BundleError> {
        let tensors = candle_core::safetensors::load_buffer(&self.read(file)?, &Device::Cpu)
            .map_err(|e| self.fail(file, e))?;
        let load = |t: Tensor| t.to_dtype(DType::F32)?.to_device(device);
        tensors
            .into_iter()
            .map(|(k, t)| Ok((k, load(t)?)))
            .collect::<candle_core::Result<_>>()
            .map_err(|e| self.fail(file, e))
    }

    /// Reads the evidence network; `None` if the bundle has neither of its files.
    fn evidence(&self, channels: usize) -> Result<Option<Evidence>, BundleError> {
        let read = |file| self.has(file).then(|| self.read(file)).transpose();
        let (config, weights) = (read(evidence::CONFIG_FILE)?, read(evidence::WEIGHTS_FILE)?);
        let found = Evidence::from_files(config.as_deref(), weights.as_deref())
            .map_err(|e| self.fail(e.file, &e))?;
        match &found {
            Some(evidence) if evidence.channels() != channels => {
                let message = format!(
                    "mean: has {} numbers; the tower of config.json has {channels} channels",
                    evidence.channels()
                );
                Err(self.fail(evidence::WEIGHTS_FILE, message))
            }
            _ => Ok(found),
        }
    }

    fn has(&self, file: &str) -> bool {
        match self {
            Self::Dir(dir) => dir.join(file).exists(),
            Self::Embedded(name) => embedded::file(name, file).is_some(),
        }
    }

    fn tokenizer(&self, config: &BundleConfig) -> Result<TextTokenizer, BundleError> {
        TextTokenizer::from_bytes(&self.read("tokenizer.json")?, &config.eos)
            .map_err(|e| self.fail("tokenizer.json", e))
    }

    fn fail(&self, file: &str, e: impl std::fmt::Display) -> BundleError {
        BundleError::File {
            bundle: self.name(),
            file: file.to_owned(),
            message: e.to_string(),
        }
    }
}

impl Bundle {
    /// Loads the embedded bundle called `name` or, if there is none, the bundle in that directory.
    /// `reward` overrides the default scorer.
    ///
    /// # Errors
    /// Returns an error if the bundle does not exist, lacks the scorer, or has a missing or invalid
    /// file.
    pub fn load(
        name: &str,
        reward: Option<RewardKind>,
        device: &Device,
    ) -> Result<Self, BundleError> {
        Self::load_as(name, reward, WeightsDtype::Auto, device)
    }

    /// Loads a bundle; matrices are rounded on the CPU unless `dtype` is given.
    fn load_as(
        name: &str,
        reward: Option<RewardKind>,
        dtype: WeightsDtype,
        device: &Device,
    ) -> Result<Self, BundleError> {
        let is_exact = dtype != WeightsDtype::Auto;
        let source = Source::find(name)?;
        let config: BundleConfig = source.json("config.json")?;
        let tokenizer = source.tokenizer(&config)?;
        let template =
            ChatTemplate::new(&config.chat_template).map_err(|e| source.fail("config.json", e))?;
        let weights = VarBuilder::from_tensors(
            source.weights("model.safetensors", device)?,
            DType::F32,
            device,
        );
        let mut vlm = CandorMini::load(&config.model, weights)
            .map_err(|e| source.fail("model.safetensors", e))?;
        if !is_exact {
            vlm = vlm.rounded();
        }
        if vlm.spec().vocab_size < tokenizer.vocab_size() {
            return Err(source.fail(
                "tokenizer.json",
                format!(
                    "has {} tokens, the model takes {}",
                    tokenizer.vocab_size(),
                    vlm.spec().vocab_size
                ),
            ));
        }
        let scorer = config
            .reward
            .as_ref()
            .map(|r| {
                load_reward(
                    &source,
                    r,
                    reward.unwrap_or(r.default),
                    &tokenizer,
                    vlm.spec(),
                    Placement { device, is_exact },
                )
            })
            .transpose()?;
        if let (None, Some(kind)) = (&scorer, reward) {
            return Err(BundleError::NoReward {
                bundle: source.name(),
                kind: kind.name(),
            });
        }
        let (own, mut reader) = scorer.unzip();
        let (reward, mut calibration) = own.unzip();
        let evidence = source
            .evidence(config.model.language.connector.in_features)?
            .map(Arc::new);
        if let Some(evidence) = &evidence {
            let calibrations = &evidence.config().calibration;
            calibration
                .iter_mut()
                .for_each(|calibration| serve_thresholds(calibration, &calibrations.own));
            reader
                .iter_mut()
                .for_each(|(_, calibration)| serve_thresholds(calibration, &calibrations.others));
        }
        let processor = CandorMiniProcessor {
            template,
            tokenizer: Arc::new(tokenizer),
            image_size: vlm.image_size(),
            image_tokens: vlm.image_tokens(),
            device: device.clone(),
        };
        Ok(Self {
            name: config.name,
            version: config.version,
            created: config.created,
            license: config.license.unwrap_or_else(ModelLicense::unknown),
            casing: config.casing,
            device: device.clone(),
            vlm: Arc::new(vlm),
            processor: Arc::new(processor),
            reward,
            calibration,
            reader,
            evidence,
            scorer: None,
        })
    }

    /// Replaces the scorer by that of another bundle, which reads this policy's texts with its own
    /// model.
    ///
    /// # Errors
    /// When that bundle has no scorer.
    pub fn with_scorer(mut self, scorer: Bundle) -> Result<Self, BundleError> {
        let Some((reward, calibration)) = scorer.reader.clone() else {
            return Err(BundleError::NoScorer {
                bundle: scorer.name,
            });
        };
        let reader = TextReader::new(Arc::clone(&scorer.vlm), reward, scorer.vocabulary());
        self.reward = Some(Arc::new(reader));
        self.calibration = Some(calibration);
        self.reader = None;
        self.evidence = None;
        self.scorer = Some(Arc::new(scorer));
        Ok(self)
    }

    /// Returns the bundle whose model judges texts and images: its scorer's, or itself.
    pub fn judge(&self) -> &Bundle {
        self.scorer.as_deref().unwrap_or(self)
    }

    /// Returns the author of the policy's texts as the scorer sees it: another's, if the scorer
    /// belongs to another model.
    pub fn written_by(&self) -> WrittenBy {
        match self.scorer {
            Some(_) => WrittenBy::Others,
            None => WrittenBy::Policy,
        }
    }

    /// Returns `true` if the model is another's checkpoint, not a bundle of Candor's own form.
    pub fn is_checkpoint(&self) -> bool {
        self.vlm.spec().architecture != ARCHITECTURE
    }

    /// Returns the tokenizer of the policy.
    pub fn tokenizer(&self) -> &Arc<TextTokenizer> {
        self.processor.tokenizer()
    }

    /// Returns the finisher that combines rewards of texts by `writer` with the evidence of their
    /// image; `None` without either.
    pub fn finisher(
        &self,
        image: Option<&ImageEvidence>,
        writer: WrittenBy,
    ) -> Option<Arc<Finisher>> {
        let (evidence, image) = self.judge().evidence.as_ref().zip(image)?;
        Some(Arc::new(Finisher::new(
            Arc::clone(evidence),
            image.clone(),
            writer,
        )))
    }

    /// Tokenizes a response by any author in the policy's casing, which leaves byte offsets
    /// unchanged.
    ///
    /// # Errors
    /// Returns a message if the tokenizer fails.
    pub fn response(&self, text: &str) -> Result<Vec<u32>, String> {
        self.tokenizer()
            .encode_text(&self.casing.apply(text))
            .map_err(|e| e.to_string())
    }

    /// Reads the configuration of a bundle (see [`Self::load`]) without its weights.
    ///
    /// # Errors
    /// Returns an error if the bundle does not exist or its `config.json` is invalid.
    pub fn describe(name: &str) -> Result<BundleConfig, BundleError> {
        Source::find(name)?.json("config.json")
    }

    /// Reads the policy's vocabulary of a bundle (see [`Self::load`]) without its weights.
    ///
    /// # Errors
    /// Returns an error if the bundle does not exist or a file is invalid.
    pub fn vocabulary_of(name: &str) -> Result<PolicyVocabulary, BundleError> {
        let source = Source::find(name)?;
        let config: BundleConfig = source.json("config.json")?;
        Ok(PolicyVocabulary {
            tokenizer: Arc::new(source.tokenizer(&config)?),
            casing: config.casing,
        })
    }

    /// Reads the evidence network of a bundle (see [`Self::load`]), if it has one, without its
    /// other weights.
    ///
    /// # Errors
    /// Returns an error if the bundle does not exist or a file is invalid.
    pub fn evidence_of(name: &str) -> Result<Option<Evidence>, BundleError> {
        let source = Source::find(name)?;
        let config: BundleConfig = source.json("config.json")?;
        source.evidence(config.model.language.connector.in_features)
    }

    /// Returns the policy's vocabulary.
    pub fn vocabulary(&self) -> PolicyVocabulary {
        PolicyVocabulary {
            tokenizer: Arc::clone(self.tokenizer()),
            casing: self.casing,
        }
    }

    /// Reads one file of a bundle (see [`Self::load`]).
    ///
    /// # Errors
    /// Returns an error if the bundle or the file does not exist.
    pub fn file(name: &str, file: &str) -> Result<Cow<'static, [u8]>, BundleError> {
        Source::find(name)?.read(file)
    }

    /// Returns the sorted names of a bundle's files (see [`Self::load`]), without hidden files and
    /// folders.
    ///
    /// # Errors
    /// Returns an error if the bundle does not exist or its directory cannot be read.
    pub fn files(name: &str) -> Result<Vec<String>, BundleError> {
        let source = Source::find(name)?;
        let dir = match &source {
            Source::Embedded(name) => {
                return Ok(embedded::files(name).map(str::to_owned).collect());
            }
            Source::Dir(dir) => fs::read_dir(dir).map_err(|e| source.fail("", e))?,
        };
        let mut names = Vec::new();
        for entry in dir {
            let entry = entry.map_err(|e| source.fail("", e))?;
            let name = entry.file_name().into_string().map_err(|name| {
                source.fail(&name.to_string_lossy(), "is not a valid Unicode file name")
            })?;
            if entry.path().is_file() && !name.starts_with('.') {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Returns the names of the embedded bundles.
    pub fn embedded() -> &'static [&'static str] {
        embedded::NAMES
    }
}

/// Replaces a calibration's thresholds by those of rewards finished with evidence.
pub(crate) fn serve_thresholds(calibration: &mut Calibration, finished: &FeatureCalibration) {
    calibration.default_threshold = finished.thresholds.default;
    calibration
        .thresholds
        .clone_from(&finished.thresholds.by_fpr);
    calibration.rewards.clone_from(&finished.rewards);
}

/// Scorers of the policy's texts and of other authors' texts: one network with two calibrations.
type Scorers = (
    (Arc<dyn TokenReward>, Calibration),
    (Arc<dyn TokenReward>, Calibration),
);

/// Device of a scorer's tensors, and whether its matrices are left as they are.
#[derive(Clone, Copy)]
struct Placement<'a> {
    device: &'a Device,
    is_exact: bool,
}

fn load_reward(
    source: &Source,
    config: &ScorersConfig,
    kind: RewardKind,
    tokenizer: &TextTokenizer,
    policy: &Spec,
    placement: Placement<'_>,
) -> Result<Scorers, BundleError> {
    let Placement { device, is_exact } = placement;
    let missing = || BundleError::NoReward {
        bundle: source.name(),
        kind: kind.name(),
    };
    let fail = |e: candle_core::Error| source.fail("reward.safetensors", e);
    let calibration = source
        .json::<BTreeMap<RewardKind, Calibration>>("calibration.json")?
        .remove(&kind)
        .ok_or_else(missing)?;
    let calibrations = [calibration.clone(), calibration.for_others().clone()];
    let calibrators = calibrations
        .clone()
        .map(|calibration| Calibrator::new(calibration, tokenizer));
    let vb = VarBuilder::from_tensors(
        source.weights("reward.safetensors", device)?,
        DType::F32,
        device,
    )
    .pp(kind.name());
    let [own, others]: [Arc<dyn TokenReward>; 2] = match kind {
        RewardKind::Probe => {
            let probe = config.probe.as_ref().ok_or_else(missing)?;
            let taps = probe
                .taps(policy.layers, policy.width)
                .map_err(|e| source.fail("config.json", format!("reward.probe: {e}")))?;
            let net = ProbeNet::load(probe, vb)
                .and_then(ProbeNet::folded)
                .map_err(fail)?;
            let net = Arc::new(net);
            calibrators.map(|calibrator| {
                Arc::new(Probe::new(Arc::clone(&net), taps.clone(), calibrator)) as _
            })
        }
        RewardKind::Detached => {
            let net = Arc::new(
                StandaloneNet::load(config.detached.as_ref().ok_or_else(missing)?, vb)
                    .map(|net| if is_exact { net } else { net.rounded() })
                    .map_err(fail)?,
            );
            calibrators.map(|calibrator| {
                Arc::new(StandaloneScorer::new(Arc::clone(&net), calibrator)) as _
            })
        }
    };
    let [calibration, of_others] = calibrations;
    Ok(((own, calibration), (others, of_others)))
}

mod embedded {
    /// Names of the embedded bundles.
    pub(super) const NAMES: &[&str] = &["candor-mini"];

    macro_rules! files {
        ($name:literal, $($file:literal),*) => {
            &[$(($name, $file,
                include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/", $name, "/",
                    $file)))),*]
        };
    }

    const FILES: &[(&str, &str, &[u8])] = files!(
        "candor-mini",
        "config.json",
        "tokenizer.json",
        "model.safetensors",
        "reward.safetensors",
        "calibration.json",
        "evidence.safetensors",
        "evidence.json",
        "card.md"
    );

    pub(super) fn files(name: &str) -> impl Iterator<Item = &'static str> {
        FILES.iter().filter(move |f| f.0 == name).map(|f| f.1)
    }

    pub(super) fn file(name: &str, file: &str) -> Option<&'static [u8]> {
        FILES
            .iter()
            .find(|f| f.0 == name && f.1 == file)
            .map(|f| f.2)
    }
}
