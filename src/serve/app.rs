//! What all handlers share.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
};
use tracing::Span;

use super::{
    auth::{Caller, callers},
    error::ApiError,
    fetch::Fetcher,
};
use crate::{
    bundle::Bundle,
    config::{Auto, Config, Guard},
    engine::{Engine, EngineConfig, EngineError, EngineHandle, ImageCache},
    feedback::Corrections,
    guard::{policy, repair::Weights},
    reward::scorer::Scorer,
    telemetry::Metrics,
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

/// Most texts that are scored in one step.
const SCORED_AT_ONCE: usize = 16;

/// The server's state.
pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) bundle: Bundle,
    pub(crate) engine: EngineHandle,
    pub(crate) images: ImageCache,
    /// `None` when images are not fetched.
    pub(crate) fetcher: Option<Fetcher>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) model: Arc<str>,
    pub(crate) fingerprint: Arc<str>,
    /// Whether the first answer, which the server asks of itself, was good.
    pub(crate) warmed: OnceLock<Result<(), String>>,
    /// What scores complete texts of the served model; `None` where the bundle has no scorer.
    pub(crate) own_scorer: Option<Arc<Scorer>>,
    /// What scores texts that others wrote.
    pub(crate) reader: Option<Arc<Scorer>>,
    /// One request's texts are scored at a time.
    pub(crate) scoring: Arc<Semaphore>,
    /// Those with a key; none: everybody may ask.
    pub(crate) callers: Vec<Caller>,
    /// The guard's defaults for those without one.
    pub(crate) guard: Arc<Guard>,
    /// `None` when corrections are not taken.
    pub(crate) corrections: Option<Corrections>,
    draining: AtomicBool,
    places: Arc<Semaphore>,
}

impl App {
    pub(crate) fn start(config: Config, bundle: Bundle, corrections: Option<Corrections>) -> Result<Self, StartError> {
        check_guard(&config.guard, &bundle, "guard.mode", "guard.target_fpr")?;
        config.keys.iter().try_for_each(|key| check_guard(&key.guard(&config.guard), &bundle, "keys.mode", "keys.target_fpr"))?;
        let fetcher = config.fetch.enabled.then(|| Fetcher::new(&config)).transpose();
        let fetcher = fetcher.map_err(|what| StartError::Config { key: "fetch.ca_file", what })?;
        let metrics = Arc::new(Metrics::new()?);
        metrics.serves(&bundle.config.name, &bundle.config.version);
        let bounds = EngineConfig {
            max_batch: config.engine.max_batch,
            max_waiting: config.engine.max_waiting,
            context_len: config.engine.context_len.value().unwrap_or(usize::MAX),
            max_prefills: config.engine.max_prefills,
            repair: Weights::default(),
            on_error: config.guard.on_error,
            observer: Arc::clone(&metrics) as _,
        };
        let engine = Engine::start(Arc::clone(&bundle.vlm), bundle.reward.clone(), Arc::clone(&bundle.tokenizer), bounds)?;
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let workers = config.images.workers.value().unwrap_or_else(cores);
        let scorer = |reward| {
            let slots = SCORED_AT_ONCE.min(config.engine.max_batch);
            Arc::new(Scorer::new(Arc::clone(&bundle.vlm), reward, slots, engine.context_len()))
        };
        Ok(Self {
            own_scorer: bundle.reward.clone().map(scorer),
            reader: bundle.reader.clone().map(|(reward, _)| scorer(reward)),
            scoring: Arc::new(Semaphore::new(1)),
            callers: callers(&config),
            guard: Arc::new(config.guard.clone()),
            images: ImageCache::new(Arc::clone(&bundle.vlm), config.images.cache_bytes, workers),
            fetcher,
            places: Arc::new(Semaphore::new(config.server.max_concurrent)),
            model: bundle.config.name.as_str().into(),
            fingerprint: format!("fp_{}", bundle.config.version).into(),
            warmed: OnceLock::new(),
            corrections,
            draining: AtomicBool::new(false),
            config,
            bundle,
            engine,
            metrics,
        })
    }

    /// A place among the completions that are being received or answered.
    pub(crate) fn admit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            let most = self.config.server.max_concurrent;
            ApiError::busy(format!("the server is at capacity ({most} completions at once); retry in 1 s"), 1)
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
        ImageLimits { max_bytes: images.max_bytes, max_pixels: images.max_pixels, max_alloc: images.max_memory_bytes }
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
        match self.warmed.get() {
            None => Some("the model is warming up".to_owned()),
            Some(Err(why)) => Some(format!("the first caption failed: {why}")),
            Some(Ok(())) if !self.engine.health().is_ready(stall) => Some(format!("the engine has made no step for {} s", stall.as_secs())),
            Some(Ok(())) => None,
        }
    }
}

/// A mode or a threshold of the configuration that the bundle cannot honour is an error now, not at the first request.
fn check_guard(guard: &Guard, bundle: &Bundle, mode: &'static str, target_fpr: &'static str) -> Result<(), StartError> {
    let name = &bundle.config.name;
    let error = |key, what: String| Err(StartError::Config { key, what });
    if bundle.calibration.is_some() {
        return Ok(());
    }
    if policy::scores(guard.mode) {
        return error(mode, format!("bundle {name} has no scorer; only off is possible"));
    }
    if guard.target_fpr != Auto::Auto {
        return error(target_fpr, format!("bundle {name} has no calibration"));
    }
    Ok(())
}

/// Seconds since 1970.
pub(crate) fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Runs what computes off the async threads, in the request's span. A panic in it is a 500.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    let span = Span::current();
    spawn_blocking(move || span.in_scope(work)).await.map_err(|error| {
        tracing::error!(%error, "a request's work did not end well");
        ApiError::internal()
    })
}
