//! Metrics of HTTP requests, by route. Routes are paths of the routing table and methods are known
//! ones, so that clients cannot invent series.

use std::{sync::Arc, time::Instant};

use prometheus::{
    Error, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use super::{Metrics, metrics::add};

/// Metrics of HTTP requests.
pub(crate) struct HttpMetrics {
    requests: IntCounterVec,
    duration: HistogramVec,
    in_flight: IntGaugeVec,
    request_bytes: IntCounterVec,
    response_bytes: IntCounterVec,
}

const BY: [&str; 2] = ["route", "method"];
const DURATION: [f64; 12] = [
    0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0,
];

impl HttpMetrics {
    pub(super) fn new(r: &Registry) -> Result<Self, Error> {
        let counters =
            |name: &str, help: &str| add(r, IntCounterVec::new(Opts::new(name, help), &BY)?);
        let duration = HistogramOpts::new(
            "http_request_duration_seconds",
            "From a request's headers to the end of its response",
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
            duration: add(r, HistogramVec::new(duration, &BY)?)?,
            in_flight: add(
                r,
                IntGaugeVec::new(
                    Opts::new(
                        "http_requests_in_flight",
                        "HTTP requests whose response is not at its end",
                    ),
                    &BY,
                )?,
            )?,
            request_bytes: counters(
                "http_request_body_bytes_total",
                "Bytes of requests' bodies that were read",
            )?,
            response_bytes: counters(
                "http_response_body_bytes_total",
                "Bytes of responses' bodies that were sent",
            )?,
        })
    }

    /// Shows the series of a route before its first request.
    pub(crate) fn declare_route(&self, route: &str, method: &str) {
        let labels = [route, method];
        self.duration.with_label_values(&labels);
        self.in_flight.with_label_values(&labels);
        self.request_bytes.with_label_values(&labels);
        self.response_bytes.with_label_values(&labels);
    }
}

/// One HTTP request, in flight until this is dropped.
pub(crate) struct HttpExchange {
    metrics: Arc<Metrics>,
    route: String,
    method: &'static str,
    began: Instant,
}

impl HttpExchange {
    /// Begins with the request's headers.
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

    /// The route.
    pub(crate) fn route(&self) -> &str {
        &self.route
    }

    /// Milliseconds until now.
    pub(crate) fn elapsed_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// Counts bytes of the bodies: of the request's, and of the response's.
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
