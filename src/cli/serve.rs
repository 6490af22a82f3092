//! `candor serve`

use std::{io::Write, sync::Arc};

use clap::Args;
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    task::spawn_blocking,
};

use super::{
    Failure,
    common::{ModelArgs, open_first, settle},
};
use crate::{
    config::{API_KEY, Config, ConfigProblems},
    device,
    serve::{InitialVersion, Server},
    telemetry::{self, LogLevel},
};

/// Serve the OpenAI-compatible API over HTTP
///
/// SIGTERM and SIGINT let running requests finish, for up to server.drain_deadline_s; a second
/// signal ends at once. SIGHUP reloads the configuration: keys and the log level change, other
/// options need a restart.
///
/// Other machines can reach the server at an address other than 127.0.0.1. It then needs a key: in
/// the environment variable CANDOR_API_KEY, in a file, or any number of keys in the configuration.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  candor serve\n  candor serve --listen 0.0.0.0:8080 --key-file \
                  key.txt   # candor keys new --out key.txt\n  candor serve --listen 0.0.0.0:8080 \
                  --config candor.toml\n  CANDOR_LOG__FORMAT=json candor serve --device cpu"
)]
pub(crate) struct ServeArgs {
    /// Address to listen on; port 0 picks a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,

    /// File with a key that clients may send, in addition to those of the configuration
    #[arg(long, value_name = "FILE", env = "CANDOR_API_KEY_FILE")]
    key_file: Option<String>,

    /// Serve without any key even if other machines can reach the server
    #[arg(long)]
    insecure: bool,

    #[command(flatten)]
    model: ModelArgs,
}

impl ServeArgs {
    fn load(&self) -> Result<Config, ConfigProblems> {
        let mut config = self.model.load(&[
            ("--listen", "server.listen", self.listen.clone()),
            (
                "--key-file",
                "server.key_file",
                self.key_file.clone().filter(|file| !file.is_empty()),
            ),
            (
                "--insecure",
                "server.insecure",
                self.insecure.then(|| true.to_string()),
            ),
        ])?;
        config.add_api_key(std::env::var_os(API_KEY).as_deref())?;
        Ok(config)
    }
}

pub(crate) fn run(args: ServeArgs) -> Result<(), Failure> {
    let mut config = args.load()?;
    config.check_exposure().map_err(Failure::misused)?;
    // First, because re-executing the process loses its signal handlers.
    settle(config.model.threads.value())?;
    // Outlives the runtime, whose shutdown is logged too.
    let (_log, level) = telemetry::init_logging(config.log.format, &config.log.level);
    let runtime = Runtime::new().map_err(Failure::failed)?;
    // Before the model is loaded, which takes a while: a closed terminal must not end the server
    // then either.
    let hangup = runtime.block_on(async { handler(SignalKind::hangup()) })?;
    let first = open_first(&mut config)?;
    runtime.block_on(serve(args, config, first, hangup, level))
}

async fn serve(
    args: ServeArgs,
    config: Config,
    first: InitialVersion,
    mut hangup: Signal,
    level: LogLevel,
) -> Result<(), Failure> {
    let (mut term, mut int) = (
        handler(SignalKind::terminate())?,
        handler(SignalKind::interrupt())?,
    );
    let (model, version, license, device) = (
        first.model().to_owned(),
        first.version().to_owned(),
        first.bundle().license.to_string(),
        device::name(first.device()),
    );
    if config.keys.is_empty() && config.is_exposed() {
        tracing::warn!(
            "there are no keys: anyone who can reach this server may use it and read what it \
             stores (server.insecure)"
        );
    }
    let server = tokio::select! {
        server = Server::start(config, first) => server.map_err(Failure::failed)?,
        _ = term.recv() => return Ok(()),
        _ = int.recv() => return Ok(()),
    };
    let address = server.address().map_err(Failure::failed)?;
    tracing::info!(model, version, license, candor = env!("CARGO_PKG_VERSION"), device, %address,
        "listening");
    let reloader = Arc::new(server.reloader(level));
    let args = Arc::new(args);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let (args, reloader) = (Arc::clone(&args), Arc::clone(&reloader));
            // Reading files may block.
            let _ = spawn_blocking(move || reloader.reload(args.load())).await;
        }
    });
    // For scripts that let the system pick the port. A closed standard output is no error.
    let mut out = std::io::stdout();
    let _ = writeln!(out, "listening on http://{address}").and_then(|()| out.flush());
    let stop = async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        tokio::spawn(async move {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            tracing::warn!("second signal: stopping at once");
            std::process::exit(1);
        });
    };
    server.run(stop).await;
    Ok(())
}

fn handler(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(Failure::failed)
}
