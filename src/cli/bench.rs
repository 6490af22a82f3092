//! `candor bench`

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args as ClapArgs;
use futures_util::{StreamExt, stream};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Failure,
    common::{ModelArgs, open_bundle},
};
use crate::serve::Local;

/// Measure speed: tokens a second, latency for new and known photographs, start and memory
///
/// Everything goes through the API's own handlers, in this process. Modes and concurrencies are measured in turn, several times over; the table shows medians, so that
/// their ratios hold on a busy machine too.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  candor bench --concurrency 1,4,16 --guard off,flag")]
pub(crate) struct Args {
    /// Requests at once
    #[arg(long, value_delimiter = ',', default_value = "1,4,16")]
    concurrency: Vec<usize>,

    /// Guard modes
    #[arg(long, value_delimiter = ',', default_value = "off,flag")]
    guard: Vec<String>,

    /// Folder of JPEG photographs
    #[arg(long, value_name = "DIR", default_value = "tests/fixtures/photos")]
    photos: PathBuf,

    /// Captions a measurement
    #[arg(long, default_value_t = 32)]
    captions: usize,

    /// Measurements of each kind
    #[arg(long, default_value_t = 7)]
    repeats: usize,

    /// Write the figures as JSON
    #[arg(long, value_name = "OUT")]
    json: Option<PathBuf>,

    #[command(flatten)]
    model: ModelArgs,
}

/// One cell of the table; medians over the repeats.
#[derive(Debug, Serialize)]
struct Row {
    guard: String,
    concurrency: usize,
    photographs: &'static str,
    tokens_per_second: f64,
    latency_p50_ms: f64,
    latency_p99_ms: f64,
}

#[derive(Debug, Serialize)]
struct Figures {
    /// Loading the bundle and starting the engine, then the first caption.
    start_ms: f64,
    first_caption_ms: f64,
    /// Resident memory after the first caption.
    resident_mib: Option<f64>,
    rows: Vec<Row>,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    if args.concurrency.contains(&0) || args.captions == 0 || args.repeats == 0 {
        return Err(Failure::Misused("--concurrency, --captions and --repeats must be at least 1".into()));
    }
    let photos = read_photos(&args.photos)?;
    let config = args.model.load(&[])?;
    let begun = Instant::now();
    let bundle = open_bundle(&config)?;
    let local = Local::start(config, bundle).map_err(Failure::failed)?;
    let start_ms = milliseconds(begun.elapsed());
    let figures = tokio::runtime::Runtime::new().map_err(Failure::failed)?.block_on(measure(&args, &local, &photos, start_ms))?;
    print!("{}", table(&figures));
    if let Some(out) = &args.json {
        let json = serde_json::to_vec_pretty(&figures).map_err(Failure::failed)?;
        fs::write(out, json).map_err(|e| Failure::Failed(format!("{}: {e}", out.display())))?;
    }
    Ok(())
}

fn read_photos(dir: &PathBuf) -> Result<Vec<Vec<u8>>, Failure> {
    let fail = |e: std::io::Error| Failure::Misused(format!("--photos {}: {e}", dir.display()));
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).map_err(fail)?.filter_map(|e| e.ok().map(|e| e.path())).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "jpg" || e == "jpeg"));
    paths.sort();
    paths.truncate(256);
    let photos: Vec<Vec<u8>> = paths.iter().map(fs::read).collect::<Result<_, _>>().map_err(fail)?;
    if photos.is_empty() { Err(Failure::Misused(format!("--photos {}: no JPEG files", dir.display()))) } else { Ok(photos) }
}

async fn measure(args: &Args, local: &Local, photos: &[Vec<u8>], start_ms: f64) -> Result<Figures, Failure> {
    let begun = Instant::now();
    local.chat(&local.request(&photos[0], "")).await.map_err(Failure::Failed)?;
    let (first_caption_ms, resident_mib) = (milliseconds(begun.elapsed()), resident_mib());
    let mut serial = 0u64;
    let mut samples: Vec<((usize, usize, bool), Sample)> = Vec::new();
    // The first round warms up and is not counted.
    for round in 0..=args.repeats {
        for (g, guard) in args.guard.iter().enumerate() {
            for (c, &concurrency) in args.concurrency.iter().enumerate() {
                for fresh in [false, true] {
                    let requests = (0..args.captions).map(|i| {
                        serial += 1;
                        let mut photo = photos[i % photos.len()].clone();
                        if fresh {
                            // What stands behind a JPEG's end is no part of the picture, but of the file: the cache has not seen it.
                            photo.extend(serial.to_le_bytes());
                        }
                        let mut request = local.request(&photo, "");
                        request["guard"] = json!({ "mode": guard });
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
                let of: Vec<&Sample> = samples.iter().filter(|(key, _)| *key == (g, c, fresh)).map(|(_, s)| s).collect();
                let median = |f: fn(&Sample) -> f64| quantile(of.iter().map(|s| f(s)).collect(), 0.5);
                rows.push(Row {
                    guard: guard.clone(),
                    concurrency,
                    photographs: if fresh { "new" } else { "known" },
                    tokens_per_second: median(|s| s.tokens as f64 / s.wall.as_secs_f64()),
                    latency_p50_ms: median(|s| quantile(s.latencies.clone(), 0.5)),
                    latency_p99_ms: median(|s| quantile(s.latencies.clone(), 0.99)),
                });
            }
        }
    }
    Ok(Figures { start_ms, first_caption_ms, resident_mib, rows })
}

struct Sample {
    tokens: u64,
    wall: Duration,
    latencies: Vec<f64>,
}

async fn volley(local: &Local, requests: Vec<Value>, concurrency: usize) -> Result<Sample, Failure> {
    let begun = Instant::now();
    let answers: Vec<Result<(u64, f64), String>> = stream::iter(requests)
        .map(|request| async move {
            let begun = Instant::now();
            let answer = local.chat(&request).await?;
            Ok((answer["usage"]["completion_tokens"].as_u64().unwrap_or(0), milliseconds(begun.elapsed())))
        })
        .buffer_unordered(concurrency)
        .collect()
        .await;
    let wall = begun.elapsed();
    let answers = answers.into_iter().collect::<Result<Vec<_>, _>>().map_err(Failure::Failed)?;
    Ok(Sample { tokens: answers.iter().map(|a| a.0).sum(), wall, latencies: answers.into_iter().map(|a| a.1).collect() })
}

fn quantile(mut values: Vec<f64>, q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = ((values.len().saturating_sub(1)) as f64 * q).round() as usize;
    values.get(at).copied().unwrap_or(f64::NAN)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// `VmRSS` of this process, where the system has /proc.
fn resident_mib() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
}

fn table(figures: &Figures) -> String {
    let mut out = format!("start {:.0} ms, first caption {:.0} ms", figures.start_ms, figures.first_caption_ms);
    if let Some(mib) = figures.resident_mib {
        out += &format!(", resident {mib:.0} MiB");
    }
    out += &format!("\n{:<8} {:>11} {:>12} {:>9} {:>11} {:>11}\n", "guard", "concurrency", "photographs", "tokens/s", "p50 ms", "p99 ms");
    for Row { guard, concurrency, photographs, tokens_per_second, latency_p50_ms, latency_p99_ms } in &figures.rows {
        out += &format!(
            "{guard:<8} {concurrency:>11} {photographs:>12} {tokens_per_second:>9.0} {latency_p50_ms:>11.1} {latency_p99_ms:>11.1}\n"
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_sorted_values() {
        assert_eq!(quantile(vec![3.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(quantile((0..101).map(f64::from).collect(), 0.99), 99.0);
        assert!(quantile(Vec::new(), 0.5).is_nan());
    }
}
