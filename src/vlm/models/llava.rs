//! LLaVA-1.5 (Liu et al., 2023, <https://arxiv.org/abs/2310.03744>): a layer before the last of
//! CLIP, a two-layer projector, LLaMA.

use candle_core::{D, Result, Tensor};
use serde_json::Value;

use super::{
    causal::{CausalModel, ImageEncoder},
    config::{TextModelConfig, TowerDefaults},
};
use crate::vlm::{
    nn::Activation,
    processor::{
        clip_image::{ClipImageProcessor, ClipTowerInput},
        processor_config::{ConfigSection, ProcessorFileError, ProcessorFiles},
    },
    projector::two_layer::TwoLayerProjector,
    vision::vit::{Vit, VitConfig},
    weights::Weights,
};

/// CLIP ViT-L/14 at 336 pixels, the tower if a file names none.
pub(super) const CLIP_LARGE: TowerDefaults = TowerDefaults {
    hidden_size: 1024,
    intermediate_size: 4096,
    layers: 24,
    heads: 16,
    image_size: 336,
    patch_size: 14,
    activation: "quick_gelu",
    eps: 1e-5,
};

/// Tower where the file's description of it is silent (`CLIPVisionConfig`).
const CLIP_BASE: TowerDefaults = TowerDefaults {
    hidden_size: 768,
    intermediate_size: 3072,
    layers: 12,
    heads: 12,
    image_size: 224,
    patch_size: 32,
    ..CLIP_LARGE
};

/// Sizes of the model.
#[derive(Debug, Clone, PartialEq)]
pub struct LlavaConfig {
    /// Text model.
    pub text: TextModelConfig,
    /// Vision tower, with as many layers as are needed.
    pub vision: VitConfig,
    /// Numbers of the tower's hidden states that the projector is given side by side.
    pub feature_layers: Vec<usize>,
    /// `true` if the class token is one of an image's positions.
    pub keeps_class_token: bool,
    /// Activation of the projector.
    pub projector_activation: Activation,
    /// `true` if the projector's layers have biases.
    pub projector_bias: bool,
    /// Placeholder of image positions, if the configuration names one.
    pub image_token: Option<u32>,
    /// `true` if pictures are padded to squares, whatever the image processor's files say.
    pub pad_to_square: bool,
}

impl LlavaConfig {
    /// Reads a `config.json` of `transformers` (`LlavaConfig`).
    ///
    /// # Errors
    /// When a value is outside its bounds.
    pub fn read(root: &ConfigSection) -> std::result::Result<Self, ProcessorFileError> {
        let vision = root.section_or_empty("vision_config")?;
        let defaults = match root.value("vision_config") {
            Some(_) => CLIP_BASE,
            None => CLIP_LARGE,
        };
        let strategies = [("default", false), ("full", true)];
        let (vision, feature_layers) =
            Self::tower(&vision, defaults, root, "vision_feature_layer")?;
        Ok(Self {
            text: TextModelConfig::read(&root.section_or_empty("text_config")?, root)?,
            vision,
            feature_layers,
            keeps_class_token: root.choice(
                "vision_feature_select_strategy",
                &strategies,
                "default",
            )?,
            projector_activation: root.choice(
                "projector_hidden_act",
                &Activation::NAMED,
                "gelu",
            )?,
            projector_bias: root.flag("multimodal_projector_bias")?.unwrap_or(true),
            image_token: Some(root.image_token()?.unwrap_or(32_000)),
            pad_to_square: false,
        })
    }

    /// Reads a `config.json` of LLaVA's authors, in which the text model's values stand at the top,
    /// and that of its tower; `None` is CLIP ViT-L/14 at 336 pixels.
    ///
    /// # Errors
    /// When a value is outside its bounds.
    pub fn read_original(
        root: &ConfigSection,
        tower: Option<&ConfigSection>,
    ) -> std::result::Result<Self, ProcessorFileError> {
        root.choice("mm_projector_type", &[("mlp2x_gelu", ())], "linear")?;
        for key in ["mm_use_im_start_end", "mm_use_im_patch_token"] {
            if root.flag(key)? == Some(true) {
                return Err(root.wrong(key, "false", &Value::from(true)));
            }
        }
        let (section, defaults) = match tower {
            // A file of both halves of CLIP has the tower's values in an object of their own.
            Some(tower) => match tower.section("vision_config")? {
                Some(nested) => (nested, CLIP_BASE),
                None => (tower.clone(), CLIP_BASE),
            },
            None => (root.section_or_empty("vision_config")?, CLIP_LARGE),
        };
        let (vision, feature_layers) =
            Self::tower(&section, defaults, root, "mm_vision_select_layer")?;
        let channels = vision.hidden_size * feature_layers.len();
        if let Some(size) = root.size("mm_hidden_size", 1..=usize::MAX)?
            && size != channels
        {
            let expected = format!("the tower's {channels}");
            return Err(root.wrong("mm_hidden_size", expected, &size.into()));
        }
        let shapes = [("square", false), ("pad", true)];
        let features = [("patch", false), ("cls_patch", true)];
        Ok(Self {
            text: TextModelConfig::read_flat(root)?,
            vision,
            feature_layers,
            keeps_class_token: root.choice("mm_vision_select_feature", &features, "patch")?,
            projector_activation: Activation::Gelu,
            projector_bias: true,
            image_token: None,
            pad_to_square: root.choice("image_aspect_ratio", &shapes, "square")?,
        })
    }

    /// Reads the tower in `section` and the numbers of its hidden states under `key` of `root`.
    fn tower(
        section: &ConfigSection,
        defaults: TowerDefaults,
        root: &ConfigSection,
        key: &str,
    ) -> std::result::Result<(VitConfig, Vec<usize>), ProcessorFileError> {
        let types = [("clip_vision_model", ())];
        section.choice("model_type", &types, "clip_vision_model")?;
        let whole = defaults.read(section)?;
        let states = whole.layers as i64 + 1;
        let number = |value: &Value| {
            let index = value.as_i64()?;
            let number = if index < 0 {
                index.checked_add(states)?
            } else {
                index
            };
            usize::try_from(number).ok().filter(|_| number < states)
        };
        let expected = format!("a number from {} to {}", -states, states - 1);
        let numbers = match root.one_or_more(key, &expected, number)? {
            Some(numbers) => numbers,
            None => number(&Value::from(-2))
                .map(|number| vec![number])
                .ok_or_else(|| {
                    root.error(key, "is missing: the tower has no layer before the last")
                })?,
        };
        let vision = VitConfig {
            layers: numbers.iter().copied().max().unwrap_or_default(),
            class_token: true,
            pre_norm: true,
            ..whole
        };
        Ok((vision, numbers))
    }
}

/// Reads the image processor that goes with the model.
///
/// # Errors
/// When a key is missing or does not go with the tower.
pub fn image_processor(
    config: &LlavaConfig,
    files: &ProcessorFiles,
) -> std::result::Result<ClipImageProcessor, ProcessorFileError> {
    let tower = ClipTowerInput {
        image_size: config.vision.image_size as u32,
        patch_size: config.vision.patch_size as u32,
        class_token: config.keeps_class_token,
        pad_to_square: config.pad_to_square,
    };
    ClipImageProcessor::read(files, tower)
}

/// Vision tower and projector.
pub struct LlavaEncoder {
    tower: Vit,
    feature_layers: Vec<usize>,
    keeps_class_token: bool,
    projector: TwoLayerProjector,
}

impl LlavaEncoder {
    /// Returns the selected hidden states of the tower side by side, `(images, positions,
    /// channels)`.
    ///
    /// # Errors
    /// When the shape differs or a tensor operation fails.
    pub fn tower(&self, pixels: &Tensor) -> Result<Tensor> {
        let states = self.tower.forward(pixels, &self.feature_layers)?;
        let states = Tensor::cat(&states, D::Minus1)?;
        match self.keeps_class_token {
            true => Ok(states),
            false => states.narrow(1, 1, states.dim(1)? - 1),
        }
    }
}

impl ImageEncoder for LlavaEncoder {
    fn encode(&self, pixels: &Tensor) -> Result<Tensor> {
        self.projector.forward(&self.tower(pixels)?.flatten_to(1)?)
    }
}

/// Loads the weights under `vision`, `projector` and `text`.
///
/// # Errors
/// When a tensor is missing or has another shape.
pub fn load(config: &LlavaConfig, weights: &Weights<'_>) -> Result<CausalModel<LlavaEncoder>> {
    let input = config.vision.hidden_size * config.feature_layers.len();
    let encoder = LlavaEncoder {
        tower: Vit::load(&config.vision, &weights.pp("vision"))?,
        feature_layers: config.feature_layers.clone(),
        keeps_class_token: config.keeps_class_token,
        projector: TwoLayerProjector::load(
            (input, config.text.decoder.hidden_size),
            config.projector_bias,
            config.projector_activation,
            &weights.pp("projector"),
        )?,
    };
    CausalModel::load("llava", encoder, &config.text, weights)
}
