//! An image store with TLS on a loopback address: real certificates, and answers that no well-behaved server would give.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::NamedTempFile;
use tokio_rustls::rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
};

/// What the store writes on a connection after the request was read.
pub type Answer = dyn Fn(&str, &mut dyn Write) -> std::io::Result<()> + Send + Sync;

/// The store; dropping it stops it.
pub struct Store {
    pub at: SocketAddr,
    /// The certificate of who signed the store's own.
    pub ca: NamedTempFile,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Requests, up to the empty line.
    requests: Mutex<Vec<String>>,
    /// Connections accepted, with or without a request.
    connections: AtomicUsize,
    open: AtomicUsize,
    most_open: AtomicUsize,
    stopping: AtomicBool,
}

impl Store {
    /// `answer` gets the request's target.
    pub fn start(answer: impl Fn(&str, &mut dyn Write) -> std::io::Result<()> + Send + Sync + 'static) -> Self {
        let (config, ca) = certificates();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let (seen, answer): (_, Arc<Answer>) = (Arc::new(Seen::default()), Arc::new(answer));
        let shared = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopping.load(SeqCst) {
                    return;
                }
                let (config, answer, seen) = (Arc::clone(&config), Arc::clone(&answer), Arc::clone(&shared));
                thread::spawn(move || {
                    seen.connections.fetch_add(1, SeqCst);
                    seen.most_open.fetch_max(seen.open.fetch_add(1, SeqCst) + 1, SeqCst);
                    // Clients that leave are what some tests are about.
                    let _ = serve(stream.unwrap(), config, &*answer, &seen);
                    seen.open.fetch_sub(1, SeqCst);
                });
            }
        });
        Self { at, ca, seen }
    }

    /// `https://HOST:PORT` with the store's port.
    pub fn url(&self, host: &str, path: &str) -> String {
        format!("https://{host}:{}{path}", self.at.port())
    }

    /// `HOST:PORT` for `fetch.allow`.
    pub fn entry(&self, host: &str) -> String {
        format!("{host}:{}", self.at.port())
    }

    pub fn requests(&self) -> Vec<String> {
        self.seen.requests.lock().unwrap().clone()
    }

    pub fn connections(&self) -> usize {
        self.seen.connections.load(SeqCst)
    }

    pub fn open(&self) -> usize {
        self.seen.open.load(SeqCst)
    }

    /// Most connections that were open at once.
    pub fn most_open(&self) -> usize {
        self.seen.most_open.load(SeqCst)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.seen.stopping.store(true, SeqCst);
        let _ = TcpStream::connect(self.at);
    }
}

fn serve(stream: TcpStream, config: Arc<ServerConfig>, answer: &Answer, seen: &Seen) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.set_write_timeout(Some(Duration::from_secs(60)))?;
    let mut tls = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
    let (mut request, mut byte) = (Vec::new(), [0]);
    while !request.ends_with(b"\r\n\r\n") {
        tls.read_exact(&mut byte)?;
        request.push(byte[0]);
    }
    let request = String::from_utf8(request).unwrap();
    let target = request.split(' ').nth(1).unwrap().to_owned();
    seen.requests.lock().unwrap().push(request);
    answer(&target, &mut tls)?;
    tls.conn.send_close_notify();
    tls.flush()
}

/// A certificate for `localhost` and 127.0.0.1, and the file of the one that signed it.
fn certificates() -> (Arc<ServerConfig>, NamedTempFile) {
    let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let names = ["localhost", "127.0.0.1"].map(str::to_owned);
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    let mut file = NamedTempFile::new().unwrap();
    let pem = BASE64_STANDARD.encode(ca_certificate.der());
    write!(file, "-----BEGIN CERTIFICATE-----\n{pem}\n-----END CERTIFICATE-----\n").unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions().unwrap();
    let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    (Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap()), file)
}

/// A whole answer.
pub fn reply(to: &mut dyn Write, status: &str, headers: &[(&str, &str)], body: &[u8]) -> std::io::Result<()> {
    write!(to, "HTTP/1.1 {status}\r\ncontent-length: {}\r\n", body.len())?;
    head(to, headers)?;
    to.write_all(body)
}

/// Headers and the empty line after them.
pub fn head(to: &mut dyn Write, headers: &[(&str, &str)]) -> std::io::Result<()> {
    headers.iter().try_for_each(|(name, value)| write!(to, "{name}: {value}\r\n"))?;
    to.write_all(b"\r\n")
}

/// One chunk of a body of unknown length.
pub fn chunk(to: &mut dyn Write, data: &[u8]) -> std::io::Result<()> {
    write!(to, "{:x}\r\n", data.len())?;
    to.write_all(data)?;
    to.write_all(b"\r\n")?;
    to.flush()
}
