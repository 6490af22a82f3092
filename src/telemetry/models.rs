//! Metrics of versions: which took over from which, and how the shadow does.

use std::collections::BTreeMap;

use prometheus::{Error, Gauge, GaugeVec, IntCounter, IntCounterVec, Opts, Registry};

use super::metrics::{add, counter, counters};
use crate::feedback::monitor::MonitorFigures;

/// Metrics of versions.
pub(crate) struct ModelMetrics {
    swaps: IntCounterVec,
    shadow_comparisons: IntCounter,
    shadow_dropped: IntCounter,
    shadow_failures: IntCounter,
    shadow_reward: GaugeVec,
    shadow_flagged: GaugeVec,
}

const OUTCOMES: [&str; 2] = ["served", "refused"];
const BY: [&str; 2] = ["who", "scorer"];

impl ModelMetrics {
    pub(super) fn new(r: &Registry) -> Result<Self, Error> {
        let gauges = |name: &str, help: &str| add(r, GaugeVec::new(Opts::new(name, help), &BY)?);
        Ok(Self {
            swaps: counters(
                r,
                "model_swaps_total",
                "Promotions and rollbacks, by whether the version was then served",
                "outcome",
                &OUTCOMES,
            )?,
            shadow_comparisons: counter(
                r,
                "shadow_comparisons_total",
                "Answers that the shadow was compared on",
            )?,
            shadow_dropped: counter(
                r,
                "shadow_dropped_total",
                "Answers that it was to be compared on, and there was no room",
            )?,
            shadow_failures: counter(
                r,
                "shadow_failures_total",
                "Answers that it could not be compared on",
            )?,
            shadow_reward: gauges(
                "shadow_reward",
                "Mean reward of answers, by whose they are and whose scorer says so: served or \
                 candidate",
            )?,
            shadow_flagged: gauges(
                "shadow_flagged_spans",
                "Flagged spans an answer, by whose it is and whose scorer says so",
            )?,
        })
    }

    /// Another version is served.
    pub(crate) fn swapped(&self) {
        self.swaps.with_label_values(&["served"]).inc();
    }

    /// A version was promoted and cannot be served.
    pub(crate) fn refused(&self) {
        self.swaps.with_label_values(&["refused"]).inc();
    }

    /// The shadow was compared on an answer; these are the means now, of whose answers (`who`) by
    /// whose scorer.
    pub(crate) fn compared(&self, means: impl Iterator<Item = ([&'static str; 2], f64, f64)>) {
        self.shadow_comparisons.inc();
        for (labels, reward, flagged) in means {
            self.shadow_reward.with_label_values(&labels).set(reward);
            self.shadow_flagged.with_label_values(&labels).set(flagged);
        }
    }

    /// There was no room for an answer.
    pub(crate) fn shadow_dropped(&self) {
        self.shadow_dropped.inc();
    }

    /// An answer could not be compared.
    pub(crate) fn shadow_failed(&self) {
        self.shadow_failures.inc();
    }

    /// Another shadow, or none: what was said of the last one is over.
    pub(crate) fn shadow_changed(&self) {
        self.shadow_reward.reset();
        self.shadow_flagged.reset();
    }
}

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
const CYCLE_OUTCOMES: [&str; 4] = ["promoted", "rejected", "outdated", "failed"];

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
                &CYCLE_OUTCOMES,
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
        for outcome in CYCLE_OUTCOMES {
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
