//! Host header check, against DNS rebinding: a request must name the server by one of its names.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{Version, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use url::Host;

use super::error::ApiError;
use crate::config::host_port;

/// Names of the server.
#[derive(Debug, Clone)]
pub(crate) struct OwnNames {
    /// Allowed hosts; `None` allows any.
    names: Option<Arc<[Host]>>,
}

impl OwnNames {
    /// Creates the set of configured names and the host of `listen`. Any name is allowed if one is
    /// `*`, or if none is configured and the server listens beyond loopback.
    pub(crate) fn new(allowed: &[String], listen: &str, address: IpAddr) -> Self {
        let any = allowed.iter().any(|name| name == "*")
            || (allowed.is_empty() && !address.is_loopback());
        let own = listen.rsplit_once(':').map(|(host, _)| host.to_owned());
        let names = allowed
            .iter()
            .chain(&own)
            .filter_map(|name| Some(parse_host(name)?.0))
            .collect();
        Self {
            names: (!any).then_some(names),
        }
    }

    /// Returns `true` if a Host header, with or without port, names this server.
    fn matches(&self, host: &str) -> bool {
        let Some(names) = &self.names else {
            return true;
        };
        parse_host(host).is_some_and(|(host, _)| is_loopback_host(&host) || names.contains(&host))
    }
}

/// Parses `HOST` or `HOST:PORT`.
fn parse_host(text: &str) -> Option<(Host, u16)> {
    host_port(text).or_else(|| host_port(&format!("{text}:80")))
}

fn is_loopback_host(host: &Host) -> bool {
    match host {
        Host::Domain(name) => name == "localhost",
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

/// Middleware that rejects requests with no or several Host headers, or with a name that is not the
/// server's. Health probes may use any name.
pub(crate) async fn check(State(own): State<OwnNames>, request: Request, next: Next) -> Response {
    let mut given = request.headers().get_all(header::HOST).iter();
    let (host, second) = (given.next(), given.next());
    let refused = match host.map(|host| host.to_str().unwrap_or("?")) {
        _ if second.is_some() => Some(ApiError::invalid(
            "invalid_host",
            "the request has more than one Host header",
        )),
        None if request.version() >= Version::HTTP_11 => Some(ApiError::invalid(
            "invalid_host",
            "the request has no Host header",
        )),
        host => {
            // The authority of an absolute URL takes precedence over the header.
            let names = request
                .uri()
                .authority()
                .map(|authority| authority.as_str())
                .into_iter()
                .chain(host);
            let is_probe = request.uri().path().starts_with("/health");
            names
                .filter(|_| !is_probe)
                .find(|name| !own.matches(name))
                .map(ApiError::unknown_host)
        }
    };
    match refused {
        Some(error) => error.into_response(),
        None => next.run(request).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(allowed: &[&str], listen: &str) -> OwnNames {
        let address = listen
            .rsplit_once(':')
            .unwrap()
            .0
            .trim_matches(['[', ']'])
            .parse()
            .unwrap_or(IpAddr::from([127, 0, 0, 1]));
        OwnNames::new(
            &allowed
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>(),
            listen,
            address,
        )
    }

    #[test]
    fn on_loopback_only_local_names_are_allowed() {
        let names = own(&[], "dev.test:8080");
        for host in [
            "localhost",
            "LOCALHOST:9",
            "localhost.",
            "127.0.0.1:8080",
            "127.9.9.9",
            "[::1]",
            "[::1]:80",
            "dev.test",
            "Dev.Test:1",
        ] {
            assert!(names.matches(host), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "evil.localhost.",
            "192.168.0.1",
            "0.0.0.0",
            "",
            "?",
            "a b",
            "user@localhost",
            "localhost:x",
        ] {
            assert!(!names.matches(host), "{host}");
        }
    }

    #[test]
    fn configured_names_are_added_on_loopback_and_exclusive_beyond() {
        let names = own(&["candor.example.org", "10.0.0.7"], "127.0.0.1:8080");
        assert!(
            names.matches("candor.example.org:443")
                && names.matches("10.0.0.7")
                && names.matches("localhost")
                && !names.matches("example.org")
        );
        assert!(own(&[], "0.0.0.0:8080").matches("evil.example"));
        let public = own(&["candor.example.org"], "0.0.0.0:8080");
        assert!(
            public.matches("CANDOR.example.org.")
                && public.matches("localhost")
                && !public.matches("evil.example")
        );
        assert!(own(&["*"], "127.0.0.1:8080").matches("evil.example"));
    }
}
