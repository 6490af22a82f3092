//! `candor serve`

use std::{io::Write, sync::Arc};

use clap::Args as ClapArgs;
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
    config::{Config, Problems},
    device,
    serve::{First, Server},
    telemetry::{self, LogLevel},
};

/// Serve the OpenAI-compatible API over HTTP
///
/// SIGTERM and SIGINT let what is being answered finish, until server.drain_deadline_s; a second signal ends at once. SIGHUP reads the configuration
/// again: keys and log level change, other options wait for a restart.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  candor serve\n  candor serve --listen 0.0.0.0:8080 --config candor.toml\n  CANDOR_LOG__FORMAT=json candor serve --device cpu"
)]
pub(crate) struct Args {
    /// Address to listen at; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,

    #[command(flatten)]
    model: ModelArgs,
}

impl Args {
    fn load(&self) -> Result<Config, Problems> {
        self.model.load(&[("--listen", "server.listen", self.listen.clone())])
    }
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let config = args.load()?;
    // First, because a process that starts again loses its handlers of signals.
    settle(config.model.threads.value())?;
    // Outlives the runtime, whose end is logged too.
    let (_log, level) = telemetry::init_logging(&config.log);
    let runtime = Runtime::new().map_err(Failure::failed)?;
    // Before the model is loaded, which takes a while: a terminal that goes must not end the server then either.
    let hangup = runtime.block_on(async { handler(SignalKind::hangup()) })?;
    let first = open_first(&config)?;
    runtime.block_on(serve(args, config, first, hangup, level))
}

async fn serve(args: Args, config: Config, first: First, mut hangup: Signal, level: LogLevel) -> Result<(), Failure> {
    let (mut term, mut int) = (handler(SignalKind::terminate())?, handler(SignalKind::interrupt())?);
    let (model, version, device) = (first.model().to_owned(), first.version().to_owned(), device::name(first.device()));
    let server = tokio::select! {
        server = Server::start(config, first) => server.map_err(Failure::failed)?,
        _ = term.recv() => return Ok(()),
        _ = int.recv() => return Ok(()),
    };
    let address = server.address().map_err(Failure::failed)?;
    tracing::info!(model, version, candor = env!("CARGO_PKG_VERSION"), device, %address, "listening");
    let reloader = Arc::new(server.reloader(level));
    let args = Arc::new(args);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let (args, reloader) = (Arc::clone(&args), Arc::clone(&reloader));
            // Files may be slow.
            let _ = spawn_blocking(move || reloader.reload(args.load())).await;
        }
    });
    // For scripts that let the system choose the port. Whoever closed standard output does not want it.
    let mut out = std::io::stdout();
    let _ = writeln!(out, "listening on http://{address}").and_then(|()| out.flush());
    let stop = async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        tokio::spawn(async move {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            tracing::warn!("a second signal: ending at once");
            std::process::exit(1);
        });
    };
    server.run(stop).await;
    Ok(())
}

fn handler(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(Failure::failed)
}
