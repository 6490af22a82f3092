//! Connections: accepted up to a bound, given up when they dawdle, finished before the server goes.

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

/// What a client reads whose address has all its connections.
const TOO_MANY: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\nconnection: \
                          close\r\ncontent-type: application/json\r\n\
    content-length: 175\r\n\r\n\
    {\"error\":{\"message\":\"your address has as many connections as it may \
    (server.max_connections_per_address)\",\
    \"type\":\"rate_limit_error\",\"param\":null,\"code\":\"rate_limit_exceeded\"}}";

/// The address that a request came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// A listener and what it needs to serve connections.
pub(crate) struct Acceptor {
    pub(crate) listener: TcpListener,
    pub(crate) router: Router,
    pub(crate) connections: Arc<ConnectionTable>,
    pub(crate) read_timeout: Duration,
    /// Patience with clients that do not take their responses.
    pub(crate) write_pace: Pace,
}

impl Acceptor {
    /// Serves until `stop` turns true, then lets what is being answered finish, and gives up on it
    /// after `patience`. Returns how many connections were given up.
    pub(crate) async fn serve(self, mut stop: watch::Receiver<bool>, patience: Duration) -> usize {
        let mut tasks = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                // Reaps what has ended; an empty set is no reason to wake up.
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
                        // As much as the socket takes at once.
                        None => drop(
                            stream
                                .into_std()
                                .and_then(|mut stream| stream.write(TOO_MANY)),
                        ),
                    }
                }
                Err(error) => {
                    // Out of file descriptors, mostly: others must end first.
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

    /// Room for a connection; waits while all others are being answered. `None`: its address has
    /// all that it may have.
    async fn open(&self, peer: SocketAddr) -> Option<Arc<Connection>> {
        loop {
            match self.connections.open(peer.ip()) {
                Ok(connection) => return Some(connection),
                Err(ConnectionRefusal::Address) => return None,
                Err(ConnectionRefusal::Server) => self.connections.changed().await,
            }
        }
    }

    /// Serves one connection. Errors are the client's: it left, or sent no HTTP, which hyper has
    /// answered.
    fn connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        connection: Arc<Connection>,
        mut stop: watch::Receiver<bool>,
    ) -> impl Future<Output = ()> + use<> {
        // Words of a stream go out as they come.
        let _ = stream.set_nodelay(true);
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(self.read_timeout)
            .max_buf_size(HEADER_BYTES);
        let socket = Socket::new(stream, Arc::clone(&connection), self.write_pace.clone());
        let (router, exchange) = (self.router.clone(), Arc::clone(&connection));
        let service = service_fn(move |request: Request<Incoming>| {
            // At once: the socket is read again before what is returned is polled.
            let begun = exchange.begin(
                !request.body().is_end_stream(),
                request.version() >= Version::HTTP_11,
            );
            let (router, connection) = (router.clone(), Arc::clone(&exchange));
            async move {
                if !begun {
                    // It is about to be closed.
                    return pending().await;
                }
                answer(router, connection, peer, request).await
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
                            // All that it could write is written.
                            connection.rest();
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
                () = connection.evicted() => tracing::debug!("an idle or slow connection made room \
                    for another"),
            }
        }
    }
}

/// Answers a request of a connection.
async fn answer(
    router: Router,
    connection: Arc<Connection>,
    peer: SocketAddr,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let exchange = Exchange(Arc::clone(&connection));
    request.extensions_mut().insert(Peer(peer));
    request.extensions_mut().insert(connection.link());
    let arrives = Arc::clone(&connection);
    let request = request.map(|body| {
        Body::new(RequestBody {
            body,
            connection: arrives,
            ended: false,
        })
    });
    let response = router.oneshot(request).await?;
    // None may come in the middle of the response.
    connection.take_interim();
    Ok(response.map(|body| {
        Body::new(ResponseBody {
            body,
            _exchange: exchange,
        })
    }))
}

/// A request and its response, at their end when this is dropped.
struct Exchange(Arc<Connection>);

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.answered();
    }
}

/// The body of a request, which tells its connection when it has come or is no longer wanted.
struct RequestBody {
    body: Incoming,
    connection: Arc<Connection>,
    ended: bool,
}

impl RequestBody {
    fn end(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.connection.set_wants_body(false);
            self.connection.received();
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        // Nobody reads what is left of it.
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

/// The body of a response, with the exchange that ends with it.
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
