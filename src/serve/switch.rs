//! From one version to the next while requests run: it is loaded and tried first, and then one
//! pointer changes.

use std::{
    fs,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use serde::Serialize;
use tokio::{sync::MutexGuard, task::spawn_blocking};
use utoipa::ToSchema;

use super::{
    app::App,
    served::{InitialVersion, LoadError, RequestContext, ServedVersion, candidates},
    warm,
};
use crate::{
    bundle::Bundle,
    config::{Auto, Config},
    engine::Observer,
    registry::{Registry, RegistryState},
    telemetry::EngineMetrics,
    util::time::unix_seconds,
};

/// How often the registry is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// What is promoted, and how that comes to be served.
pub(crate) struct VersionSwitch {
    registry: Option<Registry>,
    /// Held while a version is loaded and put in the place of another: one change after the other.
    kept: tokio::sync::Mutex<Kept>,
    refused: Mutex<Option<RefusedVersion>>,
}

/// What stays loaded.
#[derive(Default)]
struct Kept {
    /// The version that was served before, so that going back to it takes no time.
    before: Option<Arc<ServedVersion>>,
}

/// A version that was to be served and cannot be.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct RefusedVersion {
    /// Its id; `null`: the model of the configuration.
    #[schema(required)]
    pub(crate) id: Option<String>,
    /// Why not.
    pub(crate) reason: String,
    /// Unix time.
    pub(crate) at: u64,
}

/// A version that could take the place of the served one; nobody else changes that meanwhile.
pub(crate) struct PendingSwitch<'a> {
    kept: MutexGuard<'a, Kept>,
    /// `None`: it is served already.
    next: Option<Arc<ServedVersion>>,
}

impl PendingSwitch<'_> {
    /// Serves it. Requests that run stay with the version that they began with.
    pub(crate) fn make(mut self, app: &App) {
        let Some(next) = self.next.take() else { return };
        let (version, before) = (Arc::clone(&next.version), app.serve(next));
        tracing::info!(
            version = &*version,
            before = &*before.version,
            "another version is served"
        );
        app.metrics.models.swapped();
        app.switch.note(None);
        self.kept.before = Some(before);
    }
}

impl VersionSwitch {
    pub(crate) fn new(registry: Option<Registry>) -> Self {
        Self {
            registry,
            kept: tokio::sync::Mutex::default(),
            refused: Mutex::default(),
        }
    }

    pub(crate) fn registry(&self) -> Option<&Registry> {
        self.registry.as_ref()
    }

    /// The version that was refused last, since what is served has changed.
    pub(crate) fn refused(&self) -> Option<RefusedVersion> {
        self.refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn note(&self, refused: Option<RefusedVersion>) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
    }

    /// Loads a version (`None`: the model of the configuration), starts its engine and has it write
    /// a first answer.
    ///
    /// # Errors
    /// Why it cannot be served.
    pub(crate) async fn prepare(
        &self,
        app: &Arc<App>,
        id: Option<&str>,
    ) -> Result<PendingSwitch<'_>, String> {
        change(app, self.kept.lock().await, id).await
    }

    /// Serves what the registry says now, if it can be; else what is served stays, and why is told.
    /// The shadow is the registry's in any case.
    pub(crate) async fn follow(&self, app: &Arc<App>) {
        let Some(registry) = &self.registry else {
            return;
        };
        let kept = self.kept.lock().await;
        // Read when nobody else changes what is served: an older state would undo what they have
        // done.
        let RegistryState {
            promoted, shadow, ..
        } = match registry.state() {
            Ok(state) => state,
            Err(error) => {
                return tracing::error!(%error, "the registry cannot be read; what is served stays");
            }
        };
        app.shadow.set(app, shadow);
        match change(app, kept, promoted.as_deref()).await {
            Ok(change) => change.make(app),
            Err(reason) => self.refuse(app, promoted.as_deref(), reason),
        }
    }

    pub(crate) fn refuse(&self, app: &App, id: Option<&str>, reason: String) {
        let (version, served) = (id.unwrap_or("of the configuration"), &*app.served().version);
        tracing::error!(
            version,
            served,
            reason,
            "a version is refused; what is served stays"
        );
        app.metrics.models.refused();
        self.note(Some(RefusedVersion {
            id: id.map(str::to_owned),
            reason,
            at: unix_seconds(),
        }));
    }

    /// After a first answer that was none: serves the version before, and so on, and last the model
    /// of the configuration.
    pub(crate) async fn fall_back(
        &self,
        app: &Arc<App>,
        failed: &Arc<ServedVersion>,
        reason: String,
    ) {
        if !Arc::ptr_eq(failed, &app.served()) {
            // Another was promoted meanwhile.
            return;
        }
        self.refuse(app, failed.registered.as_deref(), reason);
        let state = self
            .registry
            .as_ref()
            .and_then(|registry| registry.state().ok())
            .unwrap_or_default();
        let others = candidates(&state)
            .map(Some)
            .chain([None])
            .filter(|id| *id != failed.registered.as_deref());
        for id in others {
            match self.prepare(app, id).await {
                Ok(change) => {
                    let refused = self.refused();
                    change.make(app);
                    return self.note(refused);
                }
                Err(reason) => tracing::error!(version = id, reason, "it cannot be served either"),
            }
        }
    }
}

/// Gets a version ready to be served: the one that is kept, or it is loaded.
async fn change<'a>(
    app: &Arc<App>,
    kept: MutexGuard<'a, Kept>,
    id: Option<&str>,
) -> Result<PendingSwitch<'a>, String> {
    let is = |served: &ServedVersion| served.registered.as_deref() == id;
    if is(&app.served()) {
        return Ok(PendingSwitch { kept, next: None });
    }
    let before = kept
        .before
        .as_ref()
        .filter(|before| is(before) && before.engine.health().accepting);
    let next = match before {
        Some(before) => Arc::clone(before),
        None => {
            load(
                app,
                app.current_config(),
                id,
                EngineMetrics::of(&app.metrics),
            )
            .await?
        }
    };
    Ok(PendingSwitch {
        kept,
        next: Some(next),
    })
}

/// Loads a version and tries it, while others are served.
async fn load(
    app: &Arc<App>,
    config: Config,
    id: Option<&str>,
    observer: Arc<dyn Observer>,
) -> Result<Arc<ServedVersion>, String> {
    let (task, id) = (Arc::clone(app), id.map(str::to_owned));
    let served = spawn_blocking(move || open(&task, &config, id.as_deref(), observer))
        .await
        .map_err(|e| e.to_string())?;
    let served = Arc::new(served.map_err(|e| e.to_string())?);
    app.watch(&served);
    let tried = warm::try_out(&RequestContext::with(app, Arc::clone(&served))).await;
    tried.map_err(|why| format!("its first answer failed: {why}"))?;
    let _ = served.warmed.set(Ok(()));
    Ok(served)
}

/// Loads a version that answers one question at a time, for nobody to count.
pub(super) async fn load_beside(app: &Arc<App>, id: &str) -> Result<Arc<ServedVersion>, String> {
    let mut config = app.current_config();
    (config.engine.max_batch, config.engine.max_waiting) = (1, 1);
    (config.images.cache_bytes, config.images.workers) = (0, Auto::Value(1));
    load(app, config, Some(id), Arc::new(())).await
}

fn open(
    app: &App,
    config: &Config,
    id: Option<&str>,
    observer: Arc<dyn Observer>,
) -> Result<ServedVersion, LoadError> {
    let now = app.served();
    let device = &now.bundle.device;
    let first = match (id, app.switch.registry()) {
        (Some(id), Some(registry)) => InitialVersion::load(config, registry, id, device)?,
        _ => Bundle::load(&config.model.name, config.model.reward.value(), device)?.into(),
    };
    let name = &first.bundle.config.name;
    if **name != *now.model {
        // Clients name the model: they would all get 404.
        return Err(LoadError::OtherModel {
            name: name.clone(),
            served: now.model.to_string(),
        });
    }
    Ok(ServedVersion::start(config, first, observer)?)
}

/// Follows the registry: what is promoted there, by whomever, is served here.
pub(super) async fn follow(app: Arc<App>) {
    let Some(registry) = app.switch.registry().cloned() else {
        return;
    };
    let mut times = tokio::time::interval(LOOK);
    times.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut seen = None;
    loop {
        times.tick().await;
        let task = registry.clone();
        let Ok(now) = spawn_blocking(move || look(&task)).await else {
            continue;
        };
        if now != seen {
            seen = now;
            app.switch.follow(&app).await;
        }
    }
}

/// When the state was written, and what; it says both, for a version that failed may be promoted
/// again.
fn look(registry: &Registry) -> Option<(SystemTime, Vec<u8>)> {
    let file = registry.state_file();
    let written = fs::metadata(&file).and_then(|meta| meta.modified()).ok()?;
    Some((written, fs::read(&file).ok()?))
}
