//! Registration of metrics, and the labels and buckets that several of them share.

use prometheus::{
    Error, Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry, core::Collector,
};

use crate::{
    engine::{EngineError, FinishReason},
    guard::Verdict,
};

/// Returns the verdict's name in the API.
pub(crate) fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Clean => "clean",
        Verdict::Flagged => "flagged",
        Verdict::Repaired => "repaired",
        Verdict::Blocked => "blocked",
        Verdict::Unscored => "unscored",
        Verdict::Abstained => "abstained",
    }
}

/// Returns the name of an answer's end.
pub(super) fn ending_name(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::ContentFilter => "content_filter",
    }
}

/// Returns the name of a failure.
pub(super) fn failure_name(error: &EngineError) -> &'static str {
    match error {
        EngineError::QueueFull { .. } => "queue_full",
        EngineError::Invalid(_) | EngineError::PromptTooLong { .. } => "invalid",
        EngineError::ShuttingDown => "shutting_down",
        EngineError::Scorer(_) => "scorer",
        EngineError::Model(_) => "model",
    }
}

pub(super) fn add<M: Collector + Clone + 'static>(
    registry: &Registry,
    metric: M,
) -> Result<M, Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

pub(super) fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, Error> {
    add(registry, IntCounter::new(name, help)?)
}

/// Registers a counter for each of `values`, which exist from the start so that rates include the
/// first event.
pub(super) fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
    values: &[&str],
) -> Result<IntCounterVec, Error> {
    let vec = IntCounterVec::new(Opts::new(name, help), &[label])?;
    values
        .iter()
        .for_each(|&value| vec.with_label_values(&[value]).reset());
    add(registry, vec)
}

pub(super) fn histogram(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: &[f64],
) -> Result<Histogram, Error> {
    add(
        registry,
        Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?,
    )
}

pub(super) const VERDICTS: [Verdict; 6] = [
    Verdict::Clean,
    Verdict::Flagged,
    Verdict::Repaired,
    Verdict::Blocked,
    Verdict::Unscored,
    Verdict::Abstained,
];

pub(super) const REWARDS: [f64; 14] = [
    0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0,
];
