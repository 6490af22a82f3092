//! GGUF files of llama.cpp: a language model, or the tower and projector of one that sees.

mod metadata;
mod names;
mod reader;
#[cfg(test)]
mod tests;

pub use metadata::GgufMetadata;

use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;

use super::{WeightsError, checkpoint::StoredTensor, mapped::map_file};
use crate::vlm::{
    decoder::DecoderConfig,
    nn::{RowOrder, SharedBytes},
};

/// Architectures of language models that are read.
const ARCHITECTURES: [&str; 2] = ["llama", "qwen2"];

/// Architecture of a file with tower and projector.
const TOWER: &str = "clip";

/// Mapped GGUF file.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    metadata: GgufMetadata,
    tensors: Vec<GgufTensor>,
}

/// Tensor of a file.
#[derive(Debug)]
struct GgufTensor {
    name: String,
    shape: Vec<usize>,
    encoding: Result<GgmlDType, String>,
    bytes: SharedBytes,
}

impl GgufFile {
    /// Maps a file into memory and reads its metadata and its list of tensors.
    ///
    /// # Errors
    /// When it is missing, truncated or no valid GGUF file, or one of several parts.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, WeightsError> {
        let path = path.as_ref();
        let malformed = |reason: String| WeightsError::Malformed {
            file: path.to_owned(),
            reason: format!("no valid GGUF file: {reason}"),
        };
        if path.extension().is_none_or(|extension| extension != "gguf") {
            let file = path.to_owned();
            return Err(WeightsError::FileType { file });
        }
        let bytes = map_file(path)?;
        let header = reader::read_header(bytes.as_ref()).map_err(malformed)?;
        let metadata = GgufMetadata {
            file: path.to_owned(),
            values: header.values,
        };
        if metadata.size("split.count")?.is_some_and(|parts| parts > 1) {
            return Err(metadata.error("split.count", "is above 1; files in parts are not read"));
        }
        let tensors = header.tensors.into_iter().map(|tensor| {
            let encoding = encoding(tensor.kind);
            let bytes = match encoding {
                None => bytes.slice(0..0),
                Some(encoding) => extent(&tensor, encoding, header.data)
                    .and_then(|(start, end)| bytes.slice(start..end)),
            };
            let bytes = bytes.ok_or_else(|| {
                let (name, shape) = (&tensor.name, &tensor.shape);
                malformed(format!(
                    "{name} of the shape {shape:?} does not lie within it"
                ))
            })?;
            Ok(GgufTensor {
                encoding: encoding.ok_or_else(|| format!("{} of ggml", tensor.kind)),
                name: tensor.name,
                shape: tensor.shape,
                bytes,
            })
        });
        Ok(Self {
            path: path.to_owned(),
            metadata,
            tensors: tensors.collect::<Result<_, WeightsError>>()?,
        })
    }

    /// Returns the metadata.
    pub fn metadata(&self) -> &GgufMetadata {
        &self.metadata
    }

    /// Returns the architecture: that of a language model, or `clip` for tower and projector.
    ///
    /// # Errors
    /// When the file does not name one, or one that is not supported.
    pub fn architecture(&self) -> Result<&str, WeightsError> {
        let key = "general.architecture";
        let name = self.metadata.require(key, GgufMetadata::text)?;
        if name == TOWER || ARCHITECTURES.contains(&name) {
            return Ok(name);
        }
        let supported = ARCHITECTURES.join(", ");
        let reason = format!("is {name:?}, expected {TOWER} or one of {supported}");
        Err(self.metadata.error(key, reason))
    }

    /// Returns the sizes and options of the language model.
    ///
    /// # Errors
    /// When the file holds none, its metadata lack something or contradict its tensors, or it needs
    /// what the decoder does not do.
    pub fn decoder_config(&self) -> Result<DecoderConfig, WeightsError> {
        let (architecture, metadata) = (self.architecture()?, &self.metadata);
        let key = |name: &str| format!("{architecture}.{name}");
        let size = |name: &str| metadata.require(&key(name), GgufMetadata::size);
        let unsupported =
            |name: &str| Err(metadata.error(&key(name), "asks for what is not supported"));
        if metadata
            .size(&key("expert_count"))?
            .is_some_and(|experts| experts > 0)
        {
            return unsupported("expert_count");
        }
        let scaling = metadata.text(&key("rope.scaling.type"))?;
        if scaling.is_some_and(|scaling| scaling != "none") {
            return unsupported("rope.scaling.type");
        }
        if self.get("rope_freqs.weight").is_some() {
            let reason = "holds scaled rotary rates, which are not supported";
            return Err(metadata.error("rope_freqs.weight", reason));
        }
        let heads = size("attention.head_count")?;
        let kv_heads = metadata
            .size(&key("attention.head_count_kv"))?
            .unwrap_or(heads);
        let hidden_size = size("embedding_length")?;
        if heads == 0 || kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            let reason = format!("is {heads}, with {kv_heads} heads of keys");
            return Err(metadata.error(&key("attention.head_count"), reason));
        }
        let head_dim = metadata.size(&key("attention.key_length"))?;
        let rotated = metadata.size(&key("rope.dimension_count"))?;
        let dim = head_dim.unwrap_or(hidden_size / heads);
        if rotated.is_some_and(|rotated| rotated != dim) {
            let reason = format!("differs from the width of a head, {dim}");
            return Err(metadata.error(&key("rope.dimension_count"), reason));
        }
        let layers = size("block_count")?;
        let last = format!("blk.{}.attn_q.weight", layers.saturating_sub(1));
        if layers == 0 || self.get(&last).is_none() {
            let reason = format!("is {layers}, but there is no {last}");
            return Err(metadata.error(&key("block_count"), reason));
        }
        let Some([vocab_size, _]) = self.get("token_embd.weight").map(|t| t.shape.as_slice())
        else {
            let reason = "is missing or no matrix";
            return Err(metadata.error("token_embd.weight", reason));
        };
        let epsilon = key("attention.layer_norm_rms_epsilon");
        let theta = metadata.number(&key("rope.freq_base"))?;
        let has_bias = |part: &str| self.get(&format!("blk.0.{part}.bias")).is_some();
        Ok(DecoderConfig {
            vocab_size: *vocab_size,
            hidden_size,
            intermediate_size: size("feed_forward_length")?,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim: head_dim.filter(|&dim| dim * heads != hidden_size),
            max_position_embeddings: size("context_length")?,
            rope_theta: theta.unwrap_or(DecoderConfig::default().rope_theta),
            rope_scaling: None,
            rms_norm_eps: metadata.require(&epsilon, GgufMetadata::number)?,
            tie_word_embeddings: self.get("output.weight").is_none(),
            qkv_bias: has_bias("attn_q"),
            o_bias: has_bias("attn_output"),
            mlp_bias: has_bias("ffn_up"),
        })
    }

    fn get(&self, name: &str) -> Option<&GgufTensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// Returns all tensors with their canonical names.
    pub(super) fn tensors(&self) -> Result<Vec<(Option<String>, StoredTensor)>, WeightsError> {
        let architecture = self.architecture()?;
        let orders = match architecture {
            "llama" => self.paired_rows()?,
            _ => Vec::new(),
        };
        let swapped = architecture == TOWER && self.has_swapped_feed_forward()?;
        let stored = self.tensors.iter().map(|tensor| {
            let part = tensor.name.rsplit('.').nth(1);
            let order = orders.iter().find(|(name, _)| Some(*name) == part);
            let stored = StoredTensor {
                file: self.path.clone(),
                name: tensor.name.clone(),
                shape: tensor.shape.clone(),
                encoding: tensor.encoding.clone(),
                order: order.map_or(RowOrder::Straight, |(_, order)| *order),
                bytes: tensor.bytes.clone(),
            };
            (names::canonical(&tensor.name, swapped), stored)
        });
        Ok(stored.collect())
    }

    /// Returns the order of rows of queries and keys of LLaMA: llama.cpp rotates neighbors, other
    /// checkpoints the two halves of a head.
    fn paired_rows(&self) -> Result<Vec<(&'static str, RowOrder)>, WeightsError> {
        let dim = self.decoder_config()?.head_dim();
        if dim < 2 || !dim.is_multiple_of(2) {
            let reason = format!("gives heads of {dim}");
            return Err(self.metadata.error("llama.attention.head_count", reason));
        }
        Ok(["attn_q", "attn_k"]
            .map(|part| (part, RowOrder::Paired(dim)))
            .to_vec())
    }

    /// Returns `true` if `ffn_down` is the matrix that widens: its input is that of the layer.
    fn has_swapped_feed_forward(&self) -> Result<bool, WeightsError> {
        let width = self.metadata.size("clip.vision.embedding_length")?;
        let down = self.get("v.blk.0.ffn_down.weight");
        Ok(down.is_some_and(|down| down.shape.get(1).copied() == width))
    }
}

/// Returns the encoding that a number stands for, if it is one that is read.
fn encoding(kind: u32) -> Option<GgmlDType> {
    Some(match kind {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        _ => return None,
    })
}

/// Returns the first byte of a tensor's data and the one behind it, `None` if no file is that long.
fn extent(
    tensor: &reader::TensorHeader,
    encoding: GgmlDType,
    data: usize,
) -> Option<(usize, usize)> {
    let count = tensor
        .shape
        .iter()
        .try_fold(1usize, |count, &size| count.checked_mul(size))?;
    let bytes = (count / encoding.block_size()).checked_mul(encoding.type_size())?;
    let start = data.checked_add(usize::try_from(tensor.offset).ok()?)?;
    Some((start, start.checked_add(bytes)?))
}
