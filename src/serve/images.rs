//! Images of a request: their files, what they become in the prompt, and their encodings.

use std::sync::Arc;

use tokio::runtime::Handle;
use tracing::Span;

use super::{
    app::{App, blocking},
    error::ApiError,
    fetch::HttpsUrl,
    openai::content::{NamedImage, RequestImage},
    served::{RequestContext, ServedVersion},
};
use crate::{
    bundle::Bundle,
    engine::{EncodedImage, EncodingError, ImageCache, fair::Share},
    reward::{ReaderPrompt, evidence::ImageEvidence},
    telemetry::RequestTrace,
    util::digest::HashedFile,
    vlm::{
        preprocess,
        processor::{ImageLayout, ImageOptions, ProcessorError, message::Message},
        prompt::{ImageFeatures, Prompt},
    },
};

/// Width and height assumed of an image that is not fetched yet, to estimate a request's cost.
const NOMINAL: (u32, u32) = (1024, 1024);

/// Prompt of a request with all that it shows.
pub(super) struct IllustratedPrompt {
    pub(super) prompt: Arc<Prompt>,
    pub(super) images: Vec<ImageFeatures>,
    /// Image and prompt for a scorer with a model of its own.
    pub(super) reader: Option<Arc<ReaderPrompt>>,
    /// Evidence of the image, if there is exactly one.
    pub(super) evidence: Option<ImageEvidence>,
    pub(super) files: Vec<Arc<HashedFile>>,
}

/// Model that encodes images, with its cache.
#[derive(Clone, Copy)]
pub(super) struct Encoder<'a> {
    bundle: &'a Bundle,
    cache: &'a ImageCache,
}

impl<'a> Encoder<'a> {
    /// Returns the policy's encoder.
    pub(super) fn policy(served: &'a ServedVersion) -> Self {
        Self {
            bundle: &served.bundle,
            cache: &served.images,
        }
    }

    /// Returns the encoder of the model whose scorer judges texts.
    pub(super) fn judge(served: &'a ServedVersion) -> Self {
        Self {
            bundle: served.bundle.judge(),
            cache: served.judge_images.as_ref().unwrap_or(&served.images),
        }
    }
}

/// Returns the prompt of `messages` before their images are fetched and decoded; a remote one is
/// assumed to be of ordinary size.
///
/// # Errors
/// 400 if the messages make no prompt or the model cannot take an image.
pub(super) fn estimate_prompt(
    context: &RequestContext,
    bundle: &Bundle,
    messages: &[Message],
    images: &[NamedImage],
    options: &ImageOptions,
) -> Result<Prompt, ApiError> {
    let limits = context.app.image_limits();
    let layout = |named: &NamedImage| {
        let header = match &named.image {
            RequestImage::File(file) => preprocess::inspect(file, &limits).ok(),
            RequestImage::Remote { .. } => None,
        };
        // A file that is no image is refused when it is encoded.
        let (width, height) = header.map_or(NOMINAL, |header| (header.width, header.height));
        lay_out(context, bundle, (width, height), options, &named.field)
    };
    let layouts: Vec<ImageLayout> = images.iter().map(layout).collect::<Result<_, _>>()?;
    make_prompt(bundle, messages, &layouts)
}

/// Obtains and encodes the images of a request and makes its prompt; `estimated` is that of
/// [`estimate_prompt`]. `for_scorer` also prepares what a scorer with a model of its own needs.
pub(super) async fn illustrate(
    context: &RequestContext,
    messages: &[Message],
    images: Vec<NamedImage>,
    options: ImageOptions,
    estimated: Prompt,
    for_scorer: bool,
) -> Result<IllustratedPrompt, ApiError> {
    let is_exact = images
        .iter()
        .all(|named| matches!(named.image, RequestImage::File(_)));
    let mut files = Vec::with_capacity(images.len());
    for NamedImage { image, field } in images {
        files.push((
            request_file(&context.app, &context.share, &context.trace, image).await?,
            field,
        ));
    }
    let prompt = Some(estimated).filter(|_| is_exact);
    illustrate_files(context, messages, files, options, prompt, for_scorer).await
}

/// Encodes image files, each with the field that named it, and makes the prompt unless it is given.
pub(super) async fn illustrate_files(
    context: &RequestContext,
    messages: &[Message],
    files: Vec<(Arc<HashedFile>, String)>,
    options: ImageOptions,
    prompt: Option<Prompt>,
    for_scorer: bool,
) -> Result<IllustratedPrompt, ApiError> {
    let served = &context.served;
    let layout = |(file, field): &(Arc<HashedFile>, String)| {
        layout_of(context, &served.bundle, file, &options, field)
    };
    let layouts: Vec<ImageLayout> = files.iter().map(layout).collect::<Result<_, _>>()?;
    let prompt = match prompt {
        Some(prompt) => prompt,
        None => {
            let task = (Arc::clone(served), messages.to_vec(), layouts.clone());
            blocking(move || make_prompt(&task.0.bundle, &task.1, &task.2)).await??
        }
    };
    let mut images = Vec::with_capacity(files.len());
    let mut evidence = None;
    for ((file, field), layout) in files.iter().zip(&layouts) {
        let encoder = Encoder::policy(served);
        let encoded = encode_counted(context, encoder, file, layout, &options, field).await?;
        images.push(encoded.image);
        evidence = encoded.evidence;
    }
    let mut reader = None;
    if let (Some(judge), [(file, field)]) = (&served.bundle.scorer, files.as_slice())
        && for_scorer
    {
        let own = ImageOptions::default();
        let layout = layout_of(context, judge, file, &own, field)?;
        let encoder = Encoder::judge(served);
        let encoded = encode_file(context, encoder, file, &layout, &own, field).await?;
        evidence = encoded.evidence;
        reader = Some(Arc::new(ReaderPrompt {
            prompt: judge_prompt(judge, messages, &layout)?,
            image: encoded.image,
        }));
    }
    Ok(IllustratedPrompt {
        prompt: Arc::new(prompt),
        images,
        reader,
        evidence: evidence.filter(|_| files.len() == 1),
        files: files.into_iter().map(|(file, _)| file).collect(),
    })
}

/// Obtains an image and encodes it for the model that judges texts; `field` names it in errors.
pub(super) async fn encode_for_judge(
    context: &RequestContext,
    image: RequestImage,
    field: &str,
) -> Result<EncodedImage, ApiError> {
    let RequestContext {
        app, share, trace, ..
    } = context;
    let file = request_file(app, share, trace, image).await?;
    encode_for(context, Encoder::judge(&context.served), &file, field).await
}

/// Encodes a file as the encoder's model does by default.
pub(super) async fn encode_for(
    context: &RequestContext,
    encoder: Encoder<'_>,
    file: &Arc<HashedFile>,
    field: &str,
) -> Result<EncodedImage, ApiError> {
    let options = ImageOptions::default();
    let layout = layout_of(context, encoder.bundle, file, &options, field)?;
    encode_counted(context, encoder, file, &layout, &options, field).await
}

/// Returns the prompt of messages about the image in a file.
pub(super) fn prompt_about(
    context: &RequestContext,
    bundle: &Bundle,
    messages: &[Message],
    file: &HashedFile,
) -> Result<Prompt, ApiError> {
    let layout = layout_of(context, bundle, file, &ImageOptions::default(), "messages")?;
    make_prompt(bundle, messages, &[layout])
}

/// Positions that a judge's prompt must leave for the text.
const JUDGED_ROOM: usize = 32;

/// Returns the prompt of the model that judges the answer.
///
/// # Errors
/// 400 if the question leaves that model no room to read an answer.
fn judge_prompt(
    judge: &Bundle,
    messages: &[Message],
    layout: &ImageLayout,
) -> Result<Prompt, ApiError> {
    let prompt = make_prompt(judge, messages, std::slice::from_ref(layout))?;
    let (length, context) = (prompt.tokens.len(), judge.vlm.spec().context_len);
    if length + JUDGED_ROOM > context {
        let message = format!(
            "'messages': the question has {length} tokens for the scorer, image included, and it \
             reads {context} in all; ask a shorter one, or with guard.mode off"
        );
        return Err(ApiError::param(
            "messages",
            "context_length_exceeded",
            message,
        ));
    }
    Ok(prompt)
}

/// Returns the prompt of messages with images of these layouts.
///
/// # Errors
/// 400 naming the messages.
fn make_prompt(
    bundle: &Bundle,
    messages: &[Message],
    layouts: &[ImageLayout],
) -> Result<Prompt, ApiError> {
    bundle
        .processor
        .prompt(messages, layouts)
        .map_err(|error| refuse(&error, "messages"))
}

/// Returns what a file becomes.
fn layout_of(
    context: &RequestContext,
    bundle: &Bundle,
    file: &HashedFile,
    options: &ImageOptions,
    field: &str,
) -> Result<ImageLayout, ApiError> {
    let limits = context.app.image_limits();
    let header = preprocess::inspect(file, &limits)
        .map_err(|why| ApiError::param(field, "invalid_image", format!("'{field}': {why}")))?;
    let size = (header.width, header.height);
    let layout = lay_out(context, bundle, size, options, field)?;
    let most = context.app.config.images.max_memory_bytes;
    let needed = header.picture_memory() + layout.bytes;
    if layout.streamed.is_none() && needed > most {
        let message = format!(
            "'{field}': decoding and processing this image takes {needed} bytes; \
             images.max_memory_bytes allows {most}"
        );
        return Err(ApiError::param(field, "invalid_image", message));
    }
    Ok(layout)
}

/// Returns what an image of a size becomes, unless its processing would take too much memory.
fn lay_out(
    context: &RequestContext,
    bundle: &Bundle,
    (width, height): (u32, u32),
    options: &ImageOptions,
    field: &str,
) -> Result<ImageLayout, ApiError> {
    let layout = bundle
        .processor
        .layout(width, height, options)
        .map_err(|error| refuse(&error, field))?;
    let most = context.app.config.images.max_memory_bytes;
    if layout.bytes > most {
        let message = format!(
            "'{field}': processing this image takes {} bytes; images.max_memory_bytes allows \
             {most}",
            layout.bytes
        );
        return Err(ApiError::param(field, "invalid_image", message));
    }
    Ok(layout)
}

/// Converts a processor's error; `field` is the one at fault unless the error knows better.
fn refuse(error: &ProcessorError, field: &str) -> ApiError {
    match error {
        ProcessorError::Image(why) => {
            ApiError::param(field, "invalid_image", format!("'{field}': {why}"))
        }
        ProcessorError::Option(why) => ApiError::param(
            "mm_processor_kwargs",
            "invalid_value",
            format!("'mm_processor_kwargs': {why}"),
        ),
        ProcessorError::ImageCount { .. } => {
            ApiError::param("messages", "invalid_value", format!("'messages': {error}"))
        }
        ProcessorError::Template(_) | ProcessorError::Tokenizer(_) => ApiError::param(
            field,
            "invalid_value",
            format!("'{field}' cannot be turned into a prompt: {error}"),
        ),
        ProcessorError::Tensor(_) => {
            tracing::error!(%error, "an image could not be processed");
            ApiError::internal()
        }
    }
}

/// Returns the image's file, fetched if it is remote, without trailing bytes after the image's end:
/// hash and stored file cover the image alone.
pub(super) async fn request_file(
    app: &App,
    share: &Share,
    trace: &RequestTrace,
    image: RequestImage,
) -> Result<Arc<HashedFile>, ApiError> {
    let mut file = match image {
        RequestImage::File(file) => file,
        RequestImage::Remote { link, path } => fetch(app, share, trace, link, &path).await?,
    };
    blocking(move || {
        file.truncate(preprocess::image_length(&file));
        Arc::new(HashedFile::new(file))
    })
    .await
}

async fn fetch(
    app: &App,
    share: &Share,
    trace: &RequestTrace,
    link: HttpsUrl,
    path: &str,
) -> Result<Vec<u8>, ApiError> {
    let Some(fetcher) = &app.fetcher else {
        return Err(ApiError::fetch_disabled(path));
    };
    let mut phase = trace.client_phase("image.fetch");
    let fetched = fetcher.fetch(share, link).await;
    match &fetched {
        Ok(file) => phase.set(
            "candor.bytes",
            i64::try_from(file.len()).unwrap_or(i64::MAX),
        ),
        Err(error) => phase.fail(error.outcome()),
    }
    drop(phase);
    app.metrics.count_fetch(
        fetched
            .as_ref()
            .map_or_else(|error| error.outcome(), |_| "fetched"),
    );
    fetched.map_err(|error| error.into_api_error(path))
}

async fn encode_counted(
    context: &RequestContext,
    encoder: Encoder<'_>,
    file: &Arc<HashedFile>,
    layout: &ImageLayout,
    options: &ImageOptions,
    field: &str,
) -> Result<EncodedImage, ApiError> {
    let encoded = encode_file(context, encoder, file, layout, options, field).await?;
    context.app.metrics.count_image_lookup(encoded.hit);
    Ok(encoded)
}

/// Encodes an image file; `field` names it in errors.
async fn encode_file(
    context: &RequestContext,
    encoder: Encoder<'_>,
    file: &Arc<HashedFile>,
    layout: &ImageLayout,
    options: &ImageOptions,
    field: &str,
) -> Result<EncodedImage, ApiError> {
    let task = (
        context.clone(),
        Arc::clone(&encoder.bundle.processor),
        Arc::clone(file),
        layout.clone(),
    );
    let span = Span::current();
    let pixels = move || {
        let _entered = span.enter();
        let (context, processor, file, layout) = task;
        let mut phase = context.trace.phase("image.decode");
        let pixels = decode(&context, &file, &layout).and_then(|image| {
            processor.pixels(&image, &layout).map_err(|error| {
                tracing::error!(%error, "an image could not be resized");
                Unreadable::Inner
            })
        });
        if pixels.is_err() {
            phase.fail("invalid_image");
        }
        pixels
    };
    let encoded = encoder
        .cache
        .get(file, options, &context.scope, &context.share, pixels)
        .await;
    if let Some(encoded) = encoded.as_ref().ok().filter(|encoded| !encoded.hit) {
        let times = encoded.encoded.clone();
        context.trace.record("image.encode", times);
    }
    encoded.map_err(|error| match &*error {
        EncodingError::Pixels(Unreadable::File(why)) => {
            ApiError::param(field, "invalid_image", format!("'{field}': {why}"))
        }
        EncodingError::Pixels(Unreadable::Inner) => ApiError::internal(),
        EncodingError::Model(what) => {
            tracing::error!(what, "the image encoder failed");
            ApiError::internal()
        }
    })
}

/// Reasons why a file yields no pixels. Concurrent requests with the same file share the result.
enum Unreadable {
    File(preprocess::ImageError),
    Inner,
}

/// Decodes an image, resized on the way if its layout allows it. Runs on a blocking thread, which
/// waits for decode memory.
fn decode(
    context: &RequestContext,
    file: &[u8],
    layout: &ImageLayout,
) -> Result<image::RgbImage, Unreadable> {
    let limits = context.app.image_limits();
    let header = preprocess::inspect(file, &limits).map_err(Unreadable::File)?;
    let memory = match layout.streamed {
        Some(side) => header.memory(side),
        None => header.picture_memory() + layout.bytes,
    };
    let _held = Handle::current().block_on(context.app.decode_memory.acquire(memory));
    match layout.streamed {
        Some(side) => preprocess::decode_resized(file, &limits, side),
        None => preprocess::decode(file, &limits),
    }
    .map_err(Unreadable::File)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_processors_name_the_field_at_fault() {
        let option = refuse(
            &ProcessorError::Option("no tiles".to_owned()),
            "messages[0]",
        );
        assert_eq!(
            option.body.error.param.as_deref(),
            Some("mm_processor_kwargs")
        );
        let image = refuse(&ProcessorError::Image("too thin".to_owned()), "messages[0]");
        assert_eq!(image.body.error.param.as_deref(), Some("messages[0]"));
        assert!(image.body.error.message.contains("too thin"));
    }
}
