//! The first caption, which the server asks of itself: it pages the weights in, and shows that everything works before anybody relies on it.

use std::{io::Cursor, sync::Arc};

use image::{ImageFormat, Rgb, RgbImage};

use super::{app::App, chat::begin, error::ApiError};
use crate::{
    engine::{Event, GuardParams, Sampling},
    guard::{Mode, render::Style},
    serve::openai::{check::Completion, content::Picture},
    vlm::template::Message,
};

/// Captions a made-up picture and notes how that went.
pub(crate) async fn warm(app: Arc<App>) {
    let began = std::time::Instant::now();
    let outcome = caption(&app).await.map_err(|e| e.body.error.message);
    match &outcome {
        Ok(()) => tracing::info!(ms = began.elapsed().as_millis() as u64, "ready: the first caption is written"),
        Err(why) => tracing::error!(why, "not ready: the first caption failed"),
    }
    // Set once; a second warm-up would change nothing.
    let _ = app.warmed.set(outcome);
}

async fn caption(app: &Arc<App>) -> Result<(), ApiError> {
    let messages = vec![Message { role: "user".to_owned(), content: String::new() }];
    let prompt = app.bundle.prompt(&messages).map_err(|e| ApiError::invalid("invalid_value", e))?;
    let mode = if app.bundle.reward.is_some() { Mode::Flag } else { Mode::Off };
    let completion = Completion {
        messages,
        user: None,
        image: Picture::File(picture()?),
        n: 1,
        sampling: Sampling::default(),
        max_tokens: 8,
        stop: Vec::new(),
        top_logprobs: None,
        guard: GuardParams::new(mode, 0.5),
        candidates: 1,
        render: Style::Plain,
        stream: false,
        include_usage: false,
    };
    for mut answer in begin(app, completion, prompt).await?.answers.into_iter().flatten() {
        while let Some(event) = answer.next().await {
            match event {
                Event::Finished { .. } => return Ok(()),
                Event::Failed(error) => return Err(error.into()),
                Event::Delta { .. } => {}
            }
        }
    }
    Err(ApiError::unavailable("shutting_down", "the engine has stopped"))
}

/// A gradient, as a PNG file.
fn picture() -> Result<Vec<u8>, ApiError> {
    let image = RgbImage::from_fn(64, 64, |x, y| Rgb([4 * x as u8, 4 * y as u8, 128]));
    let mut file = Vec::new();
    image.write_to(&mut Cursor::new(&mut file), ImageFormat::Png).map_err(|_| ApiError::internal())?;
    Ok(file)
}
