//! Metrics of the engines. During a switch of versions two are running; their loads are added up.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use prometheus::{Error, Gauge, Histogram, IntGauge, Registry};

use super::register::{REWARDS, add, histogram};
use crate::engine::Observer;

const BETWEEN_TOKENS: [f64; 20] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0,
];
/// Buckets of scoring times in seconds.
pub(super) const SCORING: [f64; 10] = [
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.005, 0.025, 0.1,
];

/// Load of one engine.
#[derive(Clone, Copy)]
struct Load {
    running: usize,
    waiting: usize,
    /// Share of the key/value cache in use, 0 to 1.
    kv_usage: f64,
}

/// Metrics of all engines.
pub(crate) struct EngineMetrics {
    requests_running: IntGauge,
    requests_waiting: IntGauge,
    kv_cache_usage: Gauge,
    inter_token_latency: Histogram,
    score_seconds: Histogram,
    token_reward: Histogram,
    /// Loads of the running engines by number.
    loads: Mutex<HashMap<u64, Load>>,
    next: AtomicU64,
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
            loads: Mutex::default(),
            next: AtomicU64::default(),
        })
    }

    /// Records one engine's load (`None`: it has ended) and sets the gauges to the total.
    fn record_load(&self, engine: u64, load: Option<Load>) {
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        match load {
            Some(load) => loads.insert(engine, load),
            None => loads.remove(&engine),
        };
        let running: usize = loads.values().map(|load| load.running).sum();
        let waiting: usize = loads.values().map(|load| load.waiting).sum();
        let kv_usage = loads.values().map(|load| load.kv_usage).fold(0.0, f64::max);
        self.requests_running.set(running as i64);
        self.requests_waiting.set(waiting as i64);
        self.kv_cache_usage.set(kv_usage);
    }
}

/// Observer that reports one engine's work to the metrics until it is dropped.
pub(crate) struct EngineObserver {
    metrics: Arc<EngineMetrics>,
    number: u64,
}

impl EngineObserver {
    /// Starts the observer of another engine.
    pub(crate) fn start(metrics: &Arc<EngineMetrics>) -> Arc<dyn Observer> {
        Arc::new(Self {
            metrics: Arc::clone(metrics),
            number: metrics.next.fetch_add(1, Relaxed),
        })
    }
}

impl Drop for EngineObserver {
    fn drop(&mut self) {
        self.metrics.record_load(self.number, None);
    }
}

impl Observer for EngineObserver {
    fn load(&self, running: usize, waiting: usize, kv_usage: f64) {
        let load = Load {
            running,
            waiting,
            kv_usage,
        };
        self.metrics.record_load(self.number, Some(load));
    }

    fn token(&self, gap: Option<Duration>) {
        if let Some(gap) = gap {
            self.metrics.inter_token_latency.observe(gap.as_secs_f64());
        }
    }

    fn scored(&self, rewards: &[f32], took: Duration) {
        rewards
            .iter()
            .for_each(|&reward| self.metrics.token_reward.observe(reward.into()));
        self.metrics.score_seconds.observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_of_several_engines_is_added_up_until_they_end() {
        let metrics = Arc::new(EngineMetrics::new(&Registry::new()).unwrap());
        let read = || {
            (
                metrics.requests_running.get(),
                metrics.requests_waiting.get(),
                metrics.kv_cache_usage.get(),
            )
        };
        let (old, new) = (
            EngineObserver::start(&metrics),
            EngineObserver::start(&metrics),
        );
        old.load(3, 2, 0.5);
        new.load(1, 0, 0.25);
        assert_eq!(read(), (4, 2, 0.5));
        drop(old);
        assert_eq!(read(), (1, 0, 0.25));
        drop(new);
        assert_eq!(read(), (0, 0, 0.0));
    }
}
