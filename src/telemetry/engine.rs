//! The load of several engines together: while one version takes over from another, both have
//! requests.

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

/// Sequences that run, requests that wait, share of the cache in use.
type Load = (usize, usize, f64);

/// Load of every engine.
#[derive(Default)]
pub(super) struct Loads {
    of: Mutex<HashMap<u64, Load>>,
    engines: AtomicU64,
}

impl Loads {
    /// Notes one engine's load (`None`: it has ended) and shows that of all.
    fn tell(&self, engine: u64, load: Option<Load>, metrics: &Metrics) {
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        match load {
            Some(load) => of.insert(engine, load),
            None => of.remove(&engine),
        };
        let (running, waiting, usage) = of.values().fold((0, 0, 0.0), |(r, w, u), load| {
            (r + load.0, w + load.1, load.2.max(u))
        });
        metrics.load(running, waiting, usage);
    }
}

/// Observer of one engine, which passes what it does on to the metrics.
pub(crate) struct EngineMetrics {
    metrics: Arc<Metrics>,
    number: u64,
}

impl EngineMetrics {
    /// For another engine.
    pub(crate) fn of(metrics: &Arc<Metrics>) -> Arc<dyn Observer> {
        let number = metrics.loads.engines.fetch_add(1, Relaxed);
        Arc::new(Self {
            metrics: Arc::clone(metrics),
            number,
        })
    }
}

impl Drop for EngineMetrics {
    fn drop(&mut self) {
        self.metrics.loads.tell(self.number, None, &self.metrics);
    }
}

impl Observer for EngineMetrics {
    fn load(&self, running: usize, waiting: usize, kv_usage: f64) {
        self.metrics.loads.tell(
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
