//! Log lines on standard error.

use std::io::stderr;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Layer, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use crate::config::{LogFormat, LogSection};

/// Log lines that wait for whoever reads them; more are dropped.
const WAITING: usize = 4096;

/// Changes which lines are logged.
#[derive(Debug, Clone)]
pub struct LogLevel(reload::Handle<EnvFilter, Registry>);

impl LogLevel {
    /// Logs by `level` from now on, which is as `log.level` of the configuration.
    ///
    /// # Errors
    /// When it is no level, or this is not the process's log.
    pub fn set(&self, level: &str) -> Result<(), String> {
        let filter: EnvFilter = level
            .parse()
            .map_err(|_| format!("`{level}` is no log level"))?;
        self.0.reload(filter).map_err(|error| error.to_string())
    }
}

/// Sends log lines to standard error from now on, until the guard that is returned is dropped.
/// Every line that belongs to a request carries its id, from the span that the server opens around
/// it. A second call changes nothing: a process has one log. Nobody waits for a reader who does not
/// read.
#[must_use = "what still waits is written when it is dropped"]
pub fn init(log: &LogSection) -> (WorkerGuard, LogLevel) {
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(WAITING)
        .lossy(true)
        .finish(stderr());
    let (filter, handle) =
        reload::Layer::new(log.level.parse().unwrap_or_else(|_| EnvFilter::new("info")));
    let lines = fmt::layer()
        .with_writer(writer)
        .with_ansi(console::colors_enabled_stderr())
        .with_target(false);
    let lines = match log.format {
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
