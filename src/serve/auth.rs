//! API keys: who may ask, and with which guard where a request does not say. The server knows digests alone.

use std::{convert::Infallible, hint::black_box, net::IpAddr, sync::Arc};

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{Extensions, HeaderMap, Method, header::AUTHORIZATION, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use super::{app::App, body, error::ApiError, listen::Peer};
use crate::config::{Config, Guard, Key, Scope, Scopes};

#[allow(dead_code)] // MERGE: to be removed
/// Who sends a request: the holder of a configured key or, on a server without keys, anybody.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The key's name; `None` without a key.
    pub(crate) name: Option<Arc<str>>,
    /// The tenant that receipts, records, images and leases belong to; empty without a key.
    pub(crate) owner: Arc<str>,
    /// What the caller may do.
    pub(crate) scopes: Scopes,
    /// Share of the engine where callers compete.
    pub(crate) weight: u32,
    /// The guard of requests that do not say.
    pub(crate) guard: Arc<Guard>,
    /// The address that the request came from; `None` where nobody listened for it (tests of handlers).
    pub(crate) address: Option<IpAddr>,
}

#[allow(dead_code)] // MERGE: to be removed
impl Caller {
    /// Anybody, on a server without keys. There is nobody to be kept apart from, but administration needs its own key.
    fn anonymous(guard: &Arc<Guard>) -> Self {
        let scopes = Scope::ALL.into_iter().filter(|&scope| scope != Scope::Admin);
        Self { name: None, owner: "".into(), scopes: Scopes::new(scopes), weight: 1, guard: Arc::clone(guard), address: None }
    }

    /// Returns the identity that competes for the engine: the owner or, without a key, the client's address.
    pub(crate) fn competitor(&self) -> Arc<str> {
        match (&self.name, self.address) {
            (None, Some(address)) => address.to_string().into(),
            _ => Arc::clone(&self.owner),
        }
    }
}

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Infallible> {
        Ok(caller(app, &parts.extensions))
    }
}

/// Returns who sends the request with these extensions.
pub(crate) fn caller(app: &App, extensions: &Extensions) -> Caller {
    let mut caller = extensions.get::<Caller>().cloned().unwrap_or_else(|| Caller::anonymous(&app.guard));
    caller.address = extensions.get::<Peer>().map(|peer| peer.0.ip().to_canonical());
    caller
}

/// A configured key.
#[derive(Debug, Clone)]
struct KnownKey {
    digest: [u8; 32],
    caller: Caller,
}

impl KnownKey {
    /// `None` where the key has no digest, which the configuration's check refuses.
    fn new(key: &Key, common: &Guard) -> Option<Self> {
        let caller = Caller {
            name: Some(key.name.as_str().into()),
            owner: key.owner().into(),
            scopes: key.scopes.clone(),
            weight: key.weight,
            guard: Arc::new(key.guard(common)),
            address: None,
        };
        Some(Self { digest: key.digest()?, caller })
    }
}

/// The keys in force, replaced as a whole when the configuration is read again.
#[derive(Debug)]
pub(crate) struct Access {
    /// Those with a key; none: everybody may ask.
    keys: Vec<KnownKey>,
    /// The key for what is under `/admin/`; `None`: nobody may ask there.
    admin: Option<[u8; 32]>,
}

impl Access {
    /// The keys of a checked configuration.
    pub(crate) fn new(config: &Config) -> Self {
        let keys = config.keys.iter().filter_map(|key| KnownKey::new(key, &config.guard)).collect();
        Self { keys, admin: config.admin.digest() }
    }

    /// Returns `true` if `/v1/*` is for those with a key alone.
    pub(crate) fn needs_key(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Returns whether anybody may ask under `/admin/`.
    pub(crate) fn has_admin(&self) -> bool {
        self.admin.is_some()
    }
}

/// The middleware: where there are keys, the API is for those who have one. What is under `/admin/` is for who has the key of that alone; where there
/// is none, the handlers refuse. Health and metrics are for all.
pub(crate) async fn authenticate(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    if request.method() == Method::OPTIONS {
        // Browsers ask without a key, and nothing is told but methods.
        return next.run(request).await;
    }
    let path = request.uri().path();
    let access = app.access();
    let allowed = if let Some(admin) = access.admin.as_ref().filter(|_| path.starts_with("/admin/")) {
        administrate(admin, request.headers()).map(|()| None)
    } else if path.starts_with("/v1/") && access.needs_key() {
        find(&access.keys, request.headers()).map(Some)
    } else {
        Ok(None)
    };
    match allowed {
        Ok(caller) => {
            if let Some(caller) = caller.cloned() {
                tracing::Span::current().record("key", caller.name.as_deref());
                request.extensions_mut().insert(caller);
            }
            next.run(request).await
        }
        Err(error) => {
            // So that a client that sends its whole body first still reads the error.
            body::discard(request.into_body(), app.read_timeout());
            error.into_response()
        }
    }
}

/// Whether a request has the administrator's key.
fn administrate(admin: &[u8; 32], headers: &HeaderMap) -> Result<(), ApiError> {
    let known = same(admin, &digest(headers)?);
    known.then_some(()).ok_or_else(|| ApiError::unauthorized("this needs the administrator's key (admin.key_sha256)"))
}

fn find<'a>(keys: &'a [KnownKey], headers: &HeaderMap) -> Result<&'a Caller, ApiError> {
    let digest = digest(headers)?;
    // Every key is compared, and whole, so that the time taken says nothing about them.
    let found = keys.iter().fold(None, |found, key| if same(&key.digest, &digest) { Some(&key.caller) } else { found });
    found.ok_or_else(|| ApiError::unauthorized("the API key is not known to this server"))
}

/// Of the key that a request has.
fn digest(headers: &HeaderMap) -> Result<[u8; 32], ApiError> {
    let given = headers.get(AUTHORIZATION).map(|value| value.as_bytes());
    let Some(given) = given else {
        return Err(ApiError::unauthorized("this server needs an API key, in the header Authorization: Bearer KEY"));
    };
    let key = given.split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
    let Some((_, key)) = key else {
        return Err(ApiError::unauthorized("the Authorization header must be: Bearer KEY"));
    };
    Ok(Sha256::digest(key.trim_ascii()).into())
}

fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    black_box(a.iter().zip(b).fold(0, |differing, (a, b)| differing | (a ^ b))) == 0
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn known(name: &str, key: &str) -> KnownKey {
        let key = Key { name: name.to_owned(), key_sha256: format!("{:x}", Sha256::digest(key)), ..Key::default() };
        KnownKey::new(&key, &Guard::default()).unwrap()
    }

    #[test]
    fn a_key_is_found_by_its_digest_alone() {
        let keys = [known("one", "secret-1"), known("two", "secret-2")];
        let of = |value: &str| {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(value).unwrap())]);
            find(&keys, &headers).map(|caller| caller.name.as_deref().unwrap())
        };
        assert_eq!((of("Bearer secret-1"), of("bearer  secret-2")), (Ok("one"), Ok("two")));
        for wrong in ["Bearer secret-3", "Bearer", "Bearer ", "Basic secret-1", "secret-1", "Bearer secret-1 secret-2"] {
            assert_eq!(of(wrong).unwrap_err().body.error.code, Some("invalid_api_key"), "{wrong}");
        }
        assert!(find(&keys, &HeaderMap::new()).is_err());
    }
}
