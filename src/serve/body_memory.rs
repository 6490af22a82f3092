//! Shared memory budget of request bodies.

use std::sync::Arc;

use prometheus::IntGauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bodies up to this size are not counted.
pub(crate) const SMALL_BODY: usize = 64 * 1024;
/// Bytes per semaphore permit.
const UNIT: usize = 1024;
/// Memory per body byte: the byte itself and the image decoded from it.
const BYTES_A_BYTE: usize = 2;

/// Memory budget for the bodies of all requests and the images in them.
///
/// A body is charged for the bytes received, so that announcing a large one takes nothing from
/// others. If partial bodies use up the shared part, one request at a time gets the reserve, which
/// is large enough for any body.
#[derive(Debug)]
pub(crate) struct BodyMemory {
    shared: Arc<Semaphore>,
    reserve: Arc<Semaphore>,
    reserve_bytes: usize,
    in_use: IntGauge,
}

impl BodyMemory {
    /// Creates a budget of `bytes`, at least enough for one body of `max_body_bytes`.
    pub(crate) fn new(bytes: usize, max_body_bytes: usize, in_use: IntGauge) -> Arc<Self> {
        let reserve_bytes = max_body_bytes * BYTES_A_BYTE;
        let shared = Arc::new(Semaphore::new(bytes.saturating_sub(reserve_bytes) / UNIT));
        Arc::new(Self {
            shared,
            reserve: Arc::new(Semaphore::new(1)),
            reserve_bytes,
            in_use,
        })
    }

    /// Returns an empty share.
    pub(crate) fn share(self: &Arc<Self>) -> MemoryShare {
        MemoryShare {
            memory: Arc::clone(self),
            shared: None,
            reserve: None,
            reported: 0,
        }
    }
}

/// A request's share of the budget; released on drop.
#[derive(Debug)]
pub(crate) struct MemoryShare {
    memory: Arc<BodyMemory>,
    shared: Option<OwnedSemaphorePermit>,
    reserve: Option<OwnedSemaphorePermit>,
    /// Bytes reported to the metric.
    reported: i64,
}

impl MemoryShare {
    /// Waits until the share covers a body of this size.
    pub(crate) async fn grow(&mut self, body_bytes: usize) {
        if body_bytes <= SMALL_BODY || self.reserve.is_some() {
            return;
        }
        let has = self
            .shared
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        let needs = u32::try_from(
            (body_bytes * BYTES_A_BYTE)
                .div_ceil(UNIT)
                .saturating_sub(has),
        )
        .unwrap_or(u32::MAX);
        tokio::select! {
            biased;
            permit = Arc::clone(&self.memory.shared).acquire_many_owned(needs) =>
                match (&mut self.shared, permit) {
                (Some(shared), Ok(permit)) => shared.merge(permit),
                (None, Ok(permit)) => self.shared = Some(permit),
                // The semaphore is never closed.
                (_, Err(_)) => {}
            },
            permit = Arc::clone(&self.memory.reserve).acquire_owned() => self.reserve = permit.ok(),
        }
        self.update_metric();
    }

    /// Reduces the share to an image of this size, once the body is dropped.
    pub(crate) fn shrink(&mut self, image_bytes: usize) {
        let units_kept = image_bytes.div_ceil(UNIT);
        if self.reserve.is_some() {
            let has = self
                .shared
                .as_ref()
                .map_or(0, OwnedSemaphorePermit::num_permits);
            let needs = u32::try_from(units_kept.saturating_sub(has)).unwrap_or(u32::MAX);
            if let Ok(permit) = Arc::clone(&self.memory.shared).try_acquire_many_owned(needs) {
                match &mut self.shared {
                    Some(shared) => shared.merge(permit),
                    None => self.shared = Some(permit),
                }
                self.reserve = None;
            }
        }
        if let Some(shared) = &mut self.shared {
            drop(shared.split(shared.num_permits().saturating_sub(units_kept)));
        }
        self.update_metric();
    }

    fn update_metric(&mut self) {
        let shared = self
            .shared
            .as_ref()
            .map_or(0, |permit| permit.num_permits() * UNIT);
        let has = (shared
            + self
                .reserve
                .as_ref()
                .map_or(0, |_| self.memory.reserve_bytes)) as i64;
        self.memory.in_use.add(has - self.reported);
        self.reported = has;
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        self.memory.in_use.sub(self.reported);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const MIB: usize = 1 << 20;

    fn has_room(share: &mut MemoryShare, bytes: usize) -> bool {
        share.grow(bytes).now_or_never().is_some()
    }

    #[test]
    fn partial_bodies_never_deadlock() {
        let gauge = IntGauge::new("bytes", "bytes").unwrap();
        // Room for four bodies, one of them in the reserve.
        let memory = BodyMemory::new(8 * MIB, MIB, gauge.clone());
        let mut halves: Vec<MemoryShare> = (0..12).map(|_| memory.share()).collect();
        assert!(halves.iter_mut().all(|half| has_room(half, MIB / 4)));
        assert_eq!(gauge.get(), 6 << 20);
        assert!(has_room(&mut halves[0], MIB / 2), "the reserve");
        assert!(!has_room(&mut halves[1], MIB / 2));
        assert!(
            has_room(&mut halves[0], MIB),
            "it has room for a whole body"
        );
        assert_eq!(gauge.get(), 8 << 20);
        assert!(
            has_room(&mut memory.share(), SMALL_BODY),
            "small ones are not counted"
        );
        assert!(!has_room(&mut memory.share(), SMALL_BODY + 1));
        halves.remove(0);
        assert!(has_room(&mut halves[0], MIB));
        drop(halves);
        assert_eq!(gauge.get(), 0);
        assert!(has_room(&mut memory.share(), MIB));
    }

    #[test]
    fn a_share_shrinks_to_its_image() {
        let gauge = IntGauge::new("bytes", "bytes").unwrap();
        let memory = BodyMemory::new(4 * MIB, MIB, gauge.clone());
        let mut share = memory.share();
        assert!(has_room(&mut share, MIB));
        let mut reserved = memory.share();
        assert!(has_room(&mut reserved, MIB));
        assert_eq!(gauge.get(), 4 << 20);
        share.shrink(MIB / 2);
        assert_eq!(gauge.get(), (MIB / 2 + 2 * MIB) as i64);
        reserved.shrink(MIB / 2);
        assert_eq!(gauge.get(), MIB as i64);
        share.shrink(0);
        assert!(has_room(&mut memory.share(), MIB / 2) && has_room(&mut memory.share(), MIB));
    }
}
