//! Client socket: enforces the minimum write rate, and detects whether a half-closed client is
//! still there.

use std::{
    io::{Error, ErrorKind, IoSlice, Result},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

use super::{connections::Connection, pace::Pace};
use crate::telemetry::ConnectionEnd;

/// Polling interval for half-closed clients.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Interim response, which clients ignore. A fully closed connection replies with a reset, which
/// reveals it.
const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Socket of a connection.
pub(crate) struct Socket {
    stream: TcpStream,
    connection: Arc<Connection>,
    pace: Pace,
    /// Active while a write is blocked.
    write_timer: Option<Pin<Box<Sleep>>>,
    /// Active while a half-closed client is answered.
    poll_timer: Option<Pin<Box<Sleep>>>,
    /// `true` once the interim response was tried.
    probed: bool,
}

impl Socket {
    /// Creates a socket with a write timeout.
    pub(crate) fn new(stream: TcpStream, connection: Arc<Connection>, pace: Pace) -> Self {
        Self {
            stream,
            connection,
            pace,
            write_timer: None,
            poll_timer: None,
            probed: false,
        }
    }

    /// Returns an error if the half-closed client is gone; ready with `Ok` if its request is
    /// incomplete and can never be completed.
    fn poll_half_closed(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        let timer = self
            .poll_timer
            .get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + POLL_INTERVAL)));
        loop {
            if let Some(error) = self.stream.take_error()? {
                return Poll::Ready(Err(error));
            }
            // Most responses end before a probe is worthwhile.
            ready!(timer.as_mut().poll(context));
            timer.as_mut().reset(Instant::now() + POLL_INTERVAL);
            if self.connection.wants_body() {
                return Poll::Ready(Ok(()));
            }
            if !self.probed && self.connection.is_answering() {
                self.probed = true;
                if self.connection.take_interim() {
                    let _ = self.stream.try_write(INTERIM);
                }
                self.connection.set_half_closed();
            }
        }
    }

    fn record_write(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<Result<usize>>,
    ) -> Poll<Result<usize>> {
        let now = Instant::now();
        self.connection.set_write_blocked(written.is_pending());
        match written {
            Poll::Ready(Ok(bytes)) => {
                self.write_timer = None;
                self.pace.record_transfer(bytes, now);
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                let until = self.pace.wait_until(now);
                let timer = self
                    .write_timer
                    .get_or_insert_with(|| Box::pin(sleep_until(until)));
                if timer.as_mut().poll(context).is_ready() {
                    self.connection.metrics().count_end(ConnectionEnd::Slow);
                    // Drops unsent data.
                    let _ = self.stream.set_zero_linger();
                    return Poll::Ready(Err(Error::new(
                        ErrorKind::TimedOut,
                        "the client does not read its response",
                    )));
                }
            }
        }
        written
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let ended = buffer.filled().len() == before && buffer.remaining() > 0;
        if !ended || !self.connection.is_exchanging() {
            return Poll::Ready(Ok(()));
        }
        self.poll_half_closed(context)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.record_write(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.record_write(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
