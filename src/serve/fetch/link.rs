//! Validation of URLs to fetch.

use hyper::Uri;
use tokio_rustls::rustls::pki_types::ServerName;
use url::{Host, Position, Url};

use crate::config::plain_host;

/// Longest URL in bytes.
const MAX_LENGTH: usize = 8 * 1024;

/// An `https:` URL with a host and without credentials.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HttpsUrl {
    url: Url,
    host: Host,
    port: u16,
}

impl HttpsUrl {
    /// Parses a URL from client input.
    ///
    /// # Errors
    /// A phrase that completes a message about the URL.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() > MAX_LENGTH {
            return Err("the URL is longer than 8192 bytes");
        }
        Self::new(Url::parse(text).map_err(|_| "this is not a valid URL")?)
    }

    /// Resolves a redirect's location.
    pub(super) fn join(&self, location: &str) -> Result<Self, &'static str> {
        if location.len() > MAX_LENGTH {
            return Err("the URL is longer than 8192 bytes");
        }
        Self::new(
            self.url
                .join(location)
                .map_err(|_| "this is not a valid URL")?,
        )
    }

    fn new(url: Url) -> Result<Self, &'static str> {
        if url.scheme() != "https" {
            return Err("images are fetched from https: URLs only");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("the URL must have no user name and no password");
        }
        let (Some(host), Some(port)) = (url.host().map(plain_host), url.port_or_known_default())
        else {
            return Err("the URL has no host");
        };
        let link = Self { url, host, port };
        // Checked here, where the message can still name the problem.
        if link.server_name().is_none() || link.target().is_none() {
            return Err("this is not a valid URL");
        }
        Ok(link)
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Returns the value of the `host` header.
    pub(super) fn authority(&self) -> String {
        let Self { host, .. } = self;
        self.url
            .port()
            .map_or_else(|| host.to_string(), |port| format!("{host}:{port}"))
    }

    /// Returns the name that the certificate must match.
    pub(super) fn server_name(&self) -> Option<ServerName<'static>> {
        match &self.host {
            Host::Domain(name) => ServerName::try_from(name.clone()).ok(),
            Host::Ipv4(address) => Some((*address).into()),
            Host::Ipv6(address) => Some((*address).into()),
        }
    }

    /// Returns the request target.
    pub(super) fn target(&self) -> Option<Uri> {
        self.url[Position::BeforePath..Position::AfterQuery]
            .parse()
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{super::address::is_global, *};

    #[test]
    fn a_url_needs_https_and_a_host_and_no_credentials() {
        for (url, why) in [
            ("http://example.org/a.jpg", "https: URLs only"),
            ("ftp://example.org/a.jpg", "https: URLs only"),
            ("file:///etc/passwd", "https: URLs only"),
            ("gopher://127.0.0.1:70/", "https: URLs only"),
            ("https://", "valid URL"),
            ("https:///", "valid URL"),
            ("https://:443/", "valid URL"),
            ("https://./", "valid URL"),
            ("https://a_b\u{7f}/", "valid URL"),
            ("https://a b/", "valid URL"),
            ("https://[fe80::1%25eth0]/", "valid URL"),
            ("https://256.1.1.1/", "valid URL"),
            ("https://example.org:99999/", "valid URL"),
            ("https://user:pw@example.org/", "no user name"),
            ("https://user@example.org/", "no user name"),
            ("https://:pw@example.org/", "no user name"),
            ("//example.org/", "valid URL"),
        ] {
            let error = HttpsUrl::parse(url).unwrap_err();
            assert!(error.contains(why), "{url}: {error}");
        }
        assert!(
            HttpsUrl::parse(&format!("https://example.org/{}", "a".repeat(9000)))
                .unwrap_err()
                .contains("longer")
        );
    }

    #[test]
    fn every_notation_of_an_address_is_recognized() {
        for url in [
            "https://2130706433/",
            "https://0177.0.0.1/",
            "https://017700000001/",
            "https://0x7f000001/",
            "https://0x7f.0.0.1/",
            "https://0x7F.1/",
            "https://127.1/",
            "https://127.0.1/",
            "https://127.0.0.1./",
            "https://%31%32%37.0.0.1/",
            "https://①②⑦.⓪.⓪.①/",
            "https://127。0。0。1/",
            "https:127.0.0.1",
            "https:\\\\127.0.0.1\\a",
            "https://example.org\\@127.0.0.1/../@127.0.0.1",
        ] {
            match HttpsUrl::parse(url) {
                Ok(link) if url.contains("example") => assert_eq!(
                    link.host(),
                    &Host::Domain("example.org".to_owned()),
                    "{url}"
                ),
                Ok(link) => assert_eq!(
                    link.host(),
                    &Host::<String>::Ipv4([127, 0, 0, 1].into()),
                    "{url}"
                ),
                Err(why) => panic!("{url}: {why}"),
            }
        }
        for url in [
            "https://0/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::ffff:7f00:1]/",
            "https://[::127.0.0.1]/",
            "https://[0:0:0::1]/",
        ] {
            let address: IpAddr = match *HttpsUrl::parse(url).unwrap().host() {
                Host::Ipv4(address) => address.into(),
                Host::Ipv6(address) => address.into(),
                Host::Domain(_) => panic!("{url}"),
            };
            assert!(!is_global(address), "{url}");
        }
    }

    #[test]
    fn host_names_are_normalized() {
        for url in [
            "https://localhost/",
            "https://LOCALHOST./",
            "https://ⓛocalhost/",
            "https://%6cocalhost/",
            "https://localhost:443/",
        ] {
            let link = HttpsUrl::parse(url).unwrap();
            assert_eq!(
                (link.host(), link.port(), link.authority().as_str()),
                (&Host::Domain("localhost".to_owned()), 443, "localhost"),
                "{url}"
            );
        }
        let idn = HttpsUrl::parse("https://BÜCHER.example:8443/ä?q=ö#part").unwrap();
        assert_eq!(
            (idn.authority().as_str(), idn.port()),
            ("xn--bcher-kva.example:8443", 8443)
        );
        assert_eq!(idn.target().unwrap().to_string(), "/%C3%A4?q=%C3%B6");
        assert_eq!(
            HttpsUrl::parse("https://[2606:4700::1]:8443")
                .unwrap()
                .authority(),
            "[2606:4700::1]:8443"
        );
        assert_eq!(
            HttpsUrl::parse("https://example.org")
                .unwrap()
                .target()
                .unwrap(),
            "/"
        );
    }

    #[test]
    fn redirects_are_validated_like_urls() {
        let link = HttpsUrl::parse("https://example.org/a/b.jpg?c").unwrap();
        let leads = |to: &str| {
            link.join(to)
                .map(|l| (l.authority(), l.target().unwrap().to_string()))
        };
        assert_eq!(
            leads("d.jpg").unwrap(),
            ("example.org".to_owned(), "/a/d.jpg".to_owned())
        );
        assert_eq!(
            leads("//other.example/e").unwrap(),
            ("other.example".to_owned(), "/e".to_owned())
        );
        assert_eq!(
            leads("https://2130706433:8443/").unwrap().0,
            "127.0.0.1:8443"
        );
        for bad in [
            "http://example.org/",
            "file:///etc/passwd",
            "//u:p@other.example/",
            "https://",
            "data:image/png;base64,AAAA",
        ] {
            assert!(leads(bad).is_err(), "{bad}");
        }
    }
}
