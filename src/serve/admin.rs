//! `/admin/models`: which version is served, which is tried beside it, and the way from one to the
//! next and back.

use std::sync::Arc;

use axum::{
    Json,
    body::HttpBody,
    extract::{Path, Request, State},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    app::{App, blocking},
    body,
    error::{ApiError, ErrorBody},
    openai::request::read,
    shadow::Comparison,
    switch::RefusedVersion,
};
use crate::{
    registry::{self, Registry, RegistryError, Version},
    serve::schema::registry::VersionSchema,
};

/// The registry, and what this server makes of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Models {
    /// `list`
    object: &'static str,
    /// The version that requests get now; `null`: the model of the configuration.
    #[schema(required)]
    serving: Option<String>,
    /// What the registry says is to be served; `null`: the model of the configuration.
    #[schema(required)]
    promoted: Option<String>,
    /// Those before it, the last one last: where rollbacks lead.
    previous: Vec<String>,
    /// The version that was refused last, since what is served has changed.
    #[schema(required)]
    refused: Option<RefusedVersion>,
    /// How the shadow compares with what is served.
    #[schema(required)]
    shadow: Option<Comparison>,
    /// All versions, oldest first.
    #[schema(value_type = Vec<VersionSchema>)]
    data: Vec<Version>,
}

/// How a version is promoted.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Promotion {
    /// Not served yet, but tried beside on this share of the requests; 0: no longer.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1)]
    shadow: Option<f64>,
    /// Also when it failed its gate.
    #[serde(default)]
    force: bool,
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        let message = error.to_string();
        match error {
            RegistryError::Unknown(_) | RegistryError::Ambiguous { .. } => {
                Self::not_found("version_not_found", message).at("id")
            }
            RegistryError::NonePromoted | RegistryError::NotPromoted { .. } => {
                Self::conflict("version_not_promoted", message).at("id")
            }
            RegistryError::Share(_) => Self::param("shadow", "out_of_range", message),
            RegistryError::Rejected { .. } | RegistryError::Damaged { .. } => {
                Self::refused("version_refused", message)
            }
            RegistryError::Io { .. }
            | RegistryError::Broken { .. }
            | RegistryError::Bundle(_)
            | RegistryError::Facts(_) => {
                tracing::error!(message, "the registry");
                Self::internal()
            }
        }
    }
}

/// The registry, for who may change it: the middleware has seen the key, where there is one.
fn registry(app: &App) -> Result<&Registry, ApiError> {
    if !app.access().has_admin() {
        return Err(ApiError::not_found(
            "admin_disabled",
            "administration is off on this server (admin.key_sha256)",
        ));
    }
    app.switch.registry().ok_or_else(|| {
        ApiError::not_found(
            "registry_disabled",
            "this server has no registry (registry.dir)",
        )
    })
}

/// Asks the registry off the async threads: it reads and writes files.
async fn ask<T: Send + 'static>(
    registry: &Registry,
    what: impl FnOnce(&Registry) -> Result<T, RegistryError> + Send + 'static,
) -> Result<T, ApiError> {
    let registry = registry.clone();
    Ok(blocking(move || what(&registry)).await??)
}

async fn told(app: &App) -> Result<Json<Models>, ApiError> {
    let (
        registry::RegistryState {
            promoted, previous, ..
        },
        data,
    ) = ask(registry(app)?, |registry| {
        Ok((registry.state()?, registry.versions()?))
    })
    .await?;
    Ok(Json(Models {
        object: "list",
        serving: app.served().registered.clone(),
        promoted,
        previous,
        refused: app.switch.refused(),
        shadow: app.shadow.comparison(),
        data,
    }))
}

/// All versions, the one that is served, and how the shadow does.
#[utoipa::path(get, path = "/admin/models", tag = "admin", responses(
    (status = 200, description = "The registry.", body = Models),
    (status = 401, description = "The request lacks the administrator's key.", body = ErrorBody),
    (status = 404, description = "Administration is off, or there is no \
                                  registry.", body = ErrorBody),
    (status = 500, description = "The registry cannot be read; the log says \
                                  why.", body = ErrorBody),
))]
pub(super) async fn models(State(app): State<Arc<App>>) -> Result<Json<Models>, ApiError> {
    told(&app).await
}

/// Loads a version, tries it, and serves it: answers when it is served or refused. Requests that
/// run stay with the version that they began with.
#[utoipa::path(post, path = "/admin/models/{id}/promote", tag = "admin",
    request_body = Option<Promotion>,
    params(("id" = String, Path, description = "The version, or the beginning of its id.")),
    responses(
        (status = 200, description = "It is served, or tried beside.", body = Models),
        (status = 400, description = "The body is wrong.", body = ErrorBody),
        (status = 401, description = "The request lacks the administrator's \
                                      key.", body = ErrorBody),
        (status = 404, description = "There is no such version, or administration is \
                                      off.", body = ErrorBody),
        (status = 408, description = "The body did not arrive in time.", body = ErrorBody),
        (status = 413, description = "The body is larger than the configuration \
                                      allows.", body = ErrorBody),
        (status = 415, description = "The body is not `application/json`.", body = ErrorBody),
        (status = 422, description = "It cannot be served; the message says why. What was served \
                                      stays.", body = ErrorBody),
        (status = 500, description = "The registry cannot be written; the log says \
                                      why.", body = ErrorBody),
    ))]
pub(super) async fn promote(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<Models>, ApiError> {
    let registry = registry(&app)?;
    let Promotion { shadow, force } = promotion(&app, request).await?;
    let version = ask(registry, move |registry| registry.get(&id)).await?;
    version.promotable(force)?;
    match shadow {
        None => serve(&app, registry, version.id, force).await?,
        Some(share) => {
            ask(registry, move |registry| {
                registry.set_shadow(&version.id, share)
            })
            .await?;
            app.switch.follow(&app).await;
        }
    }
    told(&app).await
}

async fn serve(
    app: &Arc<App>,
    registry: &Registry,
    id: String,
    force: bool,
) -> Result<(), ApiError> {
    let change = app.switch.prepare(app, Some(&id)).await.map_err(|reason| {
        app.switch.refuse(app, Some(&id), reason.clone());
        ApiError::refused(
            "version_refused",
            format!("version {id} cannot be served: {reason}"),
        )
    })?;
    ask(registry, move |registry| registry.promote(&id, force)).await?;
    change.make(app);
    app.switch.follow(app).await;
    Ok(())
}

/// Leaves a version for the one before it: answers when that is served.
#[utoipa::path(post, path = "/admin/models/{id}/rollback", tag = "admin",
    params(("id" = String, Path, description = "The version to leave, or the beginning of its \
                                                id.")),
    responses(
        (status = 200, description = "The one before it is served.", body = Models),
        (status = 401, description = "The request lacks the administrator's \
                                      key.", body = ErrorBody),
        (status = 404, description = "There is no such version, or administration is \
                                      off.", body = ErrorBody),
        (status = 409, description = "Another version is promoted; the message names \
                                      it.", body = ErrorBody),
        (status = 422, description = "The one before it cannot be served; the message says why. \
                                      Nothing has changed.", body = ErrorBody),
        (status = 500, description = "The registry cannot be written; the log says \
                                      why.", body = ErrorBody),
    ))]
pub(super) async fn rollback(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<Models>, ApiError> {
    let registry = registry(&app)?;
    let (version, state) = ask(registry, move |registry| {
        Ok((registry.get(&id)?, registry.state()?))
    })
    .await?;
    if state.promoted.as_ref() != Some(&version.id) {
        return Err(RegistryError::NotPromoted {
            asked: version.id,
            promoted: state.promoted,
        }
        .into());
    }
    let target = state.previous.last().cloned();
    let change = app
        .switch
        .prepare(&app, target.as_deref())
        .await
        .map_err(|reason| {
            let target = target.as_deref().unwrap_or("of the configuration");
            ApiError::refused(
                "version_refused",
                format!("the version before, {target}, cannot be served: {reason}"),
            )
        })?;
    let state = ask(registry, move |registry| {
        registry.rollback_from(&version.id)
    })
    .await?;
    if state.promoted == target {
        change.make(&app);
    } else {
        // Somebody else was quicker.
        drop(change);
    }
    app.switch.follow(&app).await;
    told(&app).await
}

/// Returns what the body says; there need not be one.
async fn promotion(app: &App, request: Request) -> Result<Promotion, ApiError> {
    let (parts, body) = request.into_parts();
    if body.is_end_stream() {
        return Ok(Promotion::default());
    }
    let body = body::read_json(app, &parts.headers, body).await?;
    read(&body.bytes, "a promotion")
}
