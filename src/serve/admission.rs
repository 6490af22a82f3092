//! Admission of valid requests, and what is settled when they end.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::sync::OwnedSemaphorePermit;

use super::{
    error::ApiError,
    limits::{WorkPermit, cost::RequestCost},
    served::RequestContext,
};

/// Admits a valid request; `permit` is the one for parsing, which it keeps.
///
/// # Errors
/// 429 if too much is in progress or the token rate is used up.
pub(super) fn admit(
    context: &RequestContext,
    permit: OwnedSemaphorePermit,
    cost: RequestCost,
) -> Result<Admission, ApiError> {
    let held = context.app.limits.admit_work(&context.share, cost.work)?;
    let charged = context
        .app
        .limits
        .charge_tokens(&context.account, cost.tokens)?;
    Ok(Admission {
        context: context.clone(),
        charged,
        used: None,
        _held: held,
        _permit: permit,
    })
}

/// An admitted request; on drop, its tokens are settled and its work is released.
pub(crate) struct Admission {
    context: RequestContext,
    /// Tokens charged in advance.
    charged: u64,
    /// Tokens actually used, 0 until known; `None` before the work has started.
    used: Option<Arc<AtomicU64>>,
    _held: WorkPermit,
    _permit: OwnedSemaphorePermit,
}

impl Admission {
    /// Records that the work has started: the advance charge stays until `used` holds the actual
    /// number of tokens.
    pub(crate) fn begin(&mut self, used: Arc<AtomicU64>) {
        self.used = Some(used);
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let limits = &self.context.app.limits;
        let stays = match self.used.as_ref().map(|used| used.load(Relaxed)) {
            None => 0,
            Some(0) => self.charged,
            Some(used) => used,
        };
        limits.settle(&self.context.account, self.charged, stays);
    }
}
