//! What the server knows of learning from corrections: it looks at recent answers and corrections
//! itself, and reads how cycles end, which run elsewhere.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use serde::Deserialize;

use super::app::{App, blocking};
use crate::{
    feedback::{monitor, store::StoreError},
    reward::drift::{Histogram, MIN_REWARDS},
};

/// How often the metrics are brought up to date.
const WATCH: Duration = Duration::from_secs(60);

/// What of `last.json` is shown.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Last {
    last_success: Option<u64>,
    outcomes: BTreeMap<String, u64>,
}

/// Reads how cycles ended; `None` where none has yet, or the file cannot be read.
fn last(cycles: &Path) -> Option<Last> {
    let file = cycles.join("last.json");
    let json = std::fs::read(&file).ok()?;
    let read = serde_json::from_slice(&json);
    read.inspect_err(
        |error| tracing::warn!(file = %file.display(), %error, "the metrics of cycles are old"),
    )
    .ok()
}

/// What rewards of a version are compared with whose calibration does not say how they were
/// distributed: its first ones, since this server serves it.
#[derive(Default)]
struct First {
    version: Arc<str>,
    rewards: Option<Histogram>,
}

/// Keeps the metrics of learning up to date.
pub(super) async fn watch(app: Arc<App>) {
    let cycles = Path::new(&app.config.cycle.dir).to_owned();
    let mut first = First::default();
    let mut times = tokio::time::interval(WATCH);
    loop {
        times.tick().await;
        let cycles = cycles.clone();
        if let Ok(Some(last)) = blocking(move || last(&cycles)).await {
            app.metrics
                .learning
                .set_cycles(&last.outcomes, last.last_success);
        }
        if let Err(error) = look(&app, &mut first).await {
            tracing::warn!(%error, "the metrics of drift are old");
        }
    }
}

async fn look(app: &App, first: &mut First) -> Result<(), StoreError> {
    let Some(corrections) = &app.corrections else {
        return Ok(());
    };
    let (store, served) = (corrections.store().as_ref(), app.served());
    if first.version != served.version {
        *first = First {
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
