//! Connections to checked addresses: a name is resolved once, and the checked addresses are those
//! connected to.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, timeout},
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, pem::PemObject},
    },
};
use url::Host;

use super::{FetchError, address::is_global, link::HttpsUrl};

/// Creates a TLS client that trusts the certificates in a PEM file or, without one, Mozilla's list.
pub(super) fn tls(ca_file: Option<&str>) -> Result<TlsConnector, String> {
    let roots = match ca_file {
        None => RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        },
        Some(path) => roots(path).map_err(|why| format!("{path}: {why}"))?,
    };
    let versions = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions();
    let mut config = versions
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config).into())
}

fn roots(path: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| e.to_string())? {
        roots
            .add(certificate.map_err(|e| e.to_string())?)
            .map_err(|e| e.to_string())?;
    }
    if roots.is_empty() {
        Err("there is no certificate in it".to_owned())
    } else {
        Ok(roots)
    }
}

/// Resolves the URL's host and returns its addresses. All must be public, unless the operator
/// allows host and port.
pub(super) async fn resolve(
    link: &HttpsUrl,
    allow: &[(Host, u16)],
) -> Result<Vec<SocketAddr>, FetchError> {
    let port = link.port();
    let addresses = match link.host() {
        Host::Ipv4(address) => vec![(IpAddr::from(*address), port).into()],
        Host::Ipv6(address) => vec![(IpAddr::from(*address), port).into()],
        Host::Domain(name) => match lookup_host((name.as_str(), port)).await {
            Ok(addresses) => addresses.collect::<Vec<_>>(),
            Err(error) => {
                tracing::debug!(name, %error, "an image's host was not found");
                Vec::new()
            }
        },
    };
    if addresses.is_empty() {
        return Err(FetchError::Failed("the host was not found"));
    }
    let allowed = allow
        .iter()
        .any(|(host, at)| host == link.host() && *at == port);
    match addresses
        .iter()
        .find(|address| !allowed && !is_global(address.ip()))
    {
        Some(address) => {
            tracing::debug!(host = %link.host(), %address, "an image's host has an address that is \
                not fetched from");
            Err(FetchError::Forbidden)
        }
        None => Ok(addresses),
    }
}

/// Connects to the first address that responds, dividing the remaining time among the rest.
pub(super) async fn connect(
    link: &HttpsUrl,
    addresses: &[SocketAddr],
    tls: &TlsConnector,
    deadline: Instant,
) -> Result<TlsStream<TcpStream>, FetchError> {
    for (i, address) in addresses.iter().enumerate() {
        let remaining: Duration = deadline.saturating_duration_since(Instant::now());
        match timeout(
            remaining / (addresses.len() - i) as u32,
            TcpStream::connect(address),
        )
        .await
        {
            Ok(Ok(stream)) => {
                let Some(name) = link.server_name() else {
                    return Err(FetchError::Failed("the host has no name for a certificate"));
                };
                return tls.connect(name, stream).await.map_err(|error| {
                    tracing::debug!(host = %link.host(), %address, %error, "no TLS with an image's \
                        server");
                    FetchError::Failed("no trusted TLS connection to its server is possible")
                });
            }
            Ok(Err(error)) => {
                tracing::debug!(host = %link.host(), %address, %error, "an image's server cannot \
                    be connected to")
            }
            Err(_) => {
                tracing::debug!(host = %link.host(), %address, "an image's server does not answer")
            }
        }
    }
    Err(FetchError::Failed("its server cannot be connected to"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_ca_file_without_certificates_is_an_error_naming_it() {
        assert!(tls(None).is_ok());
        assert!(tls(Some("no/such.pem")).is_err_and(|why| why.contains("no/such.pem")));
        for (text, what) in [
            ("", "no certificate"),
            ("hello", "no certificate"),
            (
                "-----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----\n",
                "",
            ),
            (
                "-----BEGIN CERTIFICATE-----\n@\n-----END CERTIFICATE-----\n",
                "",
            ),
        ] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            assert!(
                tls(file.path().to_str()).is_err_and(|why| why.contains(what)),
                "{text}"
            );
        }
    }
}
