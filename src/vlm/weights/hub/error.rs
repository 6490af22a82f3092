//! Failures between a repository and its local files.

use std::{io, path::PathBuf};

use indicatif::HumanBytes;

/// Failure to resolve or download a repository.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The text names no repository.
    #[error("`{text}`: {why}")]
    Id {
        /// The text.
        text: String,
        /// Description of the problem.
        why: &'static str,
    },
    /// An environment variable cannot be used.
    #[error("{name}: {why}")]
    Variable {
        /// Name of the variable.
        name: &'static str,
        /// What is wrong with it, without its value.
        why: &'static str,
    },
    /// The server knows no such repository or revision.
    #[error("there is no {repo}, or it has no revision `{revision}` (status 404)")]
    NotFound {
        /// Name of the repository.
        repo: String,
        /// Branch, tag or commit.
        revision: String,
    },
    /// The repository may not be read without a token, or with this one.
    #[error(
        "{repo} is gated or private, or does not exist (status {status}): accept the license on \
         {page}, and set HF_TOKEN to a token of the account that did"
    )]
    Denied {
        /// The repository.
        repo: String,
        /// Status of the answer.
        status: u16,
        /// Address of the model's page.
        page: String,
    },
    /// The server answers with another status.
    #[error("{repo}: asked for {what}, the server answers with status {status}")]
    Status {
        /// The repository.
        repo: String,
        /// What was asked for.
        what: String,
        /// Status of the answer.
        status: u16,
    },
    /// The server cannot be reached.
    #[error(
        "{endpoint} cannot be reached ({why}); with --offline or HF_HUB_OFFLINE=1, what was \
         downloaded before is used"
    )]
    Unreachable {
        /// Address of the server.
        endpoint: String,
        /// The cause.
        why: String,
    },
    /// Offline, and files are missing.
    #[error(
        "{repo}: {} lacks {missing} (offline); to get it: {command}",
        cache.display()
    )]
    Offline {
        /// The repository.
        repo: String,
        /// Folder of the cache.
        cache: PathBuf,
        /// Names of the missing files.
        missing: String,
        /// Command that downloads it.
        command: String,
    },
    /// The repository lacks files that its model needs.
    #[error("{repo} lacks {missing}")]
    Incomplete {
        /// The repository.
        repo: String,
        /// Names of the missing files.
        missing: String,
    },
    /// The repository has no weights of a kind that is read.
    #[error("{repo} has no weights in safetensors or GGUF; other files are never read")]
    NoWeights {
        /// The repository.
        repo: String,
    },
    /// A GGUF file has to be named.
    #[error("{repo}: name one of its GGUF files with --file{}: {}",
        named.as_ref().map_or_else(String::new, |name| format!(", not `{name}`")),
        choices.join(", "))]
    Choice {
        /// The repository.
        repo: String,
        /// File that was named.
        named: Option<String>,
        /// GGUF files of the repository.
        choices: Vec<String>,
    },
    /// The repository names a file that could lie outside a folder.
    #[error("{repo} is refused: it names a file {name:?}")]
    FileName {
        /// The repository.
        repo: String,
        /// The name.
        name: String,
    },
    /// The server or a file does not say what it should.
    #[error("{repo}, {what}: {why}")]
    Malformed {
        /// The repository.
        repo: String,
        /// File or answer.
        what: String,
        /// Description of the problem.
        why: String,
    },
    /// The connection broke; what has come is kept.
    #[error(
        "{repo}: {name} broke off at {} of {} ({why}); the same command goes on from there",
        HumanBytes(*at),
        HumanBytes(*size)
    )]
    BrokeOff {
        /// The repository.
        repo: String,
        /// File that was downloaded.
        name: String,
        /// Bytes that are there.
        at: u64,
        /// Bytes of the file.
        size: u64,
        /// The cause.
        why: String,
    },
    /// A downloaded file is not what the server announced; it is deleted.
    #[error("{repo}: {name} has {found}, but the server announced {announced}; it is deleted")]
    Mismatch {
        /// The repository.
        repo: String,
        /// The file.
        name: String,
        /// Size or digest it should have.
        announced: String,
        /// Size or digest it has.
        found: String,
    },
    /// The disk is full, or would be.
    #[error(
        "{} has {} free, but {} more are needed",
        dir.display(),
        HumanBytes(*free),
        HumanBytes(*needed)
    )]
    DiskFull {
        /// Folder of the cache.
        dir: PathBuf,
        /// Free bytes.
        free: u64,
        /// Bytes yet to be written.
        needed: u64,
    },
    /// A file of the cache cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl HubError {
    /// Converts an I/O error, for `map_err`.
    pub(super) fn at(path: &std::path::Path) -> impl Fn(io::Error) -> Self + '_ {
        move |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}
