//! A bundle: one servable model, from a directory or from the binary itself.
//!
//! Files: `config.json` ([`BundleConfig`]), `tokenizer.json`, `model.safetensors`,
//! `reward.safetensors`, `calibration.json` (one calibration a scorer) and `card.md`; where the
//! bundle has evidence of what images show, also `evidence.safetensors` and `evidence.json`
//! ([`Evidence`]). Weights are stored in f16 and computed in f32.

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
        calibration::Calibration,
        calibrator::Calibrator,
        detached::{Detached, DetachedNet},
        evidence::{self, Evidence, FeatureCalibration, ImageEvidence},
        finish::{Finisher, WrittenBy},
        probe::{Probe, ProbeConfig, ProbeNet},
    },
    vlm::{
        Vlm,
        casing::Casing,
        llava::{Llava, LlavaConfig, PIXEL_MEAN, PIXEL_STD, PrefixDecoderConfig},
        preprocess,
        template::{ChatTemplate, Message},
        tokenizer::TextTokenizer,
        vocabulary::PolicyVocabulary,
    },
};

/// `config.json` of a bundle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleConfig {
    /// Version of this format.
    pub format: u32,
    /// The model's name, as `/v1/models` lists it.
    pub name: String,
    /// The bundle's own version.
    pub version: String,
    /// Unix time of its making.
    pub created: u64,
    /// The token that ends an answer.
    pub eos: String,
    /// Jinja template from messages to prompt.
    pub chat_template: String,
    /// Which letters the policy writes.
    #[serde(default, skip_serializing_if = "Casing::is_default")]
    pub casing: Casing,
    /// The policy.
    pub model: LlavaConfig,
    /// The scorers, where there are any.
    pub reward: Option<ScorersConfig>,
}

/// The scorers of a bundle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScorersConfig {
    /// The one that is served where nothing else is asked for.
    pub default: RewardKind,
    /// Head on the policy's hidden states.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeConfig>,
    /// Network of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detached: Option<PrefixDecoderConfig>,
}

/// A bundle that cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// No such bundle.
    #[error(
        "there is no bundle '{name}': it is neither embedded ({embedded}) nor a directory with a \
         config.json"
    )]
    Unknown {
        /// Name that was asked for.
        name: String,
        /// Names of the embedded bundles.
        embedded: String,
    },
    /// A file of it is missing or cannot be read.
    #[error("bundle {bundle}: {file}: {message}")]
    File {
        /// Name or directory.
        bundle: String,
        /// The file.
        file: String,
        /// Description of the fault.
        message: String,
    },
    /// It has no such scorer.
    #[error("bundle {bundle} has no scorer '{kind}'")]
    NoReward {
        /// Name or directory.
        bundle: String,
        /// Scorer that was asked for.
        kind: &'static str,
    },
}

/// A loaded model with everything that serving it needs.
pub struct Bundle {
    /// Content of `config.json`.
    pub config: BundleConfig,
    /// Device that holds the weights.
    pub device: Device,
    /// Text to tokens and back.
    pub tokenizer: Arc<TextTokenizer>,
    /// The policy.
    pub vlm: Arc<dyn Vlm>,
    /// The scorer; a bundle without one serves mode `off` only.
    pub reward: Option<Arc<dyn TokenReward>>,
    /// Calibration that gives the scorer's numbers their meaning.
    pub calibration: Option<Calibration>,
    /// The scorer of texts that the policy did not write, and what its numbers mean.
    pub reader: Option<(Arc<dyn TokenReward>, Calibration)>,
    /// Network that tells what its images show, where it has one.
    pub evidence: Option<Arc<Evidence>>,
    template: ChatTemplate,
}

/// Source of a bundle's files.
enum Source {
    Dir(PathBuf),
    Embedded(&'static str),
}

impl Source {
    /// The embedded bundle of that name or, where there is none, the directory.
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

    /// Reads its evidence network, which knows of images; `None` where it has neither file for
    /// that.
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
    /// Loads the embedded bundle of that name or, where there is none, the directory. `reward`
    /// overrides which scorer is served.
    ///
    /// # Errors
    /// When there is no such bundle, a file of it is missing or does not fit, or it has no such
    /// scorer.
    pub fn load(
        name: &str,
        reward: Option<RewardKind>,
        device: &Device,
    ) -> Result<Self, BundleError> {
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
        let vlm =
            Llava::load(&config.model, weights).map_err(|e| source.fail("model.safetensors", e))?;
        if vlm.spec().vocab_size != tokenizer.vocab_size() {
            return Err(source.fail(
                "tokenizer.json",
                format!(
                    "{} tokens, the model has {}",
                    tokenizer.vocab_size(),
                    vlm.spec().vocab_size
                ),
            ));
        }
        let scorer = config
            .reward
            .as_ref()
            .map(|r| load_reward(&source, r, reward.unwrap_or(r.default), &tokenizer, device))
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
        Ok(Self {
            device: device.clone(),
            tokenizer: Arc::new(tokenizer),
            vlm: Arc::new(vlm),
            reward,
            calibration,
            reader,
            evidence,
            template,
            config,
        })
    }

    /// Returns the finisher of the rewards of texts of `writer` about an image with this evidence.
    pub fn finisher(
        &self,
        image: Option<&ImageEvidence>,
        writer: WrittenBy,
    ) -> Option<Arc<Finisher>> {
        let (evidence, image) = self.evidence.as_ref().zip(image)?;
        Some(Arc::new(Finisher::new(
            Arc::clone(evidence),
            image.clone(),
            writer,
        )))
    }

    /// Tokens of a conversation, up to where the answer begins; the image stands before them.
    ///
    /// # Errors
    /// When the template or the tokenizer fails on these messages; the message says why.
    pub fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>, String> {
        let text = self.template.render(messages).map_err(|e| e.to_string())?;
        self.tokenizer.encode(&text).map_err(|e| e.to_string())
    }

    /// Returns the places of those messages whose text is not in the prompt.
    ///
    /// # Errors
    /// When the template fails on these messages; the message says why.
    pub fn unused_messages(&self, messages: &[Message]) -> Result<Vec<usize>, String> {
        self.template.unused(messages).map_err(|e| e.to_string())
    }

    /// Tokens of a response that anybody may have written, in the casing that the policy writes:
    /// their bytes lie where the text's do.
    ///
    /// # Errors
    /// When the tokenizer fails on the text; the message says why.
    pub fn response(&self, text: &str) -> Result<Vec<u32>, String> {
        self.tokenizer
            .encode_text(&self.config.casing.apply(text))
            .map_err(|e| e.to_string())
    }

    /// Returns the width and height in pixels that images are resized to.
    pub fn image_size(&self) -> u32 {
        self.vlm.spec().image_size as u32
    }

    /// Returns the pixels of an image that the vision tower takes, `(3, size, size)`; one that is
    /// resized already stays as it is.
    ///
    /// # Errors
    /// When the image has no pixels or a tensor operation fails.
    pub fn pixels(&self, image: &image::RgbImage) -> candle_core::Result<Tensor> {
        preprocess::to_pixels(
            image,
            self.image_size() as usize,
            PIXEL_MEAN,
            PIXEL_STD,
            &self.device,
        )
    }

    /// The configuration of the embedded bundle of that name or, where there is none, of the
    /// directory; its weights are not read.
    ///
    /// # Errors
    /// When there is no such bundle, or its `config.json` is none.
    pub fn describe(name: &str) -> Result<BundleConfig, BundleError> {
        Source::find(name)?.json("config.json")
    }

    /// The policy's tokens of the bundle of that name or in that directory; its weights are not
    /// read.
    ///
    /// # Errors
    /// When there is no such bundle, or its files do not fit.
    pub fn vocabulary_of(name: &str) -> Result<PolicyVocabulary, BundleError> {
        let source = Source::find(name)?;
        let config: BundleConfig = source.json("config.json")?;
        Ok(PolicyVocabulary {
            tokenizer: Arc::new(source.tokenizer(&config)?),
            casing: config.casing,
        })
    }

    /// Reads the evidence network of the bundle of that name or in that directory, where it has
    /// one; its other weights are not read.
    ///
    /// # Errors
    /// When there is no such bundle, or its files do not fit.
    pub fn evidence_of(name: &str) -> Result<Option<Evidence>, BundleError> {
        let source = Source::find(name)?;
        let config: BundleConfig = source.json("config.json")?;
        source.evidence(config.model.language.connector.in_features)
    }

    /// The policy's tokens.
    pub fn vocabulary(&self) -> PolicyVocabulary {
        PolicyVocabulary {
            tokenizer: Arc::clone(&self.tokenizer),
            casing: self.config.casing,
        }
    }

    /// One file of the embedded bundle of that name or, where there is none, of the directory.
    ///
    /// # Errors
    /// When there is no such bundle, or it has no such file.
    pub fn file(name: &str, file: &str) -> Result<Cow<'static, [u8]>, BundleError> {
        Source::find(name)?.read(file)
    }

    /// The names of all files of the embedded bundle of that name or, where there is none, of the
    /// directory, in order. Hidden files and folders are none.
    ///
    /// # Errors
    /// When there is no such bundle, or the directory cannot be read.
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
            let name = entry
                .file_name()
                .into_string()
                .map_err(|name| source.fail(&name.to_string_lossy(), "is no name in Unicode"))?;
            if entry.path().is_file() && !name.starts_with('.') {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Names of the bundles in the binary.
    pub fn embedded() -> &'static [&'static str] {
        embedded::NAMES
    }
}

/// Has a calibration give the thresholds of rewards that are finished with evidence.
pub(crate) fn serve_thresholds(calibration: &mut Calibration, finished: &FeatureCalibration) {
    calibration.default_threshold = finished.thresholds.default;
    calibration
        .thresholds
        .clone_from(&finished.thresholds.by_fpr);
    calibration.rewards.clone_from(&finished.rewards);
}

/// A scorer of what the policy writes, and one of what others wrote, which is the same network with
/// another calibration.
type Scorers = (
    (Arc<dyn TokenReward>, Calibration),
    (Arc<dyn TokenReward>, Calibration),
);

fn load_reward(
    source: &Source,
    config: &ScorersConfig,
    kind: RewardKind,
    tokenizer: &TextTokenizer,
    device: &Device,
) -> Result<Scorers, BundleError> {
    let missing = || BundleError::NoReward {
        bundle: source.name(),
        kind: kind.name(),
    };
    let fail = |e: candle_core::Error| source.fail("reward.safetensors", e);
    let calibration = source
        .json::<BTreeMap<RewardKind, Calibration>>("calibration.json")?
        .remove(&kind)
        .ok_or_else(missing)?;
    let calibrations = [calibration.clone(), calibration.of_others().clone()];
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
            let net = ProbeNet::load(config.probe.as_ref().ok_or_else(missing)?, vb)
                .and_then(ProbeNet::folded)
                .map_err(fail)?;
            let net = Arc::new(net);
            calibrators.map(|calibrator| Arc::new(Probe::new(Arc::clone(&net), calibrator)) as _)
        }
        RewardKind::Detached => {
            let net = Arc::new(
                DetachedNet::load(config.detached.as_ref().ok_or_else(missing)?, vb)
                    .map_err(fail)?,
            );
            calibrators.map(|calibrator| Arc::new(Detached::new(Arc::clone(&net), calibrator)) as _)
        }
    };
    let [calibration, of_others] = calibrations;
    Ok(((own, calibration), (others, of_others)))
}

mod embedded {
    /// The bundles in the binary.
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
