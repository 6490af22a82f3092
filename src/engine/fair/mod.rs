//! Fair shares of what is scarce: places, the engine's steps, image workers.
//!
//! A competitor is whoever callers are told apart by: the owner of a key or, without keys, a
//! client's address. [`Ledger`] says who is next, [`Pool`] who may still come in, and [`Turns`]
//! lets async tasks take turns in the ledger's order.

mod ledger;
mod pool;
mod turns;

use std::sync::Arc;

pub(crate) use ledger::Ledger;
pub use pool::PoolPermit;
pub(crate) use pool::{Pool, PoolError, SharedPool};
pub use turns::{FairTurn, Turns};

/// A competitor and its weight: of two that want more than there is, one of twice the weight gets
/// twice as much.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Share {
    /// Who competes.
    pub competitor: Arc<str>,
    /// At least 1.
    pub weight: u32,
}

impl Share {
    /// A competitor with a weight.
    pub fn new(competitor: impl Into<Arc<str>>, weight: u32) -> Self {
        Self {
            competitor: competitor.into(),
            weight: weight.max(1),
        }
    }
}

impl Default for Share {
    /// The nameless competitor, for work that nobody in particular asked for.
    fn default() -> Self {
        Self::new("", 1)
    }
}
