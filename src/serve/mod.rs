//! HTTP in OpenAI's shapes: routes as data, bad input answered in words, and an end that lets answers finish.

mod admin;
mod app;
mod auth;
mod body;
mod chat;
mod docs;
pub mod error;
mod feedback;
pub mod fetch;
mod info;
mod learning;
mod listen;
mod local;
mod observe;
pub mod openai;
mod openapi;
mod queue;
mod reload;
mod request_url;
mod routes;
mod score;
mod served;
mod shadow;
mod stream;
mod switch;
mod ui;
mod warm;

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::watch};

pub use app::StartError;
pub use local::Local;
pub use reload::Reloader;
pub use routes::{METRICS, ROUTES, Route};
pub use score::check_score_request;
pub use served::First;

use crate::{
    config::{Auto, Config},
    telemetry::LogLevel,
};
use app::App;
use listen::Door;

/// A server that listens and has its model loaded.
pub struct Server {
    app: Arc<App>,
    main: TcpListener,
    metrics: Option<TcpListener>,
}

impl Server {
    /// Listens at the configured addresses and starts the engine of a bundle to begin with; from then on what the registry promotes is served.
    ///
    /// # Errors
    /// When an address, the store of corrections or the registry cannot be had, or the bundle cannot do what the configuration asks.
    pub async fn start(config: Config, first: impl Into<First>) -> Result<Self, StartError> {
        let main = listen("server.listen", &config.server.listen).await?;
        let metrics = match &config.metrics.listen {
            Auto::Auto => None,
            Auto::Value(address) => Some(listen("metrics.listen", address).await?),
        };
        let first = first.into();
        let corrections = feedback::open(&config, &first).await?;
        let registry = config.registry.open().transpose();
        let registry = registry.map_err(|error| StartError::Config { key: "registry.dir", what: error.to_string() })?;
        Ok(Self { app: Arc::new(App::start(config, first, registry, corrections)?), main, metrics })
    }

    /// Where the API is.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.main.local_addr()
    }

    /// Where `/metrics` is, when it has a listener of its own.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub fn metrics_address(&self) -> std::io::Result<Option<SocketAddr>> {
        self.metrics.as_ref().map(TcpListener::local_addr).transpose()
    }

    /// Puts other configurations in force while the server runs; `level` is that of the process's log.
    pub fn reloader(&self, level: LogLevel) -> Reloader {
        Reloader::new(&self.app, level)
    }

    /// Serves until `stop` is done; then takes no more, lets what is being answered finish until the drain deadline, and returns.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { app, main, metrics } = self;
        let (stopping, watch) = watch::channel(false);
        let drain = Duration::from_secs(app.config.server.drain_deadline_s);
        // The engine fails at the deadline what it has not finished; the rest is for the clients to hear that.
        let patience = drain + Duration::from_secs(2);
        let door = |listener, router| Door {
            listener,
            router,
            max_connections: app.config.server.max_connections,
            read_timeout: Duration::from_secs(app.config.server.read_timeout_s),
        };
        let beside = if metrics.is_some() { [].iter() } else { METRICS.iter() };
        let main = tokio::spawn(door(main, routes::router(Arc::clone(&app), ROUTES.iter().chain(beside))).serve(watch.clone(), patience));
        for route in ROUTES.iter().chain(METRICS) {
            app.metrics.http.declare_route(route.path, route.method);
        }
        let metrics = metrics.map(|listener| {
            tokio::spawn(door(listener, routes::router(Arc::clone(&app), METRICS.iter())).serve(watch, Duration::from_secs(1)))
        });
        let warm = tokio::spawn(warm::warm(Arc::clone(&app)));
        let sweep = tokio::spawn(feedback::sweep(Arc::clone(&app)));
        let queue = tokio::spawn(queue::watch(Arc::clone(&app)));
        let learning = tokio::spawn(learning::watch(Arc::clone(&app)));
        let follow = tokio::spawn(switch::follow(Arc::clone(&app)));
        stop.await;
        tracing::info!(deadline_s = drain.as_secs(), "stopping: what is being answered may finish");
        app.drain();
        follow.abort();
        app.shadow.stop();
        // Receivers live in the doors; without them there is nothing to tell.
        let _ = stopping.send(true);
        app.stop(drain).await;
        warm.abort();
        sweep.abort();
        queue.abort();
        learning.abort();
        let given_up = main.await.unwrap_or_default();
        if let Some(metrics) = metrics {
            let _ = metrics.await;
        }
        if let Some(corrections) = &app.corrections {
            corrections.close().await;
        }
        tracing::info!(given_up, "stopped");
    }
}

async fn listen(key: &'static str, address: &str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|error| StartError::Listen { key, address: address.to_owned(), error })
}
