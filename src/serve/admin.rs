//! Admin API: lists, promotes and rolls back model versions.

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

/// The model registry and this server's state.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Models {
    /// Always `list`.
    object: &'static str,
    /// Version served to new requests; `null` for the configured model.
    #[schema(required)]
    serving: Option<String>,
    /// Version promoted in the registry; `null` for the configured model.
    #[schema(required)]
    promoted: Option<String>,
    /// Versions promoted before, oldest first. A rollback returns to the last one.
    previous: Vec<String>,
    /// Version that this server last failed to load; `null` once the served version changes.
    #[schema(required)]
    refused: Option<RefusedVersion>,
    /// Comparison of the shadow version with the served one.
    #[schema(required)]
    shadow: Option<Comparison>,
    /// All registered versions, oldest first.
    #[schema(value_type = Vec<VersionSchema>)]
    data: Vec<Version>,
}

/// Options of a promotion.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Promotion {
    /// Share of requests, 0 to 1, on which the version runs as a shadow instead of being served; 0
    /// stops the shadow.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1)]
    shadow: Option<f64>,
    /// Promotes the version even if it failed its evaluation gate.
    #[serde(default)]
    force: bool,
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        let message = error.to_string();
        match error {
            RegistryError::Unknown(_) | RegistryError::Ambiguous { .. } => {
                Self::not_found("version_not_found", message).with_param("id")
            }
            RegistryError::NonePromoted | RegistryError::NotPromoted { .. } => {
                Self::conflict("version_not_promoted", message).with_param("id")
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

/// Returns the registry if administration is enabled. The middleware has already checked the key.
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

/// Runs a registry operation on a blocking thread, because it reads and writes files.
async fn with_registry<T: Send + 'static>(
    registry: &Registry,
    operation: impl FnOnce(&Registry) -> Result<T, RegistryError> + Send + 'static,
) -> Result<T, ApiError> {
    let registry = registry.clone();
    Ok(blocking(move || operation(&registry)).await??)
}

async fn current_models(app: &App) -> Result<Json<Models>, ApiError> {
    let (
        registry::RegistryState {
            promoted, previous, ..
        },
        data,
    ) = with_registry(registry(app)?, |registry| {
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

/// Lists all versions, the one served, and the state of the shadow.
#[utoipa::path(get, path = "/admin/models", tag = "admin", responses(
    (status = 200, description = "Versions and state of the registry.", body = Models),
    (status = 401, description = "The administrator's key is missing or wrong.", body = ErrorBody),
    (status = 404, description = "Administration is disabled, or there is no \
                                  registry.", body = ErrorBody),
    (status = 500, description = "The registry cannot be read; the log has the \
                                  reason.", body = ErrorBody),
))]
pub(super) async fn models(State(app): State<Arc<App>>) -> Result<Json<Models>, ApiError> {
    current_models(&app).await
}

/// Promotes a version.
///
/// Loads the version, warms it up and serves it; responds when it is served or refused. Running
/// requests stay with their version.
#[utoipa::path(post, path = "/admin/models/{id}/promote", tag = "admin",
    request_body = Option<Promotion>,
    params(("id" = String, Path, description = "Id of the version, or a unique prefix.")),
    responses(
        (status = 200, description = "The version is served, or runs as the \
                                      shadow.", body = Models),
        (status = 400, description = "The body is invalid.", body = ErrorBody),
        (status = 401, description = "The administrator's key is missing or \
                                      wrong.", body = ErrorBody),
        (status = 404, description = "Unknown version, or administration is \
                                      disabled.", body = ErrorBody),
        (status = 408, description = "The body arrived too late or too slowly.", body = ErrorBody),
        (status = 413, description = "The body is too large.", body = ErrorBody),
        (status = 415, description = "The body is not `application/json`.", body = ErrorBody),
        (status = 422, description = "The version cannot be served; the message has the reason. \
                                      The served version stays.", body = ErrorBody),
        (status = 500, description = "The registry cannot be written; the log has the \
                                      reason.", body = ErrorBody),
    ))]
pub(super) async fn promote(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<Models>, ApiError> {
    let registry = registry(&app)?;
    let Promotion { shadow, force } = promotion(&app, request).await?;
    let version = with_registry(registry, move |registry| registry.get(&id)).await?;
    version.check_promotable(force)?;
    match shadow {
        None => serve(&app, registry, version.id, force).await?,
        Some(share) => {
            with_registry(registry, move |registry| {
                registry.set_shadow(&version.id, share)
            })
            .await?;
            app.switch.follow_registry(&app).await;
        }
    }
    current_models(&app).await
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
    with_registry(registry, move |registry| registry.promote(&id, force)).await?;
    change.apply(app);
    app.switch.follow_registry(app).await;
    Ok(())
}

/// Rolls back to the previously promoted version.
///
/// Responds when that version is served.
#[utoipa::path(post, path = "/admin/models/{id}/rollback", tag = "admin",
    params(("id" = String, Path, description = "Id of the promoted version, or a unique prefix.")),
    responses(
        (status = 200, description = "The previous version is served.", body = Models),
        (status = 401, description = "The administrator's key is missing or \
                                      wrong.", body = ErrorBody),
        (status = 404, description = "Unknown version, or administration is \
                                      disabled.", body = ErrorBody),
        (status = 409, description = "Another version is promoted; the message names \
                                      it.", body = ErrorBody),
        (status = 422, description = "The previous version cannot be served; the message has \
                                      the reason. Nothing has changed.", body = ErrorBody),
        (status = 500, description = "The registry cannot be written; the log has the \
                                      reason.", body = ErrorBody),
    ))]
pub(super) async fn rollback(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<Models>, ApiError> {
    let registry = registry(&app)?;
    let (version, state) = with_registry(registry, move |registry| {
        Ok((registry.get(&id)?, registry.state()?))
    })
    .await?;
    if state.promoted.as_ref() != Some(&version.id) {
        return Err(RegistryError::NotPromoted {
            requested: version.id,
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
                format!("the previous version, {target}, cannot be served: {reason}"),
            )
        })?;
    let state = with_registry(registry, move |registry| {
        registry.rollback_from(&version.id)
    })
    .await?;
    if state.promoted == target {
        change.apply(&app);
    } else {
        // Another administrator rolled back first.
        drop(change);
    }
    app.switch.follow_registry(&app).await;
    current_models(&app).await
}

/// Parses the optional body.
async fn promotion(app: &App, request: Request) -> Result<Promotion, ApiError> {
    let (parts, body) = request.into_parts();
    if body.is_end_stream() {
        return Ok(Promotion::default());
    }
    let body = body::read_json(app, &parts.headers, body).await?;
    read(&body.bytes, "a promotion")
}
