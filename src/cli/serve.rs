//! `candor serve`

use std::io::Write;

use clap::Args as ClapArgs;
use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
};

use super::{
    Failure,
    common::{ModelArgs, open_first},
};
use crate::{
    config::Config,
    device,
    serve::{First, Server},
    telemetry,
};

/// Serve the OpenAI-compatible API over HTTP
///
/// SIGTERM and SIGINT let what is being answered finish, until server.drain_deadline_s; a second signal ends at once.
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

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let config = args.model.load(&[("--listen", "server.listen", args.listen)])?;
    let _log = telemetry::init_logging(&config.log);
    let first = open_first(&config)?;
    Runtime::new().map_err(Failure::failed)?.block_on(serve(config, first))
}

async fn serve(config: Config, first: First) -> Result<(), Failure> {
    let (mut term, mut int) = (handler(SignalKind::terminate())?, handler(SignalKind::interrupt())?);
    let (model, version, device) = (first.model().to_owned(), first.version().to_owned(), device::name(first.device()));
    let server = Server::start(config, first).await.map_err(Failure::failed)?;
    let address = server.address().map_err(Failure::failed)?;
    tracing::info!(model, version, candor = env!("CARGO_PKG_VERSION"), device, %address, "listening");
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

fn handler(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Failure> {
    signal(kind).map_err(Failure::failed)
}
