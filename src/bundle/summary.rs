//! Summary of a model and of the memory it takes, without its weights in memory.

use candle_core::Device;

use super::{
    Bundle, BundleError, OpenOptions,
    open::{Location, downloaded},
};
use crate::{
    reward::RewardKind,
    vlm::{
        models::{
            ExampleImage, FileSummary, ModelForm, ModelLicense, ModelLoadError, ModelSummary,
            OpenedModel, TextSummary, VisionSummary, candor_mini::ARCHITECTURE, tokenizer_summary,
        },
        processor::template::ChatTemplate,
        weights::{FormatBytes, HeldWeights, WeightFile, WeightsOptions},
    },
};

impl Bundle {
    /// Returns what the model called `name` is (see [`Self::open`]) and the memory of its weights
    /// with `options`. Of a checkpoint every tensor is looked for, but matrices stay in their
    /// files. Nothing is downloaded.
    ///
    /// # Errors
    /// When there is no such model here, a file is missing or invalid, or the architecture is not
    /// supported.
    pub fn inspect(name: &str, options: &OpenOptions) -> Result<ModelSummary, BundleError> {
        let source = match Location::find(name, downloaded)? {
            Location::Bundle => return inspect_bundle(name, options.reward),
            Location::Checkpoint { source, .. } => source,
        };
        let summary = || {
            let opened = OpenedModel::open(&source, &WeightsOptions::default())?;
            opened.load()?;
            let license = ModelLicense::of_checkpoint(&source);
            ModelSummary::of_checkpoint(&opened, license, &options.weights(&Device::Cpu))
        };
        summary().map_err(|error: ModelLoadError| BundleError::Checkpoint {
            name: name.to_owned(),
            error: Box::new(error),
        })
    }
}

/// Returns what a bundle is. Its weights are loaded in `f32`.
fn inspect_bundle(name: &str, reward: Option<RewardKind>) -> Result<ModelSummary, BundleError> {
    let config = Bundle::describe(name)?;
    let fail = |file: &str, error: &dyn std::fmt::Display| BundleError::File {
        bundle: name.to_owned(),
        file: file.to_owned(),
        message: error.to_string(),
    };
    let template =
        ChatTemplate::new(&config.chat_template).map_err(|error| fail("config.json", &error))?;
    let vocabulary = Bundle::vocabulary_of(name)?;
    let (mut files, mut held) = (Vec::new(), 0u64);
    for file in Bundle::files(name)? {
        if !file.ends_with(".safetensors") {
            continue;
        }
        let bytes = Bundle::file(name, &file)?;
        let len = bytes.len() as u64;
        let content = WeightFile::of_bytes(&file, bytes).map_err(|error| fail(&file, &error))?;
        held = held.saturating_add(content.values.saturating_mul(4));
        files.push(FileSummary {
            bytes: len,
            ..FileSummary::from(&content)
        });
    }
    let decoder = &config.model.language.decoder;
    let connector = &config.model.language.connector;
    let scorers = config.reward.as_ref();
    let kind = scorers.map(|scorers| reward.unwrap_or(scorers.default));
    let detached = scorers.and_then(|scorers| scorers.detached.as_ref());
    let scorer_position_bytes = match (kind, detached) {
        (Some(RewardKind::Detached), Some(config)) => config.decoder.kv_shape().position_bytes(),
        _ => 0,
    };
    let image = ExampleImage {
        do_image_splitting: None,
        grid: (0, 0),
        positions: connector.tokens,
    };
    Ok(ModelSummary {
        form: ModelForm::Bundle,
        architecture: ARCHITECTURE,
        license: config.license.clone().unwrap_or_else(ModelLicense::unknown),
        text: TextSummary::from(decoder),
        vision: Some(VisionSummary {
            tower: "efficientnet_lite",
            image_size: config.model.vision.image_size,
            patch_size: None,
            layers: None,
            width: connector.in_features,
            example: vec![image],
        }),
        scorer: kind.map(RewardKind::name),
        tokenizer: tokenizer_summary(&vocabulary.tokenizer, &template),
        files,
        // Everything is decoded, matrices and the rest alike.
        weights: HeldWeights {
            matrices: FormatBytes::from([("f32".to_owned(), held)]),
            ..HeldWeights::default()
        },
        kv: decoder.kv_shape(),
        scorer_position_bytes: scorer_position_bytes as u64,
    })
}
