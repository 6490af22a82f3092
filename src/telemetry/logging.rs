//! Logging to standard error.

use std::io::stderr;

use serde::{Deserialize, Serialize};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Layer, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

/// Maximum number of buffered log lines; further ones are dropped.
const MAX_BUFFERED_LINES: usize = 4096;

/// Handle that changes the log level at run time.
#[derive(Debug, Clone)]
pub struct LogLevel(reload::Handle<EnvFilter, Registry>);

impl LogLevel {
    /// Sets the level or directives, in the form of the option `log.level`.
    ///
    /// # Errors
    /// Returns a message if the level is invalid or another subscriber is installed.
    pub fn set(&self, level: &str) -> Result<(), String> {
        let filter: EnvFilter = level
            .parse()
            .map_err(|_| format!("`{level}` is not a log level"))?;
        self.0.reload(filter).map_err(|error| error.to_string())
    }
}

/// Starts logging to standard error and returns a guard that flushes on drop, and a handle for the
/// level. Lines of a request carry its id from the span that the server opens. A slow reader never
/// blocks the server: lines are dropped. A second call has no effect, because a process has one
/// log.
#[must_use = "dropping the guard flushes buffered lines"]
pub fn init(format: LogFormat, level: &str) -> (WorkerGuard, LogLevel) {
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(MAX_BUFFERED_LINES)
        .lossy(true)
        .finish(stderr());
    let (filter, handle) =
        reload::Layer::new(level.parse().unwrap_or_else(|_| EnvFilter::new("info")));
    let lines = fmt::layer()
        .with_writer(writer)
        .with_ansi(console::colors_enabled_stderr())
        .with_target(false);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .boxed(),
    };
    let _ = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init();
    (guard, LogLevel(handle))
}

/// Format of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Plain text.
    Text,
    /// One JSON object a line.
    Json,
}
