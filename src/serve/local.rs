//! In-process API: the command line uses the same handlers as HTTP clients.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    http::{Method, Request, header::CONTENT_TYPE},
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::{Stream, StreamExt};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{ROUTES, StartError, app::App, routes, served::RequestContext, warm};
use crate::{bundle::Bundle, config::Config};

/// Longest response body, in bytes.
const MAX_ANSWER: usize = 16 << 20;

/// A model with the API's handlers, in this process.
pub struct Local {
    app: Arc<App>,
    router: Router,
}

impl Local {
    /// Starts the engine, without a listener.
    ///
    /// # Errors
    /// When the bundle does not support the configuration.
    pub fn start(mut config: Config, bundle: Bundle) -> Result<Self, StartError> {
        // There are no remote clients.
        config.keys.clear();
        let app = Arc::new(App::start(config, bundle.into(), None, None)?);
        Ok(Self {
            router: routes::router(Arc::clone(&app), ROUTES.iter(), None),
            app,
        })
    }

    /// Calls `POST /v1/chat/completions` and returns the response object.
    ///
    /// # Errors
    /// The API's error message.
    pub async fn chat(&self, request: &Value) -> Result<Value, String> {
        self.post("/v1/chat/completions", request).await
    }

    /// Calls `POST /v1/score` and returns the response object.
    ///
    /// # Errors
    /// The API's error message.
    pub async fn score(&self, request: &Value) -> Result<Value, String> {
        self.post("/v1/score", request).await
    }

    /// Calls `POST /v1/chat/completions` with `stream` and returns the chunks.
    ///
    /// # Errors
    /// The API's error message, as the result or as the last item.
    pub async fn stream(
        &self,
        request: &Value,
    ) -> Result<impl Stream<Item = Result<Value, String>> + use<>, String> {
        let response = self.send("/v1/chat/completions", request).await?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        // The handler writes one event per frame.
        let chunk = |frame: Result<Bytes, axum::Error>| async move {
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => return Some(Err(error.to_string())),
            };
            let text = String::from_utf8_lossy(&frame);
            let data = text
                .lines()
                .find_map(|line| line.strip_prefix("data: "))
                .filter(|data| *data != "[DONE]")?;
            let read: Result<Value, _> = serde_json::from_str(data);
            Some(match read {
                Ok(value) => value["error"]["message"]
                    .as_str()
                    .map_or(Ok(value.clone()), |message| Err(message.to_owned())),
                Err(error) => Err(error.to_string()),
            })
        };
        Ok(response.into_body().into_data_stream().filter_map(chunk))
    }

    async fn send(&self, path: &str, request: &Value) -> Result<Response, String> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(request.to_string()))
            .map_err(|e| e.to_string())?;
        // The router's error type is uninhabited.
        self.router
            .clone()
            .oneshot(request)
            .await
            .map_err(|e| e.to_string())
    }

    async fn post(&self, path: &str, request: &Value) -> Result<Value, String> {
        let response = self.send(path, request).await?;
        match response.status().is_success() {
            true => body(response).await,
            false => Err(refusal(response).await),
        }
    }

    /// Builds a completion request with `prompt` (empty asks for a description) about an image
    /// file.
    pub fn request(&self, image: &[u8], prompt: &str) -> Value {
        self.request_about(&[image], prompt)
    }

    /// Builds a completion request with `prompt` about any number of image files.
    pub fn request_about(&self, images: &[&[u8]], prompt: &str) -> Value {
        let images = images
            .iter()
            .map(|image| json!({ "type": "image_url", "image_url": { "url": data_url(image) } }));
        let text = json!({ "type": "text", "text": prompt });
        let content: Vec<Value> = images.chain([text]).collect();
        json!({
            "model": &*self.app.served().model,
            "messages": [{ "role": "user", "content": content }],
        })
    }

    /// Builds a score request for `response` to `prompt` (empty asks for a description) about an
    /// image file.
    pub fn score_request(&self, image: &[u8], prompt: &str, response: &str) -> Value {
        json!({ "model": &*self.app.served().model, "image_url": data_url(image), "prompt": prompt,
            "response": response })
    }

    /// Generates a first caption, as a server does before it serves a version.
    ///
    /// # Errors
    /// The reason why there was none.
    pub async fn warm_up(&self) -> Result<(), String> {
        warm::warm_up(&RequestContext::internal(&self.app)).await
    }

    /// Waits for running answers and stops the engine.
    pub async fn stop(&self) {
        self.app.stop(Duration::from_secs(1)).await;
    }
}

/// Returns a response's body.
async fn body(response: Response) -> Result<Value, String> {
    let status = response.status();
    let bytes = to_bytes(response.into_body(), MAX_ANSWER)
        .await
        .map_err(|e| e.to_string())?;
    serde_json::from_slice(&bytes).map_err(|e| format!("status {status}: {e}"))
}

/// Returns the message of a response that is an error.
async fn refusal(response: Response) -> String {
    let status = response.status();
    let message = |value: Value| value["error"]["message"].as_str().map(str::to_owned);
    body(response)
        .await
        .map_or_else(Some, message)
        .unwrap_or_else(|| format!("status {status}"))
}

/// Returns a data URL; the media type is detected from the bytes, not from the URL.
fn data_url(image: &[u8]) -> String {
    format!("data:image/jpeg;base64,{}", STANDARD.encode(image))
}
