//! Unix time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns the time since 1970, by the system's clock; zero where the clock is before that.
pub fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Returns the whole seconds since 1970, by the system's clock.
pub fn unix_seconds() -> u64 {
    since_epoch().as_secs()
}
