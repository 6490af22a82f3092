//! Gauges under vLLM's names, which gateways read to choose a replica.

use std::time::Duration;

use prometheus::{Error, GaugeVec, Opts, Registry, proto::MetricFamily};

use super::register::add;
use crate::{engine::Load, util::time::since_epoch};

/// Gauges with the names and labels of vLLM's.
pub(super) struct VllmMetrics {
    registry: Registry,
    running: GaugeVec,
    waiting: GaugeVec,
    kv_usage: GaugeVec,
    adapters: GaugeVec,
}

impl VllmMetrics {
    pub(super) fn new() -> Result<Self, Error> {
        let registry = Registry::new();
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            add(&registry, GaugeVec::new(Opts::new(name, help), labels)?)
        };
        Ok(Self {
            running: gauge(
                "vllm:num_requests_running",
                "Answers being decoded",
                &["model_name"],
            )?,
            waiting: gauge(
                "vllm:num_requests_waiting",
                "Requests admitted and waiting for the batch",
                &["model_name"],
            )?,
            kv_usage: gauge(
                "vllm:kv_cache_usage_perc",
                "Share of the key/value cache in use, 0 to 1",
                &["model_name"],
            )?,
            adapters: gauge(
                "vllm:lora_requests_info",
                "Unix time of the report; no adapters are served",
                &["max_lora", "running_lora_adapters", "waiting_lora_adapters"],
            )?,
            registry,
        })
    }

    /// Returns the gauges for the load of all engines.
    pub(super) fn gather(&self, model: &str, load: Load) -> Vec<MetricFamily> {
        for gauge in [&self.running, &self.waiting, &self.kv_usage] {
            gauge.reset();
        }
        let set = |gauge: &GaugeVec, value: f64| gauge.with_label_values(&[model]).set(value);
        set(&self.running, load.running as f64);
        set(&self.waiting, load.waiting as f64);
        set(&self.kv_usage, load.kv_usage);
        let now: Duration = since_epoch();
        self.adapters
            .with_label_values(&["0", "", ""])
            .set(now.as_secs_f64());
        self.registry.gather()
    }
}
