//! What is fuzzed: each function takes any bytes and must return, with what it asserts held. The
//! tests replay `tests/fixtures/fuzz/TARGET` through them.

use std::{
    io::{Seek, Write},
    sync::LazyLock,
};

use candle_core::Device;
use candor::{
    config::Config,
    feedback::{diff::diff, interchange::InterchangeFormat},
    guard::{Mode, markup::markup, render::RenderStyle, report::report, words::words},
    serve::{
        check_score_request,
        error::ApiError,
        openai::{
            check::{MediaLimits, ServedCapabilities, check},
            request::parse,
        },
    },
    vlm::{
        preprocess::{ImageLimits, decode, to_pixels},
        processor::{message::Message, template::ChatTemplate},
    },
};

/// One target: its name, which is also that of its folder of inputs, and what runs it.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 7] = [
    ("image", image),
    ("chat_request", chat_request),
    ("score_request", score_request),
    ("guard", guard),
    ("template", template),
    ("parquet", parquet),
    ("label_studio", label_studio),
];

/// Most rows that are read of a file.
const ROWS: usize = 10_000;

/// Decodes an image and resizes it for a vision tower.
pub fn image(data: &[u8]) {
    // Smaller than what is served, so that an input takes milliseconds.
    let limits = ImageLimits {
        max_bytes: 1 << 20,
        max_pixels: 4_000_000,
        max_alloc: 32 << 20,
    };
    let Ok(image) = decode(data, &limits) else {
        return;
    };
    assert!(
        u64::from(image.width()) * u64::from(image.height()) <= limits.max_pixels,
        "{}x{}",
        image.width(),
        image.height()
    );
    if let Ok(pixels) = to_pixels(&image, 32, [127.5; 3], [127.5; 3], &Device::Cpu) {
        let levels = pixels
            .flatten_all()
            .and_then(|levels| levels.to_vec1::<f32>())
            .expect("a vector");
        assert_eq!(levels.len(), 3 * 32 * 32);
        assert!(levels.iter().all(|level| (-1.0..=1.0).contains(level)));
    }
}

static CONFIG: LazyLock<Config> = LazyLock::new(Config::default);

fn served() -> ServedCapabilities<'static> {
    ServedCapabilities {
        model: "m",
        config: &CONFIG,
        guard: &CONFIG.guard,
        calibration: None,
        media: &MEDIA,
    }
}

static MEDIA: MediaLimits = MediaLimits {
    images: 1..=1,
    judges_one_image: false,
};

/// Asserts that an error blames the client.
fn refused(error: &ApiError) {
    assert!(error.status.is_client_error(), "{error:?}");
    assert!(!error.body.error.message.is_empty());
}

/// Parses and checks a request for a chat completion.
pub fn chat_request(data: &[u8]) {
    match parse(data).and_then(|request| check(request, served())) {
        Ok(asked) => {
            assert!(
                asked.n >= 1 && asked.candidates >= 1 && asked.n * asked.candidates <= 128,
                "{asked:?}"
            );
            assert!(
                (0.0..=2.0).contains(&asked.sampling.temperature)
                    && (0.0..=1.0).contains(&asked.sampling.top_p),
                "{asked:?}"
            );
            assert!(
                asked.max_tokens >= 1 && asked.stop.iter().all(|stop| !stop.is_empty()),
                "{asked:?}"
            );
        }
        Err(error) => refused(&error),
    }
}

/// Parses and checks a request for scores.
pub fn score_request(data: &[u8]) {
    if let Err(error) = check_score_request(data, served()) {
        refused(&error);
    }
}

/// Cuts a text into words, flags and renders it: two bytes of choices, then tokens, each a byte of
/// reward and length before it.
pub fn guard(data: &[u8]) {
    let [mode, style, rest @ ..] = data else {
        return;
    };
    let mode = [
        Mode::Off,
        Mode::Score,
        Mode::Flag,
        Mode::Regenerate,
        Mode::Block,
    ][usize::from(*mode) % 5];
    let style = [
        RenderStyle::Plain,
        RenderStyle::Hedged,
        RenderStyle::Omitted,
    ][usize::from(*style) % 3];
    let (mut tokens, mut rewards, mut rest) = (Vec::new(), Vec::new(), rest);
    while let [head, after @ ..] = rest {
        let (token, others) = after.split_at(after.len().min(usize::from(head % 16)));
        tokens.push(token);
        rewards.push(f32::from(head / 16) / 15.0);
        rest = others;
    }
    let (text, _) = words(tokens.iter().copied(), &rewards);
    let chars: Vec<char> = text.chars().collect();
    let said = report(tokens.iter().copied(), &rewards, mode, 0.5.into(), style);
    let mut at = 0;
    for span in &said.spans {
        assert!(
            at <= span.start && span.start < span.end && span.end <= chars.len(),
            "{span:?} of {text:?}"
        );
        assert_eq!(
            chars[span.start..span.end].iter().collect::<String>(),
            span.text
        );
        at = span.end;
    }
    let mut at = 0;
    for part in markup(&text) {
        assert!(
            at <= part.bytes.start
                && text
                    .get(part.bytes.clone())
                    .is_some_and(|piece| !piece.is_empty()),
            "{part:?} of {text:?}"
        );
        at = part.bytes.end;
    }
    // What a person made of it: every change lies within the text.
    let new = said.alt_text.unwrap_or_default();
    let mut at = 0;
    for change in diff(&text, &new) {
        assert!(
            at <= change.chars.start
                && change.chars.start <= change.chars.end
                && change.chars.end <= chars.len(),
            "{change:?}"
        );
        at = change.chars.end;
    }
}

/// Parses a chat template, the text before the first NUL, and renders the rest with it.
pub fn template(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (source, said) = text
        .split_once('\0')
        .unwrap_or((&text, "What is in the picture?"));
    let Ok(template) = ChatTemplate::new(source) else {
        return;
    };
    let message = |role: &str, content: &str| Message::text(role, content);
    let messages = [
        message("system", "Be short."),
        message("user", said),
        message("assistant", "A dog."),
        message("user", said),
    ];
    let _ = template.render(&messages);
    if let Ok(unused) = template.unused(&messages) {
        assert!(unused.iter().all(|&i| i < messages.len()));
    }
}

/// Reads all rows of a file in a format.
fn rows(format: InterchangeFormat, data: &[u8]) {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(data)
        .and_then(|()| file.rewind())
        .expect("a temporary file is written");
    if let Ok(rows) = format.read(file) {
        for row in rows.take(ROWS) {
            let _ = row;
        }
    }
}

/// Reads a Parquet file as records, as RLHF-V and as preference pairs.
pub fn parquet(data: &[u8]) {
    for format in [
        InterchangeFormat::Parquet,
        InterchangeFormat::RlhfV,
        InterchangeFormat::TrlDpo,
    ] {
        rows(format, data);
    }
}

/// Reads a file of Label Studio's, which must also be harmless as JSON lines of either kind.
pub fn label_studio(data: &[u8]) {
    for format in [
        InterchangeFormat::LabelStudio,
        InterchangeFormat::Jsonl,
        InterchangeFormat::TrlPrm,
    ] {
        rows(format, data);
    }
}
