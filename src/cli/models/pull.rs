//! `candor models pull`

use std::collections::HashMap;

use clap::Args;
use indicatif::HumanBytes;
use serde_json::json;

use crate::{
    cli::{
        Failure,
        common::{block_on, variables},
        download::Downloads,
        output::print,
    },
    vlm::weights::hub::{Hub, HubSnapshot, RepoId},
};

#[derive(Debug, Args)]
pub(super) struct PullArgs {
    /// Repository on the Hub, OWNER/MODEL, at a branch, a tag or a commit [default: main]
    #[arg(value_name = "REPO[@REV]")]
    repo: String,

    /// GGUF file to take of a repository with several
    #[arg(long, value_name = "NAME")]
    file: Option<String>,

    /// Use what was downloaded before, without network
    #[arg(long)]
    offline: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: PullArgs) -> Result<(), Failure> {
    let repo: RepoId = args.repo.parse().map_err(Failure::misused)?;
    let set: HashMap<String, String> = variables().collect();
    let mut hub = Hub::from_variables(|name| set.get(name).cloned()).map_err(Failure::misused)?;
    if args.offline {
        hub = hub.offline();
    }
    let asked = repo.clone();
    let pulled = block_on(async move {
        let pull = move || hub.pull(&asked, args.file.as_deref(), &mut Downloads::default());
        let pulled = tokio::task::spawn_blocking(pull).await;
        pulled.map_err(Failure::failed)?.map_err(Failure::failed)
    });
    let snapshot = pulled.map_err(|failure| match failure {
        Failure::Interrupted(_) => {
            Failure::Interrupted("interrupted; the same command goes on from there".to_owned())
        }
        other => other,
    })?;
    if args.json {
        print(format_args!("{:#}", described(&repo, &snapshot)))
    } else {
        print(text(&snapshot))
    }
}

fn total(snapshot: &HubSnapshot) -> u64 {
    snapshot.files.iter().map(|file| file.size).sum()
}

fn described(repo: &RepoId, snapshot: &HubSnapshot) -> serde_json::Value {
    let files: Vec<_> = snapshot
        .files
        .iter()
        .map(|file| json!({ "name": file.name, "size": file.size }))
        .collect();
    json!({
        "repo": repo.name(),
        "revision": snapshot.revision,
        "dir": snapshot.dir,
        "files": files,
        "size": total(snapshot),
    })
}

fn text(snapshot: &HubSnapshot) -> String {
    let mut out = format!(
        "{}\nrevision {}\n",
        snapshot.dir.display(),
        snapshot.revision
    );
    let files = snapshot.files.iter();
    let width = files.map(|file| file.name.len()).max().unwrap_or(0);
    for file in &snapshot.files {
        let size = HumanBytes(file.size).to_string();
        out += &format!("  {:width$} {size:>12}\n", file.name);
    }
    out + &format!("{} in all", HumanBytes(total(snapshot)))
}
