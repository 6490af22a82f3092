//! The sections of the configuration, with their defaults.

use std::{path::Path, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Auto, keys::digest};
use crate::{
    bundle::OpenOptions,
    device::DeviceChoice,
    engine::{GuardParams, OnError},
    guard::{self, Mode, OnExhausted, OnUnanswerable},
    registry::{self, RegistryError},
    reward::RewardKind,
    telemetry::{LogFormat, TraceSettings},
    vlm::weights::{BlockFormat, WeightsDtype},
};

/// HTTP server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerSection {
    /// Address to listen at, `HOST:PORT`; port 0 picks a free one.
    pub listen: String,
    /// `true` to allow a server without keys that other machines can reach.
    pub insecure: bool,
    /// File with one more key beside [`super::Config::keys`], or `off`.
    pub key_file: String,
    /// Maximum number of open connections. A new one then replaces the one that has been idle
    /// longest.
    pub max_connections: usize,
    /// Maximum number of connections of one address (IPv6: one /64 network); auto: half of
    /// `max_connections`.
    pub max_connections_per_address: Auto<usize>,
    /// Maximum number of completions and score requests in progress; further ones get 429.
    pub max_concurrent: usize,
    /// Largest request body in bytes; larger ones get 413.
    pub max_body_bytes: usize,
    /// Memory in bytes for request bodies and the images in them, at least twice `max_body_bytes`;
    /// requests wait for their share.
    pub max_body_memory_bytes: usize,
    /// Minimum transfer rate of a body in bytes a second, received or sent, once the timeouts'
    /// grace is used up.
    pub min_body_rate: u64,
    /// Timeout in seconds for the headers, for the body, and between two requests.
    pub read_timeout_s: u64,
    /// Timeout in seconds of a write that the client does not read.
    pub write_timeout_s: u64,
    /// Timeout in seconds from the last byte of the request to the last byte of the response.
    pub request_timeout_s: u64,
    /// Seconds after SIGTERM in which requests are still accepted, while `/health/ready` is 503.
    pub shutdown_delay_s: u64,
    /// Seconds that running answers get to finish after that.
    pub drain_deadline_s: u64,
    /// Origins allowed by CORS: exact ones, or `*` for any.
    pub cors_origins: Vec<String>,
    /// Accepted `Host` names beside those of this machine.
    pub allowed_hosts: Vec<String>,
    /// Separate address for health and metrics, `HOST:PORT`; auto: none.
    pub operations_listen: Auto<String>,
    /// Handling of messages that the model cannot use.
    pub on_unsupported: OnUnsupported,
}

/// Handling of messages that the model cannot use: system messages and earlier turns that its
/// prompt does not include.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnsupported {
    /// Answers the request and lists them in `warnings`.
    #[default]
    Warn,
    /// Refuses the request.
    Reject,
}

impl Default for ServerSection {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            insecure: false,
            key_file: "off".to_owned(),
            max_connections: 1024,
            max_connections_per_address: Auto::Auto,
            max_concurrent: 128,
            max_body_bytes: 20 * 1024 * 1024 + NON_IMAGE_BYTES,
            max_body_memory_bytes: 256 * 1024 * 1024,
            min_body_rate: 1024,
            read_timeout_s: 30,
            write_timeout_s: 30,
            request_timeout_s: 120,
            shutdown_delay_s: 0,
            drain_deadline_s: 20,
            cors_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            operations_listen: Auto::Auto,
            on_unsupported: OnUnsupported::default(),
        }
    }
}

/// Largest value of a rate.
pub(super) const MAX_RATE: u64 = 1_000_000_000;

/// Largest value of [`LimitsSection::max_choices`]: OpenAI's bound on `n`.
pub(super) const MAX_CHOICES: usize = 128;

/// Limits for each client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    /// Maximum number of answers decoded for one request: `n` times `guard.candidates`.
    pub max_choices: usize,
    /// `POST` requests a minute, for each key without a rate of its own or, without keys, for each
    /// client address; 0: unlimited.
    pub requests_per_minute: u64,
    /// Prompt and completion tokens a minute, counted in the same way; 0: unlimited.
    pub tokens_per_minute: u64,
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self {
            max_choices: 16,
            requests_per_minute: 0,
            tokens_per_minute: 0,
        }
    }
}

/// Bytes of a request body reserved for everything but the image.
const NON_IMAGE_BYTES: usize = 256 * 1024;

/// Returns the size in bytes of the largest image file that fits, as base64, in a request's body of
/// `max_body_bytes`.
pub fn largest_image(max_body_bytes: usize) -> usize {
    max_body_bytes.saturating_sub(NON_IMAGE_BYTES) / 4 * 3
}

/// Served model and its device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSection {
    /// Name of an embedded bundle, directory of a bundle or a checkpoint, a GGUF file, or
    /// repository on the Hub (`org/name[@revision]`).
    pub name: String,
    /// Bundle whose scorer judges the model's texts, by name or directory; auto: the model's own.
    pub scorer: Auto<String>,
    /// Number format of a checkpoint's matrices in memory; auto: that of its files.
    pub dtype: WeightsDtype,
    /// Block format that a checkpoint's matrices are quantized to while they are loaded.
    pub quantize: Auto<BlockFormat>,
    /// Device that holds the weights.
    pub device: DeviceChoice,
    /// Number of compute threads; auto: one a core.
    pub threads: Auto<usize>,
    /// Scorer to use; auto: the bundle's default.
    pub reward: Auto<RewardKind>,
    /// Licenses that models and scorers may have, by identifier; none: any.
    pub require_license: Vec<String>,
}

impl ModelSection {
    /// Returns how the model is opened.
    pub fn open_options(&self) -> OpenOptions {
        OpenOptions {
            reward: self.reward.value(),
            scorer: self.scorer.clone().value(),
            dtype: self.dtype,
            quantize: self.quantize.value(),
        }
    }
}

impl Default for ModelSection {
    fn default() -> Self {
        Self {
            name: "candor-mini".to_owned(),
            scorer: Auto::Auto,
            dtype: WeightsDtype::Auto,
            quantize: Auto::Auto,
            device: DeviceChoice::Auto,
            threads: Auto::Auto,
            reward: Auto::Auto,
            require_license: Vec::new(),
        }
    }
}

/// Engine: batch size and context length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineSection {
    /// Maximum number of sequences in the batch.
    pub max_batch: usize,
    /// Maximum number of requests waiting for the batch; further ones get 429.
    pub max_waiting: usize,
    /// Maximum number of prompts read in one step.
    pub max_prefills: usize,
    /// Maximum number of prompt tokens read in one step while answers are being written, which wait
    /// for it; auto: measured, so that a step stays short.
    pub prefill_chunk: Auto<usize>,
    /// Longest sequence in tokens, image included; auto: the model's limit.
    pub context_len: Auto<usize>,
    /// Most memory of the key/value cache in bytes; auto: a quarter of the machine's, or a third of
    /// a GPU's that is free.
    pub kv_cache_bytes: Auto<u64>,
    /// Seconds without a step, while sequences are running, after which the server reports that it
    /// is not ready.
    pub stall_after_s: u64,
}

impl Default for EngineSection {
    fn default() -> Self {
        Self {
            max_batch: 16,
            max_waiting: 64,
            max_prefills: 4,
            prefill_chunk: Auto::Auto,
            context_len: Auto::Auto,
            kv_cache_bytes: Auto::Auto,
            stall_after_s: 10,
        }
    }
}

/// Defaults of sampling.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GenerationSection {
    /// Sampling temperature, 0 to 2; 0 is greedy.
    pub temperature: f64,
    /// Maximum number of tokens of an answer; auto: the rest of the context.
    pub max_tokens: Auto<usize>,
}

/// Thresholds by class of word.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClassThresholdsSection {
    /// Nouns for people, animals and objects.
    pub object: Auto<f32>,
    /// Colors, sizes and materials.
    pub attribute: Auto<f32>,
    /// Numbers.
    pub count: Auto<f32>,
    /// Action verbs.
    pub action: Auto<f32>,
    /// Spatial relations.
    pub relation: Auto<f32>,
}

impl From<ClassThresholdsSection> for guard::ClassThresholds {
    fn from(section: ClassThresholdsSection) -> Self {
        Self {
            object: section.object.value(),
            attribute: section.attribute.value(),
            count: section.count.value(),
            action: section.action.value(),
            relation: section.relation.value(),
        }
    }
}

/// Defaults of the guard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GuardSection {
    /// Mode: how low-reward words are handled.
    pub mode: Mode,
    /// Reward below which a word is flagged; auto: the bundle's default. Excludes `target_fpr`.
    pub threshold: Auto<f32>,
    /// Share of grounded words that may be flagged, from which the bundle's calibration derives the
    /// threshold; auto: unused.
    pub target_fpr: Auto<f32>,
    /// Thresholds by class of word; auto: `threshold`.
    pub thresholds: ClassThresholdsSection,
    /// Handling of words whose reward stays low.
    pub on_exhausted: OnExhausted,
    /// Handling of questions that no photograph can answer, and of short answers below
    /// `abstain_below`.
    pub on_unanswerable: OnUnanswerable,
    /// Probability of being right below which a short answer is withheld, if the bundle calibrates
    /// answers.
    pub abstain_below: f32,
    /// Maximum number of tokens that repairs may decode in addition to the answer.
    pub max_attempts: usize,
    /// Number of finished words that streaming holds back so that repairs can still change them.
    pub window: usize,
    /// Handling of answers whose scorer fails.
    pub on_error: OnError,
}

impl Default for GuardSection {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            threshold: Auto::Auto,
            target_fpr: Auto::Auto,
            thresholds: ClassThresholdsSection::default(),
            on_exhausted: OnExhausted::default(),
            on_unanswerable: OnUnanswerable::default(),
            abstain_below: 0.5,
            max_attempts: GuardParams::MAX_ATTEMPTS,
            window: GuardParams::WINDOW,
            on_error: OnError::default(),
        }
    }
}

/// Largest value of `score.max_items`.
pub const MOST_ITEMS: usize = 1024;

/// Upper bound of [`ImagesSection::max_per_request`].
pub(super) const MOST_IMAGES: usize = 1024;

/// Limits of `/v1/score`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScoreSection {
    /// Maximum number of items of one request, at most [`MOST_ITEMS`].
    pub max_items: usize,
    /// Maximum number of tokens of one text. Texts longer than the model's context are scored in
    /// windows of whole sentences.
    pub max_tokens: usize,
}

impl Default for ScoreSection {
    fn default() -> Self {
        Self {
            max_items: 64,
            max_tokens: 4096,
        }
    }
}

/// Limits of images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImagesSection {
    /// Largest image file in bytes.
    pub max_bytes: usize,
    /// Maximum number of images in a request, if the model takes that many.
    pub max_per_request: usize,
    /// Maximum number of pixels (width times height), checked before decoding.
    pub max_pixels: u64,
    /// Memory in bytes for decoding and resizing all images. An image that needs more is refused;
    /// others wait.
    pub max_memory_bytes: u64,
    /// Size in bytes of the cache of encoded images; 0 disables it.
    pub cache_bytes: u64,
    /// Maximum number of images decoded and encoded at once; auto: one a core.
    pub workers: Auto<usize>,
}

impl Default for ImagesSection {
    fn default() -> Self {
        Self {
            max_bytes: 15 * 1024 * 1024,
            max_per_request: 16,
            max_pixels: 50_000_000,
            max_memory_bytes: 160 * 1024 * 1024,
            cache_bytes: 64 * 1024 * 1024,
            workers: Auto::Auto,
        }
    }
}

/// Images fetched by URL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FetchSection {
    /// `true` to fetch `https:` URLs.
    pub enabled: bool,
    /// Maximum number of redirects to follow, at most 3.
    pub max_redirects: usize,
    /// Timeout in seconds of a fetch, redirects included.
    pub timeout_s: u64,
    /// Maximum number of fetches at once; others wait.
    pub max_concurrent: usize,
    /// Servers, as `HOST:PORT`, that may have a private address.
    pub allow: Vec<String>,
    /// PEM file of trusted certificates; auto: Mozilla's.
    pub ca_file: Auto<String>,
}

impl Default for FetchSection {
    fn default() -> Self {
        Self {
            enabled: false,
            max_redirects: 3,
            timeout_s: 10,
            max_concurrent: 16,
            allow: Vec::new(),
            ca_file: Auto::Auto,
        }
    }
}

/// Registry of model versions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistrySection {
    /// Folder of the registry, or `off`.
    pub dir: String,
    /// Versions kept beside those in use; 0: all.
    pub keep: usize,
}

impl RegistrySection {
    /// Opens the registry; `None` if it is off.
    pub fn open(&self) -> Option<Result<registry::Registry, RegistryError>> {
        (self.dir != "off").then(|| registry::Registry::open(Path::new(&self.dir)))
    }
}

impl Default for RegistrySection {
    fn default() -> Self {
        Self {
            dir: "candor-data/registry".to_owned(),
            keep: 20,
        }
    }
}

/// Administration over HTTP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminSection {
    /// SHA-256 of the administrator's key in hex digits, or `off`.
    pub key_sha256: String,
}

impl AdminSection {
    /// Returns the digest; `None` if the option is off or invalid.
    pub fn digest(&self) -> Option<[u8; 32]> {
        digest(&self.key_sha256)
    }

    /// Returns `true` if the digest is valid or off.
    pub(super) fn is_valid(&self) -> bool {
        self.key_sha256 == "off" || self.digest().is_some()
    }
}

impl Default for AdminSection {
    fn default() -> Self {
        Self {
            key_sha256: "off".to_owned(),
        }
    }
}

/// Storage of corrections.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeedbackSection {
    /// Database: `sqlite:PATH`, `postgres://USER:PASSWORD@HOST/DATABASE`, or `off`.
    pub store: String,
    /// Storage of photographs: a folder, or `s3://BUCKET/PREFIX`.
    pub images: String,
}

impl FeedbackSection {
    /// Returns `true` if corrections are accepted.
    pub fn enabled(&self) -> bool {
        self.store != "off"
    }
}

impl Default for FeedbackSection {
    fn default() -> Self {
        Self {
            store: "sqlite:candor-data/feedback.db".to_owned(),
            images: "candor-data/images".to_owned(),
        }
    }
}

/// Receipts of completions, which corrections refer to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReceiptsSection {
    /// Retention of receipts, such as `7d` or `12h`; `0s` keeps none.
    pub retention: String,
    /// Maximum size in bytes of receipts and their images.
    pub max_bytes: u64,
}

impl ReceiptsSection {
    /// Returns the retention as a duration; zero if it is malformed, which validation excludes.
    pub fn retention(&self) -> Duration {
        humantime::parse_duration(&self.retention).unwrap_or_default()
    }
}

impl Default for ReceiptsSection {
    fn default() -> Self {
        Self {
            retention: "7d".to_owned(),
            max_bytes: 4 << 30,
        }
    }
}

/// Training cycles, as run by `candor cycle`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CycleSection {
    /// Folder of the cycles' state, which the server reads.
    pub dir: String,
    /// Folders of finished cycles that are kept; 0: all.
    pub keep: usize,
}

impl Default for CycleSection {
    fn default() -> Self {
        Self {
            dir: "candor-data/cycles".to_owned(),
            keep: 20,
        }
    }
}

/// Metrics.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsSection {
    /// Older name of `server.operations_listen`.
    pub listen: Auto<String>,
    /// Shows the load under vLLM's names too, which gateways read.
    pub vllm_names: bool,
}

/// Traces for an OpenTelemetry collector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TracingSection {
    /// Collector that takes OTLP over HTTP, or `off`; auto: as `OTEL_EXPORTER_OTLP_ENDPOINT` says.
    pub otlp_endpoint: Auto<String>,
    /// Share of requests to trace, 0 to 1, of those without a `traceparent`, which decides.
    pub sample_ratio: f64,
    /// File with headers for the collector, or `off`.
    pub headers_file: String,
    /// PEM file of certificates to trust; auto: Mozilla's.
    pub ca_file: Auto<String>,
}

impl TracingSection {
    /// Returns the settings of the export.
    pub(crate) fn settings(&self) -> TraceSettings {
        TraceSettings {
            endpoint: self.otlp_endpoint.as_ref().cloned(),
            sample_ratio: self.sample_ratio,
            headers_file: Some(self.headers_file.clone()).filter(|file| file != "off"),
            ca_file: self.ca_file.as_ref().cloned(),
        }
    }
}

impl Default for TracingSection {
    fn default() -> Self {
        Self {
            otlp_endpoint: Auto::Auto,
            sample_ratio: 1.0,
            headers_file: "off".to_owned(),
            ca_file: Auto::Auto,
        }
    }
}

/// Logs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    /// Format of a log line.
    pub format: LogFormat,
    /// Level (`error`, `warn`, `info`, `debug`, `trace`) or directives such as
    /// `info,candor::engine=debug`.
    pub level: String,
    /// File of the audit log, or `off`.
    pub audit: String,
}

impl Default for LogSection {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: "info".to_owned(),
            audit: "off".to_owned(),
        }
    }
}
