//! Metrics of learning: whether rewards still mean what they did, and how cycles end.

use std::collections::BTreeMap;

use prometheus::{Error, Gauge, IntCounterVec, Registry};

use super::metrics::{add, counters};
use crate::feedback::monitor::MonitorFigures;

/// Metrics of learning. A gauge that nothing is known of yet is no number, which no alert fires on.
pub(crate) struct LearningMetrics {
    auroc: Gauge,
    ece: Gauge,
    psi: Gauge,
    flag_agreement: Gauge,
    last_success: Gauge,
    outcomes: IntCounterVec,
}

/// Outcomes that a cycle can have.
pub(crate) const OUTCOMES: [&str; 4] = ["promoted", "rejected", "outdated", "failed"];

impl LearningMetrics {
    pub(super) fn new(r: &Registry) -> Result<Self, Error> {
        let gauge = |name: &str, help: &str| {
            let gauge = add(r, Gauge::new(name, help)?)?;
            gauge.set(f64::NAN);
            Ok::<_, Error>(gauge)
        };
        Ok(Self {
            auroc: gauge(
                "reward_auroc",
                "Area under the ROC curve of the served version's rewards on recent corrections' \
                 words",
            )?,
            ece: gauge(
                "reward_ece",
                "Expected calibration error of those rewards, 0 to 1",
            )?,
            psi: gauge(
                "reward_drift_psi",
                "Population stability index of recent answers' rewards against those of the \
                 calibration",
            )?,
            flag_agreement: gauge(
                "flag_agreement_ratio",
                "Of the words that the guard flagged or people marked, the share that both did",
            )?,
            last_success: gauge(
                "cycle_last_success_timestamp_seconds",
                "When a cycle last came to its end, whatever the gate said",
            )?,
            outcomes: counters(
                r,
                "cycle_outcome_total",
                "Cycles by how they ended",
                "outcome",
                &OUTCOMES,
            )?,
        })
    }

    /// Sets the gauges of the scorer to what recent answers and corrections say of it.
    pub(crate) fn seen(&self, seen: &MonitorFigures) {
        let known = [
            (&self.auroc, seen.auroc),
            (&self.ece, seen.ece),
            (&self.psi, seen.psi),
            (&self.flag_agreement, seen.flag_agreement),
        ];
        known
            .into_iter()
            .for_each(|(gauge, value)| gauge.set(value.unwrap_or(f64::NAN)));
    }

    /// Sets the counts of how cycles ended up to now.
    pub(crate) fn cycles(&self, outcomes: &BTreeMap<String, u64>, last_success: Option<u64>) {
        self.last_success
            .set(last_success.map_or(f64::NAN, |time| time as f64));
        for outcome in OUTCOMES {
            let counter = self.outcomes.with_label_values(&[outcome]);
            let now = outcomes.get(outcome).copied().unwrap_or(0);
            // Another directory of cycles may have fewer: a counter starts anew then, as after a
            // restart.
            if now < counter.get() {
                counter.reset();
            }
            counter.inc_by(now - counter.get());
        }
    }
}
