//! What a request needs to be answered, as the routing table names it.

use crate::config::KeyScope;

/// What a request needs of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Nothing: it is answered without a key too.
    Open,
    /// A known key, where the server has keys.
    AnyKey,
    /// A key with one of these scopes, where the server has keys.
    OneOf(&'static [KeyScope]),
    /// A key with the scope `admin`, or the administrator's key.
    Admin,
    /// As [`Permission::Admin`], where others than programs of the server's own machine reach the
    /// metrics beside the API; else nothing.
    Metrics,
}

impl Permission {
    /// Returns the scopes of which one is needed; none where any key will do.
    pub fn scopes(self) -> &'static [KeyScope] {
        match self {
            Self::Open | Self::AnyKey => &[],
            Self::OneOf(scopes) => scopes,
            Self::Admin | Self::Metrics => &[KeyScope::Admin],
        }
    }
}
