//! Configuration, tokenizer and template of GGUF files in the forms of other checkpoints. Keys are
//! llama.cpp's (`gguf-py/gguf/constants.py`, `tools/mtmd/clip-impl.h`).

use serde_json::{Map, Value, json};

use super::{
    ModelConfig, config::TextModelConfig, idefics3::Idefics3Config, llava::LlavaConfig,
    load::ModelLoadError,
};
use crate::vlm::{
    processor::{
        gguf_tokenizer::GgufTokenizer,
        processor_config::{ConfigSection, ProcessorFiles},
    },
    weights::{GgufFile, GgufMetadata, Weights, WeightsError},
};

/// Placeholder of images in LLaVA's prompts.
pub(super) const LLAVA_MARKER: &str = "<image>";

/// Returns the sizes of a model, that of `text` with the tower and projector of `vision`.
///
/// # Errors
/// When the metadata lack something, name what is not supported or are outside the bounds.
pub(super) fn config(
    text: &GgufFile,
    vision: Option<&GgufFile>,
    weights: &Weights<'_>,
) -> Result<ModelConfig, ModelLoadError> {
    let model_type = match text.architecture()? {
        "qwen2" => "qwen2",
        _ => "llama",
    };
    let decoder = text.decoder_config()?;
    // The same bounds as for values from elsewhere.
    if let Ok(Value::Object(values)) = serde_json::to_value(&decoder) {
        let section = ConfigSection::new("metadata of the GGUF file", values);
        TextModelConfig::read(&section, &section)?;
    }
    let text = TextModelConfig {
        model_type,
        decoder,
        tie_is_known: true,
    };
    let Some(vision) = vision else {
        return Ok(ModelConfig::Text(text));
    };
    let metadata = vision.metadata();
    let kind = projector_type(metadata)?;
    let mut root = Map::new();
    root.insert("vision_config".into(), tower(metadata, kind)?.into());
    match kind {
        ProjectorType::Mlp => {
            let states = metadata.integers("clip.vision.feature_layer")?;
            // A tower that has no norm behind it is cut off behind the features.
            let is_cut = !weights.has("vision.post_layernorm.weight");
            let layer = match (states, is_cut) {
                (Some(states), _) => json!(states),
                (None, true) => json!(-1),
                (None, false) => json!(-2),
            };
            root.insert("vision_feature_layer".into(), layer);
            let bias = weights.has("projector.linear_1.bias");
            root.insert("multimodal_projector_bias".into(), bias.into());
            let section = ConfigSection::new("metadata of the tower's GGUF file", root);
            Ok(ModelConfig::Llava(LlavaConfig {
                text,
                image_token: None,
                pad_to_square: true,
                ..LlavaConfig::read(&section)?
            }))
        }
        ProjectorType::Idefics3 => {
            let key = "clip.vision.projector.scale_factor";
            let factor = metadata.require(key, GgufMetadata::size)?;
            root.insert("scale_factor".into(), factor.into());
            let section = ConfigSection::new("metadata of the tower's GGUF file", root);
            Ok(ModelConfig::Idefics3(Idefics3Config {
                text,
                image_token: None,
                ..Idefics3Config::read(&section)?
            }))
        }
    }
}

/// Projectors that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProjectorType {
    /// LLaVA's.
    Mlp,
    /// Idefics3's.
    Idefics3,
}

fn projector_type(metadata: &GgufMetadata) -> Result<ProjectorType, WeightsError> {
    let key = "clip.projector_type";
    match metadata.text(key)?.unwrap_or("mlp") {
        "mlp" => Ok(ProjectorType::Mlp),
        "idefics3" => Ok(ProjectorType::Idefics3),
        other => Err(metadata.error(
            key,
            format!("is {other:?}, expected \"mlp\" or \"idefics3\""),
        )),
    }
}

/// Returns the values of a tower under the names of a `config.json`.
fn tower(metadata: &GgufMetadata, kind: ProjectorType) -> Result<Map<String, Value>, WeightsError> {
    let size = |name: &str| metadata.require(&format!("clip.vision.{name}"), GgufMetadata::size);
    let eps = "clip.vision.attention.layer_norm_epsilon";
    let is_gelu = metadata.flag("clip.use_gelu")?.unwrap_or(false);
    if metadata.flag("clip.use_silu")? == Some(true) {
        return Err(metadata.error("clip.use_silu", "is true, which is not supported"));
    }
    let activation = match (kind, is_gelu) {
        (ProjectorType::Idefics3, true) => "gelu_pytorch_tanh",
        (ProjectorType::Mlp, true) => "gelu",
        (_, false) => "quick_gelu",
    };
    let values = [
        ("hidden_size", json!(size("embedding_length")?)),
        ("intermediate_size", json!(size("feed_forward_length")?)),
        ("num_hidden_layers", json!(size("block_count")?)),
        ("num_attention_heads", json!(size("attention.head_count")?)),
        ("image_size", json!(size("image_size")?)),
        ("patch_size", json!(size("patch_size")?)),
        (
            "layer_norm_eps",
            json!(metadata.require(eps, GgufMetadata::number)?),
        ),
        ("hidden_act", json!(activation)),
    ];
    Ok(values
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect())
}

/// Returns what a tower's file says on image processing, as files of a processor. LLaVA's pictures
/// are padded to squares, as llama.cpp does.
///
/// # Errors
/// When a value is missing.
pub(super) fn processor_files(vision: &GgufFile) -> Result<ProcessorFiles, ModelLoadError> {
    let metadata = vision.metadata();
    let channels =
        |name: &str| metadata.require(&format!("clip.vision.image_{name}"), GgufMetadata::numbers);
    let side = metadata.require("clip.vision.image_size", GgufMetadata::size)?;
    let mut image = json!({
        "do_resize": true, "do_rescale": true, "rescale_factor": 1.0 / 255.0, "do_normalize": true,
        "do_convert_rgb": true, "image_mean": channels("mean")?, "image_std": channels("std")?,
    });
    match projector_type(metadata)? {
        ProjectorType::Mlp => {
            image["image_processor_type"] = json!("CLIPImageProcessor");
            image["resample"] = json!(3);
            image["size"] = json!({"shortest_edge": side});
            image["do_center_crop"] = json!(true);
            image["crop_size"] = json!({"height": side, "width": side});
        }
        ProjectorType::Idefics3 => {
            let key = "clip.vision.preproc_image_size";
            let longest = metadata.size(key)?.unwrap_or(side.saturating_mul(4));
            image["image_processor_type"] = json!("Idefics3ImageProcessor");
            image["resample"] = json!(1);
            image["do_image_splitting"] = json!(true);
            image["do_pad"] = json!(true);
            image["size"] = json!({"longest_edge": longest});
            image["max_image_size"] = json!({"longest_edge": side});
        }
    }
    let Value::Object(image) = image else {
        return Err(metadata.error("clip.vision", "is no object").into());
    };
    let file = "metadata of the tower's GGUF file";
    Ok(ProcessorFiles {
        processor: ConfigSection::new(file, Map::new()),
        image: ConfigSection::new(file, image),
    })
}

/// Kind of special tokens in `tokenizer.ggml.token_type`.
const CONTROL: i32 = 3;

/// Returns what the metadata say of the tokenizer. `marker` is added to a vocabulary that lacks it,
/// behind the last token: a placeholder of images is never embedded.
///
/// # Errors
/// When a value is missing or of another type.
pub(super) fn tokenizer(
    metadata: &GgufMetadata,
    marker: Option<&str>,
) -> Result<GgufTokenizer, WeightsError> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let id = |name: &str| {
        let key = key(&format!("{name}_token_id"));
        let narrow = |id| u32::try_from(id).map_err(|_| metadata.error(&key, "is no token"));
        metadata.size(&key)?.map(narrow).transpose()
    };
    let texts = |name: &str| metadata.texts(&key(name)).map(Option::unwrap_or_default);
    let types = metadata.integers(&key("token_type"))?.unwrap_or_default();
    let scores = metadata.numbers(&key("scores"))?.unwrap_or_default();
    let mut ends = Vec::new();
    for name in ["eos", "eot", "eom"] {
        ends.extend(id(name)?.filter(|end| !ends.contains(end)));
    }
    let model = metadata.require(&key("model"), GgufMetadata::text)?;
    let mut tokenizer = GgufTokenizer {
        model: model.to_owned(),
        pre: metadata.text(&key("pre"))?.map(str::to_owned),
        tokens: metadata
            .require(&key("tokens"), GgufMetadata::texts)?
            .to_vec(),
        types: types.iter().map(|&kind| kind as i32).collect(),
        scores: scores.iter().map(|&score| score as f32).collect(),
        merges: texts("merges")?.to_vec(),
        bos: id("bos")?,
        ends,
        unknown: id("unknown")?,
        padding: id("padding")?,
        add_bos: metadata.flag(&key("add_bos_token"))?,
        add_space_prefix: metadata.flag(&key("add_space_prefix"))?,
    };
    if let Some(marker) = marker
        && !tokenizer.tokens.iter().any(|token| token == marker)
    {
        if tokenizer.types.is_empty() {
            tokenizer.types = vec![1; tokenizer.tokens.len()];
        }
        tokenizer.tokens.push(marker.to_owned());
        tokenizer.types.push(CONTROL);
        if !tokenizer.scores.is_empty() {
            tokenizer.scores.push(0.0);
        }
    }
    Ok(tokenizer)
}
