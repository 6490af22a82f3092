//! Shadow evaluation: a version answers a share of users' requests again in the background, one at
//! a time, and both answers are scored by both versions' scorers.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Duration, Instant, sleep},
};

pub(crate) use super::shadow_totals::{Comparison, ShadowProgress};
use super::{
    app::App, served::ServedVersion, shadow_comparison::compare, shadow_totals::ShadowTotals,
    switch::load_beside,
};
use crate::{
    engine::CacheScope, registry::ShadowVersion, util::digest::HashedFile,
    vlm::processor::message::Message,
};

/// Answers that may wait for comparison; more are dropped.
const WAITING: usize = 32;
/// Longest wait of a comparison for the served version's engine to become idle.
const PATIENCE: Duration = Duration::from_secs(2);

/// The shadow version, if there is one.
#[derive(Default)]
pub(crate) struct Shadowing(Mutex<Option<Active>>);

/// A running shadow.
struct Active {
    shadow: ShadowVersion,
    samples: mpsc::Sender<Sample>,
    account: Arc<Account>,
    task: JoinHandle<()>,
}

impl Drop for Active {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Progress of a shadow.
#[derive(Default)]
struct Account {
    totals: Mutex<ShadowTotals>,
    dropped: AtomicU64,
}

impl Account {
    fn totals(&self) -> MutexGuard<'_, ShadowTotals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A user's request and the served version's answer.
pub(super) struct Sample {
    pub(super) served: Arc<ServedVersion>,
    pub(super) question: ShadowQuestion,
    pub(super) answer: String,
}

/// Request of a user that the shadow answers too.
#[derive(Debug, Clone)]
pub(crate) struct ShadowQuestion {
    pub(crate) file: Arc<HashedFile>,
    /// Scope of cached image encodings.
    pub(crate) scope: CacheScope,
    pub(crate) messages: Vec<Message>,
    pub(crate) max_tokens: usize,
    pub(crate) stop: Vec<String>,
}

/// A request sampled for comparison.
pub(crate) struct ShadowRequest {
    app: Arc<App>,
    served: Arc<ServedVersion>,
    samples: mpsc::Sender<Sample>,
    account: Arc<Account>,
    question: ShadowQuestion,
}

impl ShadowRequest {
    /// Queues the answer for comparison, or drops it if too many wait.
    pub(crate) fn submit_answer(self, answer: &str) {
        let Self {
            app,
            served,
            samples,
            account,
            question,
        } = self;
        if samples
            .try_send(Sample {
                served,
                question,
                answer: answer.to_owned(),
            })
            .is_err()
        {
            account.dropped.fetch_add(1, Relaxed);
            app.metrics.models.count_dropped();
        }
    }
}

impl Shadowing {
    fn active(&self) -> MutexGuard<'_, Option<Active>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts, changes or stops the shadow.
    pub(crate) fn set(&self, app: &Arc<App>, shadow: Option<ShadowVersion>) {
        let mut active = self.active();
        match (&mut *active, shadow) {
            (None, None) => {}
            (Some(now), Some(shadow)) if now.shadow.id == shadow.id => {
                now.shadow.share = shadow.share
            }
            (_, shadow) => {
                app.metrics.models.clear_shadow();
                *active = shadow.map(|shadow| start(app, shadow));
            }
        }
    }

    /// Stops the shadow immediately.
    pub(crate) fn stop(&self) {
        *self.active() = None;
    }

    /// Samples a request with the shadow's share as probability; `question` is only evaluated if it
    /// is sampled.
    pub(crate) fn sample(
        &self,
        app: &Arc<App>,
        served: &Arc<ServedVersion>,
        question: impl FnOnce() -> ShadowQuestion,
    ) -> Option<ShadowRequest> {
        let active = self.active();
        let active = active
            .as_ref()
            .filter(|active| rand::random::<f64>() < active.shadow.share)?;
        let (samples, account) = (active.samples.clone(), Arc::clone(&active.account));
        Some(ShadowRequest {
            app: Arc::clone(app),
            served: Arc::clone(served),
            samples,
            account,
            question: question(),
        })
    }

    /// Returns the shadow's results; `None` without a shadow.
    pub(crate) fn comparison(&self) -> Option<Comparison> {
        let active = self.active();
        let Active {
            shadow, account, ..
        } = active.as_ref()?;
        Some(
            account
                .totals()
                .comparison(shadow, account.dropped.load(Relaxed)),
        )
    }
}

fn start(app: &Arc<App>, shadow: ShadowVersion) -> Active {
    let (samples, waiting) = mpsc::channel(WAITING);
    let account = Arc::<Account>::default();
    let task = tokio::spawn(run(
        Arc::clone(app),
        shadow.id.clone(),
        Arc::clone(&account),
        waiting,
    ));
    Active {
        shadow,
        samples,
        account,
        task,
    }
}

/// Loads the version and compares answers one after the other.
async fn run(
    app: Arc<App>,
    id: String,
    account: Arc<Account>,
    mut waiting: mpsc::Receiver<Sample>,
) {
    let candidate = match load_beside(&app, &id).await {
        Ok(candidate) => candidate,
        Err(reason) => {
            tracing::error!(version = id, reason, "the shadow cannot be loaded");
            account.totals().progress = ShadowProgress::Failed { reason };
            return;
        }
    };
    tracing::info!(
        version = id,
        "comparing a share of the answers with the shadow version"
    );
    account.totals().progress = ShadowProgress::Comparing;
    while let Some(sample) = waiting.recv().await {
        wait_until_idle(&app).await;
        let served = Arc::clone(&sample.served.version);
        match compare(&app, &candidate, sample).await {
            Ok(compared) => {
                let mut totals = account.totals();
                totals.add(&served, &compared);
                app.metrics.models.count_comparison(totals.means());
            }
            Err(reason) => {
                tracing::warn!(
                    version = id,
                    reason,
                    "an answer could not be compared with the shadow version's"
                );
                account.totals().failed += 1;
                app.metrics.models.count_failed();
            }
        }
    }
}

/// Gives users priority: waits, up to a limit, until the served engine is idle.
async fn wait_until_idle(app: &App) {
    let until = Instant::now() + PATIENCE;
    while !app.served().engine.health().idle && Instant::now() < until {
        sleep(Duration::from_millis(10)).await;
    }
}
