//! EfficientNet-Lite vision tower: a convolutional network without squeeze-and-excitation, with
//! relu6 in place of swish.
//!
//! "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", Tan and Le 2019,
//! <https://arxiv.org/abs/1905.11946>; the Lite variants are those of TensorFlow's
//! `tpu/models/official/efficientnet/lite`. Batch normalization is folded into the convolutions
//! when a checkpoint is converted ([`crate::vlm::vision::convert`]), so a layer is a weight and a
//! bias. Inference only.

use candle_core::{DType, Result, Tensor, bail};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use super::kernels::{Kernels, PointwiseActivation, SameWindow, kernels};

const STEM: SameWindow = SameWindow {
    kernel: 3,
    stride: 2,
};

/// Blocks of one width: the first has the stride, the others keep the size and have a residual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Number of blocks.
    pub blocks: usize,
    /// Side of the depthwise kernel.
    pub kernel: usize,
    /// Stride of the first block.
    pub stride: usize,
    /// Expansion factor of the channels for the depthwise convolution; 1 omits the expansion.
    pub expand: usize,
    /// Output channels.
    pub channels: usize,
}

/// Sizes of the network; the default is Lite0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EfficientNetLiteConfig {
    /// Side of the square input in pixels: a multiple of the product of all strides.
    pub image_size: usize,
    /// Channels of the first convolution.
    pub stem: usize,
    /// Stages in order.
    pub stages: Vec<Stage>,
    /// Channels of the last convolution.
    pub head: usize,
    /// `true` to also output the last map of twice the final resolution, with its 2x2 cells
    /// concatenated into one token.
    pub mid_tap: bool,
}

impl Default for EfficientNetLiteConfig {
    fn default() -> Self {
        let stage = |blocks, kernel, stride, expand, channels| Stage {
            blocks,
            kernel,
            stride,
            expand,
            channels,
        };
        Self {
            image_size: 224,
            stem: 32,
            stages: vec![
                stage(1, 3, 1, 1, 16),
                stage(2, 3, 2, 6, 24),
                stage(2, 5, 2, 6, 40),
                stage(3, 3, 2, 6, 80),
                stage(3, 5, 1, 6, 112),
                stage(4, 5, 2, 6, 192),
                stage(1, 3, 1, 6, 320),
            ],
            head: 1280,
            mid_tap: false,
        }
    }
}

impl EfficientNetLiteConfig {
    /// Side of the final map.
    ///
    /// # Errors
    /// When a size is zero, or the image size is not a multiple of the strides' product.
    fn side(&self) -> Result<usize> {
        let zero = |s: &Stage| [s.blocks, s.kernel, s.stride, s.expand, s.channels].contains(&0);
        if self.stages.is_empty()
            || self.stages.iter().any(zero)
            || [self.image_size, self.stem, self.head].contains(&0)
        {
            bail!(
                "efficientnet-lite: every size must be positive and there must be a stage: {self:?}"
            );
        }
        let strides = STEM.stride * self.stages.iter().map(|s| s.stride).product::<usize>();
        if !self.image_size.is_multiple_of(strides) {
            bail!(
                "efficientnet-lite: image_size {} is no multiple of {strides}, the product of the \
                 strides",
                self.image_size
            );
        }
        Ok(self.image_size / strides)
    }

    /// Index of the stage whose output has twice the final side, if it is tapped.
    fn tapped_stage(&self) -> Result<Option<usize>> {
        if !self.mid_tap {
            return Ok(None);
        }
        match self.stages.iter().rposition(|s| s.stride != 1) {
            Some(last) if last > 0 && self.stages[last].stride == 2 => Ok(Some(last - 1)),
            _ => bail!(
                "efficientnet-lite: mid_tap needs a stage of stride 2 that is not the first, and \
                 none of another stride after it"
            ),
        }
    }
}

/// Convolution `(channels, ...)` with bias, packed for the kernels.
fn conv(shape: &[usize], vb: VarBuilder<'_>, kernels: &dyn Kernels) -> Result<Tensor> {
    let weight = vb.get(shape, "weight")?;
    // Taps come before input channels; only the stem has both.
    let weight = if weight.rank() == 4 {
        weight.permute((0, 2, 3, 1))?.contiguous()?
    } else {
        weight
    };
    let bias = vb.get(shape[0], "bias")?;
    kernels.pack(&Tensor::cat(
        &[weight.flatten_from(1)?.t()?, bias.unsqueeze(0)?],
        0,
    )?)
}

/// Inverted bottleneck: expand, depthwise convolution, project.
#[derive(Debug)]
struct Block {
    expand: Option<Tensor>,
    depthwise: Tensor,
    window: SameWindow,
    project: Tensor,
    residual: bool,
}

impl Block {
    fn load(
        input: usize,
        stage: &Stage,
        stride: usize,
        vb: &VarBuilder<'_>,
        kernels: &dyn Kernels,
    ) -> Result<Self> {
        let wide = input * stage.expand;
        let expand = || conv(&[wide, input], vb.pp("expand"), kernels);
        Ok(Self {
            expand: (stage.expand != 1).then(expand).transpose()?,
            depthwise: conv(
                &[wide, stage.kernel, stage.kernel],
                vb.pp("depthwise"),
                kernels,
            )?,
            window: SameWindow {
                kernel: stage.kernel,
                stride,
            },
            project: conv(&[stage.channels, wide], vb.pp("project"), kernels)?,
            residual: stride == 1 && input == stage.channels,
        })
    }

    fn forward(&self, x: &Tensor, kernels: &dyn Kernels) -> Result<Tensor> {
        let wide = kernels.widen(x, self.expand.as_ref(), &self.depthwise, self.window)?;
        kernels.pointwise(
            &wide,
            &self.project,
            if self.residual {
                PointwiseActivation::Add(x)
            } else {
                PointwiseActivation::Linear
            },
        )
    }
}

/// EfficientNet-Lite up to and including its last convolution, without pooling and classifier.
#[derive(Debug)]
pub struct EfficientNetLite {
    config: EfficientNetLiteConfig,
    kernels: &'static dyn Kernels,
    dtype: DType,
    stem: Tensor,
    /// One list of blocks per stage.
    stages: Vec<Vec<Block>>,
    head: Tensor,
    tapped_stage: Option<usize>,
    side: usize,
}

impl EfficientNetLite {
    /// Loads `stem`, `blocks.N.{expand,depthwise,project}` and `head`, each with `weight` and
    /// `bias`, as written by [`crate::vlm::vision::convert`].
    ///
    /// # Errors
    /// When the configuration is inconsistent, or a tensor is missing or has another shape.
    pub fn load(config: &EfficientNetLiteConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let side = config.side()?;
        let tapped_stage = config.tapped_stage()?;
        let kernels = kernels(vb.device(), vb.dtype());
        let (mut input, mut number) = (config.stem, 0);
        let mut stages = Vec::with_capacity(config.stages.len());
        for stage in &config.stages {
            let mut blocks = Vec::with_capacity(stage.blocks);
            for i in 0..stage.blocks {
                let stride = if i == 0 { stage.stride } else { 1 };
                blocks.push(Block::load(
                    input,
                    stage,
                    stride,
                    &vb.pp(format!("blocks.{number}")),
                    kernels,
                )?);
                (input, number) = (stage.channels, number + 1);
            }
            stages.push(blocks);
        }
        Ok(Self {
            stem: conv(
                &[config.stem, 3, STEM.kernel, STEM.kernel],
                vb.pp("stem"),
                kernels,
            )?,
            stages,
            head: conv(&[config.head, input], vb.pp("head"), kernels)?,
            config: config.clone(),
            dtype: vb.dtype(),
            kernels,
            tapped_stage,
            side,
        })
    }

    /// Side of the square input image in pixels.
    pub fn image_size(&self) -> usize {
        self.config.image_size
    }

    /// Number of image tokens: cells of the final map, row by row.
    pub fn tokens(&self) -> usize {
        self.side * self.side
    }

    /// Features per image token: those of the head and, with `mid_tap`, those of the four finer
    /// cells under it (upper left, upper right, lower left, lower right).
    pub fn channels(&self) -> usize {
        self.config.head
            + self
                .tapped_stage
                .map_or(0, |stage| 4 * self.config.stages[stage].channels)
    }

    /// Encodes normalized pixels `(batch, 3, image_size, image_size)` into `(batch, tokens,
    /// channels)`.
    ///
    /// # Errors
    /// When the shape differs or a tensor operation fails.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let (batch, size) = (pixels.dim(0)?, self.config.image_size);
        if pixels.dims() != [batch, 3, size, size] {
            bail!(
                "efficientnet-lite: expected pixels (batch, 3, {size}, {size}), got {:?}",
                pixels.shape()
            );
        }
        let pixels = pixels.to_dtype(self.dtype)?;
        if !pixels.device().is_cpu() {
            return self.encode(&pixels);
        }
        // One image at a time, so that its maps fit into the caches.
        let images = (0..batch)
            .map(|i| self.encode(&pixels.narrow(0, i, 1)?))
            .collect::<Result<Vec<_>>>()?;
        Tensor::cat(&images, 0)
    }

    fn encode(&self, pixels: &Tensor) -> Result<Tensor> {
        let kernels = self.kernels;
        let mut x = kernels.pointwise(
            &kernels.patches(pixels, STEM)?,
            &self.stem,
            PointwiseActivation::Relu6,
        )?;
        let mut tap = None;
        for (i, stage) in self.stages.iter().enumerate() {
            for block in stage {
                x = block.forward(&x, kernels)?;
            }
            if self.tapped_stage == Some(i) {
                tap =
                    Some(self.space_to_depth(&kernels.cells(&x, self.config.stages[i].channels)?)?);
            }
        }
        let head = kernels.pointwise(&x, &self.head, PointwiseActivation::Relu6)?;
        let head = kernels.cells(&head, self.config.head)?.flatten(1, 2)?;
        match tap {
            Some(tap) => Tensor::cat(&[head, tap], 2),
            None => Ok(head),
        }
    }

    /// Rearranges `(batch, 2 side, 2 side, c)` to `(batch, side * side, 4 c)`.
    fn space_to_depth(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, _, _, c) = x.dims4()?;
        let cells = x
            .reshape((batch, self.side, 2, self.side, 2 * c))?
            .transpose(2, 3)?;
        cells.contiguous()?.reshape((batch, self.tokens(), 4 * c))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::{Device, Shape};
    use candle_nn::VarMap;

    use super::*;

    fn tiny(mid_tap: bool) -> EfficientNetLiteConfig {
        let stages = vec![
            Stage {
                blocks: 1,
                kernel: 3,
                stride: 1,
                expand: 1,
                channels: 8,
            },
            Stage {
                blocks: 2,
                kernel: 5,
                stride: 2,
                expand: 3,
                channels: 12,
            },
            Stage {
                blocks: 2,
                kernel: 3,
                stride: 2,
                expand: 2,
                channels: 20,
            },
        ];
        EfficientNetLiteConfig {
            image_size: 32,
            stem: 8,
            stages,
            head: 24,
            mid_tap,
        }
    }

    /// The same random weights in two types: `f32` uses the blocked kernels, `f64` the plain ones.
    fn both(config: &EfficientNetLiteConfig) -> (EfficientNetLite, EfficientNetLite) {
        let vars = VarMap::new();
        EfficientNetLite::load(
            config,
            VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu),
        )
        .unwrap();
        let random = |shape: &Shape| Tensor::randn(0f32, 0.5, shape, &Device::Cpu).unwrap();
        let tensors: HashMap<_, _> = vars
            .data()
            .lock()
            .unwrap()
            .iter()
            .map(|(k, v)| (k.clone(), random(v.shape())))
            .collect();
        let fast = EfficientNetLite::load(
            config,
            VarBuilder::from_tensors(tensors.clone(), DType::F32, &Device::Cpu),
        )
        .unwrap();
        let plain = EfficientNetLite::load(
            config,
            VarBuilder::from_tensors(tensors, DType::F64, &Device::Cpu),
        )
        .unwrap();
        (fast, plain)
    }

    #[test]
    fn forward_blocked_equals_plain() {
        let (fast, plain) = both(&tiny(true));
        let pixels = Tensor::randn(0f32, 1., (3, 3, 32, 32), &Device::Cpu).unwrap();
        let (a, b) = (
            fast.forward(&pixels).unwrap().to_dtype(DType::F64).unwrap(),
            plain.forward(&pixels).unwrap(),
        );
        assert_eq!(a.dims(), [3, fast.tokens(), fast.channels()]);
        assert_eq!((fast.tokens(), fast.channels()), (16, 24 + 4 * 12));
        let scale = b
            .abs()
            .unwrap()
            .max_all()
            .unwrap()
            .to_scalar::<f64>()
            .unwrap();
        let diff = (a - b)
            .unwrap()
            .abs()
            .unwrap()
            .max_all()
            .unwrap()
            .to_scalar::<f64>()
            .unwrap();
        assert!(
            scale > 0.1 && diff < 1e-5 * scale,
            "scale {scale}, difference {diff}"
        );
    }

    #[test]
    fn forward_batch_equals_single_runs() {
        let (net, _) = both(&tiny(false));
        let pixels = Tensor::randn(0f32, 1., (2, 3, 32, 32), &Device::Cpu).unwrap();
        let batch = net.forward(&pixels).unwrap();
        for i in 0..2 {
            let single = net.forward(&pixels.narrow(0, i, 1).unwrap()).unwrap();
            let batch = batch.narrow(0, i, 1).unwrap();
            let diff = (single - &batch)
                .unwrap()
                .abs()
                .unwrap()
                .max_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap();
            assert!(
                diff < 1e-5 * batch.max_all().unwrap().to_scalar::<f32>().unwrap(),
                "difference {diff}"
            );
        }
    }

    #[test]
    fn space_to_depth_keeps_reading_order() {
        let (net, _) = both(&tiny(true));
        // Cell (y, x) of the finer map holds 10 y + x.
        let cells: Vec<f32> = (0..64).map(|i| (i / 8 * 10 + i % 8) as f32).collect();
        let map = Tensor::from_vec(cells, (1, 8, 8, 1), &Device::Cpu).unwrap();
        let tokens = net
            .space_to_depth(&map)
            .unwrap()
            .squeeze(0)
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        assert_eq!(tokens[0], [0., 1., 10., 11.]);
        assert_eq!(tokens[5], [22., 23., 32., 33.]);
    }

    #[test]
    fn load_inconsistent_sizes_are_refused_by_name() {
        let vars = VarMap::new();
        let load = |config: &EfficientNetLiteConfig| {
            let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
            EfficientNetLite::load(config, vb).unwrap_err().to_string()
        };
        assert!(
            load(&EfficientNetLiteConfig {
                image_size: 33,
                ..tiny(false)
            })
            .contains("image_size 33")
        );
        assert!(
            load(&EfficientNetLiteConfig {
                stages: tiny(false).stages[..1].to_vec(),
                mid_tap: true,
                ..tiny(false)
            })
            .contains("mid_tap")
        );
        assert!(
            load(&EfficientNetLiteConfig {
                head: 0,
                ..tiny(false)
            })
            .contains("positive")
        );
    }

    #[test]
    fn forward_wrong_image_size_is_an_error() {
        let (net, _) = both(&tiny(false));
        let pixels = Tensor::zeros((1, 3, 64, 64), DType::F32, &Device::Cpu).unwrap();
        assert!(
            net.forward(&pixels)
                .unwrap_err()
                .to_string()
                .contains("(batch, 3, 32, 32)")
        );
    }
}
