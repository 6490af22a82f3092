//! Metrics of learning from feedback: drift of recent answers, and outcomes of training cycles,
//! which run in other processes.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use serde::Deserialize;

use super::app::{App, blocking};
use crate::{
    feedback::{monitor, store::StoreError},
    reward::drift::{Histogram, MIN_REWARDS},
};

/// Interval between updates of the metrics.
const UPDATE_INTERVAL: Duration = Duration::from_secs(60);

/// Fields of `last.json` that are exported.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CycleOutcomes {
    last_success: Option<u64>,
    outcomes: BTreeMap<String, u64>,
}

/// Reads the outcomes of cycles; `None` before the first or if the file cannot be read.
fn read_outcomes(cycles: &Path) -> Option<CycleOutcomes> {
    let file = cycles.join("last.json");
    let json = std::fs::read(&file).ok()?;
    let read = serde_json::from_slice(&json);
    read.inspect_err(|error| {
        let file = file.display();
        tracing::warn!(%file, %error, "the metrics of training cycles could not be updated");
    })
    .ok()
}

/// Reference for drift of a version whose calibration stores no reward distribution: its first
/// rewards on this server.
#[derive(Default)]
struct FirstRewards {
    version: Arc<str>,
    rewards: Option<Histogram>,
}

/// Updates the metrics of training cycles. They are read before the first scrape, to which counters
/// that begin at 0 would look like a new series.
pub(super) async fn update_cycles(app: &App) {
    let cycles = Path::new(&app.config.cycle.dir).to_owned();
    if let Ok(Some(last)) = blocking(move || read_outcomes(&cycles)).await {
        app.metrics
            .learning
            .set_cycles(&last.outcomes, last.last_success);
    }
}

/// Keeps the metrics of learning up to date.
pub(super) async fn watch(app: Arc<App>) {
    let mut first = FirstRewards::default();
    let mut times = tokio::time::interval(UPDATE_INTERVAL);
    loop {
        times.tick().await;
        update_cycles(&app).await;
        if let Err(error) = update_drift(&app, &mut first).await {
            tracing::warn!(%error, "the metrics of drift could not be updated");
        }
    }
}

async fn update_drift(app: &App, first: &mut FirstRewards) -> Result<(), StoreError> {
    let Some(corrections) = &app.corrections else {
        return Ok(());
    };
    let (store, served) = (corrections.store().as_ref(), app.served());
    if first.version != served.version {
        *first = FirstRewards {
            version: Arc::clone(&served.version),
            rewards: None,
        };
    }
    let calibrated = served
        .bundle
        .calibration
        .as_ref()
        .and_then(|calibration| calibration.rewards.as_ref());
    if calibrated.is_none() && first.rewards.is_none() {
        let rewards = monitor::rewards(store, &served.version).await?;
        first.rewards = Some(rewards).filter(|rewards| rewards.total() >= MIN_REWARDS);
    }
    let seen = monitor::measure(
        store,
        &served.version,
        calibrated.or(first.rewards.as_ref()),
    )
    .await?;
    app.metrics.learning.set_quality(&seen);
    Ok(())
}
