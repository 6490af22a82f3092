//! Loading of a model and its processor from files.

use std::{
    fs,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use candle_core::Device;

use super::{ModelConfig, config::end_tokens, gguf};
use crate::vlm::{
    VisionLanguageModel,
    processor::{
        Processor, ProcessorError,
        checkpoint::{CheckpointProcessor, ImageProcessor},
        processor_config::{ConfigSection, ProcessorFileError, ProcessorFiles, read_object},
        template::{ChatTemplate, TemplateError},
        text_files::{TemplateFiles, read_tokenizer},
        tokenizer::{TextTokenizer, TokenizerError},
    },
    weights::{GgufFile, Weights, WeightsError, WeightsOptions, canonical_name},
};

/// Sizes and options of a model.
const CONFIG_FILE: &str = "config.json";

/// Settings of decoding.
const GENERATION_FILE: &str = "generation_config.json";

/// Most files of a folder that are looked at.
const MAX_FILES: usize = 10_000;

/// Tower that a file of LLaVA's authors names and that is known without its files.
const CLIP_NAME: &str = "openai/clip-vit-large-patch14-336";

/// End of an answer where a file of LLaMA is silent (`LlamaConfig`).
const LLAMA_END: u32 = 2;

/// Error in loading a model.
#[derive(Debug, thiserror::Error)]
pub enum ModelLoadError {
    /// A path that is no model.
    #[error("{}: {reason}", path.display())]
    Source {
        /// The path.
        path: PathBuf,
        /// Description of the problem.
        reason: String,
    },
    /// A configuration file is missing or holds what is not supported.
    #[error(transparent)]
    Config(#[from] ProcessorFileError),
    /// The files of tensors cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The chat template cannot be used.
    #[error("chat template: {0}")]
    Template(#[from] TemplateError),
    /// The tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The parts of the processor do not go together.
    #[error(transparent)]
    Processor(#[from] ProcessorError),
    /// A tensor is missing or has another shape, or memory ran out.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// Model with its processor.
pub type LoadedModel = (Arc<dyn VisionLanguageModel>, Arc<dyn Processor>);

/// Files of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// Folder with `config.json` and tensors in safetensors files.
    Folder(PathBuf),
    /// GGUF files.
    Gguf {
        /// Language model.
        text: PathBuf,
        /// Tower and projector.
        vision: Option<PathBuf>,
    },
}

impl ModelSource {
    /// Returns the source at `path`: a GGUF file, a folder with one, or a folder with
    /// `config.json`. Beside a GGUF file, one with `mmproj` in its name holds tower and projector.
    ///
    /// # Errors
    /// When there is no model, or several.
    pub fn find(path: &Path) -> Result<Self, ModelLoadError> {
        let wrong = |reason: String| ModelLoadError::Source {
            path: path.to_owned(),
            reason,
        };
        let is_folder = path.is_dir();
        if is_folder && path.join(CONFIG_FILE).exists() && !has_gguf_alone(path)? {
            return Ok(Self::Folder(path.to_owned()));
        }
        let folder = match (is_folder, path.parent()) {
            (true, _) => path,
            (false, Some(parent)) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let (visions, mut texts) = gguf_files(folder)?;
        if !is_folder {
            if !path.is_file() || !is_gguf(path) {
                return Err(wrong("is neither a folder nor a .gguf file".to_owned()));
            }
            texts = vec![path.to_owned()];
        }
        let names = |files: &[PathBuf]| {
            let names = files.iter().filter_map(|file| file.file_name());
            let names: Vec<_> = names.map(|name| name.to_string_lossy()).collect();
            names.join(", ")
        };
        let text = match texts.as_slice() {
            [text] => text.clone(),
            [] => return Err(wrong(format!("has neither {CONFIG_FILE} nor a .gguf file"))),
            several => {
                return Err(wrong(format!(
                    "has several .gguf files, name one: {}",
                    names(several)
                )));
            }
        };
        match visions.as_slice() {
            [] => Ok(Self::Gguf { text, vision: None }),
            [vision] => Ok(Self::Gguf {
                text,
                vision: Some(vision.clone()),
            }),
            several => Err(wrong(format!(
                "has several files of a tower, keep one: {}",
                names(several)
            ))),
        }
    }
}

fn is_gguf(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "gguf")
}

/// Returns `true` if a folder's tensors are in GGUF files, whatever else describes the model.
fn has_gguf_alone(folder: &Path) -> Result<bool, ModelLoadError> {
    let (_, texts) = gguf_files(folder)?;
    if texts.is_empty() {
        return Ok(false);
    }
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_safetensors = |path: PathBuf| path.extension().is_some_and(|e| e == "safetensors");
    Ok(!entries
        .take(MAX_FILES)
        .any(|entry| is_safetensors(entry.path())))
}

/// Returns the GGUF files of a folder in the order of their names: towers, and the others.
fn gguf_files(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), ModelLoadError> {
    let error = |other: std::io::Error| ModelLoadError::Source {
        path: folder.to_owned(),
        reason: format!("cannot be read: {other}"),
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(error)?.take(MAX_FILES) {
        let path = entry.map_err(error)?.path();
        if is_gguf(&path) {
            files.push(path);
        }
    }
    files.sort();
    let is_tower = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy());
        name.is_some_and(|name| name.contains("mmproj"))
    };
    Ok(files.into_iter().partition(is_tower))
}

/// Model whose files are open and go together; its tensors are mapped and not loaded.
pub struct OpenedModel {
    /// Sizes.
    pub config: ModelConfig,
    /// Processor between requests and the model; its tensors are on the model's device.
    pub processor: CheckpointProcessor,
    /// Tensors.
    pub weights: Weights<'static>,
}

impl OpenedModel {
    /// Opens a model's files.
    ///
    /// # Errors
    /// When a file is missing, cannot be read, holds what is not supported, or does not fit the
    /// others.
    pub fn open(source: &ModelSource, options: &WeightsOptions) -> Result<Self, ModelLoadError> {
        match source {
            ModelSource::Folder(folder) => open_folder(folder, options),
            ModelSource::Gguf { text, vision } => open_gguf(text, vision.as_deref(), options),
        }
    }

    /// Loads the tensors.
    ///
    /// # Errors
    /// When one is missing or has another shape.
    pub fn load(&self) -> Result<Arc<dyn VisionLanguageModel>, ModelLoadError> {
        let model = self.config.load(&self.weights)?;
        self.weights.give_back();
        Ok(model)
    }
}

/// Loads a model and its processor.
///
/// # Errors
/// When a file is missing, cannot be read, holds what is not supported, or does not fit the others.
pub fn load(source: &ModelSource, options: &WeightsOptions) -> Result<LoadedModel, ModelLoadError> {
    let opened = OpenedModel::open(source, options)?;
    Ok((opened.load()?, Arc::new(opened.processor)))
}

fn open_folder(folder: &Path, options: &WeightsOptions) -> Result<OpenedModel, ModelLoadError> {
    let root = read_object(folder, CONFIG_FILE)?.ok_or_else(|| missing(CONFIG_FILE))?;
    let mut tower = None;
    let config = ModelConfig::read(&root, |name| {
        tower = tower_folder(folder, name, &root)?;
        match &tower {
            Some(tower) => Ok(read_object(tower, CONFIG_FILE)?),
            None => Ok::<_, ModelLoadError>(None),
        }
    })?;

    let mut ends = end_tokens(read_object(folder, GENERATION_FILE)?.as_ref(), &root)?;
    if ends.is_empty() && config.text().model_type == "llama" {
        ends.push(LLAMA_END);
    }
    let tokenizer = TextTokenizer::from_checkpoint(&read_tokenizer(folder)?, &ends)?;
    let files = || ProcessorFiles::read(tower.as_deref().unwrap_or(folder));
    let image = config.image_processor(files)?;
    let processor = processor(
        &config,
        template(folder)?,
        tokenizer,
        image,
        &options.device,
    )?;

    let mut weights = Weights::open(&[folder], canonical_name, options.clone())?;
    // Some files of the original layout hold the tower, too.
    if let Some(tower) = tower.filter(|_| !weights.has("vision.embeddings.class_embedding")) {
        weights = Weights::open(&[folder, &tower], canonical_name, options.clone())?;
    }
    Ok(OpenedModel {
        config,
        processor,
        weights,
    })
}

fn open_gguf(
    text: &Path,
    vision: Option<&Path>,
    options: &WeightsOptions,
) -> Result<OpenedModel, ModelLoadError> {
    let folder = text.parent().unwrap_or(Path::new("."));
    let text = GgufFile::open(text)?;
    let vision = vision.map(GgufFile::open).transpose()?;
    let parts: Vec<&GgufFile> = [&text].into_iter().chain(&vision).collect();
    let weights = Weights::open_gguf(&parts, options.clone())?;
    let config = gguf::config(&text, vision.as_ref(), &weights)?;

    let metadata = text.metadata();
    let marker = matches!(config, ModelConfig::Llava(_)).then_some(gguf::LLAVA_MARKER);
    let tokenizer = gguf::tokenizer(metadata, marker)?;
    let template = match metadata.text("tokenizer.chat_template")? {
        Some(source) => ChatTemplate::with_tokens(source, tokenizer.named_tokens())?,
        None => template(folder)?,
    };
    let image = match &vision {
        Some(vision) => config.image_processor(|| gguf::processor_files(vision))?,
        None => None,
    };
    let processor = processor(
        &config,
        template,
        tokenizer.build()?,
        image,
        &options.device,
    )?;
    Ok(OpenedModel {
        config,
        processor,
        weights,
    })
}

/// Reads the chat template of a folder.
fn template(folder: &Path) -> Result<ChatTemplate, ModelLoadError> {
    let TemplateFiles { source, tokens } = TemplateFiles::read(folder)?;
    Ok(ChatTemplate::with_tokens(&source, tokens)?)
}

/// Joins the parts of a processor and checks that they fit the model.
fn processor(
    config: &ModelConfig,
    template: ChatTemplate,
    tokenizer: TextTokenizer,
    image: Option<Box<dyn ImageProcessor>>,
    device: &Device,
) -> Result<CheckpointProcessor, ModelLoadError> {
    let rows = config.text().decoder.vocab_size;
    // Special tokens, which spell nothing, may lie beyond the matrix: placeholders are never
    // embedded.
    let beyond = (rows..tokenizer.vocab_size())
        .map(|id| id as u32)
        .find(|&id| !tokenizer.bytes(id).is_empty() || tokenizer.is_end(id));
    if let Some(id) = beyond {
        let reason = format!("has the token {id}, but the model has {rows} rows of embeddings");
        return Err(misfit(reason));
    }
    let processor = CheckpointProcessor::new(template, Arc::new(tokenizer), image, device.clone())?;
    match (config.image_token(), processor.image_token()) {
        (Some(placeholder), Some(token)) if placeholder != token => Err(misfit(format!(
            "has {token} for the placeholder of images, {CONFIG_FILE} says {placeholder}"
        ))),
        _ => Ok(processor),
    }
}

fn misfit(reason: String) -> ModelLoadError {
    let file = "tokenizer.json".to_owned();
    ProcessorFileError { file, reason }.into()
}

fn missing(file: &str) -> ModelLoadError {
    let (file, reason) = (file.to_owned(), "is missing".to_owned());
    ProcessorFileError { file, reason }.into()
}

/// Returns the folder of a tower that the files of LLaVA's authors name, which lies within the
/// checkpoint's; `None` for the known tower in the same files as the text model.
fn tower_folder(
    folder: &Path,
    name: &str,
    root: &ConfigSection,
) -> Result<Option<PathBuf>, ModelLoadError> {
    let inside = |path: &Path| {
        let canonical = (path.canonicalize().ok()?, folder.canonicalize().ok()?);
        canonical.0.starts_with(&canonical.1).then_some(canonical.0)
    };
    let relative = Path::new(name);
    let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    let path = folder.join(relative);
    match (relative.components().all(is_plain) && path.is_dir(), name) {
        (true, _) if inside(&path).is_some() => Ok(Some(path)),
        (false, CLIP_NAME) => Ok(None),
        _ => {
            let expected = format!("a folder within the checkpoint or '{CLIP_NAME}'");
            Err(root.wrong("mm_vision_tower", expected, &name.into()).into())
        }
    }
}

#[cfg(test)]
mod tests;
