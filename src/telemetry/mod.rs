//! Telemetry for those who run the server: metrics and logs.

mod answers;
mod connections;
mod engines;
mod http;
mod learning;
mod logging;
mod metrics;
mod models;
mod process;

pub(crate) use answers::{AnswerEnd, AnswerMeter};
pub(crate) use connections::{ConnectionEnd, ConnectionMetrics};
pub(crate) use engines::EngineMetrics;
pub(crate) use http::HttpExchange;
pub use logging::{LogLevel, init as init_logging};
pub use metrics::Metrics;
pub(crate) use metrics::verdict_name;
