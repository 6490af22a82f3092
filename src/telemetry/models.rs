//! Metrics of model versions: switches, shadow comparisons, the scorer's quality and training
//! cycles.

use std::collections::BTreeMap;

use prometheus::{Error, Gauge, GaugeVec, IntCounter, IntCounterVec, Opts, Registry};

use super::register::{add, counter, counters};
use crate::feedback::monitor::MonitorFigures;

/// Metrics of version switches and the shadow.
pub(crate) struct ModelMetrics {
    swaps: IntCounterVec,
    shadow_comparisons: IntCounter,
    shadow_dropped: IntCounter,
    shadow_failures: IntCounter,
    shadow_reward: GaugeVec,
    shadow_flagged: GaugeVec,
}

const OUTCOMES: [&str; 2] = ["served", "refused"];
const SHADOW_LABELS: [&str; 2] = ["who", "scorer"];

impl ModelMetrics {
    pub(super) fn new(r: &Registry) -> Result<Self, Error> {
        let gauges =
            |name: &str, help: &str| add(r, GaugeVec::new(Opts::new(name, help), &SHADOW_LABELS)?);
        Ok(Self {
            swaps: counters(
                r,
                "model_swaps_total",
                "Promotions and rollbacks, by whether the version could be served",
                "outcome",
                &OUTCOMES,
            )?,
            shadow_comparisons: counter(
                r,
                "shadow_comparisons_total",
                "Answers compared with the shadow",
            )?,
            shadow_dropped: counter(
                r,
                "shadow_dropped_total",
                "Answers not compared with the shadow for lack of capacity",
            )?,
            shadow_failures: counter(
                r,
                "shadow_failures_total",
                "Answers whose comparison with the shadow failed",
            )?,
            shadow_reward: gauges(
                "shadow_reward",
                "Mean reward of answers, by the version that wrote and the version that scored \
                 them: served or candidate",
            )?,
            shadow_flagged: gauges(
                "shadow_flagged_spans",
                "Mean number of flagged spans of an answer, by the version that wrote and the \
                 version that scored it",
            )?,
        })
    }

    /// Counts a switch to another version.
    pub(crate) fn count_switch(&self) {
        self.swaps.with_label_values(&["served"]).inc();
    }

    /// Counts a promoted version that could not be served.
    pub(crate) fn count_refused(&self) {
        self.swaps.with_label_values(&["refused"]).inc();
    }

    /// Counts a comparison with the shadow and sets the mean rewards and flagged spans by (author,
    /// scorer).
    pub(crate) fn count_comparison(
        &self,
        means: impl Iterator<Item = ([&'static str; 2], f64, f64)>,
    ) {
        self.shadow_comparisons.inc();
        for (labels, reward, flagged) in means {
            self.shadow_reward.with_label_values(&labels).set(reward);
            self.shadow_flagged.with_label_values(&labels).set(flagged);
        }
    }

    /// Counts an answer that was not compared for lack of capacity.
    pub(crate) fn count_dropped(&self) {
        self.shadow_dropped.inc();
    }

    /// Counts an answer whose comparison failed.
    pub(crate) fn count_failed(&self) {
        self.shadow_failures.inc();
    }

    /// Clears the means when the shadow changes or ends.
    pub(crate) fn clear_shadow(&self) {
        self.shadow_reward.reset();
        self.shadow_flagged.reset();
    }
}

/// Metrics of the scorer's quality and of training cycles. A gauge without data is NaN, so that no
/// alert fires.
pub(crate) struct LearningMetrics {
    auroc: Gauge,
    ece: Gauge,
    psi: Gauge,
    flag_agreement: Gauge,
    last_success: Gauge,
    outcomes: IntCounterVec,
}

/// Outcomes of a cycle.
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
                "Words both flagged by the guard and marked by people, as a share of the words \
                 that were either",
            )?,
            last_success: gauge(
                "cycle_last_success_timestamp_seconds",
                "End of the last completed cycle, promoted or not, in seconds since 1970",
            )?,
            outcomes: counters(
                r,
                "cycle_outcome_total",
                "Training cycles by outcome",
                "outcome",
                &CYCLE_OUTCOMES,
            )?,
        })
    }

    /// Sets the gauges of the scorer's quality from recent answers and corrections.
    pub(crate) fn set_quality(&self, figures: &MonitorFigures) {
        let known = [
            (&self.auroc, figures.auroc),
            (&self.ece, figures.ece),
            (&self.psi, figures.psi),
            (&self.flag_agreement, figures.flag_agreement),
        ];
        known
            .into_iter()
            .for_each(|(gauge, value)| gauge.set(value.unwrap_or(f64::NAN)));
    }

    /// Sets the number of cycles by outcome, and the Unix time of the last success.
    pub(crate) fn set_cycles(&self, outcomes: &BTreeMap<String, u64>, last_success: Option<u64>) {
        self.last_success
            .set(last_success.map_or(f64::NAN, |time| time as f64));
        for outcome in CYCLE_OUTCOMES {
            let counter = self.outcomes.with_label_values(&[outcome]);
            let now = outcomes.get(outcome).copied().unwrap_or(0);
            // Another folder of cycles may have fewer; the counter then restarts, as after a
            // restart of the process.
            if now < counter.get() {
                counter.reset();
            }
            counter.inc_by(now - counter.get());
        }
    }
}
