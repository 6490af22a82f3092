//! What the server tells those who run it: metrics and logs.

mod logging;
mod metrics;

pub use logging::init as init_logging;
pub use metrics::Metrics;
pub(crate) use metrics::verdict_name;
