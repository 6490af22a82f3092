//! Typed configuration: file < environment < flags, checked as a whole before anything starts.
//!
//! Every option stands in `config/candor.toml` with its default and what it does; a test holds the
//! two equal. In the environment `server.listen` is `CANDOR_SERVER__LISTEN`.

mod address;
mod api_key;
mod auto;
mod check;
mod keys;
mod load;
mod sections;

use serde::{Deserialize, Serialize};

pub(crate) use address::plain_host;
pub use address::{ExposedServer, host_port};
pub use api_key::API_KEY;
pub use auto::Auto;
pub use keys::{ApiKey, KeyScope, KeyScopes};
pub(crate) use load::nearest;
pub use load::{ConfigFlag, ConfigProblem, ConfigProblems, load};
pub use sections::{
    AdminSection, ClassThresholdsSection, CycleSection, EngineSection, FeedbackSection,
    FetchSection, GenerationSection, GuardSection, ImagesSection, LimitsSection, LogFormat,
    LogSection, MOST_ITEMS, MetricsSection, ModelSection, OnUnsupported, ReceiptsSection,
    RegistrySection, ScoreSection, ServerSection, largest_image,
};

use crate::feedback::queue::QueueSettings;

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
