//! Connections: accepted up to a bound, given up when they dawdle, finished before the server goes.

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Extension, Router, middleware::AddExtension};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tower::Layer;

/// Most bytes of a request's line and headers.
const HEADER_BYTES: usize = 32 * 1024;

/// The address that a request came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// A listener and what it needs to serve connections.
pub(crate) struct Door {
    pub(crate) listener: TcpListener,
    pub(crate) router: Router,
    pub(crate) max_connections: usize,
    pub(crate) read_timeout: Duration,
}

impl Door {
    /// Serves until `stop` turns true, then lets what is being answered finish, and gives up on it after `patience`. Returns how many
    /// connections were given up.
    pub(crate) async fn serve(self, mut stop: watch::Receiver<bool>, patience: Duration) -> usize {
        let mut connections = JoinSet::new();
        let places = Arc::new(Semaphore::new(self.max_connections));
        loop {
            let accepted = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                // Reaps what has ended; an empty set is no reason to wake up.
                Some(_) = connections.join_next() => continue,
                accepted = self.accept(&places) => accepted,
            };
            let Some((stream, peer, place)) = accepted else { continue };
            let router = Extension(peer).layer(self.router.clone());
            let (stop, read_timeout) = (stop.clone(), self.read_timeout);
            connections.spawn(async move {
                connection(stream, router, read_timeout, stop).await;
                drop(place);
            });
        }
        drop(self.listener);
        let finished = async { while connections.join_next().await.is_some() {} };
        let _ = timeout(patience, finished).await;
        let left = connections.len();
        connections.shutdown().await;
        left
    }

    async fn accept(&self, places: &Arc<Semaphore>) -> Option<(TcpStream, Peer, OwnedSemaphorePermit)> {
        let place = Arc::clone(places).acquire_owned().await.ok()?;
        match self.listener.accept().await {
            Ok((stream, address)) => Some((stream, Peer(address), place)),
            Err(error) => {
                // Out of file descriptors, mostly: others must end first.
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(Duration::from_millis(100)).await;
                None
            }
        }
    }
}

/// Serves one connection. Errors are the client's: it left, or sent no HTTP, which hyper has answered.
async fn connection(stream: TcpStream, router: AddExtension<Router, Peer>, read_timeout: Duration, mut stop: watch::Receiver<bool>) {
    // Words of a stream go out as they come.
    let _ = stream.set_nodelay(true);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(read_timeout).max_buf_size(HEADER_BYTES);
    let mut served = pin!(http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    tokio::select! {
        ended = served.as_mut() => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended early");
            }
            return;
        }
        _ = stop.wait_for(|stop| *stop) => {}
    }
    served.as_mut().graceful_shutdown();
    let _ = served.await;
}
