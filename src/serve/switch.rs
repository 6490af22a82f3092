//! Switching between model versions at run time: the next one is loaded and warmed up before it
//! replaces the served one atomically.

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
    served::{InitialVersion, LoadError, RequestContext, ServedVersion, versions_to_try},
    warm,
};
use crate::{
    bundle::Bundle,
    config::{Auto, Config},
    engine::Observer,
    registry::{Registry, RegistryState},
    util::time::unix_seconds,
};

/// Interval between checks of the registry.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Loads versions and switches between them.
pub(crate) struct VersionSwitch {
    registry: Option<Registry>,
    /// Held during a change, so that changes are serialized.
    loaded: tokio::sync::Mutex<LoadedVersions>,
    refused: Mutex<Option<RefusedVersion>>,
}

/// Versions kept loaded.
#[derive(Default)]
struct LoadedVersions {
    /// Version served before, so that a rollback to it is immediate.
    previous: Option<Arc<ServedVersion>>,
}

/// A version that failed to load.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct RefusedVersion {
    /// Id of the version; `null` for the configured model.
    #[schema(required)]
    pub(crate) id: Option<String>,
    /// Explanation.
    pub(crate) reason: String,
    /// Time, Unix seconds.
    pub(crate) at: u64,
}

/// A version ready to be served; holds the lock on changes.
pub(crate) struct PendingSwitch<'a> {
    loaded: MutexGuard<'a, LoadedVersions>,
    /// `None` if it is served already.
    next: Option<Arc<ServedVersion>>,
}

impl PendingSwitch<'_> {
    /// Serves the version. Running requests stay with theirs.
    pub(crate) fn apply(mut self, app: &App) {
        let Some(next) = self.next.take() else { return };
        let (version, previous) = (Arc::clone(&next.version), app.serve(next));
        tracing::info!(
            version = &*version,
            before = &*previous.version,
            "switched to another version"
        );
        app.metrics.models.count_switch();
        app.switch.set_refused(None);
        self.loaded.previous = Some(previous);
    }
}

impl VersionSwitch {
    pub(crate) fn new(registry: Option<Registry>) -> Self {
        Self {
            registry,
            loaded: tokio::sync::Mutex::default(),
            refused: Mutex::default(),
        }
    }

    pub(crate) fn registry(&self) -> Option<&Registry> {
        self.registry.as_ref()
    }

    /// Returns the version that last failed to load, since the last change.
    pub(crate) fn refused(&self) -> Option<RefusedVersion> {
        self.refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_refused(&self, refused: Option<RefusedVersion>) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
    }

    /// Loads a version (`None` for the configured model), starts its engine and warms it up.
    ///
    /// # Errors
    /// The reason why it cannot be served.
    pub(crate) async fn prepare(
        &self,
        app: &Arc<App>,
        id: Option<&str>,
    ) -> Result<PendingSwitch<'_>, String> {
        prepare_switch(app, self.loaded.lock().await, id).await
    }

    /// Serves the version promoted in the registry; on failure, logs the reason and keeps the
    /// served one. Updates the shadow in either case.
    pub(crate) async fn follow_registry(&self, app: &Arc<App>) {
        let Some(registry) = &self.registry else {
            return;
        };
        let loaded = self.loaded.lock().await;
        // Read under the lock: an older state would undo a concurrent change.
        let RegistryState {
            promoted, shadow, ..
        } = match registry.state() {
            Ok(state) => state,
            Err(error) => {
                tracing::error!(%error, "the registry cannot be read; the served version stays");
                return;
            }
        };
        app.shadow.set(app, shadow);
        match prepare_switch(app, loaded, promoted.as_deref()).await {
            Ok(change) => change.apply(app),
            Err(reason) => self.refuse(app, promoted.as_deref(), reason),
        }
    }

    pub(crate) fn refuse(&self, app: &App, id: Option<&str>, reason: String) {
        let (version, served) = (id.unwrap_or("of the configuration"), &*app.served().version);
        tracing::error!(
            version,
            served,
            reason,
            "a version cannot be served; the served version stays"
        );
        app.metrics.models.count_refused();
        self.set_refused(Some(RefusedVersion {
            id: id.map(str::to_owned),
            reason,
            at: unix_seconds(),
        }));
    }

    /// After a failed warm-up, serves the previous version, or an earlier one, or finally the
    /// configured model.
    pub(crate) async fn fall_back(
        &self,
        app: &Arc<App>,
        failed: &Arc<ServedVersion>,
        reason: String,
    ) {
        if !Arc::ptr_eq(failed, &app.served()) {
            // Another version was promoted meanwhile.
            return;
        }
        self.refuse(app, failed.registered.as_deref(), reason);
        let state = self
            .registry
            .as_ref()
            .and_then(|registry| registry.state().ok())
            .unwrap_or_default();
        let others = versions_to_try(&state)
            .map(Some)
            .chain([None])
            .filter(|id| *id != failed.registered.as_deref());
        for id in others {
            match self.prepare(app, id).await {
                Ok(change) => {
                    let refused = self.refused();
                    change.apply(app);
                    return self.set_refused(refused);
                }
                Err(reason) => {
                    tracing::error!(version = id, reason, "this version cannot be served either")
                }
            }
        }
    }
}

/// Returns a version ready to be served: the one kept loaded, or a newly loaded one.
async fn prepare_switch<'a>(
    app: &Arc<App>,
    loaded: MutexGuard<'a, LoadedVersions>,
    id: Option<&str>,
) -> Result<PendingSwitch<'a>, String> {
    let is = |served: &ServedVersion| served.registered.as_deref() == id;
    if is(&app.served()) {
        return Ok(PendingSwitch { loaded, next: None });
    }
    let previous = loaded
        .previous
        .as_ref()
        .filter(|previous| is(previous) && previous.engine.health().accepting);
    let next = match previous {
        Some(previous) => Arc::clone(previous),
        None => {
            load(
                app,
                app.current_config(),
                id,
                Arc::clone(&app.metrics.engine) as _,
            )
            .await?
        }
    };
    Ok(PendingSwitch {
        loaded,
        next: Some(next),
    })
}

/// Loads and warms up a version while another one is served.
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
    app.track_version(&served);
    let tried = warm::warm_up(&RequestContext::with_version(app, Arc::clone(&served))).await;
    tried.map_err(|why| format!("its first answer failed: {why}"))?;
    let _ = served.warmed.set(Ok(()));
    Ok(served)
}

/// Loads a version with minimal resources and without metrics, for the shadow.
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
        _ => Bundle::open(&config.model.name, &config.model.open_options(), device)?.into(),
    };
    let name = &first.bundle.name;
    if **name != *now.model {
        // Clients name the model; all their requests would get a 404.
        return Err(LoadError::OtherModel {
            name: name.clone(),
            served: now.model.to_string(),
        });
    }
    Ok(ServedVersion::start(config, first, observer)?)
}

/// Watches the registry and serves what is promoted there, by any process.
pub(super) async fn watch_registry(app: Arc<App>) {
    let Some(registry) = app.switch.registry().cloned() else {
        return;
    };
    let mut times = tokio::time::interval(POLL_INTERVAL);
    times.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut seen = None;
    loop {
        times.tick().await;
        let task = registry.clone();
        let Ok(now) = spawn_blocking(move || read_state(&task)).await else {
            continue;
        };
        if now != seen {
            seen = now;
            app.switch.follow_registry(&app).await;
        }
    }
}

/// Returns the state file's modification time and content. The time matters because a version that
/// failed may be promoted again.
fn read_state(registry: &Registry) -> Option<(SystemTime, Vec<u8>)> {
    let file = registry.state_file();
    let written = fs::metadata(&file).and_then(|meta| meta.modified()).ok()?;
    Some((written, fs::read(&file).ok()?))
}
