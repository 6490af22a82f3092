//! Metrics of the engines. During a switch of versions two are running; their loads are added up.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use prometheus::{Error, Gauge, Histogram, IntCounter, IntGauge, Registry};

use super::register::{REWARDS, add, counter, histogram};
use crate::engine::{Load, LoadReader, Observer};

const BETWEEN_TOKENS: [f64; 20] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0,
];
/// Buckets of scoring times in seconds.
pub(super) const SCORING: [f64; 10] = [
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.005, 0.025, 0.1,
];

/// Metrics of all engines.
pub(crate) struct EngineMetrics {
    requests_running: IntGauge,
    requests_waiting: IntGauge,
    kv_cache_usage: Gauge,
    inter_token_latency: Histogram,
    score_seconds: Histogram,
    token_reward: Histogram,
    scorer_failures: IntCounter,
    prefix_queries: IntCounter,
    prefix_hits: IntCounter,
    /// The running engines.
    loads: Mutex<Vec<LoadReader>>,
}

impl EngineMetrics {
    pub(super) fn new(r: &Registry) -> Result<Self, Error> {
        Ok(Self {
            requests_running: add(
                r,
                IntGauge::new("requests_running", "Answers being decoded")?,
            )?,
            requests_waiting: add(
                r,
                IntGauge::new(
                    "requests_waiting",
                    "Requests admitted and waiting for the batch",
                )?,
            )?,
            kv_cache_usage: add(
                r,
                Gauge::new(
                    "kv_cache_usage_ratio",
                    "Share of the key/value cache in use, 0 to 1",
                )?,
            )?,
            inter_token_latency: histogram(
                r,
                "inter_token_latency_seconds",
                "Time between two tokens of an answer as the engine decodes them",
                &BETWEEN_TOKENS,
            )?,
            score_seconds: histogram(
                r,
                "score_seconds",
                "Time of the scorer in one step of the engine",
                &SCORING,
            )?,
            token_reward: histogram(
                r,
                "engine_token_reward",
                "Calibrated rewards of all tokens scored by the engine, sent or not, 0 to 1",
                &REWARDS,
            )?,
            scorer_failures: counter(
                r,
                "scorer_failures_total",
                "Answers whose scorer failed: they fail or, if guard.on_error is fail_open, go out \
                 unchecked",
            )?,
            prefix_queries: counter(
                r,
                "prefix_cache_queries_tokens_total",
                "Prompt tokens looked up in the cache of prompts' beginnings",
            )?,
            prefix_hits: counter(
                r,
                "prefix_cache_hits_tokens_total",
                "Prompt tokens that the cache of prompts' beginnings had",
            )?,
            loads: Mutex::default(),
        })
    }

    /// Sets the gauges to the load of all engines that run now, and returns it.
    pub(super) fn refresh(&self) -> Load {
        let mut loads = Vec::new();
        self.loads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|engine| engine.load().inspect(|&load| loads.push(load)).is_some());
        self.show(&loads)
    }

    fn show(&self, loads: &[Load]) -> Load {
        let all = Load {
            running: loads.iter().map(|load| load.running).sum(),
            waiting: loads.iter().map(|load| load.waiting).sum(),
            kv_usage: loads.iter().map(|load| load.kv_usage).fold(0.0, f64::max),
        };
        self.requests_running.set(all.running as i64);
        self.requests_waiting.set(all.waiting as i64);
        self.kv_cache_usage.set(all.kv_usage);
        all
    }
}

impl Observer for EngineMetrics {
    fn started(&self, load: LoadReader) {
        self.loads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(load);
    }

    fn scorer_failed(&self, answers: usize) {
        self.scorer_failures.inc_by(answers as u64);
    }

    fn prompt(&self, positions: usize, cached: usize) {
        self.prefix_queries.inc_by(positions as u64);
        self.prefix_hits.inc_by(cached as u64);
    }

    fn token(&self, gap: Option<Duration>) {
        if let Some(gap) = gap {
            self.inter_token_latency.observe(gap.as_secs_f64());
        }
    }

    fn scored(&self, rewards: &[f32], took: Duration) {
        rewards
            .iter()
            .for_each(|&reward| self.token_reward.observe(reward.into()));
        self.score_seconds.observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_of_engines_are_added_up() {
        let metrics = EngineMetrics::new(&Registry::new()).unwrap();
        let read = || {
            (
                metrics.requests_running.get(),
                metrics.requests_waiting.get(),
                metrics.kv_cache_usage.get(),
            )
        };
        let load = |running, waiting, kv_usage| Load {
            running,
            waiting,
            kv_usage,
        };
        metrics.show(&[load(3, 2, 0.5), load(1, 0, 0.25)]);
        assert_eq!(read(), (4, 2, 0.5));
        metrics.show(&[]);
        assert_eq!(read(), (0, 0, 0.0));
    }
}
