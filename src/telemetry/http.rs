//! Metrics of connections and HTTP requests. Labels are paths of the routing table and known
//! methods, so that clients cannot create series.

use std::{sync::Arc, time::Instant};

use prometheus::{
    Error, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use super::{Metrics, register::add};

/// Metrics of HTTP requests.
pub(crate) struct HttpMetrics {
    requests: IntCounterVec,
    duration: HistogramVec,
    in_flight: IntGaugeVec,
    request_bytes: IntCounterVec,
    response_bytes: IntCounterVec,
}

const LABELS: [&str; 2] = ["route", "method"];
const DURATION: [f64; 12] = [
    0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0,
];

impl HttpMetrics {
    pub(super) fn new(r: &Registry) -> Result<Self, Error> {
        let counters =
            |name: &str, help: &str| add(r, IntCounterVec::new(Opts::new(name, help), &LABELS)?);
        let duration = HistogramOpts::new(
            "http_request_duration_seconds",
            "Time from a request's headers to the end of its response",
        )
        .buckets(DURATION.to_vec());
        Ok(Self {
            requests: add(
                r,
                IntCounterVec::new(
                    Opts::new("http_requests_total", "HTTP requests answered"),
                    &["route", "status"],
                )?,
            )?,
            duration: add(r, HistogramVec::new(duration, &LABELS)?)?,
            in_flight: add(
                r,
                IntGaugeVec::new(
                    Opts::new("http_requests_in_flight", "HTTP requests in flight"),
                    &LABELS,
                )?,
            )?,
            request_bytes: counters(
                "http_request_body_bytes_total",
                "Bytes of request bodies received",
            )?,
            response_bytes: counters(
                "http_response_body_bytes_total",
                "Bytes of response bodies sent",
            )?,
        })
    }

    /// Creates the series of a route before its first request.
    pub(crate) fn declare_route(&self, route: &str, method: &str) {
        let labels = [route, method];
        self.duration.with_label_values(&labels);
        self.in_flight.with_label_values(&labels);
        self.request_bytes.with_label_values(&labels);
        self.response_bytes.with_label_values(&labels);
    }
}

/// HTTP request in flight, which ends when this is dropped.
pub(crate) struct HttpExchange {
    metrics: Arc<Metrics>,
    route: String,
    method: &'static str,
    began: Instant,
}

impl HttpExchange {
    /// Starts when the request's headers are read.
    pub(crate) fn new(metrics: &Arc<Metrics>, route: String, method: &'static str) -> Self {
        metrics
            .http
            .in_flight
            .with_label_values(&[route.as_str(), method])
            .inc();
        Self {
            metrics: Arc::clone(metrics),
            route,
            method,
            began: Instant::now(),
        }
    }

    /// Counts the response's status.
    pub(crate) fn count_status(&self, status: u16) {
        self.metrics
            .http
            .requests
            .with_label_values(&[&*self.route, &status.to_string()])
            .inc();
    }

    /// Returns the method.
    pub(crate) fn method(&self) -> &'static str {
        self.method
    }

    /// Returns the route.
    pub(crate) fn route(&self) -> &str {
        &self.route
    }

    /// Returns the milliseconds since the start.
    pub(crate) fn elapsed_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// Counts body bytes received and sent.
    pub(crate) fn count_bytes(&self, received: u64, sent: u64) {
        let labels = [&*self.route, self.method];
        self.metrics
            .http
            .request_bytes
            .with_label_values(&labels)
            .inc_by(received);
        self.metrics
            .http
            .response_bytes
            .with_label_values(&labels)
            .inc_by(sent);
    }
}

impl Drop for HttpExchange {
    fn drop(&mut self) {
        let (http, labels) = (&self.metrics.http, [&*self.route, self.method]);
        http.in_flight.with_label_values(&labels).dec();
        http.duration
            .with_label_values(&labels)
            .observe(self.began.elapsed().as_secs_f64());
    }
}

/// Reason why the server closed a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionEnd {
    /// Evicted in favor of a new one.
    Evicted,
    /// Too many busy connections of one address.
    Address,
    /// The client did not read its response.
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
    /// Number of open connections.
    pub(crate) open: IntGauge,
    closed: IntCounterVec,
    /// Bytes of memory assigned to request bodies and the images in them.
    pub(crate) body_memory: IntGauge,
}

impl ConnectionMetrics {
    /// Registers the metrics.
    pub(crate) fn new(r: &Registry) -> Result<Self, Error> {
        let closed = Opts::new(
            "connections_closed_total",
            "Connections closed by the server, by reason",
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
                    "Memory assigned to request bodies and the images in them",
                )?,
            )?,
        })
    }

    /// Counts a connection closed by the server.
    pub(crate) fn count_end(&self, end: ConnectionEnd) {
        self.closed.with_label_values(&[end.name()]).inc();
    }
}
