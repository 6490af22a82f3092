//! Idefics3 (Laurençon et al., 2024, <https://arxiv.org/abs/2408.12637>) and SmolVLM (Marafioti et
//! al., 2025, <https://arxiv.org/abs/2504.05299>): SigLIP on every tile, pixel shuffle, LLaMA.

use candle_core::{Result, Tensor};

use super::{
    causal::{CausalModel, ImageEncoder},
    config::{TextModelConfig, TowerDefaults},
};
use crate::vlm::{
    processor::{
        processor_config::{ConfigSection, ProcessorFileError, ProcessorFiles},
        tiled_image::{TileInput, TiledImageProcessor},
    },
    projector::pixel_shuffle::PixelShuffleProjector,
    vision::vit::{Vit, VitConfig},
    weights::Weights,
};

/// Tower where a file is silent (`Idefics3VisionConfig`).
const TOWER: TowerDefaults = TowerDefaults {
    hidden_size: 1152,
    intermediate_size: 3072,
    layers: 12,
    heads: 16,
    image_size: 224,
    patch_size: 32,
    activation: "gelu_pytorch_tanh",
    eps: 1e-6,
};

/// Sizes of the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Idefics3Config {
    /// `idefics3` or `smolvlm`.
    pub model_type: &'static str,
    /// Text model.
    pub text: TextModelConfig,
    /// Vision tower.
    pub vision: VitConfig,
    /// Side of the squares of patches that become one position.
    pub scale_factor: usize,
    /// Placeholder of image positions, if the configuration names one.
    pub image_token: Option<u32>,
}

impl Idefics3Config {
    /// Reads a `config.json` (`Idefics3Config`, `SmolVLMConfig`).
    ///
    /// # Errors
    /// When a value is outside its bounds.
    pub fn read(root: &ConfigSection) -> std::result::Result<Self, ProcessorFileError> {
        let vision = root.section_or_empty("vision_config")?;
        let types = [("idefics3_vision", ()), ("smolvlm_vision", ())];
        vision.choice("model_type", &types, "idefics3_vision")?;
        let vision = VitConfig {
            patch_bias: true,
            post_norm: true,
            ..TOWER.read(&vision)?
        };
        let section = root.section_or_empty("text_config")?;
        let mut text = TextModelConfig::read(&section, root)?;
        if root.value("text_config").is_none() {
            text.decoder.rms_norm_eps = 1e-5;
        }
        let side = vision.side();
        let scale_factor = root.size("scale_factor", 1..=side)?.unwrap_or(2);
        if !side.is_multiple_of(scale_factor) {
            let expected = format!("a divisor of the {side} patches along a side");
            return Err(root.wrong("scale_factor", expected, &scale_factor.into()));
        }
        let types = [("idefics3", "idefics3"), ("smolvlm", "smolvlm")];
        Ok(Self {
            model_type: root.choice("model_type", &types, "idefics3")?,
            text,
            vision,
            scale_factor,
            image_token: Some(root.image_token()?.unwrap_or(128_257)),
        })
    }
}

/// Reads the image processor that goes with the model.
///
/// # Errors
/// When a key is missing or does not go with the tower.
pub fn image_processor(
    config: &Idefics3Config,
    files: &ProcessorFiles,
) -> std::result::Result<TiledImageProcessor, ProcessorFileError> {
    let side = config.vision.side() / config.scale_factor;
    let tile = TileInput {
        side: config.vision.image_size as u32,
        tokens: side * side,
    };
    TiledImageProcessor::read(files, tile)
}

/// Vision tower and projector.
pub struct Idefics3Encoder {
    tower: Vit,
    projector: PixelShuffleProjector,
}

impl Idefics3Encoder {
    /// Returns the output of the tower, `(tiles, patches, channels)`.
    ///
    /// # Errors
    /// When the shape differs or a tensor operation fails.
    pub fn tower(&self, pixels: &Tensor) -> Result<Tensor> {
        let states = self.tower.forward(pixels, &[self.tower.config().layers])?;
        Tensor::cat(&states, 0)
    }
}

impl ImageEncoder for Idefics3Encoder {
    fn encode(&self, pixels: &Tensor) -> Result<Tensor> {
        self.projector.forward(&self.tower(pixels)?)
    }
}

/// Loads the weights under `vision`, `projector` and `text`.
///
/// # Errors
/// When a tensor is missing or has another shape.
pub fn load(
    config: &Idefics3Config,
    weights: &Weights<'_>,
) -> Result<CausalModel<Idefics3Encoder>> {
    let widths = (config.vision.hidden_size, config.text.decoder.hidden_size);
    let encoder = Idefics3Encoder {
        tower: Vit::load(&config.vision, &weights.pp("vision"))?,
        projector: PixelShuffleProjector::load(
            config.scale_factor,
            widths,
            &weights.pp("projector"),
        )?,
    };
    CausalModel::load(config.model_type, encoder, &config.text, weights)
}
