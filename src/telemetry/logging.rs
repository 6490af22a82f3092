//! Log lines on standard error.

use std::io::stderr;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, fmt};

use crate::config::{Log, LogFormat};

/// Log lines that wait for whoever reads them; more are dropped.
const WAITING: usize = 4096;

/// Sends log lines to standard error from now on, until what is returned is dropped. Every line that belongs to a request carries its id, from the
/// span that the server opens around it. A second call changes nothing: a process has one log. Nobody waits for a reader who does not read.
#[must_use = "what still waits is written when it is dropped"]
pub fn init(log: &Log) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(WAITING).lossy(true).finish(stderr());
    let filter = log.level.parse().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = fmt().with_env_filter(filter).with_writer(writer).with_ansi(console::colors_enabled_stderr()).with_target(false);
    let _ = match log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init(),
    };
    guard
}
