//! Registry of all metrics. Shipped names never change.

use std::{sync::Arc, time::Duration};

use prometheus::{
    Error, Gauge, GaugeVec, Histogram, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

use super::{
    answers::AnswerMetrics,
    engine::{EngineMetrics, SCORING},
    http::{ConnectionMetrics, HttpMetrics},
    models::{LearningMetrics, ModelMetrics},
    process::{ProcessMetrics, memory_limit},
    register::{VERDICTS, add, counter, counters, histogram, verdict_name},
    vllm::VllmMetrics,
};
use crate::{
    feedback::{queue::ratings::Agreement, record::JudgmentKind, store::queue::QueueLength},
    guard::{Thresholds, Verdict},
    util::time::since_epoch,
};

/// All metrics of the server. Names have the prefix `candor_`; metrics that vLLM has too use its
/// names and buckets, with finer buckets below for small models. Metrics of the process use
/// Prometheus' standard names.
pub struct Metrics {
    registry: Registry,
    process: Option<ProcessMetrics>,
    image_cache_queries: IntCounter,
    image_cache_hits: IntCounter,
    image_cache_bytes: IntGauge,
    image_fetches: IntCounterVec,
    scored_texts: IntCounterVec,
    scored_text_tokens: IntCounter,
    scored_text_seconds: Histogram,
    model_info: GaugeVec,
    guard_threshold: GaugeVec,
    feedback: IntCounterVec,
    feedback_agreement: GaugeVec,
    queue_length: GaugeVec,
    receipts_dropped: IntCounter,
    receipts_kept_bytes: IntGauge,
    store_failures: IntCounter,
    store_free_bytes: IntGauge,
    /// Spans of traces that were lost.
    pub(crate) trace_spans_dropped: IntCounter,
    config_reloads: IntCounterVec,
    auth_failures: IntCounterVec,
    limited_requests: IntCounterVec,
    admitted_requests: IntGauge,
    /// Gauges under vLLM's names and the model's, if they are wanted.
    vllm: Option<(VllmMetrics, String)>,
    /// Metrics of the engines.
    pub(crate) engine: Arc<EngineMetrics>,
    /// Metrics of answers.
    pub(crate) answers: AnswerMetrics,
    /// Metrics of connections.
    pub(crate) connections: Arc<ConnectionMetrics>,
    /// Metrics of HTTP requests.
    pub(crate) http: HttpMetrics,
    /// Metrics of versions and the shadow.
    pub(crate) models: ModelMetrics,
    /// Metrics of the scorer's quality and of training cycles.
    pub(crate) learning: LearningMetrics,
}

impl Metrics {
    /// Registers all metrics.
    ///
    /// # Errors
    /// Returns an error if a name is invalid or registered twice.
    pub fn new() -> Result<Self, Error> {
        let registry = Registry::new_custom(Some("candor".to_owned()), None)?;
        let r = &registry;
        let start = add(
            r,
            Gauge::new(
                "start_time_seconds",
                "Start of counting, in seconds since 1970",
            )?,
        )?;
        start.set(since_epoch().as_secs_f64());
        let build = add(
            r,
            GaugeVec::new(
                Opts::new("build_info", "1 for the version of this program"),
                &["version"],
            )?,
        )?;
        build
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1.0);
        let queue_length = add(
            r,
            GaugeVec::new(
                Opts::new(
                    "annotation_queue_length",
                    "Answers in the annotation queue, by state",
                ),
                &["state"],
            )?,
        )?;
        QUEUE_STATES
            .iter()
            .for_each(|&state| queue_length.with_label_values(&[state]).set(0.0));
        let limit = add(
            r,
            IntGauge::new(
                "memory_limit_bytes",
                "Memory that the process may take: its control group's limit, or the machine's",
            )?,
        )?;
        limit.set(i64::try_from(memory_limit()).unwrap_or(i64::MAX));
        Ok(Self {
            process: ProcessMetrics::new()?,
            image_cache_queries: counter(
                r,
                "image_cache_queries_total",
                "Lookups in the cache of encoded images",
            )?,
            image_cache_hits: counter(
                r,
                "image_cache_hits_total",
                "Lookups that found an encoded image",
            )?,
            image_cache_bytes: add(
                r,
                IntGauge::new(
                    "image_cache_bytes",
                    "Memory of the cache of encoded images in bytes",
                )?,
            )?,
            image_fetches: counters(
                r,
                "image_fetches_total",
                "Images fetched by URL, by outcome",
                "outcome",
                &FETCH_OUTCOMES,
            )?,
            scored_texts: counters(
                r,
                "scored_texts_total",
                "Texts submitted for scoring, by the guard's verdict",
                "verdict",
                &VERDICTS.map(verdict_name),
            )?,
            scored_text_tokens: counter(
                r,
                "scored_text_tokens_total",
                "Tokens of texts submitted for scoring",
            )?,
            scored_text_seconds: histogram(
                r,
                "scored_text_seconds",
                "Time of scoring a group of texts",
                &SCORING,
            )?,
            model_info: add(
                r,
                GaugeVec::new(
                    Opts::new("model_info", "1 for the served model"),
                    &["model", "version"],
                )?,
            )?,
            guard_threshold: add(
                r,
                GaugeVec::new(
                    Opts::new(
                        "guard_threshold",
                        "Default reward below which a word is flagged, by kind of word",
                    ),
                    &["kind"],
                )?,
            )?,
            feedback_agreement: add(
                r,
                GaugeVec::new(
                    Opts::new(
                        "feedback_agreement_ratio",
                        "Krippendorff's alpha of annotators, by kind of error; all: all words",
                    ),
                    &["kind"],
                )?,
            )?,
            queue_length,
            feedback: counters(
                r,
                "feedback_total",
                "Stored corrections by label",
                "label",
                &LABELS,
            )?,
            config_reloads: counters(
                r,
                "config_reloads_total",
                "Configuration reloads by outcome",
                "outcome",
                &RELOADS,
            )?,
            auth_failures: counters(
                r,
                "auth_failures_total",
                "Requests refused because of their key, by reason",
                "reason",
                &AUTH_FAILURES,
            )?,
            admitted_requests: add(
                r,
                IntGauge::new("admitted_requests", "Admitted requests in progress")?,
            )?,
            limited_requests: counters(
                r,
                "limited_requests_total",
                "Requests refused with 429, by limit",
                "limit",
                &LIMITS,
            )?,
            receipts_dropped: counter(
                r,
                "receipts_dropped_total",
                "Completions without a receipt for lack of space",
            )?,
            receipts_kept_bytes: add(
                r,
                IntGauge::new(
                    "receipts_kept_bytes",
                    "Approximate size of receipts and their images in bytes",
                )?,
            )?,
            store_failures: counter(
                r,
                "store_failures_total",
                "Operations of the feedback store that failed",
            )?,
            store_free_bytes: add(
                r,
                IntGauge::new(
                    "store_free_bytes",
                    "Free bytes on the file systems of the server's local data, of the fullest one",
                )?,
            )?,
            trace_spans_dropped: counter(
                r,
                "trace_spans_dropped_total",
                "Spans of traces that the collector did not take in time",
            )?,
            vllm: None,
            engine: Arc::new(EngineMetrics::new(r)?),
            answers: AnswerMetrics::new(r)?,
            connections: Arc::new(ConnectionMetrics::new(r)?),
            http: HttpMetrics::new(r)?,
            models: ModelMetrics::new(r)?,
            learning: LearningMetrics::new(r)?,
            registry,
        })
    }

    /// Shows the load under vLLM's names too, for `model`.
    ///
    /// # Errors
    /// Returns an error if a name is invalid.
    pub(crate) fn show_vllm_names(&mut self, model: &str) -> Result<(), Error> {
        self.vllm = Some((VllmMetrics::new()?, model.to_owned()));
        Ok(())
    }

    /// Sets the memory of the cache of encoded images.
    pub(crate) fn set_image_cache_bytes(&self, bytes: u64) {
        self.image_cache_bytes
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Sets the free bytes of the file system that holds the server's data.
    pub(crate) fn set_store_free_bytes(&self, bytes: u64) {
        self.store_free_bytes
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Raises the number of the feedback store's failures to `all`.
    pub(crate) fn set_store_failures(&self, all: u64) {
        let counted = self.store_failures.get();
        self.store_failures.inc_by(all.saturating_sub(counted));
    }

    /// Sets the served model.
    pub fn set_model(&self, model: &str, version: &str) {
        self.model_info.reset();
        self.model_info
            .with_label_values(&[model, version])
            .set(1.0);
    }

    /// Counts a lookup in the image cache.
    pub fn count_image_lookup(&self, hit: bool) {
        self.image_cache_queries.inc();
        if hit {
            self.image_cache_hits.inc();
        }
    }

    /// Counts an image fetch by its outcome.
    pub fn count_fetch(&self, outcome: &'static str) {
        self.image_fetches.with_label_values(&[outcome]).inc();
    }

    /// Sets the default thresholds; `None` if nothing is scored.
    pub(crate) fn set_thresholds(&self, thresholds: Option<&Thresholds>) {
        let set = |kind: &str, value: Option<f32>| {
            self.guard_threshold
                .with_label_values(&[kind])
                .set(value.map_or(f64::NAN, f64::from))
        };
        let common = thresholds.map(|thresholds| thresholds.common);
        set("common", common);
        set(
            "yes_no",
            thresholds
                .and_then(|thresholds| thresholds.yes_no)
                .or(common),
        );
        for (class, own) in thresholds
            .map(|thresholds| thresholds.by_class)
            .unwrap_or_default()
            .entries()
        {
            set(class, own.or(common));
        }
    }

    /// Counts tokens of submitted texts and the scorer's time for them.
    pub fn count_scored_tokens(&self, tokens: usize, took: Duration) {
        self.scored_text_tokens.inc_by(tokens as u64);
        self.scored_text_seconds.observe(took.as_secs_f64());
    }

    /// Counts a submitted text by its verdict.
    pub fn count_scored_text(&self, verdict: Verdict) {
        self.scored_texts
            .with_label_values(&[verdict_name(verdict)])
            .inc();
    }

    /// Counts a stored correction.
    pub fn count_feedback(&self, kind: JudgmentKind) {
        self.feedback.with_label_values(&[kind.name()]).inc();
    }

    /// Sets the agreement of annotators by kind of error.
    pub fn set_agreement(&self, agreement: &Agreement) {
        let kinds = agreement
            .by_kind
            .iter()
            .map(|(kind, figures)| (*kind, figures));
        for (kind, figures) in kinds.chain([("all", &agreement.overall)]) {
            if let Some(alpha) = figures.alpha {
                self.feedback_agreement
                    .with_label_values(&[kind])
                    .set(alpha);
            }
        }
    }

    /// Sets the length of the annotation queue by state.
    pub fn set_queue_length(&self, length: &QueueLength) {
        let QueueLength {
            open,
            leased,
            unassisted,
            done,
            skipped,
        } = *length;
        for (state, count) in QUEUE_STATES
            .into_iter()
            .zip([open, leased, unassisted, done, skipped])
        {
            self.queue_length
                .with_label_values(&[state])
                .set(count as f64);
        }
    }

    /// Counts a configuration reload; `outcome` is `applied` or `refused`.
    pub(crate) fn count_reload(&self, outcome: &'static str) {
        self.config_reloads.with_label_values(&[outcome]).inc();
    }

    /// Counts a request refused because of its key.
    pub(crate) fn count_auth_failure(&self, reason: &'static str) {
        self.auth_failures.with_label_values(&[reason]).inc();
    }

    /// Changes the number of admitted requests: 1 on admission, -1 on completion.
    pub(crate) fn count_admitted(&self, change: i64) {
        self.admitted_requests.add(change);
    }

    /// Counts a request refused by a limit.
    pub(crate) fn count_limited(&self, limit: &'static str) {
        self.limited_requests.with_label_values(&[limit]).inc();
    }

    /// Counts a receipt that was not stored.
    pub fn count_dropped_receipt(&self) {
        self.receipts_dropped.inc();
    }

    /// Sets the size in bytes of receipts and their images.
    pub(crate) fn set_receipt_bytes(&self, bytes: u64) {
        self.receipts_kept_bytes
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Returns all metrics in Prometheus' text format, version 0.0.4.
    ///
    /// # Errors
    /// Returns an error if the encoder fails, which it does only for families without a metric.
    pub fn text(&self) -> Result<String, Error> {
        let load = self.engine.refresh();
        let vllm = self
            .vllm
            .as_ref()
            .map(|(gauges, model)| gauges.gather(model, load))
            .unwrap_or_default();
        let process = self
            .process
            .as_ref()
            .map(ProcessMetrics::gather)
            .unwrap_or_default();
        TextEncoder::new().encode_to_string(&[self.registry.gather(), vllm, process].concat())
    }
}

const LABELS: [&str; 3] = ["bad", "good", "missing"];
const FETCH_OUTCOMES: [&str; 5] = ["fetched", "forbidden", "too_large", "timeout", "failed"];
const LIMITS: [&str; 4] = ["requests", "tokens", "concurrency", "work"];
const RELOADS: [&str; 2] = ["applied", "refused"];
const AUTH_FAILURES: [&str; 4] = ["missing", "malformed", "unknown", "scope"];
const QUEUE_STATES: [&str; 5] = ["open", "leased", "unassisted", "done", "skipped"];
