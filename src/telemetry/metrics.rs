//! Every metric, declared once. A name, once shipped, stays.

use std::time::Duration;

use prometheus::{
    Error, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder, core::Collector,
};

use super::{engines::Loads, learning::LearningMetrics, models::ModelMetrics};
use crate::{
    engine::{EngineError, FinishReason, Observer, Outcome},
    feedback::{queue::ratings::Agreement, record::Kind, store::queue::Length},
    guard::{Action, Verdict},
};

/// All metrics, in a registry of their own. Names have the prefix `candor_`; where vLLM has a metric, its name and its buckets are vLLM's, with
/// finer ones below for small models.
pub struct Metrics {
    registry: Registry,
    requests_running: IntGauge,
    requests_waiting: IntGauge,
    request_success: IntCounterVec,
    request_failure: IntCounterVec,
    time_to_first_token: Histogram,
    inter_token_latency: Histogram,
    e2e_request_latency: Histogram,
    prompt_tokens: IntCounter,
    generation_tokens: IntCounter,
    image_cache_queries: IntCounter,
    image_cache_hits: IntCounter,
    image_fetches: IntCounterVec,
    kv_cache_usage: Gauge,
    token_reward: Histogram,
    scored_tokens: IntCounter,
    flagged_tokens: IntCounter,
    flagged_spans: IntCounterVec,
    repair_attempts: IntCounterVec,
    repair_extra_tokens: IntCounter,
    responses: IntCounterVec,
    scored_texts: IntCounterVec,
    score_seconds: Histogram,
    model_info: GaugeVec,
    http_requests: IntCounterVec,
    feedback: IntCounterVec,
    feedback_agreement: GaugeVec,
    queue_length: GaugeVec,
    receipts_dropped: IntCounter,
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
        Ok(Self {
            requests_running: add(r, IntGauge::new("requests_running", "Answers being written")?)?,
            requests_waiting: add(r, IntGauge::new("requests_waiting", "Requests let in and not in the batch yet")?)?,
            request_success: counters(
                r,
                "request_success_total",
                "Answers by how they ended; abort: the client left",
                "finished_reason",
                &FINISHED,
            )?,
            request_failure: counters(r, "request_failure_total", "Accepted requests that failed, by why", "reason", &FAILED)?,
            time_to_first_token: histogram(
                r,
                "time_to_first_token_seconds",
                "From submission to the first text that is shown",
                &FIRST_TOKEN,
            )?,
            inter_token_latency: histogram(r, "inter_token_latency_seconds", "Between two tokens of an answer", &BETWEEN_TOKENS)?,
            e2e_request_latency: histogram(r, "e2e_request_latency_seconds", "From submission to the complete answer", &WHOLE_ANSWER)?,
            prompt_tokens: counter(r, "prompt_tokens_total", "Tokens of the prompts of complete answers, image positions included")?,
            generation_tokens: counter(r, "generation_tokens_total", "Tokens written")?,
            image_cache_queries: counter(r, "image_cache_queries_total", "Images looked up in the cache of encodings")?,
            image_cache_hits: counter(r, "image_cache_hits_total", "Images found there")?,
            image_fetches: counters(r, "image_fetches_total", "Images fetched by URL, by how that ended", "outcome", &FETCHED)?,
            kv_cache_usage: add(r, Gauge::new("kv_cache_usage_ratio", "Share of the key/value cache in use, 0 to 1")?)?,
            token_reward: histogram(r, "token_reward", "Calibrated rewards of written tokens, 0 to 1", &REWARDS)?,
            scored_tokens: counter(r, "scored_tokens_total", "Tokens that were scored, written here or sent to be scored")?,
            flagged_tokens: counter(r, "flagged_tokens_total", "Tokens of doubted words in complete answers")?,
            flagged_spans: counters(r, "flagged_spans_total", "Doubted spans by what was done about them", "action", &ACTIONS)?,
            repair_attempts: counters(r, "repair_attempts_total", "Versions of doubted places that were tried", "outcome", &ATTEMPTS)?,
            repair_extra_tokens: counter(r, "repair_extra_tokens_total", "Tokens decoded for repairs and not kept")?,
            responses: counters(r, "responses_total", "Complete answers by the guard's verdict", "verdict", &VERDICTS)?,
            scored_texts: counters(r, "scored_texts_total", "Texts sent to be scored, by the guard's verdict", "verdict", &VERDICTS)?,
            score_seconds: histogram(r, "score_seconds", "The scorer's time in one step", &SCORING)?,
            model_info: add(r, GaugeVec::new(Opts::new("model_info", "1 for the model that is served"), &["model", "version"])?)?,
            http_requests: add(r, IntCounterVec::new(Opts::new("http_requests_total", "HTTP requests answered"), &["route", "status"])?)?,
            feedback_agreement: add(
                r,
                GaugeVec::new(
                    Opts::new("feedback_agreement_ratio", "Krippendorff's alpha of annotators, by the kind of error; all: of all words"),
                    &["kind"],
                )?,
            )?,
            queue_length: add(
                r,
                GaugeVec::new(Opts::new("annotation_queue_length", "Answers in the annotation queue, by state"), &["state"])?,
            )?,
            feedback: counters(r, "feedback_total", "Corrections that were kept, by what they say", "label", &LABELS)?,
            receipts_dropped: counter(r, "receipts_dropped_total", "Completions that were not remembered for want of room")?,
            models: ModelMetrics::new(r)?,
            learning: LearningMetrics::new(r)?,
            loads: Loads::default(),
            registry,
        })
    }

    /// Says which model is served.
    pub fn serves(&self, model: &str, version: &str) {
        self.model_info.reset();
        self.model_info.with_label_values(&[model, version]).set(1.0);
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

    /// Tokens of texts that others wrote were scored; `took` is the scorer's own time. Their rewards are not among `token_reward`, which shows what the
    /// policy writes.
    pub fn scored_tokens(&self, tokens: usize, took: Duration) {
        self.scored_tokens.inc_by(tokens as u64);
        self.score_seconds.observe(took.as_secs_f64());
    }

    /// The verdict on a text that somebody else wrote.
    pub fn scored_text(&self, verdict: Verdict) {
        self.scored_texts.with_label_values(&[verdict_name(verdict)]).inc();
    }

    /// An HTTP request was answered. `route` is a path of the routing table, so that clients cannot invent series.
    pub fn http(&self, route: &str, status: u16) {
        self.http_requests.with_label_values(&[route, &status.to_string()]).inc();
    }

    /// A correction was kept.
    pub fn feedback(&self, kind: Kind) {
        self.feedback.with_label_values(&[kind.name()]).inc();
    }

    /// How far annotators agree.
    pub fn agreement(&self, agreement: &Agreement) {
        let kinds = agreement.by_kind.iter().map(|(kind, figures)| (*kind, figures));
        for (kind, figures) in kinds.chain([("all", &agreement.overall)]) {
            if let Some(alpha) = figures.alpha {
                self.feedback_agreement.with_label_values(&[kind]).set(alpha);
            }
        }
    }

    /// How much annotators have to do.
    pub fn queue(&self, length: &Length) {
        let Length { open, leased, unassisted, done, skipped } = *length;
        for (state, count) in [("open", open), ("leased", leased), ("unassisted", unassisted), ("done", done), ("skipped", skipped)] {
            self.queue_length.with_label_values(&[state]).set(count as f64);
        }
    }

    /// A completion was not remembered.
    pub fn receipt_dropped(&self) {
        self.receipts_dropped.inc();
    }

    /// Everything in Prometheus' text format, version 0.0.4.
    ///
    /// # Errors
    /// When the encoder fails, which it does for families without a metric; ours have one.
    pub fn text(&self) -> Result<String, Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

impl Observer for Metrics {
    fn load(&self, running: usize, waiting: usize, kv_usage: f64) {
        self.requests_running.set(running as i64);
        self.requests_waiting.set(waiting as i64);
        self.kv_cache_usage.set(kv_usage);
    }

    fn first_delta(&self, after: Duration) {
        self.time_to_first_token.observe(after.as_secs_f64());
    }

    fn token(&self, gap: Option<Duration>) {
        self.generation_tokens.inc();
        if let Some(gap) = gap {
            self.inter_token_latency.observe(gap.as_secs_f64());
        }
    }

    fn scored(&self, rewards: &[f32], took: Duration) {
        rewards.iter().for_each(|&r| self.token_reward.observe(r.into()));
        self.scored_tokens.inc_by(rewards.len() as u64);
        self.score_seconds.observe(took.as_secs_f64());
    }

    fn finished(&self, outcome: &Outcome<'_>) {
        let reason = match outcome.reason {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::ContentFilter => "content_filter",
        };
        self.request_success.with_label_values(&[reason]).inc();
        self.e2e_request_latency.observe(outcome.elapsed.as_secs_f64());
        self.prompt_tokens.inc_by(outcome.prompt_tokens as u64);
        self.flagged_tokens.inc_by(outcome.doubted_tokens as u64);
        let verdict = outcome.guard.map_or(Verdict::Unscored, |report| report.verdict);
        self.responses.with_label_values(&[verdict_name(verdict)]).inc();
        if let Some(report) = outcome.guard {
            let taken = report.spans.iter().filter(|span| span.original.is_some()).count() as u64;
            self.repair_attempts.with_label_values(&["taken"]).inc_by(taken);
            self.repair_attempts.with_label_values(&["dropped"]).inc_by(u64::from(report.attempts).saturating_sub(taken));
            self.repair_extra_tokens.inc_by(report.extra_tokens.into());
        }
        for span in outcome.guard.iter().flat_map(|report| &report.spans) {
            self.flagged_spans.with_label_values(&[action_name(span.action)]).inc();
        }
    }

    fn failed(&self, error: &EngineError) {
        let reason = match error {
            EngineError::QueueFull { .. } => "queue_full",
            EngineError::Invalid(_) | EngineError::PromptTooLong { .. } => "invalid",
            EngineError::ShuttingDown => "shutting_down",
            EngineError::Scorer(_) => "scorer",
            EngineError::Model(_) => "model",
        };
        self.request_failure.with_label_values(&[reason]).inc();
    }

    fn cancelled(&self) {
        self.request_success.with_label_values(&["abort"]).inc();
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
    }
}

fn action_name(action: Action) -> &'static str {
    match action {
        Action::Flagged => "flagged",
        Action::Regenerated => "regenerated",
        Action::Hedged => "hedged",
        Action::Omitted => "omitted",
        Action::Blocked => "blocked",
    }
}

pub(super) fn add<M: Collector + Clone + 'static>(registry: &Registry, metric: M) -> Result<M, Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

pub(super) fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, Error> {
    add(registry, IntCounter::new(name, help)?)
}

/// One counter for each of `values`, there from the start so that a rate can be told from the first event on.
pub(super) fn counters(registry: &Registry, name: &str, help: &str, label: &str, values: &[&str]) -> Result<IntCounterVec, Error> {
    let vec = IntCounterVec::new(Opts::new(name, help), &[label])?;
    values.iter().for_each(|&value| vec.with_label_values(&[value]).reset());
    add(registry, vec)
}

fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, Error> {
    add(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?)
}

/// What became of a version that was tried.
const ATTEMPTS: [&str; 2] = ["taken", "dropped"];

const LABELS: [&str; 3] = ["bad", "good", "missing"];
const FINISHED: [&str; 4] = ["stop", "length", "content_filter", "abort"];
const FAILED: [&str; 3] = ["shutting_down", "scorer", "model"];
const FETCHED: [&str; 5] = ["fetched", "forbidden", "too_large", "timeout", "failed"];
const VERDICTS: [&str; 3] = ["clean", "flagged", "unscored"];
const ACTIONS: [&str; 1] = ["flagged"];
const FIRST_TOKEN: [f64; 20] =
    [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0];
const BETWEEN_TOKENS: [f64; 20] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
const WHOLE_ANSWER: [f64; 20] =
    [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0];
const REWARDS: [f64; 14] = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0];
const SCORING: [f64; 10] = [0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.005, 0.025, 0.1];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::{Mode, Report, Span};

    #[test]
    fn what_the_engine_tells_is_what_is_shown() {
        let metrics = Metrics::new().unwrap();
        metrics.serves("candor-mini", "7");
        metrics.load(3, 2, 0.25);
        metrics.token(None);
        metrics.token(Some(Duration::from_millis(3)));
        metrics.scored(&[0.125, 0.97], Duration::from_micros(40));
        let span = Span::new(0..3, "cat", 0.1, Action::Flagged);
        let report = Report { verdict: Verdict::Flagged, score: Some(0.1), spans: vec![span], ..Report::new(Mode::Flag, 0.5.into()) };
        metrics.finished(&Outcome {
            reason: FinishReason::Stop,
            prompt_tokens: 55,
            completion_tokens: 2,
            doubted_tokens: 1,
            elapsed: Duration::from_millis(20),
            guard: Some(&report),
        });
        metrics.cancelled();
        metrics.failed(&EngineError::ShuttingDown);
        metrics.image(true);
        metrics.image(false);
        metrics.fetch("timeout");
        metrics.http("/v1/models", 200);
        metrics.scored_tokens(3, Duration::from_millis(2));
        metrics.scored_text(Verdict::Clean);
        let text = metrics.text().unwrap();
        for line in [
            "candor_requests_running 3",
            "candor_requests_waiting 2",
            "candor_kv_cache_usage_ratio 0.25",
            "candor_generation_tokens_total 2",
            "candor_inter_token_latency_seconds_count 1",
            "candor_token_reward_bucket{le=\"0.2\"} 1",
            "candor_scored_tokens_total 5",
            "candor_score_seconds_count 2",
            "candor_scored_texts_total{verdict=\"clean\"} 1",
            "candor_flagged_tokens_total 1",
            "candor_flagged_spans_total{action=\"flagged\"} 1",
            "candor_responses_total{verdict=\"flagged\"} 1",
            "candor_request_success_total{finished_reason=\"stop\"} 1",
            "candor_request_success_total{finished_reason=\"abort\"} 1",
            "candor_request_failure_total{reason=\"shutting_down\"} 1",
            "candor_prompt_tokens_total 55",
            "candor_e2e_request_latency_seconds_bucket{le=\"0.025\"} 1",
            "candor_image_cache_queries_total 2",
            "candor_image_cache_hits_total 1",
            "candor_image_fetches_total{outcome=\"timeout\"} 1",
            "candor_image_fetches_total{outcome=\"forbidden\"} 0",
            "candor_model_info{model=\"candor-mini\",version=\"7\"} 1",
            "candor_http_requests_total{route=\"/v1/models\",status=\"200\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }
}
