//! Typed configuration: file < environment < flags, checked as a whole before anything starts.
//!
//! Every option stands in `config/candor.toml` with its default and what it does; a test holds the
//! two equal. In the environment `server.listen` is `CANDOR_SERVER__LISTEN`.

mod api_key;
mod auto;
mod check;
mod cycle;
mod exposure;
mod feedback;
mod host_port;
mod keys;
mod limits;
mod load;
mod registry;

use serde::{Deserialize, Serialize};

pub use api_key::API_KEY;
pub use auto::Auto;
pub use cycle::CycleSection;
pub use exposure::ExposedServer;
pub use feedback::{FeedbackSection, ReceiptsSection};
pub use host_port::host_port;
pub(crate) use host_port::plain_host;
pub use keys::{ApiKey, KeyScope, KeyScopes};
pub use limits::LimitsSection;
pub(crate) use load::nearest;
pub use load::{ConfigFlag, ConfigProblem, ConfigProblems, load};
pub use registry::{AdminSection, RegistrySection};

use crate::{
    device::DeviceChoice,
    engine::{GuardParams, OnError},
    feedback::queue::QueueSettings,
    guard::{self, Mode, OnExhausted, OnUnanswerable},
    reward::RewardKind,
};

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Who may use the API; none: everybody.
    pub keys: Vec<ApiKey>,
    /// The HTTP server and its bounds.
    pub server: ServerSection,
    /// Bounds on what one client may ask for.
    pub limits: LimitsSection,
    /// Which model, and where it computes.
    pub model: ModelSection,
    /// Versions of models.
    pub registry: RegistrySection,
    /// Who may promote them over HTTP.
    pub admin: AdminSection,
    /// The running batch.
    pub engine: EngineSection,
    /// Generation, where a request does not say.
    pub generation: GenerationSection,
    /// The guard, where a request does not say.
    pub guard: GuardSection,
    /// Texts that others wrote, sent to be scored.
    pub score: ScoreSection,
    /// Images in requests.
    pub images: ImagesSection,
    /// Images that requests name by URL.
    pub fetch: FetchSection,
    /// Storage of corrections.
    pub feedback: FeedbackSection,
    /// Receipts of completions, which are remembered for a time.
    pub receipts: ReceiptsSection,
    /// Queue of the answers that annotators look at next.
    pub queue: QueueSettings,
    /// Learning from corrections.
    pub cycle: CycleSection,
    /// Metrics.
    pub metrics: MetricsSection,
    /// Logs.
    pub log: LogSection,
}

/// The HTTP server and its bounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerSection {
    /// `HOST:PORT`; port 0 takes a free one.
    pub listen: String,
    /// `true` if a server without keys may be reached from other machines.
    pub insecure: bool,
    /// A file with one key, beside [`Config::keys`], or `off`.
    pub key_file: String,
    /// Open connections. When there are so many, a new one takes the room of the one that has been
    /// idle longest.
    pub max_connections: usize,
    /// Of these, those of one address (IPv6: of one /64 network); auto: half of them.
    pub max_connections_per_address: Auto<usize>,
    /// Completions and requests for scores being answered at once; more get 429.
    pub max_concurrent: usize,
    /// Largest request body in bytes; larger ones get 413.
    pub max_body_bytes: usize,
    /// Memory in bytes for the bodies of requests and the images in them, at least twice
    /// `max_body_bytes`; requests wait for their share.
    pub max_body_memory_bytes: usize,
    /// Fewest bytes a second of a body, received or sent, once a client has used up its patience.
    pub min_body_rate: u64,
    /// Seconds that a client may take for its headers, again for its body, and between two
    /// requests.
    pub read_timeout_s: u64,
    /// Seconds that a client may take no byte of its response.
    pub write_timeout_s: u64,
    /// Seconds that an answer may take, from the request's last byte to the answer's.
    pub request_timeout_s: u64,
    /// Seconds that running answers have to finish after SIGTERM.
    pub drain_deadline_s: u64,
    /// Origins whose pages may ask from a browser: exact ones, or `*` for any.
    pub cors_origins: Vec<String>,
    /// Names that requests may call this server by, beside those of this machine.
    pub allowed_hosts: Vec<String>,
    /// `HOST:PORT` for health and metrics alone, with connections of their own; auto: none.
    pub operations_listen: Auto<String>,
    /// Treatment of messages that the model cannot use.
    pub on_unsupported: OnUnsupported,
}

/// Treatment of messages that the model cannot use: system messages and earlier turns that its
/// prompt has no place for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnsupported {
    /// The request is answered, and the answer lists them in `warnings`.
    #[default]
    Warn,
    /// The request is refused.
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
            max_body_bytes: 20 * 1024 * 1024 + BESIDE_IMAGE,
            max_body_memory_bytes: 256 * 1024 * 1024,
            min_body_rate: 1024,
            read_timeout_s: 30,
            write_timeout_s: 30,
            request_timeout_s: 120,
            drain_deadline_s: 20,
            cors_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            operations_listen: Auto::Auto,
            on_unsupported: OnUnsupported::default(),
        }
    }
}

impl Config {
    /// Returns the option that asks for a listener of its own for health and metrics, and its
    /// address: `server.operations_listen`, or its older name.
    pub fn operations_listen(&self) -> Option<(&'static str, &str)> {
        let named = [
            ("server.operations_listen", &self.server.operations_listen),
            ("metrics.listen", &self.metrics.listen),
        ];
        named
            .into_iter()
            .find_map(|(key, address)| Some((key, address.as_ref()?.as_str())))
    }
}

/// Room in a request's body for what is sent beside an image.
const BESIDE_IMAGE: usize = 256 * 1024;

/// Returns the size in bytes of the largest image file that fits, as base64, in a request's body of
/// `max_body_bytes`.
pub fn largest_image(max_body_bytes: usize) -> usize {
    max_body_bytes.saturating_sub(BESIDE_IMAGE) / 4 * 3
}

/// Which model, and where it computes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSection {
    /// The name of an embedded bundle, or a bundle's directory.
    pub name: String,
    /// Device on which it computes.
    pub device: DeviceChoice,
    /// Threads for the networks; auto: one a core.
    pub threads: Auto<usize>,
    /// Which of the bundle's scorers; auto: the bundle's choice.
    pub reward: Auto<RewardKind>,
}

impl Default for ModelSection {
    fn default() -> Self {
        Self {
            name: "candor-mini".to_owned(),
            device: DeviceChoice::Auto,
            threads: Auto::Auto,
            reward: Auto::Auto,
        }
    }
}

/// The running batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineSection {
    /// Answers written at once.
    pub max_batch: usize,
    /// Answers that may wait for a place in the batch; more get 429.
    pub max_waiting: usize,
    /// Prompts read in one step, for which the running answers wait.
    pub max_prefills: usize,
    /// Longest sequence in tokens, image included; auto: the model's own.
    pub context_len: Auto<usize>,
    /// Seconds without a step, with answers to write, after which the server says that it is not
    /// ready.
    pub stall_after_s: u64,
}

impl Default for EngineSection {
    fn default() -> Self {
        Self {
            max_batch: 16,
            max_waiting: 64,
            max_prefills: 4,
            context_len: Auto::Auto,
            stall_after_s: 10,
        }
    }
}

/// Generation, where a request does not say.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GenerationSection {
    /// 0 is greedy.
    pub temperature: f64,
    /// Most tokens of an answer; auto: what the context leaves.
    pub max_tokens: Auto<usize>,
}

/// Thresholds of classes of words.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClassThresholdsSection {
    /// Words that name people, animals and things.
    pub object: Auto<f32>,
    /// Colors, sizes, materials.
    pub attribute: Auto<f32>,
    /// Numbers.
    pub count: Auto<f32>,
    /// Verbs of action.
    pub action: Auto<f32>,
    /// Words that say where things are.
    pub relation: Auto<f32>,
}

impl From<ClassThresholdsSection> for guard::ClassThresholds {
    fn from(of: ClassThresholdsSection) -> Self {
        Self {
            object: of.object.value(),
            attribute: of.attribute.value(),
            count: of.count.value(),
            action: of.action.value(),
            relation: of.relation.value(),
        }
    }
}

/// The guard, where a request does not say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GuardSection {
    /// Treatment of low-reward words.
    pub mode: Mode,
    /// Words with a reward below this are flagged; auto: the bundle's own threshold. Not together
    /// with `target_fpr`.
    pub threshold: Auto<f32>,
    /// The threshold at which this share of grounded words is flagged, by the bundle's calibration;
    /// auto: not used.
    pub target_fpr: Auto<f32>,
    /// Thresholds of classes of words; auto: the one above.
    pub thresholds: ClassThresholdsSection,
    /// Treatment of words whose reward stays low.
    pub on_exhausted: OnExhausted,
    /// Treatment of questions that no photograph answers, and of short answers that are too likely
    /// wrong.
    pub on_unanswerable: OnUnanswerable,
    /// Probability of being right below which a short answer is withheld, where the bundle has a
    /// calibration of answers.
    pub abstain_below: f32,
    /// Most tokens that repairs may decode beyond the answer's own.
    pub max_attempts: usize,
    /// Words that are held back beside the open one where words are repaired, for repairs to reach.
    pub window: usize,
    /// Treatment of an answer whose scorer fails.
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

/// Most that `score.max_items` can be.
pub const MOST_ITEMS: usize = 1024;

/// Texts that others wrote, sent to be scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScoreSection {
    /// Most items of one request, at most [`MOST_ITEMS`].
    pub max_items: usize,
    /// Most tokens of one text. One that is longer than the model's context is scored sentence by
    /// sentence.
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

/// Images in requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImagesSection {
    /// Largest image file in bytes.
    pub max_bytes: usize,
    /// Most pixels of an image (width times height), checked before it is decoded.
    pub max_pixels: u64,
    /// Memory that decoding and resizing takes, of all images together, in bytes. An image that
    /// needs more is refused; others wait in turn.
    pub max_memory_bytes: u64,
    /// Encoded images remembered, in bytes; 0 remembers none.
    pub cache_bytes: u64,
    /// Images decoded and encoded at once; auto: one a core.
    pub workers: Auto<usize>,
}

impl Default for ImagesSection {
    fn default() -> Self {
        Self {
            max_bytes: 15 * 1024 * 1024,
            max_pixels: 50_000_000,
            max_memory_bytes: 160 * 1024 * 1024,
            cache_bytes: 64 * 1024 * 1024,
            workers: Auto::Auto,
        }
    }
}

/// Images that requests name by URL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FetchSection {
    /// `true` if `https:` URLs are fetched.
    pub enabled: bool,
    /// Redirections that are followed, 3 at most.
    pub max_redirects: usize,
    /// Seconds that a fetch may take, redirections included.
    pub timeout_s: u64,
    /// Images fetched at once; more wait.
    pub max_concurrent: usize,
    /// `HOST:PORT` of servers that may have a private address.
    pub allow: Vec<String>,
    /// A PEM file of the certificates that are trusted; auto: Mozilla's.
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

/// Metrics.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsSection {
    /// The older name of `server.operations_listen`.
    pub listen: Auto<String>,
}

/// Logs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    /// Format of a line.
    pub format: LogFormat,
    /// Which lines: `error`, `warn`, `info`, `debug`, `trace`, or directives such as
    /// `info,candor::engine=debug`.
    pub level: String,
}

impl Default for LogSection {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: "info".to_owned(),
        }
    }
}

/// Format of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
