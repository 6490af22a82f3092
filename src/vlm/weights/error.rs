//! Errors in checkpoints.

use std::path::PathBuf;

/// Reason why a checkpoint cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// A file cannot be opened or read.
    #[error("{}: {source}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// A path is neither a folder nor a file of tensors.
    #[error("{}: expected a folder, a .safetensors file or a .gguf file", file.display())]
    FileType {
        /// The path.
        file: PathBuf,
    },
    /// A folder holds no tensors.
    #[error(
        "{}: found neither model.safetensors nor model.safetensors.index.json",
        folder.display()
    )]
    NoTensors {
        /// The folder.
        folder: PathBuf,
    },
    /// A file does not hold what its format demands.
    #[error("{}: {reason}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Description of the problem.
        reason: String,
    },
    /// An index names a shard that does not exist.
    #[error("{}: the shard {shard} is missing", index.display())]
    MissingShard {
        /// The index.
        index: PathBuf,
        /// Name of the shard.
        shard: String,
    },
    /// An index names a shard outside its folder or of another format.
    #[error(
        "{}: {tensor} is said to be in {shard:?}, expected a .safetensors file beside the index",
        index.display()
    )]
    ShardName {
        /// The index.
        index: PathBuf,
        /// Tensor whose shard it is.
        tensor: String,
        /// Name of the shard.
        shard: String,
    },
    /// An index names a tensor that its shard lacks.
    #[error("{}: {tensor} is said to be in {shard}, which lacks it", index.display())]
    NotInShard {
        /// The index.
        index: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// Name of the shard.
        shard: String,
    },
    /// Two tensors of a checkpoint have the same part in the model.
    #[error(
        "{name} is both {} in {} and {} in {}",
        tensors[0], files[0].display(), tensors[1], files[1].display()
    )]
    Ambiguous {
        /// Canonical name.
        name: String,
        /// Names in the files.
        tensors: [String; 2],
        /// The files.
        files: [PathBuf; 2],
    },
    /// A model needs a tensor that no file holds.
    #[error("{name} is missing in {}", files.iter().map(|file| file.display().to_string())
        .collect::<Vec<_>>().join(", "))]
    MissingTensor {
        /// Canonical name.
        name: String,
        /// All files of the checkpoint.
        files: Vec<PathBuf>,
    },
    /// A tensor has another shape than the configuration demands.
    #[error("{}: {tensor} has the shape {found:?}, expected {expected:?}", file.display())]
    Shape {
        /// The file.
        file: PathBuf,
        /// Name in the file.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that the model needs.
        expected: Vec<usize>,
    },
    /// A tensor that a model needs is of a type that is not read.
    #[error(
        "{}: {tensor} is of type {found}, expected a float or a quantized type",
        file.display()
    )]
    Type {
        /// The file.
        file: PathBuf,
        /// Name in the file.
        tensor: String,
        /// Its type.
        found: String,
    },
    /// A value of a file's metadata is missing or of no use.
    #[error("{}: {key} {reason}", file.display())]
    Metadata {
        /// The file.
        file: PathBuf,
        /// Name of the value.
        key: String,
        /// Description of the problem, behind the name.
        reason: String,
    },
}

impl From<WeightsError> for candle_core::Error {
    fn from(error: WeightsError) -> Self {
        Self::wrap(error)
    }
}
