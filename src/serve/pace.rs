//! Timeout that depends on transfer rate.

use std::time::Duration;

use tokio::time::Instant;

/// Time budget for a peer to send or receive: waiting spends it and transferred bytes refill it, up
/// to the initial amount. A peer that stalls exhausts it in that time; one below the required rate,
/// somewhat later.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    rate: u64,
    max: Duration,
    remaining: Duration,
    since: Option<Instant>,
}

impl Pace {
    /// Creates a budget of `max`, refilled by one second per `rate` bytes.
    pub(crate) fn new(max: Duration, rate: u64) -> Self {
        Self {
            rate: rate.max(1),
            max,
            remaining: max,
            since: None,
        }
    }

    /// Returns the required rate in bytes per second.
    pub(crate) fn rate(&self) -> u64 {
        self.rate
    }

    /// Returns the deadline for the peer's next bytes; waiting starts `now`, unless it has already.
    pub(crate) fn wait_until(&mut self, now: Instant) -> Instant {
        *self.since.get_or_insert(now) + self.remaining
    }

    /// Records transferred bytes and ends the wait.
    pub(crate) fn record_transfer(&mut self, bytes: usize, now: Instant) {
        let waited = self
            .since
            .take()
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let earned = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        self.remaining = (self.remaining.saturating_sub(waited) + earned).min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Returns the seconds after which a peer that sends `bytes` after each pause times out.
    fn tolerated_seconds(bytes: usize, pause: Duration) -> Option<u32> {
        let began = Instant::now();
        let (mut pace, mut now) = (Pace::new(10 * SECOND, 1000), began);
        for _ in 0..1000 {
            let until = pace.wait_until(now);
            if until < now + pause {
                return Some((until - began).as_secs() as u32);
            }
            now += pause;
            pace.record_transfer(bytes, now);
        }
        None
    }

    #[test]
    fn pauses_are_tolerated_but_slow_transfers_are_not() {
        assert_eq!(tolerated_seconds(0, 60 * SECOND), Some(10));
        assert_eq!(tolerated_seconds(1, SECOND), Some(10));
        assert_eq!(tolerated_seconds(500, SECOND), Some(19));
        assert_eq!(tolerated_seconds(1000, SECOND), None);
        assert_eq!(tolerated_seconds(20_000, 9 * SECOND), None);
        assert_eq!(tolerated_seconds(1 << 30, 11 * SECOND), Some(10));
    }

    #[test]
    fn time_without_waiting_is_not_counted() {
        let mut now = Instant::now();
        let mut pace = Pace::new(SECOND, 1);
        for _ in 0..10 {
            now += 60 * SECOND;
            assert_eq!(pace.wait_until(now), now + SECOND);
            pace.record_transfer(1, now);
        }
    }
}
