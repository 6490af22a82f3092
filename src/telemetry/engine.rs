//! Load of all engines: during a switch of versions, two are running.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::Metrics;
use crate::engine::Observer;

/// Running sequences, waiting requests, and share of the key/value cache in use.
type Load = (usize, usize, f64);

/// Loads of the running engines by number.
#[derive(Default)]
pub(super) struct Loads {
    by_engine: Mutex<HashMap<u64, Load>>,
    next: AtomicU64,
}

impl Loads {
    /// Records one engine's load (`None`: it has ended) and publishes the total.
    fn record(&self, engine: u64, load: Option<Load>, metrics: &Metrics) {
        let mut loads = self
            .by_engine
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match load {
            Some(load) => loads.insert(engine, load),
            None => loads.remove(&engine),
        };
        let (running, waiting, usage) = loads.values().fold((0, 0, 0.0), |(r, w, u), load| {
            (r + load.0, w + load.1, load.2.max(u))
        });
        metrics.load(running, waiting, usage);
    }
}

/// Observer that reports one engine's work to the metrics.
pub(crate) struct EngineMetrics {
    metrics: Arc<Metrics>,
    number: u64,
}

impl EngineMetrics {
    /// Creates the observer of another engine.
    pub(crate) fn observer(metrics: &Arc<Metrics>) -> Arc<dyn Observer> {
        let number = metrics.loads.next.fetch_add(1, Relaxed);
        Arc::new(Self {
            metrics: Arc::clone(metrics),
            number,
        })
    }
}

impl Drop for EngineMetrics {
    fn drop(&mut self) {
        self.metrics.loads.record(self.number, None, &self.metrics);
    }
}

impl Observer for EngineMetrics {
    fn load(&self, running: usize, waiting: usize, kv_usage: f64) {
        self.metrics.loads.record(
            self.number,
            Some((running, waiting, kv_usage)),
            &self.metrics,
        );
    }

    fn token(&self, gap: Option<Duration>) {
        self.metrics.token(gap);
    }

    fn scored(&self, rewards: &[f32], took: Duration) {
        self.metrics.scored(rewards, took);
    }
}
