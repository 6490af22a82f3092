//! What the server tells those who run it: metrics and logs.

mod engines;
mod learning;
mod logging;
mod metrics;
mod models;

pub(crate) use engines::EngineMetrics;
pub use logging::init as init_logging;
pub use metrics::Metrics;
pub(crate) use metrics::verdict_name;
