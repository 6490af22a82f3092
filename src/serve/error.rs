//! API errors in OpenAI's format: `{"error": {"message", "type", "param", "code"}}`.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{config::largest_image, engine::EngineError};

/// Longest message, in characters.
const MESSAGE_CHARS: usize = 1000;

/// Error message and readiness reason while the store is damaged.
pub(super) const DAMAGED: &str =
    "the feedback store is damaged; completions continue, and the server's log has the details";

/// An API error response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// Response body.
    pub body: ErrorBody,
    /// Value of `retry-after`, in seconds.
    pub retry_after_s: Option<u64>,
}

/// Error response body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// Error details, as in OpenAI's API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// Human-readable message.
    pub message: String,
    /// Error class, such as `invalid_request_error` or `server_error`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Request field that caused the error; `null` if no single field did.
    #[schema(required)]
    pub param: Option<String>,
    /// Specific error code, such as `model_not_found`.
    #[schema(required)]
    pub code: Option<&'static str>,
}

impl ApiError {
    fn new(
        status: StatusCode,
        kind: &'static str,
        code: &'static str,
        message: impl Into<String>,
    ) -> Self {
        // Bounded, so that a message never echoes long input.
        let error = ErrorDetail {
            message: truncate(&message.into(), MESSAGE_CHARS),
            kind,
            param: None,
            code: Some(code),
        };
        Self {
            status,
            body: ErrorBody { error },
            retry_after_s: None,
        }
    }

    /// 400: the request as a whole is invalid.
    pub fn invalid(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "invalid_request_error",
            code,
            message,
        )
    }

    /// 400: one field is invalid.
    pub fn param(param: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self::invalid(code, message).with_param(param)
    }

    /// Sets `retry-after`, in seconds.
    pub fn with_retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// 400: a field or value of OpenAI's API that this server does not support.
    pub fn unsupported(param: impl Into<String>, what: impl Into<String>) -> Self {
        Self::param(param, "unsupported_parameter", what)
    }

    /// Sets the field that caused the error.
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.body.error.param = Some(truncate(&param.into(), MESSAGE_CHARS));
        self
    }

    /// 400: an image by URL while fetching is disabled.
    pub fn fetch_disabled(path: &str) -> Self {
        let message = format!(
            "'{path}': fetching images is off on this server; send the image as a data: URL"
        );
        Self::param(path, "image_fetch_disabled", message)
    }

    /// Prefixes field and message with a part of the request, such as `items[3]`.
    pub fn with_prefix(mut self, part: Option<&str>) -> Self {
        if let Some(part) = part {
            let error = &mut self.body.error;
            error.message = format!("{part}: {}", error.message);
            error.param = Some(
                error
                    .param
                    .take()
                    .map_or_else(|| part.to_owned(), |field| format!("{part}.{field}")),
            );
        }
        self
    }

    /// 401: missing or wrong API key.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "invalid_request_error",
            "invalid_api_key",
            message,
        )
    }

    /// 403: the key lacks a scope.
    pub fn insufficient_scope(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "invalid_request_error",
            "insufficient_scope",
            message,
        )
    }

    /// 403: the Host header does not name this server.
    pub fn unknown_host(host: &str) -> Self {
        let message = format!(
            "this server is not `{}`; its host names are set in server.allowed_hosts",
            excerpt(host)
        );
        Self::new(
            StatusCode::FORBIDDEN,
            "invalid_request_error",
            "host_not_allowed",
            message,
        )
    }

    /// 404: unknown route.
    pub fn unknown_route(method: &str, path: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            "unknown_url",
            format!("Unknown URL: {} {}", excerpt(method), truncate(path, 200)),
        )
    }

    /// 404: unknown model.
    pub fn unknown_model(model: &str, served: &str) -> Self {
        let message = format!(
            "The model `{}` does not exist; this server has `{served}`",
            excerpt(model)
        );
        Self::new(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            "model_not_found",
            message,
        )
        .with_param("model")
    }

    /// 405: method not allowed.
    pub fn method_not_allowed(method: &str, path: &str) -> Self {
        let message = format!(
            "{} does not support the method {}",
            truncate(path, 200),
            excerpt(method)
        );
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "invalid_request_error",
            "method_not_supported",
            message,
        )
    }

    /// 408: the body arrived too late or too slowly.
    pub fn slow_body(seconds: u64, rate: u64) -> Self {
        let message = format!(
            "the request's body did not arrive within {seconds} s, or at less than {rate} bytes a \
             second"
        );
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "invalid_request_error",
            "request_timeout",
            message,
        )
    }

    /// 413: the body is too large.
    pub fn too_large(limit: usize) -> Self {
        let image = largest_image(limit);
        let message = format!(
            "the request's body has more than the {limit} bytes allowed; an image in it may have \
             at most {image}, as base64 adds a third"
        );
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "invalid_request_error",
            "request_too_large",
            message,
        )
    }

    /// 415: unsupported content type.
    pub fn media_type(given: Option<&str>) -> Self {
        let what = given.map_or_else(
            || "is missing".to_owned(),
            |g| format!("is `{}`", excerpt(g)),
        );
        // `curl -d` sends this type by default.
        let form = given.is_some_and(|g| {
            g.to_ascii_lowercase()
                .starts_with("application/x-www-form-urlencoded")
        });
        let hint = if form {
            "; with curl: -H 'content-type: application/json'"
        } else {
            ""
        };
        let message =
            format!("the request's content-type {what}; it must be application/json{hint}");
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "invalid_request_error",
            "unsupported_content_type",
            message,
        )
    }

    /// 415: unsupported content encoding.
    pub fn content_encoding(given: &str) -> Self {
        let message = format!(
            "the request's content-encoding is `{}`; gzip, deflate, br and zstd are known, one at \
             a time",
            excerpt(given)
        );
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "invalid_request_error",
            "unsupported_content_encoding",
            message,
        )
    }

    /// 429: a limit is reached; retry later.
    pub fn busy(message: impl Into<String>, retry_after_s: u64) -> Self {
        let error = Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limit_error",
            "rate_limit_exceeded",
            message,
        );
        Self {
            retry_after_s: Some(retry_after_s),
            ..error
        }
    }

    /// 404: unknown resource.
    pub fn not_found(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            code,
            message,
        )
    }

    /// 409: conflicts with the current state.
    pub fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "invalid_request_error", code, message)
    }

    /// 422: valid, but cannot be carried out.
    pub fn refused(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid_request_error",
            code,
            message,
        )
    }

    /// 507: no disk space left.
    pub fn storage_full(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "server_error",
            "storage_full",
            message,
        )
    }

    /// 500: details are only logged.
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "server_error",
            "internal_error",
            "internal error; the server's log has the details",
        )
    }

    /// 503: temporarily unavailable.
    pub fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "server_error",
            code,
            message,
        )
    }
}

/// Returns the first 64 characters of client input, for messages.
pub(crate) fn excerpt(text: &str) -> String {
    truncate(text, 64)
}

/// Returns the first `chars` characters, with an ellipsis if text is left out.
pub(crate) fn truncate(text: &str, chars: usize) -> String {
    let mut out: String = text.chars().take(chars).collect();
    if out.len() < text.len() {
        out.push('…');
    }
    out
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let message = error.to_string();
        match error {
            EngineError::QueueFull { retry_after_s, .. } => Self::busy(message, retry_after_s),
            EngineError::Invalid(_) => Self::invalid("invalid_value", message),
            EngineError::PromptTooLong { .. } => {
                Self::param("messages", "context_length_exceeded", message)
            }
            // Another replica, or this one's successor, answers soon.
            EngineError::ShuttingDown => {
                Self::unavailable("shutting_down", message).with_retry_after(1)
            }
            // The tensor error is only logged.
            EngineError::Scorer(_) => Self::unavailable(
                "scorer_failed",
                "the scorer failed, and this server does not return unscored answers",
            ),
            EngineError::Model(_) => Self::internal(),
        }
    }
}

/// Part of an error for the log, stored in the response's extensions. The message is left out,
/// since it may quote the client. So may a field path: the log shows only its known names.
#[derive(Debug, Clone)]
pub(crate) struct ErrorReason {
    /// Specific error code.
    pub(crate) code: &'static str,
    /// Request field that caused the error.
    pub(crate) param: Option<String>,
}

impl ApiError {
    /// Returns the part for the log.
    pub(crate) fn reason(&self) -> ErrorReason {
        let error = &self.body.error;
        ErrorReason {
            code: error.code.unwrap_or(error.kind),
            param: error.param.clone(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let reason = self.reason();
        let mut response = (self.status, Json(self.body)).into_response();
        response.extensions_mut().insert(reason);
        if response.status() == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after_s {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
