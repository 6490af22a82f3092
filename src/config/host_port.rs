//! `HOST:PORT`, where the host is written as in an address that is compared with others.

use url::{Host, Url};

/// Reads `HOST:PORT`. The host comes out as a URL parser has it, so that two spellings of one are
/// equal; `None` when it is something else.
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
    // A pattern would be a name that nothing has.
    (!host.to_string().contains('*')).then_some((host, port))
}

/// The host without the dot that ends an absolute name: with and without it is the same host.
pub(crate) fn plain_host(host: Host<&str>) -> Host {
    match host {
        Host::Domain(name) => Host::Domain(name.strip_suffix('.').unwrap_or(name).to_owned()),
        Host::Ipv4(address) => Host::Ipv4(address),
        Host::Ipv6(address) => Host::Ipv6(address),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn spellings_of_one_host_are_equal() {
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
    fn what_is_more_or_less_than_a_host_and_a_port_is_refused() {
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
}
