//! A model's tensors by name, wherever they are stored.

mod checkpoint;
mod contents;
mod error;
mod format;
mod gguf;
pub mod hub;
mod mapped;
mod names;
mod safetensors;
#[cfg(test)]
pub(crate) mod tests;

pub use checkpoint::WeightsOptions;
pub use contents::{FormatBytes, HeldWeights, WeightFile};
pub use error::WeightsError;
pub use format::{BlockFormat, WeightsDtype};
pub use gguf::{GgufFile, GgufMetadata};
pub use names::canonical_name;

use std::{path::Path, sync::Arc};

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::{Init, VarBuilder};

use super::nn::Linear;
use checkpoint::Checkpoint;

/// Standard deviation of a new matrix.
const STDEV: f64 = 0.02;

/// Named tensors below a prefix. A part of a network takes what it needs by its own names.
#[derive(Clone)]
pub struct Weights<'a> {
    source: Source<'a>,
}

#[derive(Clone)]
enum Source<'a> {
    /// Tensors in memory, or variables that training creates.
    Builder(VarBuilder<'a>),
    /// Mapped files, and the prefix with a dot behind it.
    Files(Arc<Checkpoint>, String),
}

impl<'a> From<VarBuilder<'a>> for Weights<'a> {
    fn from(builder: VarBuilder<'a>) -> Self {
        Self {
            source: Source::Builder(builder),
        }
    }
}

impl Weights<'static> {
    /// Maps safetensors checkpoints into memory: folders that hold `model.safetensors` or an index
    /// of shards, or single files. `names` returns the name by which a tensor is asked for, or
    /// `None` for those that are not needed; see [`canonical_name`].
    ///
    /// # Errors
    /// When a file is missing, truncated or no valid safetensors file, an index does not fit its
    /// shards, or two tensors are given the same name.
    pub fn open(
        paths: &[impl AsRef<Path>],
        names: impl Fn(&str) -> Option<String>,
        options: WeightsOptions,
    ) -> std::result::Result<Self, WeightsError> {
        let mut tensors = Vec::new();
        for path in paths {
            let opened = safetensors::open(path.as_ref())?;
            tensors.extend(
                opened
                    .into_iter()
                    .map(|tensor| (names(&tensor.name), tensor)),
            );
        }
        Checkpoint::new(tensors, options).map(Self::from)
    }

    /// Returns the tensors of GGUF files under the names of [`canonical_name`]: a language model
    /// and, for one that sees, the file of its tower and projector (`mmproj`).
    ///
    /// # Errors
    /// When a file's architecture is not supported, its metadata do not describe it, or two tensors
    /// have the same part in the model.
    pub fn open_gguf(
        files: &[&GgufFile],
        options: WeightsOptions,
    ) -> std::result::Result<Self, WeightsError> {
        let mut tensors = Vec::new();
        for file in files {
            tensors.extend(file.tensors()?);
        }
        Checkpoint::new(tensors, options).map(Self::from)
    }
}

impl From<Checkpoint> for Weights<'static> {
    fn from(checkpoint: Checkpoint) -> Self {
        Self {
            source: Source::Files(Arc::new(checkpoint), String::new()),
        }
    }
}

impl Weights<'_> {
    /// Returns the tensors below `name`.
    pub fn pp(&self, name: impl ToString) -> Self {
        let source = match &self.source {
            Source::Builder(builder) => Source::Builder(builder.pp(name)),
            Source::Files(checkpoint, prefix) => {
                let prefix = format!("{prefix}{}.", name.to_string());
                Source::Files(checkpoint.clone(), prefix)
            }
        };
        Self { source }
    }

    /// Returns the device of the loaded tensors.
    pub fn device(&self) -> &Device {
        match &self.source {
            Source::Builder(builder) => builder.device(),
            Source::Files(checkpoint, _) => &checkpoint.options.device,
        }
    }

    /// Returns `true` if there is a tensor of that name.
    pub fn has(&self, name: &str) -> bool {
        match &self.source {
            Source::Builder(builder) => builder.contains_tensor(name),
            Source::Files(..) => self.shape(name).is_some(),
        }
    }

    /// Returns the shape of a tensor in the files, `None` if there is no such tensor or no file.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        match &self.source {
            Source::Builder(_) => None,
            Source::Files(checkpoint, prefix) => checkpoint
                .get(&format!("{prefix}{name}"))
                .map(|tensor| tensor.shape.as_slice()),
        }
    }

    /// Returns the bytes of all tensors below the prefix, as they are in the files; 0 for tensors
    /// in memory.
    pub fn bytes(&self) -> usize {
        match &self.source {
            Source::Builder(_) => 0,
            Source::Files(checkpoint, prefix) => checkpoint.bytes(prefix),
        }
    }

    /// Gives the memory back that reading the files took: what was converted is not read again.
    pub fn give_back(&self) {
        if let Source::Files(checkpoint, _) = &self.source {
            checkpoint.give_back();
        }
    }

    /// Returns the opened files; none for tensors in memory.
    pub fn files(&self) -> &[WeightFile] {
        match &self.source {
            Source::Builder(_) => &[],
            Source::Files(checkpoint, _) => &checkpoint.files,
        }
    }

    /// Returns the memory that the files' tensors take when they are loaded with `options` on the
    /// CPU, those of layers that the model does not run included.
    pub fn held(&self, options: &WeightsOptions) -> HeldWeights {
        match &self.source {
            Source::Builder(_) => HeldWeights::default(),
            Source::Files(checkpoint, _) => checkpoint.held(options),
        }
    }

    /// Returns `true` if a tensor's name in the files, not the canonical one, begins with `prefix`.
    pub fn has_stored(&self, prefix: &str) -> bool {
        match &self.source {
            Source::Builder(_) => false,
            Source::Files(checkpoint, _) => checkpoint.has_stored(prefix),
        }
    }

    /// Loads a tensor in the activations' dtype; training initializes a new one by `init`.
    ///
    /// # Errors
    /// When it is missing or has another shape.
    pub fn tensor(&self, name: &str, shape: impl Into<Shape>, init: Init) -> Result<Tensor> {
        match &self.source {
            Source::Builder(builder) => builder.get_with_hints(shape.into(), name, init),
            Source::Files(checkpoint, prefix) => {
                checkpoint.tensor(&format!("{prefix}{name}"), shape.into().dims())
            }
        }
    }

    /// Loads the `weight` `(out, input)` and, if there is to be one, the `bias` below `name`. A
    /// matrix in a file stays there, encoded as it is, unless the options say otherwise.
    ///
    /// # Errors
    /// When one is missing or has another shape.
    pub fn linear(&self, name: &str, out: usize, input: usize, bias: bool) -> Result<Linear> {
        let layer = self.pp(name);
        let bias = bias
            .then(|| layer.tensor("bias", out, Init::Const(0.0)))
            .transpose()?;
        match &layer.source {
            Source::Builder(_) => {
                let init = Init::Randn {
                    mean: 0.0,
                    stdev: STDEV,
                };
                Linear::dense(layer.tensor("weight", (out, input), init)?, bias)
            }
            Source::Files(checkpoint, prefix) => {
                checkpoint.linear(&format!("{prefix}weight"), [out, input], bias)
            }
        }
    }

    /// Returns the dtype of the activations.
    pub fn dtype(&self) -> DType {
        match &self.source {
            Source::Builder(builder) => builder.dtype(),
            Source::Files(..) => DType::F32,
        }
    }
}
