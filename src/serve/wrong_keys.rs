//! Wrong keys of late, by the network that they came from: who guesses is told to slow down. Keys that are known are never held up.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::connections::network;

/// Wrong keys that a network may send at once.
const BURST: u32 = 10;
/// Time after which it may send another.
const INTERVAL: Duration = Duration::from_secs(6);
/// Most networks that are remembered.
const MAX_NETWORKS: usize = 4096;

/// When the wrong keys of each network will be forgotten, as though they had come one an [`INTERVAL`].
#[derive(Debug, Default)]
pub(crate) struct WrongKeys(Mutex<HashMap<IpAddr, Instant>>);

impl WrongKeys {
    /// Counts a wrong key.
    ///
    /// # Errors
    /// When there were too many from the network of this address: the seconds until the next is counted again.
    pub(crate) fn count(&self, address: IpAddr, now: Instant) -> Result<(), u64> {
        let network = network(address);
        let mut networks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let forgotten = networks.get(&network).map_or(now, |&at| at.max(now)) + INTERVAL;
        let wait = forgotten.saturating_duration_since(now + INTERVAL * BURST);
        if !wait.is_zero() {
            return Err(wait.as_secs_f64().ceil() as u64);
        }
        if networks.len() >= MAX_NETWORKS && !networks.contains_key(&network) {
            networks.retain(|_, at| *at > now);
            // Those who guess most stay longest.
            let first = networks.iter().min_by_key(|(_, at)| **at).map(|(network, _)| *network);
            if let Some(first) = first.filter(|_| networks.len() >= MAX_NETWORKS) {
                networks.remove(&first);
            }
        }
        networks.insert(network, forgotten);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn ten_at_once_and_then_one_every_six_seconds() {
        let (wrong, start) = (WrongKeys::default(), Instant::now());
        let at = |seconds: u64| wrong.count(address("203.0.113.9"), start + Duration::from_secs(seconds));
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
    fn networks_are_apart_and_addresses_of_one_are_together() {
        let (wrong, now) = (WrongKeys::default(), Instant::now());
        let exhausted = |text: &str| (0..BURST).all(|_| wrong.count(address(text), now).is_ok());
        assert!(exhausted("203.0.113.9") && exhausted("203.0.113.10") && exhausted("2001:db8:0:1::1"));
        for same in ["203.0.113.9", "::ffff:203.0.113.10", "2001:db8:0:1:ffff::2"] {
            assert_eq!(wrong.count(address(same), now), Err(6), "{same}");
        }
        assert_eq!(wrong.count(address("2001:db8:0:2::1"), now), Ok(()));
    }

    #[test]
    fn the_table_is_bounded_and_keeps_those_who_guess_most() {
        let (wrong, now) = (WrongKeys::default(), Instant::now());
        let busy = address("198.51.100.1");
        (0..BURST).for_each(|_| wrong.count(busy, now).unwrap());
        for number in 0..3 * MAX_NETWORKS as u32 {
            assert_eq!(wrong.count(std::net::Ipv4Addr::from_bits(number).into(), now), Ok(()));
        }
        assert_eq!(wrong.0.lock().unwrap().len(), MAX_NETWORKS);
        assert_eq!(wrong.count(busy, now), Err(6));
        wrong.count(address("192.0.2.1"), now + Duration::from_secs(100)).unwrap();
        assert_eq!(wrong.0.lock().unwrap().len(), 1, "what is forgotten makes room");
    }
}
