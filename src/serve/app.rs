//! What all handlers share.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
};
use tracing::Span;

use super::{
    auth::{self, Access},
    body_memory::BodyMemory,
    error::ApiError,
    feedback::DAMAGED,
    fetch::Fetcher,
    limits::{RequestLimits, cost::longest_answer},
    openai::{check::guard_params, request::GuardRequest},
    served::{InitialVersion, ServedVersion},
    shadow::Shadowing,
    strikes::Strikes,
    switch::VersionSwitch,
};
use crate::{
    config::{Config, GuardSection},
    engine::{DecodeMemory, EngineError},
    feedback::Corrections,
    registry::Registry,
    telemetry::{EngineMetrics, Metrics},
    vlm::preprocess::ImageLimits,
};

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened at.
    #[error("cannot listen at {address} ({key}): {error}")]
    Listen {
        /// The option.
        key: &'static str,
        /// Its value.
        address: String,
        /// Why not.
        error: std::io::Error,
    },
    /// The configuration asks for what cannot be had, mostly of the bundle.
    #[error("{key}: {what}")]
    Config {
        /// The option.
        key: &'static str,
        /// Why not.
        what: String,
    },
    /// The engine does not start.
    #[error("the engine does not start: {0}")]
    Engine(#[from] EngineError),
    /// The metrics cannot be declared.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Requests that may be read and checked for each that may be in progress.
const ALSO_READ: usize = 8;

/// The server's state.
pub(crate) struct App {
    pub(crate) config: Config,
    /// `None` when images are not fetched.
    pub(crate) fetcher: Option<Fetcher>,
    pub(crate) metrics: Arc<Metrics>,
    access: RwLock<Arc<Access>>,
    pub(crate) wrong_keys: Strikes<IpAddr>,
    /// The guard's defaults for those without one.
    pub(crate) guard: Arc<GuardSection>,
    /// `None` when corrections are not taken.
    pub(crate) corrections: Option<Corrections>,
    /// What is promoted, and how that comes to be served.
    pub(crate) switch: VersionSwitch,
    /// The version that is tried beside the served one.
    pub(crate) shadow: Shadowing,
    /// The version that new requests get.
    served: RwLock<Arc<ServedVersion>>,
    /// All that may still have requests.
    loaded: Mutex<Vec<Weak<ServedVersion>>>,
    draining: AtomicBool,
    /// What bounds requests that are in order.
    pub(crate) limits: RequestLimits,
    places: Arc<Semaphore>,
    /// What requests' bodies may take of the memory.
    pub(crate) body_memory: Arc<BodyMemory>,
    /// What streams may keep of the memory, in bytes, for clients that do not take them.
    pub(crate) unread: Arc<Semaphore>,
    /// What images take while they are decoded, whoever sent them and wherever.
    pub(crate) decode_memory: DecodeMemory,
}

/// Bytes of answers that may wait for clients which are far behind with their streams.
const UNREAD_BYTES: usize = 32 << 20;

impl App {
    /// With a bundle to begin with. Without a `registry` it is served to the end.
    pub(crate) fn start(
        config: Config,
        first: InitialVersion,
        registry: Option<Registry>,
        corrections: Option<Corrections>,
    ) -> Result<Self, StartError> {
        let fetcher = config
            .fetch
            .enabled
            .then(|| Fetcher::new(&config))
            .transpose();
        let fetcher = fetcher.map_err(|what| StartError::Config {
            key: "fetch.ca_file",
            what,
        })?;
        let metrics = Arc::new(Metrics::new()?);
        let served = Arc::new(ServedVersion::start(
            &config,
            first,
            EngineMetrics::of(&metrics),
        )?);
        show_served(&metrics, &config.guard, &served);
        Ok(Self {
            access: RwLock::new(Arc::new(Access::new(&config))),
            wrong_keys: auth::wrong_keys(),
            guard: Arc::new(config.guard.clone()),
            fetcher,
            limits: RequestLimits::new(
                &config,
                longest_answer(served.bundle.vlm.spec(), served.engine.context_len()),
                &metrics,
            ),
            places: Arc::new(Semaphore::new(ALSO_READ * config.server.max_concurrent)),
            body_memory: BodyMemory::new(
                config.server.max_body_memory_bytes,
                config.server.max_body_bytes,
                metrics.connections.body_memory.clone(),
            ),
            unread: Arc::new(Semaphore::new(UNREAD_BYTES)),
            decode_memory: DecodeMemory::new(config.images.max_memory_bytes),
            switch: VersionSwitch::new(registry),
            shadow: Shadowing::default(),
            loaded: Mutex::new(vec![Arc::downgrade(&served)]),
            served: RwLock::new(served),
            corrections,
            draining: AtomicBool::new(false),
            config,
            metrics,
        })
    }

    /// The version that requests get which begin now.
    pub(crate) fn served(&self) -> Arc<ServedVersion> {
        Arc::clone(&self.served.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives requests that begin from now on another version; returns the one that they got before.
    pub(crate) fn serve(&self, next: Arc<ServedVersion>) -> Arc<ServedVersion> {
        show_served(&self.metrics, &self.guard, &next);
        if let Some(corrections) = &self.corrections {
            corrections.serves(&next.version, next.bundle.vocabulary());
        }
        std::mem::replace(
            &mut *self.served.write().unwrap_or_else(PoisonError::into_inner),
            next,
        )
    }

    /// Returns who may ask now.
    pub(crate) fn access(&self) -> Arc<Access> {
        Arc::clone(&self.access.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets who may ask from now on.
    pub(crate) fn set_access(&self, access: Access) {
        *self.access.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(access);
    }

    /// Returns the configuration with the keys in force, by which versions that are loaded from now
    /// on are checked.
    pub(crate) fn current_config(&self) -> Config {
        Config {
            keys: self.access().configured.clone(),
            ..self.config.clone()
        }
    }

    /// Has a version stop with the server.
    pub(crate) fn watch(&self, version: &Arc<ServedVersion>) {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.retain(|version| version.strong_count() > 0);
        loaded.push(Arc::downgrade(version));
    }

    /// Waits until those that run have ended, on whichever version, or the deadline has passed.
    pub(crate) async fn stop(&self, deadline: Duration) {
        let loaded: Vec<_> = {
            let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
            loaded.iter().filter_map(Weak::upgrade).collect()
        };
        futures_util::future::join_all(loaded.iter().map(|version| version.engine.drain(deadline)))
            .await;
    }

    /// A place among the requests that are being read and checked, or answered. How many are
    /// answered is bounded by [`RequestLimits`], once it is known what they ask for.
    pub(crate) fn admit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            ApiError::busy(
                "the server is at capacity: too many requests are being read at once; retry in 1 s",
                1,
            )
        })
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_secs(self.config.server.request_timeout_s)
    }

    pub(crate) fn read_timeout(&self) -> Duration {
        Duration::from_secs(self.config.server.read_timeout_s)
    }

    pub(crate) fn image_limits(&self) -> ImageLimits {
        let images = &self.config.images;
        ImageLimits {
            max_bytes: images.max_bytes,
            max_pixels: images.max_pixels,
            max_alloc: images.max_memory_bytes,
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    pub(crate) fn drain(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Why the server is not ready; `None` when it is.
    pub(crate) fn not_ready(&self) -> Option<String> {
        let stall = Duration::from_secs(self.config.engine.stall_after_s);
        if self.is_draining() {
            return Some("the server is shutting down".to_owned());
        }
        if self
            .corrections
            .as_ref()
            .is_some_and(|corrections| corrections.store().damage().is_some())
        {
            return Some(DAMAGED.to_owned());
        }
        let served = self.served();
        match served.warmed.get() {
            None => Some("the model is warming up".to_owned()),
            Some(Err(why)) => Some(format!("the first caption failed: {why}")),
            Some(Ok(())) if !served.engine.health().is_ready(stall) => Some(format!(
                "the engine has made no step for {} s",
                stall.as_secs()
            )),
            Some(Ok(())) => None,
        }
    }
}

/// Shows in the metrics what is served, and by which thresholds.
fn show_served(metrics: &Metrics, guard: &GuardSection, served: &ServedVersion) {
    metrics.serves(&served.model, &served.version);
    let params = guard_params(
        &GuardRequest::default(),
        guard,
        served.bundle.calibration.as_ref(),
    );
    metrics.set_thresholds(
        params
            .ok()
            .filter(|_| served.bundle.calibration.is_some())
            .map(|params| params.thresholds)
            .as_ref(),
    );
}

/// Runs what computes off the async threads, in the request's span. A panic in it is a 500.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let span = Span::current();
    spawn_blocking(move || span.in_scope(work))
        .await
        .map_err(|error| {
            tracing::error!(%error, "a request's work did not end well");
            ApiError::internal()
        })
}
