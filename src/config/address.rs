//! Addresses in the configuration: parsing of `HOST:PORT`, hosts and origins, and the check that a
//! server without keys is not exposed.

use std::net::IpAddr;

use url::{Host, Url};

use super::Config;

/// Parses `HOST:PORT`; `None` if the text is anything else. The host is normalized as in a URL, so
/// that different spellings compare equal.
pub fn host_port(text: &str) -> Option<(Host, u16)> {
    let (_, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|&port| port > 0)?;
    let url = Url::parse(&format!("https://{text}")).ok()?;
    let bare = url.username().is_empty()
        && url.password().is_none()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none();
    (bare && url.port_or_known_default() == Some(port)).then_some(())?;
    let host = plain_host(url.host()?);
    // A wildcard would be taken for a host name that cannot exist.
    (!host.to_string().contains('*')).then_some((host, port))
}

/// Removes the trailing dot of an absolute host name, which does not change the host.
pub(crate) fn plain_host(host: Host<&str>) -> Host {
    match host {
        Host::Domain(name) => Host::Domain(name.strip_suffix('.').unwrap_or(name).to_owned()),
        Host::Ipv4(address) => Host::Ipv4(address),
        Host::Ipv6(address) => Host::Ipv6(address),
    }
}

/// Returns `true` for `*` or an origin as browsers send it: lower case and without a path. Any
/// scheme is allowed, because apps have their own.
pub(super) fn is_origin(origin: &str) -> bool {
    let plain = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase() && !b"/?#@*,".contains(&b))
    };
    origin == "*"
        || origin
            .split_once("://")
            .is_some_and(|(scheme, host)| plain(scheme) && plain(host))
}

pub(super) fn is_host(host: &str) -> bool {
    host == "*" || host_port(&format!("{host}:80")).is_some()
}

pub(super) fn is_address(address: &str) -> bool {
    address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

/// Error: a server without keys would be reachable from other machines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{listen} can be reached from other machines, but the server has no keys, so anyone there \
     could use it and read its data. Add a key as CANDOR_API_KEY in the environment, in a file \
     (--key-file FILE, CANDOR_API_KEY_FILE) or as a [[keys]] table in the configuration (`candor \
     keys new` makes one); or listen at 127.0.0.1; or allow everyone with --insecure \
     (server.insecure = true)"
)]
pub struct ExposedServer {
    /// Configured address.
    listen: String,
}

impl Config {
    /// Returns `true` if other machines can reach the API. Host names other than `localhost` count
    /// as reachable.
    pub fn is_exposed(&self) -> bool {
        let host = self
            .server
            .listen
            .rsplit_once(':')
            .map_or("", |(host, _)| host);
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        match bare.parse::<IpAddr>() {
            Ok(address) => !address.to_canonical().is_loopback(),
            Err(_) => !host.eq_ignore_ascii_case("localhost"),
        }
    }

    /// Checks that a server without keys is unreachable from other machines or explicitly insecure.
    ///
    /// # Errors
    /// Returns an error if the server is exposed, has no keys, and `server.insecure` is off.
    pub fn check_exposure(&self) -> Result<(), ExposedServer> {
        let is_safe = !self.keys.is_empty() || self.server.insecure || !self.is_exposed();
        is_safe.then_some(()).ok_or_else(|| ExposedServer {
            listen: self.server.listen.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::config::ApiKey;

    #[test]
    fn host_port_normalizes_spellings_of_one_host() {
        for name in [
            "store.internal:443",
            "STORE.internal:443",
            "store.internal.:443",
            "ｓtore.internal:443",
        ] {
            assert_eq!(
                host_port(name),
                Some((Host::Domain("store.internal".to_owned()), 443)),
                "{name}"
            );
        }
        for address in ["127.0.0.1:9", "127.1:9", "0x7f000001:9", "127.0.0.1.:9"] {
            assert_eq!(
                host_port(address),
                Some((Host::Ipv4(Ipv4Addr::LOCALHOST), 9)),
                "{address}"
            );
        }
        assert_eq!(
            host_port("[0:0::1]:8443"),
            Some((Host::Ipv6(Ipv6Addr::LOCALHOST), 8443))
        );
    }

    #[test]
    fn host_port_refuses_anything_else() {
        for bad in [
            "",
            ":",
            ":443",
            "store",
            "store:",
            "store:0",
            "store:65536",
            "store:x",
            "https://store:443",
            "a@store:1",
            "::1:1",
        ] {
            assert_eq!(host_port(bad), None, "{bad}");
        }
        for bad in [
            "store/path:443",
            "store?q:443",
            "store#f:443",
            "store:443/",
            "*.store:443",
            "10.0.0.0/8:443",
            "a b:443",
        ] {
            assert_eq!(host_port(bad), None, "{bad}");
        }
    }

    fn listening(listen: &str) -> Config {
        let mut config = Config::default();
        config.server.listen = listen.to_owned();
        config
    }

    #[test]
    fn addresses_other_than_loopback_are_exposed() {
        for own in [
            "127.0.0.1:8080",
            "127.9.9.9:0",
            "[::1]:80",
            "localhost:80",
            "LocalHost:80",
            "[::ffff:127.0.0.1]:80",
        ] {
            assert_eq!(listening(own).check_exposure(), Ok(()), "{own}");
        }
        for open in [
            "0.0.0.0:8080",
            "[::]:0",
            "10.0.0.1:80",
            "[::ffff:0.0.0.0]:80",
            "[fe80::1]:80",
            "candor.example.org:80",
            "localhost.example.org:80",
        ] {
            let error = listening(open).check_exposure().unwrap_err().to_string();
            for part in [
                open,
                "CANDOR_API_KEY",
                "CANDOR_API_KEY_FILE",
                "--key-file",
                "candor keys new",
                "--insecure",
            ] {
                assert!(error.contains(part), "{error}");
            }
        }
    }

    #[test]
    fn exposed_server_with_keys_or_insecure_is_allowed() {
        let mut config = listening("0.0.0.0:80");
        config.keys = vec![ApiKey::new("app", "a-key-of-some-length")];
        assert_eq!(config.check_exposure(), Ok(()));
        config.keys.clear();
        config.admin.key_sha256 = "ab".repeat(32);
        assert!(
            config.check_exposure().is_err(),
            "the administrator's key does not close the API"
        );
        config.server.insecure = true;
        assert_eq!(config.check_exposure(), Ok(()));
    }
}
