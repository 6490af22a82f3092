//! `candor keys`

use std::{
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use clap::{Args, Subcommand};
use serde::Serialize;
use tempfile::NamedTempFile;

use super::{
    Failure,
    output::{failed_at, is_stdio, print},
};
use crate::config::{ApiKey, KeyScope, KeyScopes};

/// Make API keys
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  candor keys new\n  candor keys new --name annotators --scopes \
                  annotate,feedback:write"
)]
pub(super) struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Generate a random key, and the configuration table that admits it
    ///
    /// The key is the first line of output, or the content of the --out file; it is stored nowhere
    /// else. The table contains only its SHA-256.
    #[command(
        after_help = "Examples:\n  candor keys new --name app >> key-and-table.txt\n  candor keys \
                      new --name annotators --owner app --scopes annotate,feedback:write\n  candor \
                      keys new --out key.txt && candor serve --listen 0.0.0.0:8080 --key-file \
                      key.txt"
    )]
    New(New),
}

#[derive(Debug, Args)]
struct New {
    /// Name of the key's holder in logs
    #[arg(long, value_name = "NAME", default_value = "app")]
    name: String,

    /// Owner of the answers and records made with the key; keys of one owner see the same data
    /// [default: the name]
    #[arg(long, value_name = "OWNER")]
    owner: Option<String>,

    /// Scopes of the key, separated by commas: complete, score, feedback:write, feedback:read,
    /// annotate, admin [default: the first three]
    #[arg(long, value_name = "SCOPES", value_delimiter = ',')]
    scopes: Vec<KeyScope>,

    /// Write the key to this file, readable by you alone, instead of printing it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Leave an existing --out file as it is
    #[arg(long, requires = "out")]
    if_missing: bool,
}

pub(super) fn run(args: KeysArgs) -> Result<(), Failure> {
    let KeysCommand::New(new) = args.command;
    make(&new)
}

fn make(new: &New) -> Result<(), Failure> {
    for (flag, name) in [("--name", Some(&new.name)), ("--owner", new.owner.as_ref())] {
        if name.is_some_and(|name| name.is_empty() || name.chars().any(char::is_control)) {
            return Err(Failure::Misused(format!(
                "{flag}: must not be empty or have control characters"
            )));
        }
    }
    let secret = format!(
        "candor-{}",
        BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
    );
    let table = table(new, &secret)?;
    let told = match new.out.as_deref().filter(|path| !is_stdio(path)) {
        Some(path) if write(path, &secret, new.if_missing)? => {
            format!("# The key is in {}", path.display())
        }
        Some(_) => return Ok(()),
        None => {
            print(&secret)?;
            "\n# The key is the line above; it is shown only once".to_owned()
        }
    };
    print(format_args!(
        "{told}. Give it to the server as CANDOR_API_KEY or with --key-file,\n# or add this table \
         with its digest at the end of the configuration:\n\n{}",
        table.trim_end()
    ))
}

/// Writes the key to a new file. Returns `false` if the file exists and `if_missing` is set.
fn write(path: &Path, secret: &str, if_missing: bool) -> Result<bool, Failure> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    // Readable by its owner alone, and never half written.
    let mut file = NamedTempFile::new_in(folder).map_err(failed_at(path))?;
    writeln!(file, "{secret}").map_err(failed_at(path))?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(true),
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists && if_missing => Ok(false),
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => Err(Failure::Misused(
            format!("{} exists; --if-missing leaves it as it is", path.display()),
        )),
        Err(error) => Err(failed_at(path)(error.error)),
    }
}

/// Table of a key in the configuration file.
#[derive(Serialize)]
struct KeyTable<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<&'a str>,
    scopes: KeyScopes,
    key_sha256: String,
}

fn table(new: &New, secret: &str) -> Result<String, Failure> {
    #[derive(Serialize)]
    struct Tables<'a> {
        keys: [KeyTable<'a>; 1],
    }
    let scopes = if new.scopes.is_empty() {
        KeyScopes::default()
    } else {
        KeyScopes::new(new.scopes.iter().copied())
    };
    let key_sha256 = ApiKey::new(&new.name, secret).key_sha256;
    toml::to_string(&Tables {
        keys: [KeyTable {
            name: &new.name,
            owner: new.owner.as_deref(),
            scopes,
            key_sha256,
        }],
    })
    .map_err(Failure::failed)
}
