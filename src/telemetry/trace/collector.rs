//! The collector that traces are sent to: its address, its headers, and the HTTP client.

use std::{collections::HashMap, fmt, fs, time::Duration};

use axum::http::{HeaderName, HeaderValue};
use futures_util::future::BoxFuture;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};
use ureq::{
    Agent,
    tls::{Certificate, TlsConfig},
};
use url::Url;

use super::{TraceSettings, TraceSetupError};

/// Path of traces below the collector's URL.
const TRACES_PATH: &str = "v1/traces";
/// Longest time of one export, with and without repetitions.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest response of the collector that is read, in bytes.
const MAX_RESPONSE: u64 = 1 << 20;

/// Variables with the collector's URL: for traces alone, and for all signals.
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// Value of `tracing.otlp_endpoint` that disables the export.
const OFF: &str = "off";

/// Parses a collector's URL.
///
/// # Errors
/// A phrase that completes a message about the URL, and does not repeat it.
pub fn collector_url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or("must be off or the URL of an OTLP/HTTP collector, such as http://localhost:4318")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must have no user name and no password; use tracing.headers_file");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must have no query and no fragment");
    }
    Ok(url)
}

/// Returns the URL that traces are posted to and the option or variable that named it; `None` if
/// they are not exported.
fn endpoint(
    configured: Option<&str>,
    env: impl Fn(&str) -> Option<String>,
) -> Result<Option<(&'static str, Url)>, TraceSetupError> {
    let below = |mut url: Url| {
        let base = url.path().trim_end_matches('/');
        if !base.ends_with(TRACES_PATH) {
            let path = format!("{base}/{TRACES_PATH}");
            url.set_path(&path);
        }
        url
    };
    let env = |name: &str| env(name).filter(|value| !value.is_empty());
    let (key, text) = match configured {
        Some(OFF) => return Ok(None),
        Some(url) => ("tracing.otlp_endpoint", url.to_owned()),
        None => {
            let named = [TRACES_ENDPOINT, ENDPOINT].into_iter();
            match named.filter_map(|name| Some((name, env(name)?))).next() {
                Some(found) => found,
                None => return Ok(None),
            }
        }
    };
    let url = collector_url(&text).map_err(|what| TraceSetupError::new(key, what))?;
    // The URL for traces alone is complete.
    let url = if key == TRACES_ENDPOINT {
        url
    } else {
        below(url)
    };
    Ok(Some((key, url)))
}

/// Reads headers from a file, one `NAME: VALUE` a line. Values are secret: no error repeats them.
fn read_headers(file: &str) -> Result<HashMap<String, String>, TraceSetupError> {
    let failed = |what: String| TraceSetupError::new("tracing.headers_file", what);
    let text = fs::read_to_string(file)
        .map_err(|error| failed(format!("{file} cannot be read: {error}")))?;
    let mut headers = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let header = line
            .split_once(':')
            .map(|(name, value)| (name.trim(), value.trim()))
            .filter(|(name, _)| HeaderName::try_from(*name).is_ok())
            .filter(|(_, value)| !value.is_empty() && HeaderValue::from_str(value).is_ok());
        let (name, value) = header.ok_or_else(|| {
            failed(format!(
                "{file}, line {}: this is not NAME: VALUE",
                number + 1
            ))
        })?;
        headers.insert(name.to_owned(), value.to_owned());
    }
    Ok(headers)
}

/// Reads trusted certificates from a PEM file.
fn read_certificates(file: &str) -> Result<Vec<Certificate<'static>>, TraceSetupError> {
    let failed = |what: &dyn fmt::Display| {
        TraceSetupError::new("tracing.ca_file", format!("{file}: {what}"))
    };
    let found: Vec<Certificate<'static>> = CertificateDer::pem_file_iter(file)
        .map_err(|error| failed(&error))?
        .map(|found| found.map(|found| Certificate::from_der(&found).to_owned()))
        .collect::<Result<_, _>>()
        .map_err(|error| failed(&error))?;
    match found.is_empty() {
        true => Err(failed(&"there is no certificate in it")),
        false => Ok(found),
    }
}

/// Creates the exporter and returns its collector's URL; `None` if traces are not exported. Headers
/// of the variables `OTEL_EXPORTER_OTLP_HEADERS` and `OTEL_EXPORTER_OTLP_TRACES_HEADERS` are added
/// to those of the file.
pub(super) fn exporter(
    settings: &TraceSettings,
    env: impl Fn(&str) -> Option<String>,
) -> Result<Option<(Url, SpanExporter)>, TraceSetupError> {
    let Some((key, url)) = endpoint(settings.endpoint.as_deref(), env)? else {
        return Ok(None);
    };
    let headers = settings.headers_file.as_deref().map(read_headers);
    let certificates = settings.ca_file.as_deref().map(read_certificates);
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(CollectorClient::new(certificates.transpose()?))
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(url.as_str())
        .with_timeout(TIMEOUT)
        .with_headers(headers.transpose()?.unwrap_or_default())
        .build()
        .map_err(|error| TraceSetupError::new(key, error.to_string()))?;
    Ok(Some((url, exporter)))
}

/// HTTP client that blocks its thread. It follows no redirects, because headers are for the
/// collector alone, and uses no proxy.
#[derive(Debug)]
struct CollectorClient(Agent);

impl CollectorClient {
    fn new(certificates: Option<Vec<Certificate<'static>>>) -> Self {
        let mut tls = TlsConfig::builder();
        if let Some(certificates) = certificates {
            tls = tls.root_certs(certificates.into());
        }
        let config = Agent::config_builder()
            .tls_config(tls.build())
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_global(Some(TIMEOUT));
        Self(config.build().into())
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let response = self.0.run(Request::from_parts(parts, &*body))?;
        let (parts, mut body) = response.into_parts();
        let body = body.with_config().limit(MAX_RESPONSE).read_to_vec()?;
        Ok(Response::from_parts(parts, body.into()))
    }
}

impl HttpClient for CollectorClient {
    fn send_bytes<'this, 'future>(
        &'this self,
        request: Request<Bytes>,
    ) -> BoxFuture<'future, Result<Response<Bytes>, HttpError>>
    where
        'this: 'future,
        Self: 'future,
    {
        Box::pin(async move { self.send(request) })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn found(configured: Option<&str>, env: &[(&str, &str)]) -> Result<Option<String>, String> {
        let env = |name: &str| {
            let found = env.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        endpoint(configured, env)
            .map(|found| found.map(|(_, url)| url.to_string()))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn option_wins_over_variables_and_traces_have_a_path() {
        let env = [
            (ENDPOINT, "http://all:4318/base/"),
            (TRACES_ENDPOINT, "http://traces/own"),
        ];
        for (configured, env, url) in [
            (None, &env[..0], None),
            (Some("off"), &env, None),
            (None, &env[..1], Some("http://all:4318/base/v1/traces")),
            (None, &env, Some("http://traces/own")),
            (None, &[(ENDPOINT, "")], None),
            (
                Some("http://own:4318"),
                &env,
                Some("http://own:4318/v1/traces"),
            ),
            (
                Some("https://own/v1/traces"),
                &env,
                Some("https://own/v1/traces"),
            ),
        ] {
            assert_eq!(found(configured, env), Ok(url.map(str::to_owned)));
        }
    }

    #[test]
    fn wrong_urls_are_refused_by_the_name_of_option_or_variable() {
        for bad in [
            "localhost:4318",
            "grpc://localhost",
            "",
            "http://user:word@host",
            "http://host/?key=word",
        ] {
            let error = found(Some(bad), &[]).unwrap_err();
            assert!(error.starts_with("tracing.otlp_endpoint: must "), "{error}");
            assert!(
                !error.contains("word@") && !error.contains("=word"),
                "{error}"
            );
        }
        let error = found(None, &[(ENDPOINT, "nowhere")]).unwrap_err();
        assert!(error.starts_with(ENDPOINT), "{error}");
    }

    #[test]
    fn headers_are_read_and_errors_do_not_repeat_them() {
        let file = |text: &str| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file
        };
        let good = file("# for the collector\n\nauthorization: Bearer a:b\nX-Scope : c\n");
        let headers = read_headers(good.path().to_str().unwrap()).unwrap();
        assert_eq!(headers["authorization"], "Bearer a:b");
        assert_eq!((headers["X-Scope"].as_str(), headers.len()), ("c", 2));
        for bad in ["hidden", "a: b\nna me: hidden", "name:", "a: hidden\u{1}"] {
            let bad = file(bad);
            let error = read_headers(bad.path().to_str().unwrap()).unwrap_err();
            let text = error.to_string();
            assert!(text.starts_with("tracing.headers_file: "), "{text}");
            assert!(!text.contains("hidden"), "{text}");
        }
        assert!(read_headers("no/such/file").is_err());
        assert!(read_certificates("no/such/file").is_err());
        assert!(read_certificates(good.path().to_str().unwrap()).is_err());
    }
}
