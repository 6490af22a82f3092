//! Versions in the registry, from the command line.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use clap::Args;
use serde_json::{Value, json};

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

/// Where the registry is.
#[derive(Debug, Args)]
pub(super) struct RegistryArgs {
    /// The registry's folder [default: candor-data/registry]
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
    fn load(&self, device: Option<DeviceChoice>) -> Result<Config, Failure> {
        let flags = [
            ("--registry", "registry.dir", self.registry.clone()),
            (
                "--device",
                "model.device",
                device.map(|device| device.to_string()),
            ),
        ];
        let flags: Vec<ConfigFlag> = flags
            .into_iter()
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
        open(&self.load(None)?)
    }

    /// Prints for programs, or for people.
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
    place: RegistryArgs,
}

pub(super) fn list(args: &ListArgs) -> Result<(), Failure> {
    let config = args.place.load(None)?;
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
    args.place.print(&json, || text)
}

/// What a version is in the registry.
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
    /// The bundle's directory, or the name of an embedded one
    #[arg(value_name = "DIR|NAME")]
    bundle: PathBuf,

    /// A version that it was made from; may be given several times
    #[arg(long = "parent", value_name = "ID")]
    parents: Vec<String>,

    /// A JSON file with its figures: an object of numbers
    #[arg(long, value_name = "FILE.json")]
    figures: Option<PathBuf>,

    /// Why there is this version; may be given several times
    #[arg(long = "reason", value_name = "TEXT")]
    reasons: Vec<String>,

    #[command(flatten)]
    place: RegistryArgs,
}

pub(super) fn register(args: RegisterArgs) -> Result<(), Failure> {
    let registry = args.place.open()?;
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
    args.place.print(&json!(version), || version.id.clone())
}

fn figures(file: &PathBuf) -> Result<BTreeMap<String, f64>, Failure> {
    let wrong =
        |e: &dyn std::fmt::Display| Failure::Misused(format!("--figures {}: {e}", file.display()));
    serde_json::from_slice(&fs::read(file).map_err(|e| wrong(&e))?).map_err(|e| wrong(&e))
}

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// The version, or the beginning of its id; or an embedded bundle
    id: String,

    #[command(flatten)]
    place: RegistryArgs,
}

pub(super) fn inspect(args: &InspectArgs) -> Result<(), Failure> {
    let registry = args.place.open()?;
    let version = match registry.get(&args.id) {
        Ok(version) => version,
        Err(RegistryError::Unknown(_)) if Bundle::embedded().contains(&args.id.as_str()) => {
            let (config, card) = (
                Bundle::describe(&args.id).map_err(Failure::failed)?,
                Bundle::file(&args.id, "card.md").map_err(Failure::failed)?,
            );
            return args.place.print(&json!(config), || {
                String::from_utf8_lossy(&card).into_owned()
            });
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
    args.place.print(&json, || {
        let tried = state
            .shadow
            .as_ref()
            .is_some_and(|shadow| shadow.id == version.id);
        let more = if tried {
            "\nHow it compares with what is served: GET /admin/models of the server, and \
             candor_shadow_* among its metrics.\n"
        } else {
            ""
        };
        format!("{card}\nNow: {status}.\n{more}")
    })
}

#[derive(Debug, Args)]
pub(super) struct PromoteArgs {
    /// The version, or the beginning of its id
    id: String,

    /// Do not serve it yet: have it answer this share of the requests too, off the users' path, and
    /// compare; 0 ends that
    #[arg(long, value_name = "SHARE")]
    shadow: Option<f64>,

    /// Also when it failed its gate
    #[arg(long)]
    force: bool,

    /// Where it is tried: auto, cpu, cuda:N or metal [default: auto]
    #[arg(long)]
    device: Option<DeviceChoice>,

    #[command(flatten)]
    place: RegistryArgs,
}

pub(super) fn promote(args: &PromoteArgs) -> Result<(), Failure> {
    let config = args.place.load(args.device)?;
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
    args.place.print(&json!(state), || match args.shadow {
        None => format!(
            "{} is promoted; servers that follow {} serve it in a \
                         moment",
            version.id,
            registry.root().display()
        ),
        Some(0.0) => "no version is tried beside the promoted one any more".to_owned(),
        Some(share) => format!(
            "{} is tried on a share of {share}; GET /admin/models of the server \
                                says how it compares",
            version.id
        ),
    })
}

/// Compares the version's files with their hashes, loads it and has it caption a picture.
fn try_out(config: &Config, registry: &Registry, version: &Version) -> Result<(), Failure> {
    let refused = |why: &dyn std::fmt::Display| {
        Failure::Failed(format!(
            "{} is refused, and what is served stays: {why}",
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
    place: RegistryArgs,
}

pub(super) fn rollback(args: &RollbackArgs) -> Result<(), Failure> {
    let state = args.place.open()?.rollback().map_err(Failure::failed)?;
    args.place.print(&json!(state), || match &state.promoted {
        Some(id) => format!("{id} is promoted again"),
        None => "no version is promoted; the model of the configuration is served".to_owned(),
    })
}
