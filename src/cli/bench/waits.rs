//! Waits: for the second question about a photograph, and beside a long prompt.

use std::{pin::pin, time::Duration};

use futures_util::StreamExt;
use serde::Serialize;
use tokio::{select, time::Instant};

use super::{
    growth::WordCount,
    material::{Material, period},
    model::{GuardChoice, MeasuredModel},
    timing::{has_text, milliseconds, quantile, stream_answer},
};
use crate::cli::Failure;

/// Question behind the caption.
const QUESTION: &str = "Is there a dog?";

/// Tokens of the long prompt.
const LONG: usize = 2_000;

/// Positions of the context that the long prompt needs, since words are whole.
const LONG_CONTEXT: usize = LONG + 48;

/// Most running streams that may end before the long prompt is read.
const MOST_STREAMS: usize = 1_000;

/// Time to the first token of two questions about one new photograph; medians.
#[derive(Debug, Serialize)]
pub(super) struct SecondQuestion {
    first_ms: f64,
    second_ms: f64,
    /// Ratio of the second to the first, the median over the photographs.
    against_first: f64,
}

/// Waits of a running stream and of a long prompt for each other.
#[derive(Debug, Serialize)]
pub(super) struct LongPromptWaits {
    prompt_tokens: u64,
    /// 95th percentile of the gaps of a stream that runs alone.
    gap_p95_ms: f64,
    /// 95th percentile of the gaps while the long prompt is read.
    gap_p95_while_reading_ms: f64,
    /// Time to the first token of the long prompt alone, the median over the rounds.
    first_token_alone_ms: f64,
    /// Time to the first token of the long prompt beside the running stream.
    first_token_beside_stream_ms: f64,
}

/// Checks that a model can be asked twice about a photograph.
///
/// # Errors
/// A message that names the flag.
pub(super) fn check_second_question(model: &MeasuredModel) -> Result<(), Failure> {
    match model.sees() {
        true => Ok(()),
        false => Err(Failure::Misused(format!(
            "--second-question: {} takes text alone",
            model.name
        ))),
    }
}

/// Checks that a model takes the long prompt.
///
/// # Errors
/// A message that names the flag.
pub(super) fn check_stall(model: &MeasuredModel) -> Result<(), Failure> {
    let why = if *model.images.start() > 0 {
        "takes no request without a photograph".to_owned()
    } else if model.context < LONG_CONTEXT {
        format!(
            "has a context of {} tokens; {LONG_CONTEXT} are needed",
            model.context
        )
    } else {
        return Ok(());
    };
    Err(Failure::Misused(format!("--stall: {} {why}", model.name)))
}

/// Asks two questions about each of several new photographs, after one to warm up.
///
/// # Errors
/// The API's error message.
pub(super) async fn second_question(
    model: &MeasuredModel,
    photographs: usize,
    material: &mut Material,
) -> Result<SecondQuestion, Failure> {
    let mut waits = Vec::new();
    for _ in 0..=photographs {
        let photo = [material.new_photo()];
        let mut wait = [0.0; 2];
        for (wait, text) in wait.iter_mut().zip([None, Some(QUESTION)]) {
            *wait = first_token(model, &photo, text).await?.1;
        }
        waits.push(wait);
    }
    let median =
        |figure: fn(&[f64; 2]) -> f64| quantile(waits.iter().skip(1).map(figure).collect(), 0.5);
    Ok(SecondQuestion {
        first_ms: median(|wait| wait[0]),
        second_ms: median(|wait| wait[1]),
        against_first: median(|wait| wait[1] / wait[0]),
    })
}

/// Measures a running stream and a long prompt, alone and beside each other, in several rounds
/// after one to warm up.
///
/// # Errors
/// The API's error message.
pub(super) async fn stall(
    model: &MeasuredModel,
    rounds: usize,
    material: &mut Material,
) -> Result<LongPromptWaits, Failure> {
    let words = WordCount::measure(model, material).await?.of(LONG);
    let (mut alone, mut beside, mut tokens) = (Vec::new(), Vec::new(), 0);
    let (mut gaps, mut gaps_while_reading) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let text = material.new_text(words);
        let (prompt_tokens, wait) = first_token(model, &[], Some(&text)).await?;
        let pause = tokio::time::sleep(Duration::from_secs_f64(wait / 1e3));
        let (undisturbed, ()) = gaps_during(model, material, pause).await?;
        let text = material.new_text(words);
        let reading = first_token(model, &[], Some(&text));
        let (disturbed, read) = gaps_during(model, material, reading).await?;
        if round > 0 {
            tokens = prompt_tokens;
            alone.push(wait);
            beside.push(read?.1);
            gaps.extend(undisturbed);
            gaps_while_reading.extend(disturbed);
        }
    }
    Ok(LongPromptWaits {
        prompt_tokens: tokens,
        gap_p95_ms: quantile(gaps, 0.95),
        gap_p95_while_reading_ms: quantile(gaps_while_reading, 0.95),
        first_token_alone_ms: quantile(alone, 0.5),
        first_token_beside_stream_ms: quantile(beside, 0.5),
    })
}

/// Returns the tokens of a prompt, and the milliseconds until its answer has its first token.
async fn first_token(
    model: &MeasuredModel,
    photos: &[Vec<u8>],
    text: Option<&str>,
) -> Result<(u64, f64), Failure> {
    let mut request = model.request(photos, text, &GuardChoice::off());
    // The answer ends with its first token, even one without text.
    request["max_tokens"] = 1.into();
    let answer = stream_answer(&model.local, &request).await;
    let answer = answer.map_err(Failure::Failed)?;
    Ok((answer.prompt_tokens, answer.latency))
}

/// Runs `other` once a stream of text has begun; returns the stream's gaps until `other` is done,
/// in milliseconds, the last one cut short. A stream that ends is followed by another.
async fn gaps_during<T>(
    model: &MeasuredModel,
    material: &mut Material,
    other: impl Future<Output = T>,
) -> Result<(Vec<f64>, T), Failure> {
    let (mut other, mut gaps) = (pin!(other), Vec::new());
    for _ in 0..MOST_STREAMS {
        let text = material.new_text(period());
        let mut request = model.request(&[], Some(&text), &GuardChoice::off());
        request["max_tokens"] = model.context.into();
        let chunks = model.local.stream(&request).await;
        let mut chunks = pin!(chunks.map_err(Failure::Failed)?);
        let mut last: Option<Instant> = None;
        loop {
            select! {
                done = &mut other, if last.is_some() => {
                    gaps.extend(last.map(|last| milliseconds(last.elapsed())));
                    return Ok((gaps, done));
                }
                chunk = chunks.next() => {
                    let Some(chunk) = chunk else { break };
                    if has_text(&chunk.map_err(Failure::Failed)?) {
                        let now = Instant::now();
                        let before = last.replace(now);
                        gaps.extend(before.map(|before| milliseconds(now - before)));
                    }
                }
            }
        }
    }
    Err(Failure::Failed(format!(
        "--stall: {MOST_STREAMS} answers of {} ended before the long prompt was read",
        model.name
    )))
}

/// Formats the waits for a second question.
pub(super) fn format_second_question(found: &SecondQuestion) -> String {
    format!(
        "new photograph: first question {:.1} ms to the first token, second {:.1} ms ({:.3})\n",
        found.first_ms, found.second_ms, found.against_first
    )
}

/// Formats the waits beside a long prompt.
pub(super) fn format_stall(found: &LongPromptWaits) -> String {
    format!(
        "prompt of {} tokens: first token after {:.0} ms alone, {:.0} ms beside a running stream\n\
         running stream: 95th percentile of its gaps {:.1} ms, {:.1} ms beside that prompt\n",
        found.prompt_tokens,
        found.first_token_alone_ms,
        found.first_token_beside_stream_ms,
        found.gap_p95_ms,
        found.gap_p95_while_reading_ms
    )
}
