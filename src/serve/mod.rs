//! HTTP server with an OpenAI-compatible API.
//!
//! [`ROUTES`] lists the routes as data; [`Server`] listens, loads versions and shuts down
//! gracefully.

mod admin;
mod admission;
mod app;
mod audit;
mod auth;
mod body;
mod body_memory;
mod caller;
mod chat;
mod connections;
mod docs;
pub mod error;
mod feedback;
pub mod fetch;
mod hosts;
mod images;
mod info;
mod learning;
mod limits;
mod listen;
mod local;
mod observe;
pub mod openai;
mod openapi;
mod pace;
mod permission;
mod queue;
mod receipts;
mod reload;
mod request_url;
mod responses;
mod routes;
mod schema;
mod score;
mod served;
mod shadow;
mod shadow_comparison;
mod shadow_totals;
mod socket;
mod stream;
mod strikes;
mod switch;
mod ui;
mod warm;

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{net::TcpListener, sync::watch, time::sleep};

pub use app::StartError;
pub use local::Local;
pub use permission::Permission;
pub use reload::Reloader;
pub use routes::{METRICS, ROUTES, Route};
pub use score::check_score_request;
pub use served::InitialVersion;
pub(crate) use served::kv_bytes;

use crate::{config::Config, telemetry::LogLevel};
use app::App;
use connections::ConnectionTable;
use hosts::OwnNames;
use listen::Acceptor;
use pace::Pace;

/// Shortest and longest time for the last traces to be sent at shutdown; a collector that is away
/// must not hold up a restart.
const MIN_FLUSH: Duration = Duration::from_secs(1);
const MAX_FLUSH: Duration = Duration::from_secs(5);

/// A listening server with a loaded model.
pub struct Server {
    app: Arc<App>,
    main: TcpListener,
    metrics: Option<TcpListener>,
}

impl Server {
    /// Binds the configured addresses and starts the engine with an initial bundle; afterwards the
    /// version promoted in the registry is served.
    ///
    /// # Errors
    /// When the server would be exposed without keys and the configuration does not allow it; when
    /// an address, the feedback store or the registry cannot be opened; or when the bundle does not
    /// support the configuration.
    pub async fn start(
        config: Config,
        first: impl Into<InitialVersion>,
    ) -> Result<Self, StartError> {
        config
            .check_exposure()
            .map_err(|error| StartError::Config {
                key: "server.listen",
                what: error.to_string(),
            })?;
        let main = listen("server.listen", &config.server.listen).await?;
        let metrics = match config.operations_listen() {
            None => None,
            Some((key, address)) => Some(listen(key, address).await?),
        };
        let first = first.into();
        let corrections = feedback::open(&config, &first).await?;
        let registry = config.registry.open().transpose();
        let registry = registry.map_err(|error| StartError::Config {
            key: "registry.dir",
            what: error.to_string(),
        })?;
        let mut app = App::start(config, first, registry, corrections)?;
        app.export_traces()?;
        Ok(Self {
            app: Arc::new(app),
            main,
            metrics,
        })
    }

    /// Returns the address of the API.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.main.local_addr()
    }

    /// Returns the address of health probes and `/metrics`, if they have a listener of their own.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn metrics_address(&self) -> std::io::Result<Option<SocketAddr>> {
        self.metrics
            .as_ref()
            .map(TcpListener::local_addr)
            .transpose()
    }

    /// Returns a handle that applies changed configurations at run time; `level` controls the
    /// process's log level.
    pub fn reloader(&self, level: LogLevel) -> Reloader {
        Reloader::new(&self.app, level)
    }

    /// Serves until `stop` completes, then stops accepting requests, waits for running ones until
    /// the drain deadline, and returns.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { app, main, metrics } = self;
        let (stopping, watch) = watch::channel(false);
        let drain = Duration::from_secs(app.config.server.drain_deadline_s);
        // At the deadline the engine fails what is unfinished; the rest of the time is for clients
        // to receive that.
        let patience = drain + Duration::from_secs(2);
        let acceptor =
            |listener, address: &str, routes: &[&Route]| acceptor(&app, listener, address, routes);
        let operations = ROUTES
            .iter()
            .filter(|route| route.path.starts_with("/health"))
            .chain(METRICS);
        for route in ROUTES.iter().chain(METRICS) {
            app.metrics.http.declare_route(route.path, route.method);
        }
        let metrics_routes = if metrics.is_some() {
            [].iter()
        } else {
            METRICS.iter()
        };
        let routes: Vec<&Route> = ROUTES.iter().chain(metrics_routes).collect();
        learning::update_cycles(&app).await;
        let main = tokio::spawn(
            acceptor(main, &app.config.server.listen, &routes).serve(watch.clone(), patience),
        );
        let metrics = metrics.map(|listener| {
            let address = app
                .config
                .operations_listen()
                .map_or("", |(_, address)| address);
            tokio::spawn(
                acceptor(listener, address, &operations.collect::<Vec<_>>())
                    .serve(watch, Duration::from_secs(1)),
            )
        });
        let warm = tokio::spawn(warm::warm(Arc::clone(&app)));
        let sweep = tokio::spawn(feedback::sweep(Arc::clone(&app)));
        let queue = tokio::spawn(queue::watch(Arc::clone(&app)));
        let learning = tokio::spawn(learning::watch(Arc::clone(&app)));
        let follow = tokio::spawn(switch::watch_registry(Arc::clone(&app)));
        stop.await;
        let delay = Duration::from_secs(app.config.server.shutdown_delay_s);
        if !delay.is_zero() {
            app.retire();
            tracing::info!(
                delay_s = delay.as_secs(),
                "stopping: not ready, requests are still accepted"
            );
            sleep(delay).await;
        }
        tracing::info!(
            deadline_s = drain.as_secs(),
            "stopping: running requests may finish"
        );
        let stopping_at = Instant::now();
        app.drain();
        follow.abort();
        app.shadow.stop();
        // The receivers are gone only if the listeners have ended already.
        let _ = stopping.send(true);
        app.stop(drain).await;
        warm.abort();
        sweep.abort();
        queue.abort();
        learning.abort();
        let aborted = main.await.unwrap_or_default();
        if let Some(metrics) = metrics {
            let _ = metrics.await;
        }
        if let Some(corrections) = &app.corrections {
            corrections.close().await;
        }
        if let Some(traces) = &app.traces {
            let left = drain.saturating_sub(stopping_at.elapsed());
            traces.flush(left.clamp(MIN_FLUSH, MAX_FLUSH)).await;
        }
        tracing::info!(given_up = aborted, "stopped");
    }
}

/// Creates the acceptor of a listener.
fn acceptor(app: &Arc<App>, listener: TcpListener, address: &str, routes: &[&Route]) -> Acceptor {
    let server = &app.config.server;
    // An unknown address counts as exposed.
    let ip = listener
        .local_addr()
        .map_or(Ipv4Addr::UNSPECIFIED.into(), |address| address.ip());
    // Scrapers on other machines use the listener's address as host name.
    let allowed = if address == server.listen || ip.is_loopback() {
        &*server.allowed_hosts
    } else {
        &[]
    };
    let names = OwnNames::new(allowed, address, ip);
    let per_address = server
        .max_connections_per_address
        .value()
        .unwrap_or(server.max_connections.div_ceil(2));
    Acceptor {
        router: routes::router(Arc::clone(app), routes.iter().copied(), Some(names)),
        connections: ConnectionTable::new(
            server.max_connections,
            per_address,
            Arc::clone(&app.metrics.connections),
        ),
        read_timeout: Duration::from_secs(server.read_timeout_s),
        write_pace: Pace::new(
            Duration::from_secs(server.write_timeout_s),
            server.min_body_rate,
        ),
        listener,
    }
}

async fn listen(key: &'static str, address: &str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| StartError::Listen {
            key,
            address: address.to_owned(),
            error,
        })
}
