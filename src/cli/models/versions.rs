//! Registry commands: list, register, inspect, promote, roll back.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use serde_json::{Value, json};

use super::InspectedModel;
use crate::{
    bundle::Bundle,
    cli::{
        Failure,
        common::{block_on, settle, variables},
        output::print,
    },
    config::{Config, ConfigFlag, load},
    device::DeviceChoice,
    registry::{PromotionDecision, Registry, RegistryError, RegistryState, Version, VersionFacts},
    serve::Local,
};

/// Options of every command that uses the registry.
#[derive(Debug, Args)]
pub(super) struct RegistryArgs {
    /// Folder of the registry [default: candor-data/registry]
    #[arg(long, value_name = "DIR")]
    registry: Option<String>,

    /// Configuration file; see config/candor.toml for all options
    #[arg(long, value_name = "FILE", env = "CANDOR_CONFIG")]
    config: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl RegistryArgs {
    /// Loads the configuration with these options and `more` (flag, key, value).
    pub(super) fn load(
        &self,
        more: &[(&'static str, &'static str, Option<String>)],
    ) -> Result<Config, Failure> {
        let own = ("--registry", "registry.dir", self.registry.clone());
        let flags: Vec<ConfigFlag> = more
            .iter()
            .cloned()
            .chain([own])
            .filter_map(|(name, key, value)| {
                Some(ConfigFlag {
                    name,
                    key,
                    value: value?,
                })
            })
            .collect();
        Ok(load(self.config.as_deref(), variables(), &flags)?)
    }

    pub(super) fn open(&self) -> Result<Registry, Failure> {
        open(&self.load(&[])?)
    }

    /// Prints JSON with `--json`, else text.
    pub(super) fn print(&self, json: &Value, text: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.json {
            print(format_args!("{json:#}"))
        } else {
            print(text().trim_end())
        }
    }
}

fn open(config: &Config) -> Result<Registry, Failure> {
    let off = || Failure::Misused("the registry is off (registry.dir)".to_owned());
    config
        .registry
        .open()
        .ok_or_else(off)?
        .map_err(Failure::failed)
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    registry: RegistryArgs,
}

pub(super) fn list(args: &ListArgs) -> Result<(), Failure> {
    let config = args.registry.load(&[])?;
    let (versions, state) = match config
        .registry
        .open()
        .transpose()
        .map_err(Failure::failed)?
    {
        Some(registry) => (
            registry.versions().map_err(Failure::failed)?,
            registry.state().map_err(Failure::failed)?,
        ),
        None => (Vec::new(), RegistryState::default()),
    };
    let mut text = String::new();
    let mut embedded = Vec::new();
    for name in Bundle::embedded() {
        let config = Bundle::describe(name).map_err(Failure::failed)?;
        let scorer = config.reward.map_or("no scorer", |r| r.default.name());
        text += &format!("{name} {} (embedded, scorer: {scorer})\n", config.version);
        embedded.push(json!({ "name": name, "version": config.version, "scorer": scorer }));
    }
    for version in &versions {
        let Version {
            id,
            version: own,
            created,
            ..
        } = version;
        let when = humantime::format_rfc3339_seconds(
            std::time::UNIX_EPOCH + Duration::from_secs(*created),
        );
        text += &format!("{id} {own} ({when}, {})\n", status(version, &state));
    }
    let json = json!({ "embedded": embedded, "state": state, "versions": versions });
    args.registry.print(&json, || text)
}

/// Status of a version in the registry.
fn status(version: &Version, state: &RegistryState) -> String {
    let is = |other: Option<&String>| other == Some(&version.id);
    if is(state.promoted.as_ref()) {
        return "promoted".to_owned();
    }
    if let Some(shadow) = state
        .shadow
        .as_ref()
        .filter(|shadow| shadow.id == version.id)
    {
        return format!("shadow on a share of {}", shadow.share);
    }
    let word = match version.outcome {
        PromotionDecision::Rejected => "rejected",
        PromotionDecision::Registered if is(state.previous.last()) => "promoted before",
        PromotionDecision::Registered => "registered",
    };
    word.to_owned()
}

#[derive(Debug, Args)]
pub(super) struct RegisterArgs {
    /// Directory of the bundle, or name of an embedded one
    #[arg(value_name = "DIR|NAME")]
    bundle: PathBuf,

    /// Version that it was made from; may be repeated
    #[arg(long = "parent", value_name = "ID")]
    parents: Vec<String>,

    /// JSON file with the version's figures: an object of numbers
    #[arg(long, value_name = "FILE.json")]
    figures: Option<PathBuf>,

    /// Reason for the version; may be repeated
    #[arg(long = "reason", value_name = "TEXT")]
    reasons: Vec<String>,

    #[command(flatten)]
    registry: RegistryArgs,
}

pub(super) fn register(args: RegisterArgs) -> Result<(), Failure> {
    let registry = args.registry.open()?;
    let parents = args
        .parents
        .iter()
        .map(|id| Ok(registry.get(id)?.id))
        .collect::<Result<_, RegistryError>>();
    let figures = args
        .figures
        .as_ref()
        .map(figures)
        .transpose()?
        .unwrap_or_default();
    let facts = VersionFacts {
        parents: parents.map_err(Failure::failed)?,
        figures,
        reasons: args.reasons,
        ..VersionFacts::default()
    };
    let version = registry
        .register(&args.bundle, facts)
        .map_err(Failure::failed)?;
    args.registry.print(&json!(version), || version.id.clone())
}

fn figures(file: &PathBuf) -> Result<BTreeMap<String, f64>, Failure> {
    let wrong =
        |e: &dyn std::fmt::Display| Failure::Misused(format!("--figures {}: {e}", file.display()));
    serde_json::from_slice(&fs::read(file).map_err(|e| wrong(&e))?).map_err(|e| wrong(&e))
}

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Id of a version, or its beginning; name of an embedded bundle; directory of a bundle or
    /// checkpoint; .gguf file; or downloaded repository on the Hub (OWNER/MODEL[@REV])
    #[arg(value_name = "ID|NAME|DIR|FILE|REPO")]
    id: String,

    /// Number format of a checkpoint's matrices in memory: auto, f32, bf16 or f16 [default: auto,
    /// that of the files]
    #[arg(long, value_name = "DTYPE")]
    dtype: Option<String>,

    /// Format that a checkpoint's matrices are quantized to while they are loaded: q8_0, q4_0,
    /// q4_1, q4_k, q5_k or q6_k
    #[arg(long, value_name = "FORMAT")]
    quantize: Option<String>,

    #[command(flatten)]
    registry: RegistryArgs,
}

pub(super) fn inspect(args: &InspectArgs) -> Result<(), Failure> {
    let config = args.registry.load(&[
        ("--dtype", "model.dtype", args.dtype.clone()),
        ("--quantize", "model.quantize", args.quantize.clone()),
    ])?;
    let registry = match Path::new(&args.id).exists() {
        true => None,
        false => config
            .registry
            .open()
            .transpose()
            .map_err(Failure::failed)?,
    };
    let found = registry.map(|registry| Ok((registry.get(&args.id)?, registry)));
    let (version, registry) = match found.transpose() {
        Ok(Some(found)) => found,
        Ok(None) | Err(RegistryError::Unknown(_)) => {
            let model = InspectedModel::open(&args.id, &config).map_err(Failure::failed)?;
            return args.registry.print(&model.json(), || model.text());
        }
        Err(error) => return Err(Failure::failed(error)),
    };
    let (state, card) = (
        registry.state().map_err(Failure::failed)?,
        registry.card(&version).map_err(Failure::failed)?,
    );
    let status = status(&version, &state);
    let mut json = json!(version);
    json["status"] = status.clone().into();
    args.registry.print(&json, || {
        let tried = state
            .shadow
            .as_ref()
            .is_some_and(|shadow| shadow.id == version.id);
        let more = if tried {
            "\nTo compare it with the served version: GET /admin/models of the server, and its \
             metrics candor_shadow_*.\n"
        } else {
            ""
        };
        format!("{card}\nNow: {status}.\n{more}")
    })
}

#[derive(Debug, Args)]
pub(super) struct PromoteArgs {
    /// Id of a version, or its beginning
    id: String,

    /// Do not serve the version yet: have it answer this share of requests in the background, for
    /// comparison; 0 stops that
    #[arg(long, value_name = "SHARE")]
    shadow: Option<f64>,

    /// Promote a version that failed its gate too
    #[arg(long)]
    force: bool,

    /// Device that tests the version: auto, cpu, cuda:N or metal [default: auto]
    #[arg(long)]
    device: Option<DeviceChoice>,

    #[command(flatten)]
    registry: RegistryArgs,
}

pub(super) fn promote(args: &PromoteArgs) -> Result<(), Failure> {
    let device = args.device.map(|device| device.to_string());
    let config = args
        .registry
        .load(&[("--device", "model.device", device)])?;
    let registry = open(&config)?;
    let version = registry.get(&args.id).map_err(Failure::failed)?;
    version
        .check_promotable(args.force)
        .map_err(Failure::failed)?;
    let state = match args.shadow {
        Some(share) if !(0.0..=1.0).contains(&share) => {
            return Err(Failure::Misused(RegistryError::Share(share).to_string()));
        }
        Some(0.0) => registry.set_shadow(&version.id, 0.0),
        Some(share) => {
            try_out(&config, &registry, &version)?;
            registry.set_shadow(&version.id, share)
        }
        None => {
            try_out(&config, &registry, &version)?;
            registry.promote(&version.id, args.force)
        }
    };
    let state = state.map_err(Failure::failed)?;
    args.registry.print(&json!(state), || match args.shadow {
        None => format!(
            "{} is promoted; servers that follow {} serve it in a \
                         moment",
            version.id,
            registry.root().display()
        ),
        Some(0.0) => "no version is in shadow now".to_owned(),
        Some(share) => format!(
            "{} shadows a share of {share}; GET /admin/models of the server compares it",
            version.id
        ),
    })
}

/// Tests a version: compares its files with their hashes, loads it and captions a test picture.
fn try_out(config: &Config, registry: &Registry, version: &Version) -> Result<(), Failure> {
    let refused = |why: &dyn std::fmt::Display| {
        Failure::Failed(format!(
            "{} is refused, and the served version stays: {why}",
            version.id
        ))
    };
    settle(config.model.threads.value())?;
    registry.verify(version).map_err(|e| refused(&e))?;
    let device = config.model.device.open().map_err(Failure::failed)?;
    let dir = registry.bundle_dir(version);
    let bundle = Bundle::load(&dir.to_string_lossy(), config.model.reward.value(), &device)
        .map_err(|e| refused(&e))?;
    let local = Local::start(config.clone(), bundle).map_err(|e| refused(&e))?;
    let tried = block_on(async {
        let tried = local.warm_up().await;
        local.stop().await;
        Ok(tried)
    })?;
    tried.map_err(|why| refused(&format_args!("its first answer failed: {why}")))
}

#[derive(Debug, Args)]
pub(super) struct RollbackArgs {
    #[command(flatten)]
    registry: RegistryArgs,
}

pub(super) fn rollback(args: &RollbackArgs) -> Result<(), Failure> {
    let state = args.registry.open()?.rollback().map_err(Failure::failed)?;
    args.registry
        .print(&json!(state), || match &state.promoted {
            Some(id) => format!("{id} is promoted again"),
            None => "no version is promoted; the model of the configuration is served".to_owned(),
        })
}
