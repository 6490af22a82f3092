//! API keys: who may ask, and with which guard where a request does not say. The server knows
//! digests alone.

use std::{
    convert::Infallible,
    hint::black_box,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json,
    extract::{FromRequestParts, MatchedPath, Request, State},
    http::{Extensions, HeaderMap, Method, header::AUTHORIZATION, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    app::App, body, connections::network, error::ApiError, listen::Peer, permission::Permission,
    routes, strikes::Strikes,
};
use crate::{
    config::{ApiKey, Config, GuardSection, KeyScope, KeyScopes},
    util::digest::sha256,
};

/// Who sends a request: the holder of a configured key or, on a server without keys, anybody.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The key's name; `None` without a key.
    pub(crate) name: Option<Arc<str>>,
    /// The tenant that receipts, records, images and leases belong to; empty without a key.
    pub(crate) owner: Arc<str>,
    /// What the caller may do.
    pub(crate) scopes: KeyScopes,
    /// Share of the engine where callers compete.
    pub(crate) weight: u32,
    /// The guard of requests that do not say.
    pub(crate) guard: Arc<GuardSection>,
    /// The address that the request came from; `None` where nobody listened for it (tests of
    /// handlers).
    pub(crate) address: Option<IpAddr>,
}

impl Caller {
    /// Anybody, on a server without keys. There is nobody to be kept apart from, but administration
    /// needs its own key.
    fn anonymous(guard: &Arc<GuardSection>) -> Self {
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

    /// Returns the identity that competes for the engine: the owner or, without a key, the client's
    /// address.
    pub(crate) fn competitor(&self) -> Arc<str> {
        match (&self.name, self.address) {
            (None, Some(address)) => network(address).to_string().into(),
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
    let mut caller = extensions
        .get::<Caller>()
        .cloned()
        .unwrap_or_else(|| Caller::anonymous(&app.guard));
    caller.address = address(extensions);
    caller
}

/// Returns the address that a request with these extensions came from.
fn address(extensions: &Extensions) -> Option<IpAddr> {
    extensions
        .get::<Peer>()
        .map(|peer| peer.0.ip().to_canonical())
}

/// A configured key.
#[derive(Clone)]
struct KnownKey {
    digest: [u8; 32],
    caller: Caller,
}

impl KnownKey {
    /// `None` where the key has no digest, which the configuration's check refuses.
    fn new(key: &ApiKey, common: &GuardSection) -> Option<Self> {
        let caller = Caller {
            name: Some(key.name.as_str().into()),
            owner: key.owner().into(),
            scopes: key.scopes.clone(),
            weight: key.weight,
            guard: Arc::new(key.guard(common)),
            address: None,
        };
        Some(Self {
            digest: key.digest()?,
            caller,
        })
    }

    /// The key of `admin.key_sha256`, which nothing belongs to.
    fn administrator(digest: [u8; 32], common: &Arc<GuardSection>) -> Self {
        let caller = Caller {
            name: Some("admin".into()),
            scopes: KeyScopes::new([KeyScope::Admin]),
            ..Caller::anonymous(common)
        };
        Self { digest, caller }
    }
}

/// The keys in force, replaced as a whole when the configuration is read again.
pub(crate) struct Access {
    /// As the configuration has them; none: everybody may ask, but for administration.
    pub(super) configured: Vec<ApiKey>,
    /// With the administrator's.
    keys: Vec<KnownKey>,
    /// Indicates whether `/metrics` needs no key: other machines do not reach it, it has a listener
    /// of its own, or the whole API needs none.
    open_metrics: bool,
}

impl Access {
    /// The keys of a checked configuration.
    pub(crate) fn new(config: &Config) -> Self {
        let guard = Arc::new(config.guard.clone());
        let administrator = config
            .admin
            .digest()
            .map(|digest| KnownKey::administrator(digest, &guard));
        let keys = config
            .keys
            .iter()
            .filter_map(|key| KnownKey::new(key, &guard))
            .chain(administrator)
            .collect();
        let open_metrics =
            config.keys.is_empty() || !config.is_exposed() || config.operations_listen().is_some();
        Self {
            configured: config.keys.clone(),
            keys,
            open_metrics,
        }
    }

    /// Returns `true` if `/v1/*` is for those with a key alone.
    pub(crate) fn needs_key(&self) -> bool {
        !self.configured.is_empty()
    }

    /// Returns `true` if anybody may ask under `/admin/`.
    pub(crate) fn has_admin(&self) -> bool {
        self.keys
            .iter()
            .any(|key| key.caller.scopes.contains(KeyScope::Admin))
    }

    /// Returns `true` if a request that needs this is answered without a key.
    pub(super) fn is_open(&self, needs: Permission) -> bool {
        match needs {
            Permission::Open => true,
            Permission::AnyKey | Permission::OneOf(_) => !self.needs_key(),
            // Where nobody may ask, the handlers say that.
            Permission::Admin => !self.has_admin(),
            Permission::Metrics => self.open_metrics,
        }
    }

    /// Returns the caller whose key a request has, or `None` where it needs none.
    fn admit(&self, needs: Permission, headers: &HeaderMap) -> Result<Option<&Caller>, Denied> {
        if self.is_open(needs) {
            return Ok(None);
        }
        let digest = digest(headers)?;
        let scopes = needs.scopes();
        let may = |caller: &Caller| {
            scopes.is_empty() || scopes.iter().any(|scope| caller.scopes.contains(*scope))
        };
        // Every key is compared, and whole, so that the time taken says nothing about them. A key
        // may be the administrator's and another.
        let known = self
            .keys
            .iter()
            .filter(|key| is_same(&key.digest, &digest))
            .map(|key| &key.caller);
        match known.reduce(|one, other| if may(other) { other } else { one }) {
            Some(caller) if may(caller) => Ok(Some(caller)),
            Some(caller) => Err(Denied::Scope {
                key: caller.name.clone().unwrap_or_default(),
                scopes,
            }),
            None => Err(Denied::Unknown),
        }
    }
}

/// Why a request is not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Denied {
    /// It has no key.
    Missing,
    /// Its header is not as it should be.
    Malformed,
    /// Nobody has its key.
    Unknown,
    /// Its key lacks all of these.
    Scope {
        /// The key's name.
        key: Arc<str>,
        /// The scopes of which one is needed.
        scopes: &'static [KeyScope],
    },
}

impl Denied {
    /// Returns its name in the metrics.
    fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Scope { .. } => "scope",
        }
    }

    /// Returns the error for a request that needs this.
    fn error(self, needs: Permission) -> ApiError {
        match self {
            Self::Missing => ApiError::unauthorized(
                "this server needs an API key, in the header Authorization: Bearer KEY",
            ),
            Self::Malformed => {
                ApiError::unauthorized("the Authorization header must be: Bearer KEY")
            }
            Self::Unknown if needs.scopes() == [KeyScope::Admin] => ApiError::unauthorized(
                "this needs the administrator's key (admin.key_sha256) or a key with the scope \
                 `admin`",
            ),
            Self::Unknown => ApiError::unauthorized("the API key is not known to this server"),
            Self::Scope { key, scopes } => {
                let names: Vec<_> = scopes
                    .iter()
                    .map(|scope| format!("`{}`", scope.name()))
                    .collect();
                ApiError::insufficient_scope(format!(
                    "the key `{key}` lacks the scope {}, which this request needs",
                    names.join(" or ")
                ))
            }
        }
    }
}

/// Wrong keys of late by network: ten at once, and ten a minute. Known keys are never held up.
pub(crate) fn wrong_keys() -> Strikes<IpAddr> {
    Strikes::new(10, Duration::from_secs(6))
}

/// How long the answer to a wrong key takes, where there were too many from its network.
const GUESS_DELAY: Duration = Duration::from_secs(1);

/// The middleware: where there are keys, a request needs one that may do what the route is for.
pub(crate) async fn authenticate(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    if request.method() == Method::OPTIONS {
        // Browsers ask without a key, and nothing is told but methods.
        return next.run(request).await;
    }
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map(MatchedPath::as_str);
    let needs = routes::permission(request.method(), route, request.uri().path());
    let access = app.access();
    match access.admit(needs, request.headers()) {
        Ok(caller) => {
            if let Some(caller) = caller.cloned() {
                tracing::Span::current().record("key", caller.name.as_deref());
                request.extensions_mut().insert(caller);
            }
            next.run(request).await
        }
        Err(denied) => {
            app.metrics.auth_failure(denied.reason());
            let counted = match (&denied, address(request.extensions())) {
                (Denied::Unknown, Some(address)) => {
                    app.wrong_keys.count(network(address), Instant::now())
                }
                _ => Ok(()),
            };
            // So that a client that sends its whole body first still reads the error.
            body::discard(request.into_body(), app.read_timeout());
            if counted.is_err() {
                tokio::time::sleep(GUESS_DELAY).await;
            }
            let slow_down = |seconds| {
                ApiError::busy(
                    format!("too many wrong API keys from this address; retry in {seconds} s"),
                    seconds,
                )
            };
            counted
                .map_or_else(slow_down, |()| denied.error(needs))
                .into_response()
        }
    }
}

/// Returns the digest of the key that a request has.
fn digest(headers: &HeaderMap) -> Result<[u8; 32], Denied> {
    let given = headers
        .get(AUTHORIZATION)
        .map(|value| value.as_bytes())
        .ok_or(Denied::Missing)?;
    let (scheme, key) = given.split_at_checked(7).ok_or(Denied::Malformed)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return Err(Denied::Malformed);
    }
    Ok(sha256(key.trim_ascii()))
}

fn is_same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    black_box(
        a.iter()
            .zip(b)
            .fold(0, |differing, (a, b)| differing | (a ^ b)),
    ) == 0
}

/// Who asks.
#[derive(Debug, Serialize, ToSchema)]
struct CurrentKey {
    /// `key`
    object: &'static str,
    /// The key's name; `null` on a server without keys.
    #[schema(required, value_type = Option<String>)]
    name: Option<Arc<str>>,
    /// Whose are the answers that are remembered, and the records; empty without keys.
    #[schema(value_type = String)]
    owner: Arc<str>,
    /// What may be done with it.
    #[schema(value_type = Vec<String>)]
    scopes: KeyScopes,
}

/// The key that the request has: its name, its owner, and what may be done with it.
#[utoipa::path(get, path = "/v1/key", tag = "models",
    responses((status = 200, description = "The key, without its secret.", body = CurrentKey)))]
pub(crate) async fn key(caller: Caller) -> Response {
    let Caller {
        name,
        owner,
        scopes,
        ..
    } = caller;
    Json(CurrentKey {
        object: "key",
        name,
        owner,
        scopes,
    })
    .into_response()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn access(keys: &[(&str, &str, &[KeyScope])], admin: Option<&str>) -> Access {
        let keys = keys.iter().map(|&(name, secret, scopes)| ApiKey {
            scopes: KeyScopes::new(scopes.iter().copied()),
            ..ApiKey::new(name, secret)
        });
        let mut config = Config {
            keys: keys.collect(),
            ..Config::default()
        };
        config.server.listen = "0.0.0.0:0".to_owned();
        config.admin.key_sha256 = admin.map_or("off".to_owned(), |secret| {
            ApiKey::new("", secret).key_sha256
        });
        Access::new(&config)
    }

    fn bearer(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn a_key_is_found_by_its_digest_alone() {
        let access = access(&[("one", "secret-1", &[]), ("two", "secret-2", &[])], None);
        let of = |headers: HeaderMap| {
            access
                .admit(Permission::AnyKey, &headers)
                .map(|caller| caller.unwrap().name.clone().unwrap())
        };
        assert_eq!(
            (
                of(bearer("Bearer secret-1")),
                of(bearer("bearer  secret-2"))
            ),
            (Ok("one".into()), Ok("two".into()))
        );
        for unknown in ["Bearer secret-3", "Bearer ", "Bearer secret-1 secret-2"] {
            assert_eq!(of(bearer(unknown)), Err(Denied::Unknown), "{unknown}");
        }
        for malformed in ["Bearer", "Basic secret-1", "secret-1", ""] {
            assert_eq!(of(bearer(malformed)), Err(Denied::Malformed), "{malformed}");
        }
        assert_eq!(of(HeaderMap::new()), Err(Denied::Missing));
    }

    #[test]
    fn a_key_does_what_one_of_its_scopes_allows() {
        const READ: Permission =
            Permission::OneOf(&[KeyScope::FeedbackWrite, KeyScope::FeedbackRead]);
        let access = access(
            &[
                ("writer", "w", &[KeyScope::FeedbackWrite]),
                ("operator", "o", &[KeyScope::Admin]),
            ],
            Some("root"),
        );
        let may = |secret: &str, needs| {
            access
                .admit(needs, &bearer(&format!("Bearer {secret}")))
                .map(|caller| caller.map(|c| c.name.clone()))
        };
        assert!(
            may("w", READ).is_ok()
                && may("o", Permission::AnyKey).is_ok()
                && may("o", Permission::Admin).is_ok()
        );
        assert!(
            may("root", Permission::Admin).is_ok()
                && may("root", Permission::Metrics).is_ok()
                && may("root", READ).is_err()
        );
        assert_eq!(
            (may("x", READ), may("x", Permission::Metrics)),
            (Err(Denied::Unknown), Err(Denied::Unknown))
        );
        let error = may("o", READ).unwrap_err().error(READ);
        assert_eq!(
            (error.status.as_u16(), error.body.error.code),
            (403, Some("insufficient_scope"))
        );
        assert!(
            error
                .body
                .error
                .message
                .contains("`operator` lacks the scope `feedback:write` or `feedback:read`"),
            "{error:?}"
        );
        let error = may("w", Permission::Admin)
            .unwrap_err()
            .error(Permission::Admin);
        assert!(
            error.status.as_u16() == 403 && error.body.error.message.contains("`admin`"),
            "{error:?}"
        );
    }
    #[test]
    fn a_secret_that_is_two_keys_does_what_either_may() {
        let access = access(&[("app", "s", &[KeyScope::Complete])], Some("s"));
        for needs in [
            Permission::Admin,
            Permission::OneOf(&[KeyScope::Complete]),
            Permission::AnyKey,
        ] {
            assert!(
                access.admit(needs, &bearer("Bearer s")).is_ok(),
                "{needs:?}"
            );
        }
        let open = super::Access::new(&Config::default());
        assert!(
            !open.has_admin()
                && open
                    .admit(Permission::OneOf(&[KeyScope::Complete]), &HeaderMap::new())
                    .is_ok()
        );
    }
}
