//! The real server over a real socket, with the embedded model.

use std::{
    io::Cursor,
    net::SocketAddr,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use candle_core::{Device, Result as TensorResult, Tensor, bail};
use candor::{
    bundle::Bundle,
    config::{Auto, Config},
    guard::OnUnanswerable,
    serve::Server,
    vlm::{Embedded, KvCache, Outputs, Row, Spec, StepOutput, VisionLanguageModel},
};
use image::{ImageFormat, Rgb, RgbImage};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::http::{self, get};

/// A running server; dropping it stops it.
pub struct Served {
    pub at: SocketAddr,
    pub metrics_at: Option<SocketAddr>,
    pub valve: Arc<Valve>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
    /// What it keeps.
    pub folder: tempfile::TempDir,
}

impl Served {
    /// With the default configuration, on a free port. Returns when it is ready.
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// With options changed.
    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        let served = Self::unready(change);
        eventually("the server is ready", || {
            get(served.at, "/health/ready").status == 200
        });
        served
    }

    /// With options changed, as soon as it listens.
    pub fn unready(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        // Most tests are of answers, and ask of pictures that nothing was learned from.
        config.guard.on_unanswerable = OnUnanswerable::Answer;
        // A step of the valve reads whole prompts, whatever time earlier ones took.
        config.engine.prefill_chunk = Auto::Value(1 << 12);
        let folder = tempfile::tempdir().unwrap();
        config.feedback.store = format!("sqlite:{}/feedback.db", folder.path().display());
        config.feedback.images = folder.path().join("images").display().to_string();
        config.registry.dir = folder.path().join("registry").display().to_string();
        config.server.listen = "127.0.0.1:0".to_owned();
        config.server.drain_deadline_s = 1;
        config.model.device = candor::device::DeviceChoice::Cpu;
        change(&mut config);
        let (bundle, valve) = Valve::before(&config);
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            tokio::runtime::Runtime::new().unwrap().block_on(async {
                let server = Server::start(config, bundle).await.unwrap();
                tell.send((server.address().unwrap(), server.metrics_address().unwrap()))
                    .unwrap();
                server
                    .run(async { stopped.await.unwrap_or_default() })
                    .await;
            });
        });
        let (at, metrics_at) = told.recv().unwrap();
        Self {
            at,
            metrics_at,
            valve,
            stop: Some(stop),
            thread: Some(thread),
            folder,
        }
    }

    /// Asks it to stop.
    pub fn stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits until it has stopped.
    pub fn join(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// The value of a metric, by its name and labels as they are shown; 0 when it is not there yet.
    pub fn metric(&self, name: &str) -> f64 {
        let text = get(self.metrics_at.unwrap_or(self.at), "/metrics");
        assert_eq!(text.status, 200);
        let line = text
            .text()
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Posts a chat completion request.
    pub fn chat(&self, body: &Value) -> http::Reply {
        http::chat(self.at, body)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.valve.open();
        self.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits for what takes a moment, for a minute at most.
#[track_caller]
pub fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "not within a minute: {what}"
        );
        thread::sleep(Duration::from_millis(5));
    }
}

/// The embedded model behind a valve: tests decide when it makes a step, and when it breaks.
pub struct Valve {
    inner: Arc<dyn VisionLanguageModel>,
    /// Steps that may still be made; `None`: any number.
    left: Mutex<Option<usize>>,
    moved: Condvar,
    /// Set while a step waits to be allowed.
    pub stands: AtomicBool,
    /// The next step fails.
    pub fails: AtomicBool,
    /// The next image panics.
    pub panics: AtomicBool,
}

impl Valve {
    /// The bundle of a configuration, with a valve before its model.
    pub fn before(config: &Config) -> (Bundle, Arc<Self>) {
        let options = config.model.open_options();
        let mut bundle = Bundle::open(&config.model.name, &options, &Device::Cpu).unwrap();
        let valve = Arc::new(Self {
            inner: bundle.vlm,
            left: Mutex::new(None),
            moved: Condvar::new(),
            stands: AtomicBool::new(false),
            fails: AtomicBool::new(false),
            panics: AtomicBool::new(false),
        });
        bundle.vlm = Arc::clone(&valve) as _;
        (bundle, valve)
    }

    /// Allows this many steps and no more.
    pub fn allow(&self, steps: usize) {
        *self.left.lock().unwrap() = Some(steps);
        self.moved.notify_all();
    }

    /// Allows any number of steps.
    pub fn open(&self) {
        *self.left.lock().unwrap() = None;
        self.moved.notify_all();
    }

    fn pass(&self) {
        let waits = |left: &mut Option<usize>| {
            self.stands.store(*left == Some(0), SeqCst);
            *left == Some(0)
        };
        let mut left = self
            .moved
            .wait_while(self.left.lock().unwrap(), waits)
            .unwrap();
        *left = left.map(|n| n - 1);
    }
}

impl VisionLanguageModel for Valve {
    fn spec(&self) -> &Spec {
        self.inner.spec()
    }

    fn encode(&self, pixels: &Tensor) -> TensorResult<Tensor> {
        assert!(!self.panics.swap(false, SeqCst), "the encoder panicked");
        self.inner.encode(pixels)
    }

    fn new_cache(&self, slots: usize, capacity: usize, positions: usize) -> TensorResult<KvCache> {
        self.inner.new_cache(slots, capacity, positions)
    }

    fn embed(&self, rows: &[Row<'_>]) -> TensorResult<Embedded> {
        self.pass();
        if self.fails.swap(false, SeqCst) {
            bail!("a secret of the model");
        }
        self.inner.embed(rows)
    }

    fn decode(
        &self,
        input: &Embedded,
        cache: &mut KvCache,
        outputs: Outputs<'_>,
    ) -> TensorResult<StepOutput> {
        self.inner.decode(input, cache, outputs)
    }
}

/// A picture that depends on `seed`, as a file.
pub fn picture(seed: u32, format: ImageFormat) -> Vec<u8> {
    let level = |x: u32, y: u32, c: u32| ((x * (seed + 3 * c) + y * (7 * seed + c)) % 256) as u8;
    let image = RgbImage::from_fn(96, 72, |x, y| {
        Rgb([level(x, y, 1), level(x, y, 2), level(x, y, 3)])
    });
    let mut file = Vec::new();
    image.write_to(&mut Cursor::new(&mut file), format).unwrap();
    file
}

/// A `data:` URL.
pub fn data_url(media_type: &str, file: &[u8]) -> String {
    format!("data:{media_type};base64,{}", BASE64_STANDARD.encode(file))
}

/// A request about a picture.
pub fn ask(seed: u32, text: &str) -> Value {
    about(
        &data_url("image/png", &picture(seed, ImageFormat::Png)),
        text,
    )
}

/// A request about the image at `url`.
pub fn about(url: &str, text: &str) -> Value {
    json!({"model": "candor-mini", "messages": [{"role": "user", "content": [
        {"type": "text", "text": text},
        {"type": "image_url", "image_url": {"url": url}},
    ]}]})
}

/// `body` with further fields.
pub fn and(mut body: Value, more: Value) -> Value {
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    body
}
