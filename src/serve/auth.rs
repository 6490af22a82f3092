//! API keys: who may ask, and with which guard where a request does not say. The server knows digests alone.

use std::{hint::black_box, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{Extensions, HeaderMap, Method, header::AUTHORIZATION},
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use super::{app::App, body, error::ApiError};
use crate::config::{Config, Guard, Key};

/// A configured key.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    name: String,
    digest: [u8; 32],
    guard: Arc<Guard>,
}

/// The keys in force, replaced as a whole when the configuration is read again.
#[derive(Debug)]
pub(crate) struct Access {
    /// Those with a key; none: everybody may ask.
    callers: Vec<Caller>,
    /// The key for what is under `/admin/`; `None`: nobody may ask there.
    admin: Option<[u8; 32]>,
}

impl Access {
    /// The keys of a checked configuration.
    pub(crate) fn new(config: &Config) -> Self {
        let caller = |key: &Key| Some(Caller { name: key.name.clone(), digest: key.digest()?, guard: Arc::new(key.guard(&config.guard)) });
        Self { callers: config.keys.iter().filter_map(caller).collect(), admin: config.admin.digest() }
    }

    /// Returns `true` if `/v1/*` is for those with a key alone.
    pub(crate) fn needs_key(&self) -> bool {
        !self.callers.is_empty()
    }

    /// Returns whether anybody may ask under `/admin/`.
    pub(crate) fn has_admin(&self) -> bool {
        self.admin.is_some()
    }
}

/// The guard's defaults for a request: those of its key, or the configuration's.
pub(crate) fn guard(app: &App, extensions: &Extensions) -> Arc<Guard> {
    extensions.get::<Caller>().map_or_else(|| Arc::clone(&app.guard), |caller| Arc::clone(&caller.guard))
}

/// What a request's caller is called, where it has a key.
pub(crate) fn name(extensions: &Extensions) -> Option<&str> {
    extensions.get::<Caller>().map(|caller| caller.name.as_str())
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
        find(&access.callers, request.headers()).map(Some)
    } else {
        Ok(None)
    };
    match allowed {
        Ok(caller) => {
            if let Some(caller) = caller.cloned() {
                tracing::Span::current().record("key", &caller.name);
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

fn find<'a>(callers: &'a [Caller], headers: &HeaderMap) -> Result<&'a Caller, ApiError> {
    let digest = digest(headers)?;
    // Every key is compared, and whole, so that the time taken says nothing about them.
    let found = callers.iter().fold(None, |found, caller| if same(&caller.digest, &digest) { Some(caller) } else { found });
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

    fn caller(name: &str, key: &str) -> Caller {
        Caller { name: name.to_owned(), digest: Sha256::digest(key).into(), guard: Arc::default() }
    }

    #[test]
    fn a_key_is_found_by_its_digest_alone() {
        let callers = [caller("one", "secret-1"), caller("two", "secret-2")];
        let of = |value: &str| {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(value).unwrap())]);
            find(&callers, &headers).map(|caller| caller.name.as_str())
        };
        assert_eq!((of("Bearer secret-1"), of("bearer  secret-2")), (Ok("one"), Ok("two")));
        for wrong in ["Bearer secret-3", "Bearer", "Bearer ", "Basic secret-1", "secret-1", "Bearer secret-1 secret-2"] {
            assert_eq!(of(wrong).unwrap_err().body.error.code, Some("invalid_api_key"), "{wrong}");
        }
        assert!(find(&callers, &HeaderMap::new()).is_err());
    }
}
