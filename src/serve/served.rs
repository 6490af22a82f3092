//! A loaded model version with its engine, and the request context that keeps a request on one
//! version.

use std::{
    convert::Infallible,
    path::Path,
    sync::{Arc, OnceLock},
};

use super::{
    app::{App, StartError},
    auth,
    limits::{account, share},
    openai::check::MediaLimits,
};
use crate::{
    bundle::{Bundle, BundleError},
    config::{Auto, Config, GuardSection},
    device::free_memory,
    engine::{
        CacheScope, Engine, EngineConfig, EngineHandle, ImageCache, Observer,
        fair::{Share, Turns},
    },
    guard::{policy, repair::RankingWeights},
    registry::{Registry, RegistryError, RegistryState},
    reward::scorer::Scorer,
    telemetry::RequestTrace,
};
use axum::{
    extract::FromRequestParts,
    http::{Extensions, request::Parts},
};
use candle_core::Device;

/// Returns the default bound of the key/value cache on a device whose weights are loaded: a third
/// of a GPU's free memory, a quarter of the machine's memory on others.
pub(crate) fn kv_bytes(device: &Device) -> u64 {
    free_memory(device).map_or_else(quarter_of_memory, |free| free / 3)
}

#[cfg(target_os = "linux")]
fn quarter_of_memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit)) / 4
}

#[cfg(not(target_os = "linux"))]
fn quarter_of_memory() -> u64 {
    4 << 30
}

/// Most texts per scoring step.
const SCORED_AT_ONCE: usize = 16;

/// A loaded version. Its engine stops when the last reference is dropped.
pub(crate) struct ServedVersion {
    pub(crate) bundle: Bundle,
    pub(crate) engine: EngineHandle,
    pub(crate) images: ImageCache,
    /// Images encoded by the model that judges texts, if it is not the policy.
    pub(crate) judge_images: Option<ImageCache>,
    /// Numbers of images that requests may have.
    pub(crate) media: MediaLimits,
    /// Scorer for texts of this model; `None` if the bundle has none.
    pub(crate) own_scorer: Option<Arc<Scorer>>,
    /// Scorer for texts of other authors.
    pub(crate) reader: Option<Arc<Scorer>>,
    /// Most positions of a text to score, prompt included.
    pub(crate) scoring_context: usize,
    /// Serializes scoring steps fairly.
    pub(crate) scoring: Turns,
    /// Name of the model.
    pub(crate) model: Arc<str>,
    /// Version in receipts and metrics: the registry's id, or the bundle's own.
    pub(crate) version: Arc<str>,
    pub(crate) fingerprint: Arc<str>,
    /// Id in the registry; `None` for the configured model.
    pub(crate) registered: Option<String>,
    /// Outcome of the warm-up, once it has ended.
    pub(crate) warmed: OnceLock<Result<(), String>>,
}

impl ServedVersion {
    /// Starts the engine of a bundle.
    pub(crate) fn start(
        config: &Config,
        first: InitialVersion,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, StartError> {
        let version: Arc<str> = first.version().into();
        let InitialVersion { bundle, registered } = first;
        check_license(&config.model.require_license, &bundle)?;
        check_guards(config, &bundle)?;
        let bounds = EngineConfig {
            max_batch: config.engine.max_batch,
            max_waiting: config.engine.max_waiting,
            context_len: config.engine.context_len.value().unwrap_or(usize::MAX),
            max_prefills: config.engine.max_prefills,
            prefill_chunk: config.engine.prefill_chunk.value(),
            repair: RankingWeights {
                optimism: bundle
                    .calibration
                    .as_ref()
                    .and_then(|calibration| calibration.repaired)
                    .map_or(0.0, |selection| selection.offset),
                ..RankingWeights::default()
            },
            on_error: config.guard.on_error,
            takes_turns: bundle.device.is_cpu(),
            kv_bytes: config
                .engine
                .kv_cache_bytes
                .value()
                .unwrap_or_else(|| kv_bytes(&bundle.device)),
            observer,
        };
        let engine = Engine::start(
            Arc::clone(&bundle.vlm),
            bundle.reward.clone(),
            Arc::clone(bundle.tokenizer()),
            bounds,
        )?;
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let workers = config.images.workers.value().unwrap_or_else(cores);
        let judge = bundle.judge();
        let scoring_context = match bundle.scorer {
            Some(_) => judge.vlm.spec().context_len,
            None => engine.context_len(),
        };
        let scorer = |reward| {
            let slots = SCORED_AT_ONCE.min(config.engine.max_batch);
            let vlm = Arc::clone(&judge.vlm);
            Arc::new(Scorer::new(vlm, reward, slots, scoring_context))
        };
        let reader = judge.reader.clone().map(|(reward, _)| scorer(reward));
        // To another model's scorer, the policy's texts are others' texts too.
        let own_scorer = match bundle.scorer {
            Some(_) => reader.clone(),
            None => bundle.reward.clone().map(scorer),
        };
        let cache = |bundle: &Bundle| {
            ImageCache::new(Arc::clone(&bundle.vlm), config.images.cache_bytes, workers)
                .with_evidence(bundle.evidence.clone())
        };
        let taken = bundle.processor.images();
        let media = MediaLimits {
            images: *taken.start()..=(*taken.end()).min(config.images.max_per_request),
            judges_one_image: bundle.scorer.is_some(),
        };
        Ok(Self {
            own_scorer,
            reader,
            scoring_context,
            scoring: Turns::new(1),
            images: cache(&bundle),
            judge_images: bundle.scorer.as_deref().map(cache),
            media,
            model: bundle.name.as_str().into(),
            fingerprint: format!("fp_{version}").into(),
            version,
            warmed: OnceLock::new(),
            registered,
            bundle,
            engine,
        })
    }
}

/// Context of a request: the server state, and the version that handles the request to its end,
/// whatever is promoted meanwhile.
#[derive(Clone)]
pub(crate) struct RequestContext {
    pub(crate) app: Arc<App>,
    pub(crate) served: Arc<ServedVersion>,
    /// Share for fair scheduling.
    pub(crate) share: Share,
    /// Account that rates are charged to.
    pub(crate) account: Arc<str>,
    /// Scope of cached image encodings.
    pub(crate) scope: CacheScope,
    /// Trace of the request.
    pub(crate) trace: RequestTrace,
}

impl RequestContext {
    /// Creates an internal context with the served version.
    pub(crate) fn internal(app: &Arc<App>) -> Self {
        Self::with_version(app, app.served())
    }

    /// Creates an internal context with the given version.
    pub(crate) fn with_version(app: &Arc<App>, served: Arc<ServedVersion>) -> Self {
        Self {
            served,
            app: Arc::clone(app),
            share: Share::default(),
            account: "".into(),
            scope: CacheScope::Owner("".into()),
            trace: RequestTrace::default(),
        }
    }

    /// Replaces the cache scope by a salt, if there is one.
    pub(crate) fn with_salt(mut self, salt: Option<Arc<str>>) -> Self {
        self.scope = salt.map_or(self.scope, CacheScope::Salt);
        self
    }
}

/// Returns the trace of a request.
pub(crate) fn trace_of(extensions: &Extensions) -> RequestTrace {
    extensions.get().cloned().unwrap_or_default()
}

impl FromRequestParts<Arc<App>> for RequestContext {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Infallible> {
        let caller = auth::caller(app, &parts.extensions);
        let (account, scope) = (
            account(&caller),
            CacheScope::Owner(Arc::clone(&caller.owner)),
        );
        Ok(Self {
            share: share(&caller),
            account,
            scope,
            trace: trace_of(&parts.extensions),
            ..Self::internal(app)
        })
    }
}

/// A loaded bundle and its id in the registry.
pub struct InitialVersion {
    pub(crate) bundle: Bundle,
    pub(crate) registered: Option<String>,
}

impl From<Bundle> for InitialVersion {
    fn from(bundle: Bundle) -> Self {
        Self {
            bundle,
            registered: None,
        }
    }
}

impl InitialVersion {
    /// Loads the version to start with: the registry's promoted version; if that fails, the
    /// previous ones in turn; finally the configured model. Versions that fail are logged.
    ///
    /// # Errors
    /// When the configured model cannot be loaded either.
    pub fn choose(config: &Config, device: &Device) -> Result<Self, BundleError> {
        // Versions of the registry are bundles: none replaces another's checkpoint.
        let is_bundle = Bundle::describe(&config.model.name).is_ok();
        if let Some(registry) = config.registry.open().filter(|_| is_bundle) {
            let found = registry.and_then(|registry| Ok((registry.state()?, registry)));
            match found {
                Ok((state, registry)) => {
                    for id in versions_to_try(&state) {
                        match Self::load(config, &registry, id, device).and_then(|first| {
                            Ok(check_guards(config, &first.bundle).map(|()| first)?)
                        }) {
                            Ok(first) => return Ok(first),
                            Err(error) => {
                                tracing::error!(version = id, %error, "a version of the registry \
                                    cannot be served; trying the previous one")
                            }
                        }
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the registry cannot be read; the configured model \
                                             is served")
                }
            }
        }
        Bundle::open(&config.model.name, &config.model.open_options(), device).map(Self::from)
    }

    /// Returns the bundle.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Returns the model's name.
    pub fn model(&self) -> &str {
        &self.bundle.name
    }

    /// Returns the device.
    pub fn device(&self) -> &Device {
        &self.bundle.device
    }

    /// Returns the version in receipts and metrics: the registry's id, or the bundle's own.
    pub fn version(&self) -> &str {
        self.registered.as_deref().unwrap_or(&self.bundle.version)
    }

    /// Loads a version of the registry after verifying its files.
    pub(crate) fn load(
        config: &Config,
        registry: &Registry,
        id: &str,
        device: &Device,
    ) -> Result<Self, LoadError> {
        let version = registry.get(id)?;
        registry.verify(&version)?;
        let bundle = load(&registry.bundle_dir(&version), config, device)?;
        Ok(Self {
            bundle,
            registered: Some(version.id),
        })
    }
}

/// Returns the registry's versions to try in order: the promoted one, then the previous ones,
/// latest first.
pub(crate) fn versions_to_try(state: &RegistryState) -> impl Iterator<Item = &str> {
    state
        .promoted
        .iter()
        .chain(state.previous.iter().rev())
        .map(String::as_str)
}

fn load(dir: &Path, config: &Config, device: &Device) -> Result<Bundle, BundleError> {
    Bundle::open(&dir.to_string_lossy(), &config.model.open_options(), device)
}

/// Reasons why a version cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The bundle is invalid.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The version belongs to another model.
    #[error(
        "it belongs to the model {name}, but this server serves {served}; restart the server to \
         serve another model"
    )]
    OtherModel {
        /// Name of that model.
        name: String,
        /// Name of the served model.
        served: String,
    },
    /// The version does not start with this configuration.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Checks the licenses of a model and of the model whose scorer judges it.
fn check_license(allowed: &[String], bundle: &Bundle) -> Result<(), StartError> {
    let is_allowed = |bundle: &&Bundle| {
        let license = &bundle.license.id;
        allowed.iter().any(|id| id.eq_ignore_ascii_case(license))
    };
    let mut parts = [bundle, bundle.judge()].into_iter();
    let Some(refused) = parts.find(|part| !allowed.is_empty() && !is_allowed(part)) else {
        return Ok(());
    };
    Err(StartError::Config {
        key: "model.require_license",
        what: format!(
            "{} {} has the license {}; allowed: {}",
            refused.name,
            refused.version,
            refused.license,
            allowed.join(", ")
        ),
    })
}

/// Checks at startup that the bundle supports all configured guard modes and thresholds.
pub(crate) fn check_guards(config: &Config, bundle: &Bundle) -> Result<(), StartError> {
    check_guard(&config.guard, bundle, "guard.mode", "guard.target_fpr")?;
    config.keys.iter().try_for_each(|key| {
        check_guard(
            &key.guard(&config.guard),
            bundle,
            "keys.mode",
            "keys.target_fpr",
        )
    })
}

fn check_guard(
    guard: &GuardSection,
    bundle: &Bundle,
    mode: &'static str,
    target_fpr: &'static str,
) -> Result<(), StartError> {
    let name = &bundle.name;
    let error = |key, what: String| Err(StartError::Config { key, what });
    if bundle.calibration.is_some() {
        return Ok(());
    }
    if policy::scores(guard.mode) {
        return error(
            mode,
            format!("bundle {name} has no scorer; only off is possible"),
        );
    }
    if guard.target_fpr != Auto::Auto {
        return error(target_fpr, format!("bundle {name} has no calibration"));
    }
    Ok(())
}
