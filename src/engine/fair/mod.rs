//! Fair sharing of scarce resources: admission, decode steps, image workers.
//!
//! A competitor is the owner of an API key or, without keys, a client address. [`Pool`] bounds
//! admission, [`Ledger`] orders waiting work, and [`Turns`] is a semaphore for async tasks in the
//! ledger's order.

mod ledger;
mod pool;
mod turns;

use std::sync::Arc;

pub(crate) use ledger::Ledger;
pub use pool::PoolPermit;
pub(crate) use pool::{Pool, PoolError, SharedPool};
pub use turns::{FairTurn, Turns};

/// A competitor and its weight; under contention, twice the weight gets twice the resources.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Share {
    /// Name of the competitor.
    pub competitor: Arc<str>,
    /// Weight, at least 1.
    pub weight: u32,
}

impl Share {
    /// Creates the share of a competitor; a weight of 0 becomes 1.
    pub fn new(competitor: impl Into<Arc<str>>, weight: u32) -> Self {
        Self {
            competitor: competitor.into(),
            weight: weight.max(1),
        }
    }
}

impl Default for Share {
    /// Returns the anonymous competitor, for internal work.
    fn default() -> Self {
        Self::new("", 1)
    }
}
