//! `candor models gc`: removes old versions and the folders of old cycles.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::versions::RegistryArgs;
use crate::{
    cli::Failure,
    config::Config,
    registry::{Registry, Version},
    train::cycle::state::CycleDirectory,
    util::disk::folder_bytes,
};
use indicatif::HumanBytes;

#[derive(Debug, Args)]
pub(super) struct GcArgs {
    /// Versions to keep beside those in use [default: registry.keep, 20]
    #[arg(long, value_name = "N")]
    keep: Option<String>,

    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    registry: RegistryArgs,
}

/// What is removed.
#[derive(Debug, Serialize)]
struct Removal {
    /// Version's id, or cycle's number.
    what: String,
    #[serde(skip)]
    path: PathBuf,
    bytes: u64,
}

impl Removal {
    fn new(what: String, path: PathBuf) -> Self {
        let bytes = folder_bytes(&path);
        Self { what, path, bytes }
    }
}

pub(super) fn run(args: &GcArgs) -> Result<(), Failure> {
    let keep = ("--keep", "registry.keep", args.keep.clone());
    let config = args.registry.load(&[keep])?;
    let registry = config.registry.open().transpose();
    let registry = registry.map_err(Failure::failed)?;
    let versions = surplus_versions(registry.as_ref(), config.registry.keep)?;
    let (cycles, held) = surplus_cycles(&config)?;
    if !args.dry_run {
        if let Some(registry) = &registry {
            let ids: Vec<&str> = versions.iter().map(|version| &*version.what).collect();
            registry.remove(&ids).map_err(Failure::failed)?;
        }
        for cycle in &cycles {
            std::fs::remove_dir_all(&cycle.path)
                .map_err(|e| Failure::Failed(format!("{}: {e}", cycle.path.display())))?;
        }
    }
    drop(held);
    let word = if args.dry_run {
        "would remove"
    } else {
        "removed"
    };
    let lines = |kind: &str, removals: &[Removal]| -> String {
        let line = |r: &Removal| format!("{word} {kind} {} ({})\n", r.what, HumanBytes(r.bytes));
        removals.iter().map(line).collect()
    };
    let all: u64 = versions.iter().chain(&cycles).map(|r| r.bytes).sum();
    let text = || {
        let listed = lines("version", &versions) + &lines("cycle", &cycles);
        match listed.is_empty() {
            true => "nothing to remove".to_owned(),
            false => format!("{listed}{}", HumanBytes(all)),
        }
    };
    let json =
        json!({"versions": versions, "cycles": cycles, "bytes": all, "removed": !args.dry_run});
    args.registry.print(&json, text)
}

fn surplus_versions(registry: Option<&Registry>, keep: usize) -> Result<Vec<Removal>, Failure> {
    let Some(registry) = registry else {
        return Ok(Vec::new());
    };
    let surplus = registry.surplus(keep).map_err(Failure::failed)?;
    let removal =
        |version: &Version| Removal::new(version.id.clone(), registry.version_dir(&version.id));
    Ok(surplus.iter().map(removal).collect())
}

/// Returns finished cycles beyond those to keep, with the lock that no cycle runs.
fn surplus_cycles(config: &Config) -> Result<(Vec<Removal>, Option<CycleDirectory>), Failure> {
    let dir = Path::new(&config.cycle.dir);
    if !dir.is_dir() {
        return Ok((Vec::new(), None));
    }
    let held = CycleDirectory::hold(dir).map_err(Failure::failed)?;
    let surplus = held.surplus(config.cycle.keep).map_err(Failure::failed)?;
    let removal = |(number, path): (u64, PathBuf)| Removal::new(number.to_string(), path);
    Ok((surplus.into_iter().map(removal).collect(), Some(held)))
}
