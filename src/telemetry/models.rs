//! Metrics of versions: which took over from which, and how the shadow does.

use prometheus::{Error, GaugeVec, IntCounter, IntCounterVec, Opts, Registry};

use super::metrics::{add, counter, counters};

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
