//! Every metric, declared once. A name, once shipped, stays.

use std::{sync::Arc, time::Duration};

use prometheus::{
    Error, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry, TextEncoder, core::Collector,
};

use super::{
    answers::AnswerMetrics, connections::ConnectionMetrics, engines::Loads, http::HttpMetrics,
    learning::LearningMetrics, models::ModelMetrics, process::ProcessMetrics,
};
use crate::{
    engine::Observer,
    feedback::{queue::ratings::Agreement, record::JudgmentKind, store::queue::QueueLength},
    guard::{Thresholds, Verdict},
    util::time::since_epoch,
};

/// All metrics, in a registry of their own. Names have the prefix `candor_`; where vLLM has a
/// metric, its name and its buckets are vLLM's, with finer ones below for small models. Metrics of
/// the process have Prometheus' names.
pub struct Metrics {
    registry: Registry,
    process: Option<ProcessMetrics>,
    requests_running: IntGauge,
    requests_waiting: IntGauge,
    inter_token_latency: Histogram,
    image_cache_queries: IntCounter,
    image_cache_hits: IntCounter,
    image_fetches: IntCounterVec,
    kv_cache_usage: Gauge,
    score_seconds: Histogram,
    engine_token_reward: Histogram,
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
    config_reloads: IntCounterVec,
    auth_failures: IntCounterVec,
    limited_requests: IntCounterVec,
    admitted_requests: IntGauge,
    /// Of answers.
    pub(crate) answers: AnswerMetrics,
    /// Of connections.
    pub(crate) connections: Arc<ConnectionMetrics>,
    /// Of HTTP requests.
    pub(crate) http: HttpMetrics,
    /// Of versions of models.
    pub(crate) models: ModelMetrics,
    pub(crate) learning: LearningMetrics,
    pub(super) loads: Loads,
}

impl Metrics {
    /// Declares them all.
    ///
    /// # Errors
    /// When a name is declared twice or is no metric name.
    pub fn new() -> Result<Self, Error> {
        let registry = Registry::new_custom(Some("candor".to_owned()), None)?;
        let r = &registry;
        let start = add(
            r,
            Gauge::new(
                "start_time_seconds",
                "When counting began, in seconds since 1970",
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
        Ok(Self {
            process: ProcessMetrics::new()?,
            requests_running: add(
                r,
                IntGauge::new("requests_running", "Answers being written")?,
            )?,
            requests_waiting: add(
                r,
                IntGauge::new(
                    "requests_waiting",
                    "Requests let in and not in the batch yet",
                )?,
            )?,
            inter_token_latency: histogram(
                r,
                "inter_token_latency_seconds",
                "Between two tokens of an answer as the engine writes them",
                &BETWEEN_TOKENS,
            )?,
            image_cache_queries: counter(
                r,
                "image_cache_queries_total",
                "Images looked up in the cache of encodings",
            )?,
            image_cache_hits: counter(r, "image_cache_hits_total", "Images found there")?,
            image_fetches: counters(
                r,
                "image_fetches_total",
                "Images fetched by URL, by how that ended",
                "outcome",
                &FETCHED,
            )?,
            kv_cache_usage: add(
                r,
                Gauge::new(
                    "kv_cache_usage_ratio",
                    "Share of the key/value cache in use, 0 to 1",
                )?,
            )?,
            score_seconds: histogram(
                r,
                "score_seconds",
                "The scorer's time in one step of the engine",
                &SCORING,
            )?,
            engine_token_reward: histogram(
                r,
                "engine_token_reward",
                "Calibrated rewards of all tokens that the engine scored, shown or not, 0 to 1",
                &REWARDS,
            )?,
            scored_texts: counters(
                r,
                "scored_texts_total",
                "Texts sent to be scored, by the guard's verdict",
                "verdict",
                &VERDICTS.map(verdict_name),
            )?,
            scored_text_tokens: counter(
                r,
                "scored_text_tokens_total",
                "Tokens of texts sent to be scored",
            )?,
            scored_text_seconds: histogram(
                r,
                "scored_text_seconds",
                "Time in which a group of texts was scored",
                &SCORING,
            )?,
            model_info: add(
                r,
                GaugeVec::new(
                    Opts::new("model_info", "1 for the model that is served"),
                    &["model", "version"],
                )?,
            )?,
            guard_threshold: add(
                r,
                GaugeVec::new(
                    Opts::new(
                        "guard_threshold",
                        "Reward below which a word is flagged where a request does not say, by \
                         kind of word",
                    ),
                    &["kind"],
                )?,
            )?,
            feedback_agreement: add(
                r,
                GaugeVec::new(
                    Opts::new(
                        "feedback_agreement_ratio",
                        "Krippendorff's alpha of annotators, by the kind of error; all: of all \
                         words",
                    ),
                    &["kind"],
                )?,
            )?,
            queue_length,
            feedback: counters(
                r,
                "feedback_total",
                "Corrections that were kept, by what they say",
                "label",
                &LABELS,
            )?,
            config_reloads: counters(
                r,
                "config_reloads_total",
                "Configurations read again, by what became of them",
                "outcome",
                &RELOADS,
            )?,
            auth_failures: counters(
                r,
                "auth_failures_total",
                "Requests refused for their key, by what is wrong with it",
                "reason",
                &DENIED,
            )?,
            admitted_requests: add(
                r,
                IntGauge::new(
                    "admitted_requests",
                    "Requests with work that were let in and are not answered",
                )?,
            )?,
            limited_requests: counters(
                r,
                "limited_requests_total",
                "Requests refused with 429, by the limit that they were above",
                "limit",
                &LIMITS,
            )?,
            receipts_dropped: counter(
                r,
                "receipts_dropped_total",
                "Completions that were not remembered for want of room",
            )?,
            receipts_kept_bytes: add(
                r,
                IntGauge::new(
                    "receipts_kept_bytes",
                    "Bytes of remembered completions with their images, about",
                )?,
            )?,
            answers: AnswerMetrics::new(r)?,
            connections: Arc::new(ConnectionMetrics::new(r)?),
            http: HttpMetrics::new(r)?,
            models: ModelMetrics::new(r)?,
            learning: LearningMetrics::new(r)?,
            loads: Loads::default(),
            registry,
        })
    }

    /// Says which model is served.
    pub fn serves(&self, model: &str, version: &str) {
        self.model_info.reset();
        self.model_info
            .with_label_values(&[model, version])
            .set(1.0);
    }

    /// An image was looked up in the cache.
    pub fn image(&self, hit: bool) {
        self.image_cache_queries.inc();
        if hit {
            self.image_cache_hits.inc();
        }
    }

    /// An image was fetched, or was not; `outcome` is one of the few that there are.
    pub fn fetch(&self, outcome: &'static str) {
        self.image_fetches.with_label_values(&[outcome]).inc();
    }

    /// Shows the thresholds of requests that do not say; `None`: nothing is scored.
    pub(crate) fn set_thresholds(&self, thresholds: Option<&Thresholds>) {
        let set = |kind: &str, value: Option<f32>| {
            self.guard_threshold
                .with_label_values(&[kind])
                .set(value.map_or(f64::NAN, f64::from))
        };
        let common = thresholds.map(|of| of.common);
        set("common", common);
        set("yes_no", thresholds.and_then(|of| of.yes_no).or(common));
        for (class, own) in thresholds.map(|of| of.by_class).unwrap_or_default().each() {
            set(class, own.or(common));
        }
    }

    /// Tokens of texts that others wrote were scored; `took` is the scorer's own time.
    pub fn scored_tokens(&self, tokens: usize, took: Duration) {
        self.scored_text_tokens.inc_by(tokens as u64);
        self.scored_text_seconds.observe(took.as_secs_f64());
    }

    /// The verdict on a text that somebody else wrote.
    pub fn scored_text(&self, verdict: Verdict) {
        self.scored_texts
            .with_label_values(&[verdict_name(verdict)])
            .inc();
    }

    /// A correction was kept.
    pub fn feedback(&self, kind: JudgmentKind) {
        self.feedback.with_label_values(&[kind.name()]).inc();
    }

    /// Sets how far annotators agree, by kind.
    pub fn agreement(&self, agreement: &Agreement) {
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

    /// Sets the length of the annotators' queue, by state.
    pub fn queue(&self, length: &QueueLength) {
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

    /// Counts a configuration that was read again; `outcome` is `applied` or `refused`.
    pub(crate) fn count_reload(&self, outcome: &'static str) {
        self.config_reloads.with_label_values(&[outcome]).inc();
    }

    /// Counts a request that was refused for its key; `reason` is one of the few that there are.
    pub(crate) fn auth_failure(&self, reason: &'static str) {
        self.auth_failures.with_label_values(&[reason]).inc();
    }

    /// Counts a request that was let in (1) or is answered (-1).
    pub(crate) fn count_admitted(&self, change: i64) {
        self.admitted_requests.add(change);
    }

    /// Counts a request that was above a limit, one of the few that there are.
    pub(crate) fn count_limited(&self, limit: &'static str) {
        self.limited_requests.with_label_values(&[limit]).inc();
    }

    /// A completion was not remembered.
    pub fn receipt_dropped(&self) {
        self.receipts_dropped.inc();
    }

    /// Sets the number of bytes that receipts take, with their images.
    pub(crate) fn set_receipt_bytes(&self, bytes: u64) {
        self.receipts_kept_bytes
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Everything in Prometheus' text format, version 0.0.4.
    ///
    /// # Errors
    /// When the encoder fails, which it does for families without a metric; ours have one.
    pub fn text(&self) -> Result<String, Error> {
        let process = self
            .process
            .as_ref()
            .map(ProcessMetrics::gather)
            .unwrap_or_default();
        TextEncoder::new().encode_to_string(&[self.registry.gather(), process].concat())
    }
}

impl Observer for Metrics {
    fn load(&self, running: usize, waiting: usize, kv_usage: f64) {
        self.requests_running.set(running as i64);
        self.requests_waiting.set(waiting as i64);
        self.kv_cache_usage.set(kv_usage);
    }

    fn token(&self, gap: Option<Duration>) {
        if let Some(gap) = gap {
            self.inter_token_latency.observe(gap.as_secs_f64());
        }
    }

    fn scored(&self, rewards: &[f32], took: Duration) {
        rewards
            .iter()
            .for_each(|&reward| self.engine_token_reward.observe(reward.into()));
        self.score_seconds.observe(took.as_secs_f64());
    }
}

/// The verdict as the API writes it.
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

/// One counter for each of `values`, there from the start so that a rate can be told from the first
/// event on.
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

const LABELS: [&str; 3] = ["bad", "good", "missing"];
const FETCHED: [&str; 5] = ["fetched", "forbidden", "too_large", "timeout", "failed"];
const LIMITS: [&str; 4] = ["requests", "tokens", "concurrency", "work"];
const RELOADS: [&str; 2] = ["applied", "refused"];
const DENIED: [&str; 4] = ["missing", "malformed", "unknown", "scope"];
const QUEUE_STATES: [&str; 5] = ["open", "leased", "unassisted", "done", "skipped"];
pub(super) const VERDICTS: [Verdict; 6] = [
    Verdict::Clean,
    Verdict::Flagged,
    Verdict::Repaired,
    Verdict::Blocked,
    Verdict::Unscored,
    Verdict::Abstained,
];
const BETWEEN_TOKENS: [f64; 20] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0,
];
pub(super) const REWARDS: [f64; 14] = [
    0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0,
];
const SCORING: [f64; 10] = [
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.005, 0.025, 0.1,
];
