//! Permissions of routes.

use crate::config::KeyScope;

/// Permission that a route requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// No key.
    Open,
    /// Any known key, if keys are configured.
    AnyKey,
    /// A key with one of these scopes, if keys are configured.
    OneOf(&'static [KeyScope]),
    /// A key with the scope `admin`, or the administrator's key.
    Admin,
    /// As [`Permission::Admin`] if `/metrics` is exposed to other machines along with the API;
    /// otherwise no key.
    Metrics,
}

impl Permission {
    /// Returns the scopes of which one is required; empty if any key is accepted.
    pub fn scopes(self) -> &'static [KeyScope] {
        match self {
            Self::Open | Self::AnyKey => &[],
            Self::OneOf(scopes) => scopes,
            Self::Admin | Self::Metrics => &[KeyScope::Admin],
        }
    }
}
