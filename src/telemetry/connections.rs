//! Metrics of connections, and of the memory that requests' bodies have.

use prometheus::{Error, IntCounterVec, IntGauge, Opts, Registry};

use super::metrics::add;

/// Why the server closed a connection that its client had not done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionEnd {
    /// It made room for another.
    Evicted,
    /// Its address had too many that were being answered.
    Address,
    /// Its client did not take its response.
    Slow,
}

impl ConnectionEnd {
    const ALL: [Self; 3] = [Self::Evicted, Self::Address, Self::Slow];

    fn name(self) -> &'static str {
        match self {
            Self::Evicted => "evicted",
            Self::Address => "address",
            Self::Slow => "slow",
        }
    }
}

/// Metrics of connections.
pub(crate) struct ConnectionMetrics {
    /// Open ones.
    pub(crate) open: IntGauge,
    closed: IntCounterVec,
    /// Memory given to bodies of requests and the images in them.
    pub(crate) body_memory: IntGauge,
}

impl ConnectionMetrics {
    /// Declares them.
    pub(crate) fn new(r: &Registry) -> Result<Self, Error> {
        let closed = Opts::new(
            "connections_closed_total",
            "Connections closed by the server before their clients had done, by why",
        );
        let closed = add(r, IntCounterVec::new(closed, &["reason"])?)?;
        ConnectionEnd::ALL
            .iter()
            .for_each(|end| drop(closed.with_label_values(&[end.name()])));
        Ok(Self {
            open: add(r, IntGauge::new("connections_open", "Open connections")?)?,
            closed,
            body_memory: add(
                r,
                IntGauge::new(
                    "body_memory_bytes",
                    "Memory given to requests' bodies and the images in them",
                )?,
            )?,
        })
    }

    /// Counts a connection that the server closed.
    pub(crate) fn count_end(&self, end: ConnectionEnd) {
        self.closed.with_label_values(&[end.name()]).inc();
    }
}
