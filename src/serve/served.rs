//! One version of the model with all that answers in it, and a request's hold on the one that it
//! began with.

use std::{
    convert::Infallible,
    path::Path,
    sync::{Arc, OnceLock},
};

use super::{
    app::{App, StartError},
    auth,
    limits::{account, share},
};
use crate::{
    bundle::{Bundle, BundleError},
    config::{Auto, Config, GuardSection},
    engine::{
        CacheScope, Engine, EngineConfig, EngineHandle, ImageCache, Observer,
        fair::{Share, Turns},
    },
    guard::{policy, repair::RankingWeights},
    registry::{Registry, RegistryError, RegistryState},
    reward::scorer::Scorer,
};
use axum::{extract::FromRequestParts, http::request::Parts};
use candle_core::Device;

/// Most texts that are scored in one step.
const SCORED_AT_ONCE: usize = 16;

/// A loaded version. Its engine ends when nobody holds it any more.
pub(crate) struct ServedVersion {
    pub(crate) bundle: Bundle,
    pub(crate) engine: EngineHandle,
    pub(crate) images: ImageCache,
    /// What scores complete texts of this model; `None` where the bundle has no scorer.
    pub(crate) own_scorer: Option<Arc<Scorer>>,
    /// What scores texts that others wrote.
    pub(crate) reader: Option<Arc<Scorer>>,
    /// One request's texts are scored at a time.
    pub(crate) scoring: Turns,
    /// The model's name.
    pub(crate) model: Arc<str>,
    /// The version as receipts and metrics have it: the registry's, else the bundle's own.
    pub(crate) version: Arc<str>,
    pub(crate) fingerprint: Arc<str>,
    /// The registry's id; `None`: the model of the configuration.
    pub(crate) registered: Option<String>,
    /// Whether the first answer, which the server asks of itself, was good.
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
        check_guards(config, &bundle)?;
        let bounds = EngineConfig {
            max_batch: config.engine.max_batch,
            max_waiting: config.engine.max_waiting,
            context_len: config.engine.context_len.value().unwrap_or(usize::MAX),
            max_prefills: config.engine.max_prefills,
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
            observer,
        };
        let engine = Engine::start(
            Arc::clone(&bundle.vlm),
            bundle.reward.clone(),
            Arc::clone(&bundle.tokenizer),
            bounds,
        )?;
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let workers = config.images.workers.value().unwrap_or_else(cores);
        let scorer = |reward| {
            let slots = SCORED_AT_ONCE.min(config.engine.max_batch);
            Arc::new(Scorer::new(
                Arc::clone(&bundle.vlm),
                reward,
                slots,
                engine.context_len(),
            ))
        };
        Ok(Self {
            own_scorer: bundle.reward.clone().map(scorer),
            reader: bundle.reader.clone().map(|(reward, _)| scorer(reward)),
            scoring: Turns::new(1),
            images: ImageCache::new(Arc::clone(&bundle.vlm), config.images.cache_bytes, workers)
                .with_evidence(bundle.evidence.clone()),
            model: bundle.config.name.as_str().into(),
            fingerprint: format!("fp_{version}").into(),
            version,
            warmed: OnceLock::new(),
            registered,
            bundle,
            engine,
        })
    }
}

/// A request's turn: the server, and the version that answers the request from its beginning to its
/// end, whatever is promoted meanwhile.
#[derive(Clone)]
pub(crate) struct RequestContext {
    pub(crate) app: Arc<App>,
    pub(crate) served: Arc<ServedVersion>,
    /// Who competes with it.
    pub(crate) share: Share,
    /// Whose rates count it.
    pub(crate) account: Arc<str>,
    /// Whose images are remembered for it.
    pub(crate) scope: CacheScope,
}

impl RequestContext {
    /// Of the server itself, with the version that is served now.
    pub(crate) fn of(app: &Arc<App>) -> Self {
        Self::with(app, app.served())
    }

    /// Of the server itself, with this version.
    pub(crate) fn with(app: &Arc<App>, served: Arc<ServedVersion>) -> Self {
        Self {
            served,
            app: Arc::clone(app),
            share: Share::default(),
            account: "".into(),
            scope: CacheScope::Owner("".into()),
        }
    }

    /// With the images that are remembered for requests with this salt, where there is one.
    pub(crate) fn salted(mut self, salt: Option<Arc<str>>) -> Self {
        self.scope = salt.map_or(self.scope, CacheScope::Salt);
        self
    }
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
            ..Self::of(app)
        })
    }
}

/// A loaded bundle, and which version of the registry it is.
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
    /// What a server with this configuration begins with: the registry's promoted version; where
    /// that cannot be loaded, the one before it, and so on; else the model of the configuration.
    /// What is passed over is logged.
    ///
    /// # Errors
    /// When the model of the configuration cannot be loaded either.
    pub fn choose(config: &Config, device: &Device) -> Result<Self, BundleError> {
        if let Some(registry) = config.registry.open() {
            let found = registry.and_then(|registry| Ok((registry.state()?, registry)));
            match found {
                Ok((state, registry)) => {
                    for id in candidates(&state) {
                        match Self::load(config, &registry, id, device).and_then(|first| {
                            Ok(check_guards(config, &first.bundle).map(|()| first)?)
                        }) {
                            Ok(first) => return Ok(first),
                            Err(error) => {
                                tracing::error!(version = id, %error, "a version of the registry \
                                    cannot be served; the one before it is tried")
                            }
                        }
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the registry cannot be read; the configuration's \
                                             model is served")
                }
            }
        }
        Bundle::load(&config.model.name, config.model.reward.value(), device).map(Self::from)
    }

    /// The model's name.
    pub fn model(&self) -> &str {
        &self.bundle.config.name
    }

    /// Returns where it computes.
    pub fn device(&self) -> &Device {
        &self.bundle.device
    }

    /// The version as receipts and metrics have it: the registry's, else the bundle's own.
    pub fn version(&self) -> &str {
        self.registered
            .as_deref()
            .unwrap_or(&self.bundle.config.version)
    }

    /// A version of the registry whose files are those that were registered.
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

/// Returns what may be served, by the registry: the promoted version and then those before it, the
/// last one first.
pub(crate) fn candidates(state: &RegistryState) -> impl Iterator<Item = &str> {
    state
        .promoted
        .iter()
        .chain(state.previous.iter().rev())
        .map(String::as_str)
}

fn load(dir: &Path, config: &Config, device: &Device) -> Result<Bundle, BundleError> {
    Bundle::load(&dir.to_string_lossy(), config.model.reward.value(), device)
}

/// Why a version was not loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// The registry's.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Its files do not fit each other.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// It is another model.
    #[error(
        "it is of the model {name}, and clients of this server ask for {served}; restart the \
         server to serve another model"
    )]
    OtherModel {
        /// Its name.
        name: String,
        /// The one that is served.
        served: String,
    },
    /// It does not start, or not with this configuration.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// A mode or a threshold of the configuration that the bundle cannot honour is an error now, not at
/// the first request.
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
    let name = &bundle.config.name;
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
