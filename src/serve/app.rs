//! Shared server state (axum `State`).

use std::{
    net::IpAddr,
    path::Path,
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
    audit::AuditLog,
    auth::{self, Access},
    body_memory::BodyMemory,
    error::{ApiError, DAMAGED},
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
    telemetry::{Metrics, TraceSetupError, Traces},
    vlm::preprocess::ImageLimits,
};

/// Reasons why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be bound.
    #[error("cannot listen at {address} ({key}): {error}")]
    Listen {
        /// Configuration key.
        key: &'static str,
        /// Its value.
        address: String,
        /// Error of the operating system.
        error: std::io::Error,
    },
    /// The configuration is not possible, often with this bundle.
    #[error("{key}: {what}")]
    Config {
        /// Configuration key.
        key: &'static str,
        /// Explanation.
        what: String,
    },
    /// The engine failed to start.
    #[error("the engine does not start: {0}")]
    Engine(#[from] EngineError),
    /// A metric could not be registered.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Requests that may be parsed and checked for each that may run.
const PARSED_PER_RUNNING: usize = 8;

/// State of the server.
pub(crate) struct App {
    pub(crate) config: Config,
    /// `None` if fetching images is disabled.
    pub(crate) fetcher: Option<Fetcher>,
    pub(crate) metrics: Arc<Metrics>,
    /// `None` if traces are not exported.
    pub(crate) traces: Option<Traces>,
    access: RwLock<Arc<Access>>,
    pub(crate) wrong_keys: Strikes<IpAddr>,
    /// Guard defaults of requests without a key of their own.
    pub(crate) guard: Arc<GuardSection>,
    /// `None` if feedback is disabled.
    pub(crate) corrections: Option<Corrections>,
    /// Audit log, if one is kept.
    pub(crate) audit: Option<AuditLog>,
    /// Loads versions and switches between them.
    pub(crate) switch: VersionSwitch,
    /// Shadow version, which runs on a share of the requests.
    pub(crate) shadow: Shadowing,
    /// Version for new requests.
    served: RwLock<Arc<ServedVersion>>,
    /// All versions that may still have running requests.
    loaded: Mutex<Vec<Weak<ServedVersion>>>,
    retiring: AtomicBool,
    draining: AtomicBool,
    /// Rate and concurrency limits of valid requests.
    pub(crate) limits: RequestLimits,
    admissions: Arc<Semaphore>,
    /// Memory budget of request bodies.
    pub(crate) body_memory: Arc<BodyMemory>,
    /// Memory budget, in bytes, of stream output that clients have not read yet.
    pub(crate) unread_bytes: Arc<Semaphore>,
    /// Memory budget of image decoding.
    pub(crate) decode_memory: DecodeMemory,
}

/// Bytes of stream output that may wait for slow clients.
const UNREAD_BYTES: usize = 32 << 20;

impl App {
    /// Creates the state with an initial version. Without a `registry`, that version stays.
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
        let mut metrics = Metrics::new()?;
        if config.metrics.vllm_names {
            metrics.show_vllm_names(&first.bundle.name)?;
        }
        let metrics = Arc::new(metrics);
        let audit = match &*config.log.audit {
            "off" => None,
            path => Some(
                AuditLog::open(Path::new(path)).map_err(|error| StartError::Config {
                    key: "log.audit",
                    what: format!("{path}: {error}"),
                })?,
            ),
        };
        let served = Arc::new(ServedVersion::start(
            &config,
            first,
            Arc::clone(&metrics.engine) as _,
        )?);
        show_served(&metrics, &config.guard, &served);
        Ok(Self {
            access: RwLock::new(Arc::new(Access::new(&config))),
            wrong_keys: auth::wrong_keys(),
            guard: Arc::new(config.guard.clone()),
            fetcher,
            traces: None,
            limits: RequestLimits::new(
                &config,
                longest_answer(served.engine.context_len()),
                &metrics,
            ),
            admissions: Arc::new(Semaphore::new(
                PARSED_PER_RUNNING * config.server.max_concurrent,
            )),
            body_memory: BodyMemory::new(
                config.server.max_body_memory_bytes,
                config.server.max_body_bytes,
                metrics.connections.body_memory.clone(),
            ),
            unread_bytes: Arc::new(Semaphore::new(UNREAD_BYTES)),
            decode_memory: DecodeMemory::new(config.images.max_memory_bytes),
            switch: VersionSwitch::new(registry),
            shadow: Shadowing::default(),
            loaded: Mutex::new(vec![Arc::downgrade(&served)]),
            served: RwLock::new(served),
            corrections,
            audit,
            retiring: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            config,
            metrics,
        })
    }

    /// Starts the export of traces, if it is configured.
    ///
    /// # Errors
    /// When an option or a variable of the environment is wrong.
    pub(crate) fn export_traces(&mut self) -> Result<(), StartError> {
        let dropped = self.metrics.trace_spans_dropped.clone();
        let traces = Traces::start(&self.config.tracing.settings(), dropped);
        self.traces =
            traces.map_err(|TraceSetupError { key, what }| StartError::Config { key, what })?;
        Ok(())
    }

    /// Returns the version for new requests.
    pub(crate) fn served(&self) -> Arc<ServedVersion> {
        Arc::clone(&self.served.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Switches new requests to another version; returns the previous one.
    pub(crate) fn serve(&self, next: Arc<ServedVersion>) -> Arc<ServedVersion> {
        show_served(&self.metrics, &self.guard, &next);
        if let Some(corrections) = &self.corrections {
            corrections.set_served(&next.version, next.bundle.vocabulary());
        }
        std::mem::replace(
            &mut *self.served.write().unwrap_or_else(PoisonError::into_inner),
            next,
        )
    }

    /// Returns the access rules in force.
    pub(crate) fn access(&self) -> Arc<Access> {
        Arc::clone(&self.access.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the access rules.
    pub(crate) fn set_access(&self, access: Access) {
        *self.access.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(access);
    }

    /// Returns the configuration with the API keys in force, to check versions loaded from now on.
    pub(crate) fn current_config(&self) -> Config {
        Config {
            keys: self.access().configured.clone(),
            ..self.config.clone()
        }
    }

    /// Registers a version to be drained at shutdown.
    pub(crate) fn track_version(&self, version: &Arc<ServedVersion>) {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.retain(|version| version.strong_count() > 0);
        loaded.push(Arc::downgrade(version));
    }

    /// Waits until the requests of all versions have ended or the deadline has passed.
    pub(crate) async fn stop(&self, deadline: Duration) {
        let loaded: Vec<_> = {
            let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
            loaded.iter().filter_map(Weak::upgrade).collect()
        };
        futures_util::future::join_all(loaded.iter().map(|version| version.engine.drain(deadline)))
            .await;
    }

    /// Admits a request for parsing and checking. The number of running requests is bounded
    /// separately, by [`RequestLimits`], once their cost is known.
    pub(crate) fn admit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.admissions).try_acquire_owned().map_err(|_| {
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

    /// Makes the server not ready; requests are still accepted.
    pub(crate) fn retire(&self) {
        self.retiring.store(true, Relaxed);
    }

    pub(crate) fn drain(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Returns the reason why the server is not ready; `None` if it is.
    pub(crate) fn readiness_problem(&self) -> Option<String> {
        let stall = Duration::from_secs(self.config.engine.stall_after_s);
        if self.is_draining() || self.retiring.load(Relaxed) {
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
                "the engine has not completed a step for {} s",
                stall.as_secs()
            )),
            Some(Ok(())) => None,
        }
    }
}

/// Updates the metrics of the served version and its thresholds.
fn show_served(metrics: &Metrics, guard: &GuardSection, served: &ServedVersion) {
    metrics.set_model(&served.model, &served.version);
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

/// Runs `work` on a blocking thread, within the request's span. A panic becomes a 500.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let span = Span::current();
    spawn_blocking(move || span.in_scope(work))
        .await
        .map_err(|error| {
            tracing::error!(%error, "a request's blocking task failed");
            ApiError::internal()
        })
}
