//! Room in the key/value cache: who may take more of it, so that every answer can be finished.

use crate::vlm::kv_cache::BLOCK;

/// Positions of the cache that belong to a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RoomClaim {
    /// Positions that it may fill now.
    pub(crate) held: usize,
    /// Most positions that it may come to need.
    pub(crate) most: usize,
}

impl RoomClaim {
    /// Returns the claim once it holds at least `positions`, as far as it may ever need them.
    pub(crate) fn holding(self, positions: usize) -> Self {
        let wanted = positions.next_multiple_of(BLOCK).min(self.most);
        Self {
            held: self.held.max(wanted),
            ..self
        }
    }
}

/// Returns `true` if `total` positions suffice for what the sequences hold, and for every sequence
/// to get the most that it may need, one after the other, each with what those before it gave back:
/// the banker's algorithm (Dijkstra, "Cooperating Sequential Processes", 1968).
///
/// As long as this holds, at least one sequence goes on, so none has to be given up.
pub(crate) fn all_can_end(claims: impl IntoIterator<Item = RoomClaim>, total: usize) -> bool {
    let mut claims: Vec<RoomClaim> = claims.into_iter().collect();
    let held: usize = claims.iter().map(|claim| claim.held).sum();
    let Some(mut free) = total.checked_sub(held) else {
        return false;
    };
    let missing = |claim: &RoomClaim| claim.most.saturating_sub(claim.held);
    claims.sort_by_key(missing);
    claims.iter().all(|claim| {
        let can_end = missing(claim) <= free;
        free += claim.held;
        can_end
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claim(held: usize, most: usize) -> RoomClaim {
        RoomClaim { held, most }
    }

    #[test]
    fn room_for_one_after_the_other_is_enough() {
        // The first can end with the 20 that are free, the others with what it gives back.
        assert!(all_can_end(
            [claim(40, 60), claim(20, 80), claim(20, 80)],
            100
        ));
        assert!(!all_can_end(
            [claim(40, 61), claim(20, 80), claim(20, 81)],
            100
        ));
        assert!(!all_can_end([claim(60, 60), claim(50, 50)], 100));
        assert!(all_can_end([claim(16, 100)], 100));
        assert!(all_can_end([claim(16, 100), claim(32, 64)], 100));
        assert!(!all_can_end([claim(16, 100), claim(16, 100)], 100));
    }

    #[test]
    fn a_claim_grows_by_blocks_up_to_its_most() {
        assert_eq!(claim(16, 40).holding(16), claim(16, 40));
        assert_eq!(claim(16, 40).holding(17), claim(32, 40));
        assert_eq!(claim(32, 40).holding(90), claim(40, 40));
    }

    proptest! {
        /// Sequences that join and grow only while all can end, all end.
        #[test]
        fn every_sequence_ends(
            sizes in proptest::collection::vec((1usize..8, 0usize..30), 1..12),
            total in 38usize..80,
        ) {
            let total = total * BLOCK;
            let mut waiting: Vec<RoomClaim> = sizes
                .into_iter()
                .map(|(first, more)| claim(first * BLOCK, (first + more) * BLOCK))
                .collect();
            let mut running: Vec<RoomClaim> = Vec::new();
            while !waiting.is_empty() || !running.is_empty() {
                while let Some(&next) = waiting.last() {
                    if !all_can_end(running.iter().copied().chain([next]), total) {
                        break;
                    }
                    running.extend(waiting.pop());
                }
                let before: usize = running.iter().map(|claim| claim.held).sum();
                let count = running.len();
                running.retain(|claim| claim.held < claim.most);
                for i in 0..running.len() {
                    let mut grown = running.clone();
                    grown[i] = grown[i].holding(grown[i].held + 1);
                    if all_can_end(grown.iter().copied(), total) {
                        running = grown;
                    }
                }
                let held: usize = running.iter().map(|claim| claim.held).sum();
                prop_assert!(held <= total);
                prop_assert!(held > before || running.len() < count, "nobody goes on");
            }
        }
    }
}
