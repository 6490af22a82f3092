//! Sender of a request, as its key says.

use std::{net::IpAddr, sync::Arc};

use super::connections::network;
use crate::config::{GuardSection, KeyScope, KeyScopes};

/// Sender of a request: the holder of a configured key, or anonymous on a server without keys.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// Name of the key; `None` without one.
    pub(crate) name: Option<Arc<str>>,
    /// Tenant that owns receipts, records, images and leases; empty without a key.
    pub(crate) owner: Arc<str>,
    /// Permissions.
    pub(crate) scopes: KeyScopes,
    /// Weight among competitors for the engine.
    pub(crate) weight: u32,
    /// Guard defaults for this caller's requests.
    pub(crate) guard: Arc<GuardSection>,
    /// Address of the client; `None` in tests that call handlers directly.
    pub(crate) address: Option<IpAddr>,
}

impl Caller {
    /// Returns the caller of a server without keys: all scopes but administration, which needs its
    /// own key.
    pub(super) fn anonymous(guard: &Arc<GuardSection>) -> Self {
        let scopes = KeyScope::ALL
            .into_iter()
            .filter(|&scope| scope != KeyScope::Admin);
        Self {
            name: None,
            owner: "".into(),
            scopes: KeyScopes::new(scopes),
            weight: 1,
            guard: Arc::clone(guard),
            address: None,
        }
    }

    /// Returns the competitor for fair scheduling: the owner or, without a key, the client's
    /// network.
    pub(crate) fn competitor(&self) -> Arc<str> {
        match (&self.name, self.address) {
            (None, Some(address)) => network(address).to_string().into(),
            _ => Arc::clone(&self.owner),
        }
    }
}
