//! Accepting connections: bounded in number, with timeouts and graceful shutdown.

use std::{
    convert::Infallible,
    future::{Future, pending, poll_fn},
    io::Write,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    http::{Request, Response, Version},
};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tower::ServiceExt;

use super::{
    connections::{Connection, ConnectionRefusal, ConnectionTable},
    pace::Pace,
    socket::Socket,
};

/// Most bytes of a request's line and headers.
const HEADER_BYTES: usize = 32 * 1024;

/// Response to a client whose address is at its connection limit.
const TOO_MANY: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\nconnection: \
                          close\r\ncontent-type: application/json\r\n\
    content-length: 174\r\n\r\n\
    {\"error\":{\"message\":\"your address has reached its connection limit \
    (server.max_connections_per_address)\",\
    \"type\":\"rate_limit_error\",\"param\":null,\"code\":\"rate_limit_exceeded\"}}";

/// Address of the client, in the extensions of its requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// A listener and its connection settings.
pub(crate) struct Acceptor {
    pub(crate) listener: TcpListener,
    pub(crate) router: Router,
    pub(crate) connections: Arc<ConnectionTable>,
    pub(crate) read_timeout: Duration,
    /// Minimum rate at which clients must read their responses.
    pub(crate) write_pace: Pace,
}

impl Acceptor {
    /// Serves until `stop` becomes true, then waits up to `patience` for running exchanges. Returns
    /// the number of connections that were aborted.
    pub(crate) async fn serve(self, mut stop: watch::Receiver<bool>, patience: Duration) -> usize {
        let mut tasks = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                // Removes finished tasks; an empty set does not wake the loop.
                Some(_) = tasks.join_next() => continue,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let connection = tokio::select! {
                        _ = stop.wait_for(|stop| *stop) => break,
                        connection = self.open(peer) => connection,
                    };
                    match connection {
                        Some(connection) => drop(tasks.spawn(self.connection(
                            stream,
                            peer,
                            connection,
                            stop.clone(),
                        ))),
                        // A single write, without waiting.
                        None => drop(
                            stream
                                .into_std()
                                .and_then(|mut stream| stream.write(TOO_MANY)),
                        ),
                    }
                }
                Err(error) => {
                    // Usually out of file descriptors: other connections must end first.
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(self.listener);
        let finished = async { while tasks.join_next().await.is_some() {} };
        let _ = timeout(patience, finished).await;
        let left = tasks.len();
        tasks.shutdown().await;
        left
    }

    /// Registers a connection, waiting while all others are answering. Returns `None` if its
    /// address is at its limit.
    async fn open(&self, peer: SocketAddr) -> Option<Arc<Connection>> {
        loop {
            match self.connections.open(peer.ip()) {
                Ok(connection) => return Some(connection),
                Err(ConnectionRefusal::Address) => return None,
                Err(ConnectionRefusal::Server) => self.connections.wait_for_change().await,
            }
        }
    }

    /// Serves one connection. Errors are the client's: it left, or sent invalid HTTP, which hyper
    /// has answered.
    fn connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        connection: Arc<Connection>,
        mut stop: watch::Receiver<bool>,
    ) -> impl Future<Output = ()> + use<> {
        // Sends streamed words without delay.
        let _ = stream.set_nodelay(true);
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(self.read_timeout)
            .max_buf_size(HEADER_BYTES);
        let socket = Socket::new(stream, Arc::clone(&connection), self.write_pace.clone());
        let (router, exchange) = (self.router.clone(), Arc::clone(&connection));
        let service = service_fn(move |request: Request<Incoming>| {
            // Here and not in the future below: the socket is read again before that is polled.
            let begun = exchange.begin(
                !request.body().is_end_stream(),
                request.version() >= Version::HTTP_11,
            );
            let (router, connection) = (router.clone(), Arc::clone(&exchange));
            async move {
                if !begun {
                    // The connection is about to be closed.
                    return pending().await;
                }
                handle_request(router, connection, peer, request).await
            }
        });
        async move {
            let mut served = pin!(http.serve_connection(TokioIo::new(socket), service));
            let ended = async {
                let mut stopping = false;
                loop {
                    tokio::select! {
                        ended = poll_fn(|context| {
                            let polled = served.as_mut().poll(context);
                            // Everything writable has been written.
                            connection.make_evictable();
                            polled
                        }) => return ended,
                        _ = stop.wait_for(|stop| *stop), if !stopping => {
                            served.as_mut().graceful_shutdown();
                            stopping = true;
                        }
                    }
                }
            };
            tokio::select! {
                ended = ended => if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended early");
                },
                () = connection.wait_for_eviction() => {
                    tracing::debug!("an idle or slow connection was evicted");
                }
            }
        }
    }
}

/// Handles one request of a connection.
async fn handle_request(
    router: Router,
    connection: Arc<Connection>,
    peer: SocketAddr,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let exchange = Exchange(Arc::clone(&connection));
    request.extensions_mut().insert(Peer(peer));
    request.extensions_mut().insert(connection.client_link());
    let body_connection = Arc::clone(&connection);
    let request = request.map(|body| {
        Body::new(RequestBody {
            body,
            connection: body_connection,
            ended: false,
        })
    });
    let response = router.oneshot(request).await?;
    // No interim response may follow the start of the response.
    connection.take_interim();
    Ok(response.map(|body| {
        Body::new(ResponseBody {
            body,
            _exchange: exchange,
        })
    }))
}

/// Marks the end of an exchange on drop.
struct Exchange(Arc<Connection>);

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.set_answered();
    }
}

/// Request body that tells its connection when it is complete or no longer read.
struct RequestBody {
    body: Incoming,
    connection: Arc<Connection>,
    ended: bool,
}

impl RequestBody {
    fn end(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.connection.set_wants_body(false);
            self.connection.set_body_received();
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        // The rest is not read by anybody.
        self.end();
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        self.connection.set_wants_body(polled.is_pending());
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.end();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Response body that holds its exchange open.
struct ResponseBody {
    body: Body,
    _exchange: Exchange,
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
