//! The memory that requests' bodies share.

use std::sync::Arc;

use prometheus::IntGauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bodies of up to this many bytes are not counted, and so wait for none.
pub(crate) const SMALL_BODY: usize = 64 * 1024;
/// Bytes that a permit stands for.
const UNIT: usize = 1024;
/// Bytes that a byte of a body takes: itself, and the image that is decoded from it.
const BYTES_A_BYTE: usize = 2;

/// A budget for the bodies of all requests and the images in them.
///
/// A body has as much of it as has come of it, so that announcing one takes nothing from others.
/// When all that may be shared is taken by parts of bodies, one after another gets the reserve,
/// which has room for any.
#[derive(Debug)]
pub(crate) struct BodyMemory {
    shared: Arc<Semaphore>,
    reserve: Arc<Semaphore>,
    reserve_bytes: usize,
    in_use: IntGauge,
}

impl BodyMemory {
    /// A budget of `bytes`, for bodies of up to `max_body_bytes`; it has room for one of these in
    /// any case.
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

    /// No share yet.
    pub(crate) fn share(self: &Arc<Self>) -> MemoryShare {
        MemoryShare {
            memory: Arc::clone(self),
            shared: None,
            reserve: None,
            shown: 0,
        }
    }
}

/// What a request has of it, until this is dropped.
#[derive(Debug)]
pub(crate) struct MemoryShare {
    memory: Arc<BodyMemory>,
    shared: Option<OwnedSemaphorePermit>,
    reserve: Option<OwnedSemaphorePermit>,
    /// Bytes that the metric has of it.
    shown: i64,
}

impl MemoryShare {
    /// Waits until it has room for a body of this many bytes.
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
                // Never closed.
                (_, Err(_)) => {}
            },
            permit = Arc::clone(&self.memory.reserve).acquire_owned() => self.reserve = permit.ok(),
        }
        self.show();
    }

    /// Gives back all but what an image of this many bytes takes: the body is gone.
    pub(crate) fn shrink(&mut self, image_bytes: usize) {
        let keeps = image_bytes.div_ceil(UNIT);
        if self.reserve.is_some() {
            let has = self
                .shared
                .as_ref()
                .map_or(0, OwnedSemaphorePermit::num_permits);
            let needs = u32::try_from(keeps.saturating_sub(has)).unwrap_or(u32::MAX);
            if let Ok(permit) = Arc::clone(&self.memory.shared).try_acquire_many_owned(needs) {
                match &mut self.shared {
                    Some(shared) => shared.merge(permit),
                    None => self.shared = Some(permit),
                }
                self.reserve = None;
            }
        }
        if let Some(shared) = &mut self.shared {
            drop(shared.split(shared.num_permits().saturating_sub(keeps)));
        }
        self.show();
    }

    fn show(&mut self) {
        let shared = self
            .shared
            .as_ref()
            .map_or(0, |permit| permit.num_permits() * UNIT);
        let has = (shared
            + self
                .reserve
                .as_ref()
                .map_or(0, |_| self.memory.reserve_bytes)) as i64;
        self.memory.in_use.add(has - self.shown);
        self.shown = has;
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        self.memory.in_use.sub(self.shown);
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
    fn parts_of_bodies_never_keep_each_other_from_being_complete() {
        let gauge = IntGauge::new("bytes", "bytes").unwrap();
        // Room for four bodies of which one has the reserve.
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
    fn a_share_shrinks_to_the_image_of_its_body() {
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
