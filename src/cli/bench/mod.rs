//! `candor bench`

use std::{
    fs,
    path::PathBuf,
    pin::pin,
    time::{Duration, Instant},
};

use clap::Args;
use futures_util::{StreamExt, stream};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    cli::{
        Failure,
        common::{ModelArgs, block_on, open_bundle},
        output::{is_stdio, write_file, write_stdout},
    },
    serve::Local,
};

/// Measure speed: tokens per second, latency for new and cached photographs, start-up time and
/// memory
///
/// Every request is streamed through the API's handlers in this process. Measured are the time to
/// the first word, the gaps between words and the time to the whole answer. Modes and concurrencies
/// are measured in turn, several times; the table shows medians, so that their ratios hold on a
/// busy machine too.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  candor bench --concurrency 1,4,16 --guard off,flag\n  candor bench \
                  --guard off,regenerate,regenerate/0,regenerate/6 --photos \
                  ../shared/data/flickr8k/images/dev"
)]
pub(crate) struct BenchArgs {
    /// Numbers of concurrent requests, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "1,4,16")]
    concurrency: Vec<usize>,

    /// Guard modes, separated by commas; MODE/WINDOW streams with a window of that many words
    #[arg(long, value_delimiter = ',', default_value = "off,flag")]
    guard: Vec<String>,

    /// Folder of JPEG photographs
    #[arg(long, value_name = "DIR", default_value = "tests/fixtures/photos")]
    photos: PathBuf,

    /// Captions per measurement
    #[arg(long, default_value_t = 32)]
    captions: usize,

    /// Measurements per mode and concurrency
    #[arg(long, default_value_t = 7)]
    repeats: usize,

    /// Write the figures as JSON; `-` writes them to standard output instead of the table
    #[arg(long, value_name = "OUT")]
    json: Option<PathBuf>,

    #[command(flatten)]
    model: ModelArgs,
}

/// One row of the table; times are medians over the repeats.
#[derive(Debug, Serialize)]
struct Row {
    guard: String,
    concurrency: usize,
    photographs: &'static str,
    tokens_per_second: f64,
    first_word_p50_ms: f64,
    first_word_p99_ms: f64,
    gap_p50_ms: f64,
    gap_p99_ms: f64,
    latency_p50_ms: f64,
    latency_p99_ms: f64,
}

#[derive(Debug, Serialize)]
struct Figures {
    /// Time to load the bundle, start the engine and write the first caption.
    start_ms: f64,
    first_caption_ms: f64,
    /// Resident memory after the first caption.
    resident_mib: Option<f64>,
    rows: Vec<Row>,
}

pub(crate) fn run(args: BenchArgs) -> Result<(), Failure> {
    if args.concurrency.contains(&0) || args.captions == 0 || args.repeats == 0 {
        return Err(Failure::Misused(
            "--concurrency, --captions and --repeats must be at least 1".into(),
        ));
    }
    let photos = read_photos(&args.photos)?;
    let mut config = args.model.load(&[])?;
    let begun = Instant::now();
    let bundle = open_bundle(&mut config)?;
    let local = Local::start(config, bundle).map_err(Failure::failed)?;
    let start_ms = milliseconds(begun.elapsed());
    let figures = block_on(measure(&args, &local, &photos, start_ms))?;
    let json = serde_json::to_vec_pretty(&figures).map_err(Failure::failed)?;
    match &args.json {
        Some(out) if is_stdio(out) => write_stdout(&json),
        Some(out) => write_stdout(table(&figures).as_bytes()).and(write_file(out, &json)),
        None => write_stdout(table(&figures).as_bytes()),
    }
}

fn read_photos(dir: &PathBuf) -> Result<Vec<Vec<u8>>, Failure> {
    let fail = |e: std::io::Error| Failure::Misused(format!("--photos {}: {e}", dir.display()));
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .map_err(fail)?
        .filter_map(|e| e.ok().map(|e| e.path()))
        .collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "jpg" || e == "jpeg"));
    paths.sort();
    paths.truncate(256);
    let photos: Vec<Vec<u8>> = paths
        .iter()
        .map(fs::read)
        .collect::<Result<_, _>>()
        .map_err(fail)?;
    if photos.is_empty() {
        Err(Failure::Misused(format!(
            "--photos {}: no JPEG files",
            dir.display()
        )))
    } else {
        Ok(photos)
    }
}

async fn measure(
    args: &BenchArgs,
    local: &Local,
    photos: &[Vec<u8>],
    start_ms: f64,
) -> Result<Figures, Failure> {
    let begun = Instant::now();
    local
        .chat(&local.request(&photos[0], ""))
        .await
        .map_err(Failure::Failed)?;
    let (first_caption_ms, resident_mib) = (milliseconds(begun.elapsed()), resident_mib());
    let mut serial = 0u64;
    let mut samples: Vec<((usize, usize, bool), Sample)> = Vec::new();
    // The first round is a warm-up and is not counted.
    for round in 0..=args.repeats {
        for (g, guard) in args.guard.iter().enumerate() {
            for (c, &concurrency) in args.concurrency.iter().enumerate() {
                for fresh in [false, true] {
                    let requests = (0..args.captions).map(|i| {
                        serial += 1;
                        let mut photo = photos[i % photos.len()].clone();
                        if fresh {
                            // A comment segment changes the file but not the picture, so the image
                            // cache misses.
                            let behind = photo.len().min(2);
                            photo.splice(
                                behind..behind,
                                [0xff, 0xfe, 0, 10].into_iter().chain(serial.to_le_bytes()),
                            );
                        }
                        let mut request = local.request(&photo, "");
                        request["guard"] = match guard.split_once('/') {
                            Some((mode, window)) => {
                                json!({ "mode": mode, "window": window.parse::<u64>().ok() })
                            }
                            None => json!({ "mode": guard }),
                        };
                        (request["stream"], request["stream_options"]) =
                            (json!(true), json!({ "include_usage": true }));
                        request
                    });
                    let sample = volley(local, requests.collect(), concurrency).await?;
                    if round > 0 {
                        samples.push(((g, c, fresh), sample));
                    }
                }
            }
        }
    }
    let mut rows = Vec::new();
    for (g, guard) in args.guard.iter().enumerate() {
        for (c, &concurrency) in args.concurrency.iter().enumerate() {
            for fresh in [false, true] {
                let measured: Vec<&Sample> = samples
                    .iter()
                    .filter(|(key, _)| *key == (g, c, fresh))
                    .map(|(_, s)| s)
                    .collect();
                let median =
                    |f: fn(&Sample) -> f64| quantile(measured.iter().map(|s| f(s)).collect(), 0.5);
                rows.push(Row {
                    guard: guard.clone(),
                    concurrency,
                    photographs: if fresh { "new" } else { "known" },
                    tokens_per_second: median(|s| s.tokens as f64 / s.wall.as_secs_f64()),
                    first_word_p50_ms: median(|s| quantile(s.first_words.clone(), 0.5)),
                    first_word_p99_ms: median(|s| quantile(s.first_words.clone(), 0.99)),
                    gap_p50_ms: median(|s| quantile(s.gaps.clone(), 0.5)),
                    gap_p99_ms: median(|s| quantile(s.gaps.clone(), 0.99)),
                    latency_p50_ms: median(|s| quantile(s.latencies.clone(), 0.5)),
                    latency_p99_ms: median(|s| quantile(s.latencies.clone(), 0.99)),
                });
            }
        }
    }
    Ok(Figures {
        start_ms,
        first_caption_ms,
        resident_mib,
        rows,
    })
}

struct Sample {
    tokens: u64,
    wall: Duration,
    first_words: Vec<f64>,
    gaps: Vec<f64>,
    latencies: Vec<f64>,
}

/// Timing of one streamed answer as its client sees it, in milliseconds.
#[derive(Default)]
struct AnswerTiming {
    tokens: u64,
    first_word: f64,
    gaps: Vec<f64>,
    latency: f64,
}

async fn read(local: &Local, request: &Value) -> Result<AnswerTiming, String> {
    let (begun, mut read, mut last) = (Instant::now(), AnswerTiming::default(), None);
    let mut chunks = pin!(local.stream(request).await?);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        let now = milliseconds(begun.elapsed());
        read.tokens += chunk["usage"]["completion_tokens"].as_u64().unwrap_or(0);
        if chunk["choices"][0]["delta"]["content"]
            .as_str()
            .is_some_and(|text| !text.is_empty())
        {
            match last.replace(now) {
                Some(before) => read.gaps.push(now - before),
                None => read.first_word = now,
            }
        }
    }
    read.latency = milliseconds(begun.elapsed());
    Ok(read)
}

async fn volley(
    local: &Local,
    requests: Vec<Value>,
    concurrency: usize,
) -> Result<Sample, Failure> {
    let begun = Instant::now();
    let answers: Vec<Result<AnswerTiming, String>> = stream::iter(requests)
        .map(|request| async move { read(local, &request).await })
        .buffer_unordered(concurrency)
        .collect()
        .await;
    let wall = begun.elapsed();
    let answers = answers
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
        .map_err(Failure::Failed)?;
    Ok(Sample {
        tokens: answers.iter().map(|a| a.tokens).sum(),
        wall,
        first_words: answers.iter().map(|a| a.first_word).collect(),
        latencies: answers.iter().map(|a| a.latency).collect(),
        gaps: answers.into_iter().flat_map(|a| a.gaps).collect(),
    })
}

fn quantile(mut values: Vec<f64>, q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = ((values.len().saturating_sub(1)) as f64 * q).round() as usize;
    values.get(at).copied().unwrap_or(f64::NAN)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Resident memory of this process in MiB (`VmRSS` in /proc), where the system reports it.
fn resident_mib() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
}

fn table(figures: &Figures) -> String {
    let mut out = format!(
        "start {:.0} ms, first caption {:.0} ms",
        figures.start_ms, figures.first_caption_ms
    );
    if let Some(mib) = figures.resident_mib {
        out += &format!(", resident {mib:.0} MiB");
    }
    let heads = (
        "guard",
        "requests",
        "photographs",
        "tokens/s",
        "first word",
        "gap",
        "answer",
    );
    out += &format!(
        "\n{:<12} {:>8} {:>11} {:>8} {:>15} {:>15} {:>15}   ms, p50 / p99\n",
        heads.0, heads.1, heads.2, heads.3, heads.4, heads.5, heads.6
    );
    for row in &figures.rows {
        let pair = |p50: f64, p99: f64| format!("{p50:.1} / {p99:.1}");
        out += &format!(
            "{:<12} {:>8} {:>11} {:>8.0} {:>15} {:>15} {:>15}\n",
            row.guard,
            row.concurrency,
            row.photographs,
            row.tokens_per_second,
            pair(row.first_word_p50_ms, row.first_word_p99_ms),
            pair(row.gap_p50_ms, row.gap_p99_ms),
            pair(row.latency_p50_ms, row.latency_p99_ms),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantile_of_unsorted_values_is_that_of_sorted_ones() {
        assert_eq!(quantile(vec![3.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(quantile((0..101).map(f64::from).collect(), 0.99), 99.0);
        assert!(quantile(Vec::new(), 0.5).is_nan());
    }
}
