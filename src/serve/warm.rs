//! Warm-up: the server generates a first caption itself, which loads the weights into memory and
//! checks the whole path before users rely on it.

use std::{io::Cursor, sync::Arc};

use image::{ImageFormat, Rgb, RgbImage};

use super::{
    app::App, chat::begin, error::ApiError, images::estimate_prompt, served::RequestContext,
};
use crate::{
    engine::{Event, GeneratedToken, GuardParams, Sampling},
    guard::{Mode, render::RenderStyle},
    serve::openai::{
        check::Completion,
        content::{NamedImage, RequestImage},
    },
    vlm::processor::{
        ImageOptions,
        message::{Message, PromptPart},
    },
};

/// Most tokens of the first caption.
const TOKENS: usize = 8;

/// Warms up the initial version and records the outcome. If a version of the registry fails, falls
/// back to the previous one.
pub(crate) async fn warm(app: Arc<App>) {
    let (started, context) = (std::time::Instant::now(), RequestContext::internal(&app));
    let outcome = warm_up(&context).await;
    match &outcome {
        Ok(()) => tracing::info!(
            ms = started.elapsed().as_millis() as u64,
            "ready: the first caption succeeded"
        ),
        Err(why) => tracing::error!(why, "not ready: the first caption failed"),
    }
    let failed = outcome
        .clone()
        .err()
        .filter(|_| context.served.registered.is_some());
    // Already set if another warm-up was first.
    let _ = context.served.warmed.set(outcome);
    if let Some(why) = failed {
        app.switch
            .fall_back(
                &app,
                &context.served,
                format!("its first answer failed: {why}"),
            )
            .await;
    }
}

/// Generates a few words: about a synthetic image if the model needs one, otherwise about nothing,
/// since large towers take seconds for an image.
///
/// # Errors
/// The reason why the version cannot be served.
pub(crate) async fn warm_up(context: &RequestContext) -> Result<(), String> {
    caption(context)
        .await
        .map_err(|error| error.body.error.message)
}

async fn caption(context: &RequestContext) -> Result<(), ApiError> {
    let bundle = &context.served.bundle;
    let sees = *bundle.processor.images().start() > 0;
    let mut message = Message::text("user", if sees { "" } else { "Hello." });
    let mut images = Vec::new();
    if sees {
        message.content.insert(0, PromptPart::Image);
        images.push(NamedImage {
            image: RequestImage::File(sample_image()?),
            field: "messages".to_owned(),
        });
    }
    let messages = vec![message];
    let image_options = ImageOptions::default();
    let prompt = estimate_prompt(context, bundle, &messages, &images, &image_options)?;
    let scores = bundle.reward.is_some() && (sees || bundle.scorer.is_none());
    let completion = Completion {
        messages,
        user: None,
        images,
        image_options,
        warnings: Vec::new(),
        n: 1,
        sampling: Sampling::default(),
        max_tokens: TOKENS,
        stop: Vec::new(),
        top_logprobs: Some(0),
        guard: GuardParams::new(if scores { Mode::Flag } else { Mode::Off }, 0.5),
        candidates: 1,
        unanswerable: None,
        show_withheld: false,
        render: RenderStyle::Plain,
        cache_salt: None,
        stream: false,
        include_usage: false,
    };
    for mut answer in begin(context, completion, prompt, false)
        .await?
        .answers
        .into_iter()
        .flatten()
    {
        while let Some(event) = answer.next().await {
            match event {
                Event::Finished { .. } => return Ok(()),
                Event::Failed(error) => {
                    // The internal error may be shown: the requester is the server itself.
                    return Err(ApiError::unavailable("not_ready", error.to_string()));
                }
                Event::Delta { tokens, .. } => tokens
                    .iter()
                    .try_for_each(|token| is_sound(token, scores))?,
            }
        }
    }
    Err(ApiError::unavailable(
        "shutting_down",
        "the engine has stopped",
    ))
}

/// Checks that a token's numbers are finite: corrupt weights usually produce NaN.
fn is_sound(token: &GeneratedToken, scores: bool) -> Result<(), ApiError> {
    let number = |what: &str, value: f32| {
        let message = format!("the {what} of a token is {value}, not a finite number");
        if value.is_finite() {
            Ok(())
        } else {
            Err(ApiError::unavailable("not_ready", message))
        }
    };
    number("log-probability", token.token.logprob)?;
    match token.reward {
        Some(reward) if scores => number("reward", reward),
        _ => Ok(()),
    }
}

/// Returns a gradient as a PNG file.
fn sample_image() -> Result<Vec<u8>, ApiError> {
    let image = RgbImage::from_fn(64, 64, |x, y| Rgb([4 * x as u8, 4 * y as u8, 128]));
    let mut file = Vec::new();
    image
        .write_to(&mut Cursor::new(&mut file), ImageFormat::Png)
        .map_err(|_| ApiError::internal())?;
    Ok(file)
}
