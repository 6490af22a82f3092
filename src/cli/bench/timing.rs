//! Timing of streamed answers, as their client sees it.

use std::{
    fs,
    pin::pin,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use serde_json::Value;

use crate::{cli::Failure, serve::Local};

/// Timing of one streamed answer, in milliseconds.
#[derive(Debug, Clone, Default)]
pub(super) struct AnswerTiming {
    pub(super) prompt_tokens: u64,
    pub(super) tokens: u64,
    /// Time to the first text; `None` if there was none.
    pub(super) first_word: Option<f64>,
    pub(super) gaps: Vec<f64>,
    pub(super) latency: f64,
}

/// Timing of answers that clients asked for at once.
#[derive(Debug, Clone)]
pub(super) struct SpeedSample {
    answers: Vec<AnswerTiming>,
    wall: Duration,
    /// Resident memory at the end.
    pub(super) resident_mib: Option<f64>,
}

impl SpeedSample {
    /// Returns the tokens that all clients together got a second, prompts included in the time.
    pub(super) fn tokens_per_second(&self) -> f64 {
        let tokens: u64 = self.answers.iter().map(|answer| answer.tokens).sum();
        tokens as f64 / self.wall.as_secs_f64()
    }

    /// Returns the answers that all clients together got a second.
    pub(super) fn answers_per_second(&self) -> f64 {
        self.answers.len() as f64 / self.wall.as_secs_f64()
    }

    /// Returns the tokens that one answer got a second, from its first word on; NaN if no answer
    /// had two tokens.
    pub(super) fn stream_tokens_per_second(&self) -> f64 {
        let rate = |answer: &AnswerTiming| {
            let seconds = (answer.latency - answer.first_word?) / 1e3;
            (answer.tokens > 1).then(|| (answer.tokens - 1) as f64 / seconds)
        };
        quantile(self.answers.iter().filter_map(rate).collect(), 0.5)
    }

    /// Returns the tokens of a prompt, the median over the answers.
    pub(super) fn prompt_tokens(&self) -> u64 {
        let tokens = self.answers.iter().map(|a| a.prompt_tokens as f64);
        quantile(tokens.collect(), 0.5) as u64
    }

    /// Returns a quantile of the times to the first word.
    pub(super) fn first_word(&self, q: f64) -> f64 {
        quantile(
            self.answers.iter().filter_map(|a| a.first_word).collect(),
            q,
        )
    }

    /// Returns a quantile of the gaps between words.
    pub(super) fn gap(&self, q: f64) -> f64 {
        let gaps = self.answers.iter().flat_map(|answer| &answer.gaps);
        quantile(gaps.copied().collect(), q)
    }

    /// Returns a quantile of the times to the whole answer.
    pub(super) fn latency(&self, q: f64) -> f64 {
        quantile(self.answers.iter().map(|a| a.latency).collect(), q)
    }
}

/// Streams the answers to the requests to `clients` at once.
pub(super) async fn volley(
    local: &Local,
    requests: Vec<Value>,
    clients: usize,
) -> Result<SpeedSample, Failure> {
    let begun = Instant::now();
    let answers: Vec<Result<AnswerTiming, String>> = stream::iter(requests)
        .map(|request| async move { stream_answer(local, &request).await })
        .buffer_unordered(clients)
        .collect()
        .await;
    let wall = begun.elapsed();
    Ok(SpeedSample {
        answers: answers
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(Failure::Failed)?,
        wall,
        resident_mib: resident_mib(),
    })
}

/// Streams the answer to a request.
///
/// # Errors
/// The API's error message.
pub(super) async fn stream_answer(local: &Local, request: &Value) -> Result<AnswerTiming, String> {
    let (begun, mut timing, mut last) = (Instant::now(), AnswerTiming::default(), None);
    let mut chunks = pin!(local.stream(request).await?);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        let now = milliseconds(begun.elapsed());
        timing.tokens += chunk["usage"]["completion_tokens"].as_u64().unwrap_or(0);
        timing.prompt_tokens += chunk["usage"]["prompt_tokens"].as_u64().unwrap_or(0);
        if has_text(&chunk) {
            match last.replace(now) {
                Some(before) => timing.gaps.push(now - before),
                None => timing.first_word = Some(now),
            }
        }
    }
    timing.latency = milliseconds(begun.elapsed());
    Ok(timing)
}

/// Returns `true` if a chunk of a stream has text of the answer.
pub(super) fn has_text(chunk: &Value) -> bool {
    chunk["choices"][0]["delta"]["content"]
        .as_str()
        .is_some_and(|text| !text.is_empty())
}

/// Returns the value at a share of the sorted values, the nearest; NaN if there are none.
pub(super) fn quantile(mut values: Vec<f64>, q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = ((values.len().saturating_sub(1)) as f64 * q).round() as usize;
    values.get(at).copied().unwrap_or(f64::NAN)
}

/// Returns the median of a figure over samples.
pub(super) fn median<'a>(
    samples: impl IntoIterator<Item = &'a SpeedSample>,
    figure: impl Fn(&SpeedSample) -> f64,
) -> f64 {
    quantile(samples.into_iter().map(figure).collect(), 0.5)
}

/// Converts a duration to milliseconds.
pub(super) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Returns the resident memory of this process in MiB (`VmRSS` in /proc), if the system reports it.
pub(super) fn resident_mib() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
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

    #[test]
    fn rates_are_of_all_answers_and_of_one_behind_its_first_word() {
        let answer = |first_word, latency| AnswerTiming {
            prompt_tokens: 7,
            tokens: 11,
            first_word,
            gaps: Vec::new(),
            latency,
        };
        let sample = SpeedSample {
            answers: vec![answer(Some(500.0), 1_500.0), answer(None, 2_000.0)],
            wall: Duration::from_secs(2),
            resident_mib: None,
        };
        assert_eq!(sample.tokens_per_second(), 11.0);
        assert_eq!(sample.answers_per_second(), 1.0);
        assert_eq!(sample.stream_tokens_per_second(), 10.0);
        assert_eq!(sample.first_word(0.99), 500.0);
        assert_eq!(sample.prompt_tokens(), 7);
    }
}
