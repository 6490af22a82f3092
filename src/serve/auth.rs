//! API key authentication. The server only stores digests of keys.

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
    app::App, body, caller::Caller, connections::network, error::ApiError, listen::Peer,
    permission::Permission, strikes::Strikes,
};
use crate::{
    config::{ApiKey, Config, GuardSection, KeyScope, KeyScopes},
    util::digest::sha256,
};

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Infallible> {
        Ok(caller(app, &parts.extensions))
    }
}

/// Returns the caller from a request's extensions.
pub(crate) fn caller(app: &App, extensions: &Extensions) -> Caller {
    let mut caller = extensions
        .get::<Caller>()
        .cloned()
        .unwrap_or_else(|| Caller::anonymous(&app.guard));
    caller.address = client_address(extensions);
    caller
}

/// Returns the client's address from a request's extensions.
fn client_address(extensions: &Extensions) -> Option<IpAddr> {
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
    /// Creates a key; `None` without a digest, which validation of the configuration rejects.
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

    /// Creates the key of `admin.key_sha256`, which owns no data.
    fn administrator(digest: [u8; 32], common: &Arc<GuardSection>) -> Self {
        let caller = Caller {
            name: Some("admin".into()),
            scopes: KeyScopes::new([KeyScope::Admin]),
            ..Caller::anonymous(common)
        };
        Self { digest, caller }
    }
}

/// Access rules in force; replaced as a whole when the configuration is reloaded.
pub(crate) struct Access {
    /// Keys as configured; if empty, all routes but administration are open.
    pub(super) configured: Vec<ApiKey>,
    /// All keys, the administrator's included.
    keys: Vec<KnownKey>,
    /// `true` if `/metrics` needs no key: the server is not exposed, metrics have a listener of
    /// their own, or no keys are configured.
    open_metrics: bool,
}

impl Access {
    /// Creates the rules of a validated configuration.
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

    /// Returns `true` if `/v1/*` requires a key.
    pub(crate) fn needs_key(&self) -> bool {
        !self.configured.is_empty()
    }

    /// Returns `true` if any key may use `/admin/`.
    pub(crate) fn has_admin(&self) -> bool {
        self.keys
            .iter()
            .any(|key| key.caller.scopes.contains(KeyScope::Admin))
    }

    /// Returns `true` if a route with this permission needs no key.
    pub(super) fn is_open(&self, needs: Permission) -> bool {
        match needs {
            Permission::Open => true,
            Permission::AnyKey | Permission::OneOf(_) => !self.needs_key(),
            // Handlers respond that administration is disabled.
            Permission::Admin => !self.has_admin(),
            Permission::Metrics => self.open_metrics,
        }
    }

    /// Returns the caller of the request's key; `None` if the route needs no key.
    fn admit(&self, needs: Permission, headers: &HeaderMap) -> Result<Option<&Caller>, Denied> {
        if self.is_open(needs) {
            return Ok(None);
        }
        let digest = key_digest(headers)?;
        let scopes = needs.scopes();
        let allows = |caller: &Caller| {
            scopes.is_empty() || scopes.iter().any(|scope| caller.scopes.contains(*scope))
        };
        // All keys are compared in full, so that timing reveals nothing. The administrator's key
        // may also be configured as another one.
        let known = self
            .keys
            .iter()
            .filter(|key| equals_constant_time(&key.digest, &digest))
            .map(|key| &key.caller);
        match known.reduce(|one, other| if allows(other) { other } else { one }) {
            Some(caller) if allows(caller) => Ok(Some(caller)),
            Some(caller) => Err(Denied::Scope {
                key: caller.name.clone().unwrap_or_default(),
                scopes,
            }),
            None => Err(Denied::Unknown),
        }
    }
}

/// Reasons to reject a request.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Denied {
    /// No key.
    Missing,
    /// Malformed Authorization header.
    Malformed,
    /// Unknown key.
    Unknown,
    /// The key has none of the required scopes.
    Scope {
        /// Name of the key.
        key: Arc<str>,
        /// Scopes, one of which is required.
        scopes: &'static [KeyScope],
    },
}

impl Denied {
    /// Returns the label in metrics.
    fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Scope { .. } => "scope",
        }
    }

    /// Converts to an API error, given the required permission.
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

/// Returns the counter of wrong keys by network: a burst of ten, then ten a minute. Known keys are
/// never delayed.
pub(crate) fn wrong_keys() -> Strikes<IpAddr> {
    Strikes::new(10, Duration::from_secs(6))
}

/// Delay of responses to wrong keys from a network above the limit.
const GUESS_DELAY: Duration = Duration::from_secs(1);

/// Returns the permission that a request needs, given its method, its route and its path.
pub(super) type PermissionLookup = fn(&Method, Option<&str>, &str) -> Permission;

/// Middleware that requires a key with the route's permission, if keys are configured.
pub(crate) async fn authenticate(
    State((app, permission)): State<(Arc<App>, PermissionLookup)>,
    mut request: Request,
    next: Next,
) -> Response {
    if request.method() == Method::OPTIONS {
        // CORS preflights carry no key and reveal only methods.
        return next.run(request).await;
    }
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map(MatchedPath::as_str);
    let needs = permission(request.method(), route, request.uri().path());
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
            app.metrics.count_auth_failure(denied.reason());
            let counted = match (&denied, client_address(request.extensions())) {
                (Denied::Unknown, Some(address)) => {
                    app.wrong_keys.count(network(address), Instant::now())
                }
                _ => Ok(()),
            };
            // Lets clients that send the whole body first still read the error.
            body::discard(request.into_body(), app.read_timeout());
            if counted.is_err() {
                tokio::time::sleep(GUESS_DELAY).await;
            }
            let too_many = |seconds| {
                ApiError::busy(
                    format!("too many wrong API keys from this address; retry in {seconds} s"),
                    seconds,
                )
            };
            counted
                .map_or_else(too_many, |()| denied.error(needs))
                .into_response()
        }
    }
}

/// Returns the digest of the request's key.
fn key_digest(headers: &HeaderMap) -> Result<[u8; 32], Denied> {
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

fn equals_constant_time(a: &[u8; 32], b: &[u8; 32]) -> bool {
    black_box(
        a.iter()
            .zip(b)
            .fold(0, |differing, (a, b)| differing | (a ^ b)),
    ) == 0
}

/// The key of a request.
#[derive(Debug, Serialize, ToSchema)]
struct CurrentKey {
    /// Always `key`.
    object: &'static str,
    /// Name of the key; `null` on a server without keys.
    #[schema(required, value_type = Option<String>)]
    name: Option<Arc<str>>,
    /// Tenant that owns this key's receipts and records; empty on a server without keys.
    #[schema(value_type = String)]
    owner: Arc<str>,
    /// Scopes of the key, such as `chat` or `feedback:read`.
    #[schema(value_type = Vec<String>)]
    scopes: KeyScopes,
}

/// Returns the request's key: its name, owner and scopes.
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
    fn a_key_is_identified_by_its_digest() {
        let access = access(&[("one", "secret-1", &[]), ("two", "secret-2", &[])], None);
        let name_of = |headers: HeaderMap| {
            access
                .admit(Permission::AnyKey, &headers)
                .map(|caller| caller.unwrap().name.clone().unwrap())
        };
        assert_eq!(
            (
                name_of(bearer("Bearer secret-1")),
                name_of(bearer("bearer  secret-2"))
            ),
            (Ok("one".into()), Ok("two".into()))
        );
        for unknown in ["Bearer secret-3", "Bearer ", "Bearer secret-1 secret-2"] {
            assert_eq!(name_of(bearer(unknown)), Err(Denied::Unknown), "{unknown}");
        }
        for malformed in ["Bearer", "Basic secret-1", "secret-1", ""] {
            assert_eq!(
                name_of(bearer(malformed)),
                Err(Denied::Malformed),
                "{malformed}"
            );
        }
        assert_eq!(name_of(HeaderMap::new()), Err(Denied::Missing));
    }

    #[test]
    fn a_key_needs_one_of_the_required_scopes() {
        const READ: Permission =
            Permission::OneOf(&[KeyScope::FeedbackWrite, KeyScope::FeedbackRead]);
        let access = access(
            &[
                ("writer", "w", &[KeyScope::FeedbackWrite]),
                ("operator", "o", &[KeyScope::Admin]),
            ],
            Some("root"),
        );
        let allows = |secret: &str, needs| {
            access
                .admit(needs, &bearer(&format!("Bearer {secret}")))
                .map(|caller| caller.map(|c| c.name.clone()))
        };
        assert!(
            allows("w", READ).is_ok()
                && allows("o", Permission::AnyKey).is_ok()
                && allows("o", Permission::Admin).is_ok()
        );
        assert!(
            allows("root", Permission::Admin).is_ok()
                && allows("root", Permission::Metrics).is_ok()
                && allows("root", READ).is_err()
        );
        assert_eq!(
            (allows("x", READ), allows("x", Permission::Metrics)),
            (Err(Denied::Unknown), Err(Denied::Unknown))
        );
        let error = allows("o", READ).unwrap_err().error(READ);
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
        let error = allows("w", Permission::Admin)
            .unwrap_err()
            .error(Permission::Admin);
        assert!(
            error.status.as_u16() == 403 && error.body.error.message.contains("`admin`"),
            "{error:?}"
        );
    }
    #[test]
    fn a_secret_of_two_keys_has_the_scopes_of_both() {
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
