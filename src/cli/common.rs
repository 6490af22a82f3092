//! What several commands share: where the configuration comes from, and the model that it names.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::{
    bundle::Bundle,
    config::{Auto, Config, Flag, Problems, load},
    device::DeviceChoice,
};

/// Options of every command that uses a model.
#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// Model: the name of an embedded bundle, or a bundle's directory [default: candor-mini]
    #[arg(long, value_name = "NAME|DIR")]
    model: Option<String>,

    /// Where the networks run: auto, cpu, cuda:N or metal [default: auto]
    #[arg(long)]
    device: Option<DeviceChoice>,

    /// Configuration file; see config/candor.toml for all options
    #[arg(long, value_name = "FILE", env = "CANDOR_CONFIG")]
    config: Option<PathBuf>,
}

impl ModelArgs {
    /// The configuration: file, environment, these options, and those of `more` (flag, key, value).
    pub(crate) fn load(&self, more: &[(&'static str, &'static str, Option<String>)]) -> Result<Config, Problems> {
        let device = self.device.map(|d| d.to_string());
        let own = [("--model", "model.name", self.model.clone()), ("--device", "model.device", device)];
        let flags = own.iter().chain(more).filter_map(|(name, key, value)| Some(Flag { name, key, value: value.clone()? }));
        load(self.config.as_deref(), std::env::vars_os().filter_map(text), &flags.collect::<Vec<_>>())
    }
}

/// Variables that are no Unicode are no options.
fn text((name, value): (std::ffi::OsString, std::ffi::OsString)) -> Option<(String, String)> {
    Some((name.into_string().ok()?, value.into_string().ok()?))
}

/// Sets the networks' threads up and loads the configured bundle.
pub(crate) fn open_bundle(config: &Config) -> Result<Bundle, Failure> {
    if let Auto::Value(threads) = config.model.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().map_err(Failure::failed)?;
    }
    let device = config.model.device.open().map_err(Failure::failed)?;
    Bundle::load(&config.model.name, config.model.reward.value(), &device).map_err(Failure::failed)
}
