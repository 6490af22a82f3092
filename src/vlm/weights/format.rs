//! Number formats of matrices in memory.

use candle_core::quantized::GgmlDType;
use serde::{Deserialize, Serialize};

/// Dtype in which matrices are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightsDtype {
    /// That of the file.
    #[default]
    Auto,
    /// Single precision.
    F32,
    /// Half precision with the exponents of single precision.
    Bf16,
    /// Half precision.
    F16,
}

/// Block format of quantized matrices, by llama.cpp's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlockFormat {
    /// 8 bits a weight and a scale for each 32.
    #[serde(rename = "q8_0")]
    Q8_0,
    /// 4 bits a weight and a scale for each 32.
    #[serde(rename = "q4_0")]
    Q4_0,
    /// 4 bits a weight, a scale and a minimum for each 32.
    #[serde(rename = "q4_1")]
    Q4_1,
    /// 4 bits a weight, in superblocks of 256.
    #[serde(rename = "q4_k")]
    Q4K,
    /// 5 bits a weight, in superblocks of 256.
    #[serde(rename = "q5_k")]
    Q5K,
    /// 6 bits a weight, in superblocks of 256.
    #[serde(rename = "q6_k")]
    Q6K,
}

impl BlockFormat {
    /// All formats with their names.
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::Q8_0, "q8_0"),
        (Self::Q4_0, "q4_0"),
        (Self::Q4_1, "q4_1"),
        (Self::Q4K, "q4_k"),
        (Self::Q5K, "q5_k"),
        (Self::Q6K, "q6_k"),
    ];

    /// Returns candle's name of the format.
    pub fn ggml(self) -> GgmlDType {
        match self {
            Self::Q8_0 => GgmlDType::Q8_0,
            Self::Q4_0 => GgmlDType::Q4_0,
            Self::Q4_1 => GgmlDType::Q4_1,
            Self::Q4K => GgmlDType::Q4K,
            Self::Q5K => GgmlDType::Q5K,
            Self::Q6K => GgmlDType::Q6K,
        }
    }
}
