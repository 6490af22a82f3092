//! Counter of recent offenses: wrong keys by network, rejected requests by account.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Most offenders remembered.
const MAX_REMEMBERED: usize = 4096;

/// Leaky bucket per offender: a burst is tolerated, then one offense per interval.
#[derive(Debug)]
pub(crate) struct Strikes<K> {
    burst: u32,
    interval: Duration,
    /// Time at which each offender's bucket is empty again.
    forgotten: Mutex<HashMap<K, Instant>>,
}

impl<K: Hash + Eq + Clone> Strikes<K> {
    /// Creates a counter that tolerates `burst` at once and one more per `interval`.
    pub(crate) fn new(burst: u32, interval: Duration) -> Self {
        Self {
            burst,
            interval,
            forgotten: Mutex::default(),
        }
    }

    /// Counts an offense.
    ///
    /// # Errors
    /// Above the tolerated rate, the seconds until the next is tolerated.
    pub(crate) fn count(&self, who: K, now: Instant) -> Result<(), u64> {
        let mut all = self
            .forgotten
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let forgotten = all.get(&who).map_or(now, |&at| at.max(now)) + self.interval;
        let wait = forgotten.saturating_duration_since(now + self.interval * self.burst);
        if !wait.is_zero() {
            return Err(wait.as_secs_f64().ceil() as u64);
        }
        if all.len() >= MAX_REMEMBERED && !all.contains_key(&who) {
            all.retain(|_, at| *at > now);
            // The worst offenders stay longest.
            let first = all
                .iter()
                .min_by_key(|(_, at)| **at)
                .map(|(who, _)| who.clone());
            if let Some(first) = first.filter(|_| all.len() >= MAX_REMEMBERED) {
                all.remove(&first);
            }
        }
        all.insert(who, forgotten);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::serve::connections::network;

    const BURST: u32 = 10;

    fn wrong_keys() -> Strikes<IpAddr> {
        Strikes::new(BURST, Duration::from_secs(6))
    }

    fn address(text: &str) -> IpAddr {
        network(text.parse().unwrap())
    }

    #[test]
    fn a_burst_of_ten_then_one_every_six_seconds_is_tolerated() {
        let (wrong, start) = (wrong_keys(), Instant::now());
        let at = |seconds: u64| {
            wrong.count(address("203.0.113.9"), start + Duration::from_secs(seconds))
        };
        for _ in 0..BURST {
            assert_eq!(at(0), Ok(()));
        }
        assert_eq!((at(0), at(2), at(5)), (Err(6), Err(4), Err(1)));
        assert_eq!((at(6), at(6)), (Ok(()), Err(6)));
        assert_eq!((at(18), at(18), at(18)), (Ok(()), Ok(()), Err(6)));
        for _ in 0..BURST {
            assert_eq!(at(1000), Ok(()), "it has slowed down");
        }
        assert_eq!(at(1000), Err(6));
    }

    #[test]
    fn offenses_are_counted_by_network() {
        let (wrong, now) = (wrong_keys(), Instant::now());
        let exhausted = |text: &str| (0..BURST).all(|_| wrong.count(address(text), now).is_ok());
        assert!(
            exhausted("203.0.113.9") && exhausted("203.0.113.10") && exhausted("2001:db8:0:1::1")
        );
        for same in ["203.0.113.9", "::ffff:203.0.113.10", "2001:db8:0:1:ffff::2"] {
            assert_eq!(wrong.count(address(same), now), Err(6), "{same}");
        }
        assert_eq!(wrong.count(address("2001:db8:0:2::1"), now), Ok(()));
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_worst_offenders() {
        let (wrong, now) = (wrong_keys(), Instant::now());
        let busy = address("198.51.100.1");
        (0..BURST).for_each(|_| wrong.count(busy, now).unwrap());
        for number in 0..3 * MAX_REMEMBERED as u32 {
            assert_eq!(
                wrong.count(std::net::Ipv4Addr::from_bits(number).into(), now),
                Ok(())
            );
        }
        assert_eq!(wrong.forgotten.lock().unwrap().len(), MAX_REMEMBERED);
        assert_eq!(wrong.count(busy, now), Err(6));
        wrong
            .count(address("192.0.2.1"), now + Duration::from_secs(100))
            .unwrap();
        assert_eq!(
            wrong.forgotten.lock().unwrap().len(),
            1,
            "what is forgotten makes room"
        );
    }
}
