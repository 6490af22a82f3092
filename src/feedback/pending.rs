//! Receipts that are not kept yet.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{record::Receipt, store::Owners};

/// A receipt, and its image where that is at hand.
#[derive(Debug, Clone)]
pub(super) struct PendingReceipt {
    pub(super) receipt: Receipt,
    pub(super) image: Option<Arc<[u8]>>,
}

/// By completion.
#[derive(Default)]
pub(super) struct PendingReceipts(Mutex<HashMap<String, PendingReceipt>>);

impl PendingReceipts {
    pub(super) fn insert(&self, receipt: Receipt, image: Arc<[u8]>) {
        self.map().insert(
            receipt.id.clone(),
            PendingReceipt {
                receipt,
                image: Some(image),
            },
        );
    }

    pub(super) fn get(&self, id: &str) -> Option<PendingReceipt> {
        self.map().get(id).cloned()
    }

    pub(super) fn remove(&self, id: &str) {
        self.map().remove(id);
    }

    /// Forgets a user's of some owners.
    pub(super) fn remove_user(&self, user: &str, owners: &Owners) {
        let of_user = |receipt: &Receipt| {
            receipt.user.as_deref() == Some(user) && owners.contain(&receipt.owner)
        };
        self.map()
            .retain(|_, remembered| !of_user(&remembered.receipt));
    }

    fn map(&self) -> MutexGuard<'_, HashMap<String, PendingReceipt>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
