//! Logging to standard error.

use std::{io::stderr, time::SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::filter_fn,
    fmt::{
        self, FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::{JsonFields, Writer},
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt,
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
            .fmt_fields(JsonFields::new())
            .event_format(JsonLine)
            .boxed(),
    };
    let _ = tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(is_loggable))
        .with(lines)
        .try_init();
    (guard, LogLevel(handle))
}

/// Returns `true` for events of this program, and for those of its dependencies from `info` on:
/// below it they log what they send, keys included.
fn is_loggable(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    let is_own = target == "candor" || target.starts_with("candor::");
    is_own || *metadata.level() <= Level::INFO
}

/// Writes an event as a JSON object, with the fields of its spans beside its own: ids of a request
/// are where log stores look for them.
struct JsonLine;

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let mut line = Map::new();
        let now = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
        line.insert("timestamp".to_owned(), now.into());
        line.insert("level".to_owned(), event.metadata().level().as_str().into());
        for span in context
            .event_scope()
            .into_iter()
            .flat_map(|scope| scope.from_root())
        {
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>() {
                line.extend(read_object(fields));
            }
        }
        let mut fields = String::new();
        context.format_fields(Writer::new(&mut fields), event)?;
        line.extend(read_object(&fields));
        writeln!(writer, "{}", Value::Object(line))
    }
}

/// Reads fields that [`JsonFields`] wrote.
fn read_object(fields: &str) -> Map<String, Value> {
    serde_json::from_str(fields).unwrap_or_default()
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
