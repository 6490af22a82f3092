//! Metrics, logs and traces.

mod answers;
mod engine;
mod http;
mod logging;
mod metrics;
mod models;
mod process;
mod register;
mod trace;
mod vllm;
mod words;

pub(crate) use answers::{AnswerEnd, AnswerMeter};
pub(crate) use http::{ConnectionEnd, ConnectionMetrics, HttpExchange};
pub use logging::{LogFormat, LogLevel, init as init_logging};
pub use metrics::Metrics;
pub(crate) use register::verdict_name;
pub(crate) use trace::{RequestEnd, RequestTrace, TRACEPARENT, Traces};
pub use trace::{TraceSettings, TraceSetupError, collector_url};
