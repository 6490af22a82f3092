//! An image store with TLS on a loopback address: real certificates, and answers that no
//! well-behaved server would give.

use std::{
    fs,
    io::{Read, Result, Write},
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

/// What the store says beside files, which no client of the server may hear.
pub const SECRET: &str = "what the store says is its own";

/// The file that the store has.
pub fn photo() -> Vec<u8> {
    fs::read("tests/fixtures/photos/cat.jpg").unwrap()
}

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
    pub fn new() -> Self {
        let (config, ca) = certificates();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let shared = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopping.load(SeqCst) {
                    return;
                }
                let (config, seen) = (Arc::clone(&config), Arc::clone(&shared));
                thread::spawn(move || {
                    seen.connections.fetch_add(1, SeqCst);
                    seen.most_open
                        .fetch_max(seen.open.fetch_add(1, SeqCst) + 1, SeqCst);
                    // Clients that leave are what some tests are about.
                    let _ = serve(stream.unwrap(), config, &seen);
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

fn serve(stream: TcpStream, config: Arc<ServerConfig>, seen: &Seen) -> Result<()> {
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
    let certificate = CertificateParams::new(names)
        .unwrap()
        .signed_by(&key, &Issuer::new(ca, ca_key))
        .unwrap();
    let mut file = NamedTempFile::new().unwrap();
    let pem = BASE64_STANDARD.encode(ca_certificate.der());
    write!(
        file,
        "-----BEGIN CERTIFICATE-----\n{pem}\n-----END CERTIFICATE-----\n"
    )
    .unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap();
    let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    (
        Arc::new(
            config
                .with_no_client_auth()
                .with_single_cert(chain, key)
                .unwrap(),
        ),
        file,
    )
}

fn answer(target: &str, to: &mut dyn Write) -> Result<()> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    match path {
        "/photo.jpg" => reply(to, "200 OK", &[("content-type", "image/jpeg")], &photo()),
        "/slow" => {
            thread::sleep(Duration::from_millis(300));
            reply(to, "200 OK", &[], &photo())
        }
        "/hops" => match query.parse::<u32>().unwrap() {
            0 => reply(to, "200 OK", &[], &photo()),
            n => reply(
                to,
                ["301 M", "302 F", "303 S", "307 T", "308 P"][n as usize % 5],
                &[("location", &format!("?{}", n - 1))],
                b"",
            ),
        },
        "/to" => reply(to, "302 Found", &[("location", query)], SECRET.as_bytes()),
        "/nowhere" => reply(to, "302 Found", &[], SECRET.as_bytes()),
        "/status" => reply(
            to,
            query,
            &[("content-type", "image/jpeg")],
            SECRET.as_bytes(),
        ),
        "/text" => reply(
            to,
            "200 OK",
            &[("content-type", "image/jpeg")],
            SECRET.as_bytes(),
        ),
        "/packed" => reply(
            to,
            "200 OK",
            &[("content-encoding", "gzip")],
            b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x03\0\0\0\0\0\0\0\0\0",
        ),
        "/empty" => reply(to, "200 OK", &[], b""),
        _ => odd(path, to),
    }
}

/// Answers of an odd shape, without a length, too long, too slow or incomplete.
fn odd(path: &str, to: &mut dyn Write) -> Result<()> {
    let photo = photo();
    let ok = |to: &mut dyn Write, headers: &str| {
        write!(to, "HTTP/1.1 200 OK\r\n{headers}\r\n")?;
        to.flush()
    };
    let whole = format!("content-length: {}\r\n", photo.len());
    match path {
        "/chunked" => {
            ok(
                to,
                "transfer-encoding: chunked\r\ncontent-type: text/plain\r\n",
            )?;
            photo.chunks(10_000).try_for_each(|part| chunk(to, part))?;
            to.write_all(b"0\r\n\r\n")
        }
        "/close" => {
            ok(to, "")?;
            to.write_all(&photo)
        }
        "/announced" => {
            ok(to, "content-length: 999999999999\r\n")?;
            silence()
        }
        "/endless-chunked" => {
            ok(to, "transfer-encoding: chunked\r\n")?;
            loop {
                chunk(to, &[0xFF; 4096])?;
            }
        }
        "/endless" => {
            ok(to, "")?;
            loop {
                to.write_all(&[0xFF; 4096])?;
            }
        }
        "/drip" => {
            ok(to, &whole)?;
            photo.iter().try_for_each(|&byte| {
                thread::sleep(Duration::from_millis(50));
                to.write_all(&[byte])?;
                to.flush()
            })
        }
        "/cut" => {
            ok(to, &whole)?;
            to.write_all(&photo[..1000])
        }
        "/headers" => {
            to.write_all(b"HTTP/1.1 200 OK\r\n")?;
            loop {
                to.write_all(b"x-filler: 0123456789\r\n")?;
            }
        }
        "/silent" => silence(),
        _ => reply(to, "404 Not Found", &[], SECRET.as_bytes()),
    }
}

fn silence() -> Result<()> {
    thread::sleep(Duration::from_secs(20));
    Ok(())
}

/// A whole answer.
fn reply(to: &mut dyn Write, status: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<()> {
    write!(
        to,
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\n",
        body.len()
    )?;
    headers
        .iter()
        .try_for_each(|(name, value)| write!(to, "{name}: {value}\r\n"))?;
    to.write_all(b"\r\n")?;
    to.write_all(body)
}

/// One chunk of a body of unknown length.
fn chunk(to: &mut dyn Write, data: &[u8]) -> Result<()> {
    write!(to, "{:x}\r\n", data.len())?;
    to.write_all(data)?;
    to.write_all(b"\r\n")?;
    to.flush()
}
