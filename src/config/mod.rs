//! Typed configuration, read from a file, the environment and flags, and validated before anything
//! starts.
//!
//! Flags override the environment, which overrides the file. `config/candor.toml` lists every
//! option with its default; a test keeps the two in sync. The environment variable of
//! `server.listen` is `CANDOR_SERVER__LISTEN`.

mod address;
mod api_key;
mod auto;
mod check;
mod keys;
mod load;
mod sections;

use std::path::Path;

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
    FetchSection, GenerationSection, GuardSection, ImagesSection, LimitsSection, LogSection,
    MOST_ITEMS, MetricsSection, ModelSection, OnUnsupported, ReceiptsSection, RegistrySection,
    ScoreSection, ServerSection, TracingSection, largest_image,
};

use crate::feedback::queue::QueueSettings;

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// API keys; without any, the API is open to everyone who can reach it.
    pub keys: Vec<ApiKey>,
    /// HTTP server.
    pub server: ServerSection,
    /// Limits for each client.
    pub limits: LimitsSection,
    /// Served model and its device.
    pub model: ModelSection,
    /// Registry of model versions.
    pub registry: RegistrySection,
    /// Administration over HTTP.
    pub admin: AdminSection,
    /// Engine: batch size and context length.
    pub engine: EngineSection,
    /// Defaults of sampling.
    pub generation: GenerationSection,
    /// Defaults of the guard.
    pub guard: GuardSection,
    /// Limits of `/v1/score`.
    pub score: ScoreSection,
    /// Limits of images.
    pub images: ImagesSection,
    /// Images fetched by URL.
    pub fetch: FetchSection,
    /// Storage of corrections.
    pub feedback: FeedbackSection,
    /// Receipts of completions.
    pub receipts: ReceiptsSection,
    /// Annotation queue.
    pub queue: QueueSettings,
    /// Training cycles.
    pub cycle: CycleSection,
    /// Metrics.
    pub metrics: MetricsSection,
    /// Traces.
    pub tracing: TracingSection,
    /// Logs.
    pub log: LogSection,
}

impl Config {
    /// Returns the local folders that the server and its cycles write to.
    pub fn data_folders(&self) -> Vec<&Path> {
        let database = self.feedback.store.strip_prefix("sqlite:");
        let database = database.map(|path| Path::new(path.trim_start_matches("//")));
        let images = Some(&*self.feedback.images).filter(|images| !images.starts_with("s3://"));
        let others = [images, Some(&*self.registry.dir), Some(&*self.cycle.dir)];
        database
            .into_iter()
            .chain(others.into_iter().flatten().map(Path::new))
            .collect()
    }

    /// Returns the address of the separate listener for health and metrics, with the option that
    /// sets it: `server.operations_listen` or its older name.
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
