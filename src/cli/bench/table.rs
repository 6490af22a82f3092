//! The table of modes: speed by guard mode, number of clients and kind of photographs.

use serde::Serialize;

use super::{
    case::{BenchCase, Measured, MeasuredSetting, Photographs},
    timing::{SpeedSample, median, quantile},
};

/// Words of a request without photographs.
const WORDS: usize = 20;

/// One row of the table; times are medians over the rounds.
#[derive(Debug, Serialize)]
pub(super) struct SpeedRow {
    guard: String,
    /// Kind of the scorer, in modes that score.
    scorer: Option<&'static str>,
    concurrency: usize,
    photographs: Photographs,
    tokens_per_second: f64,
    answers_per_second: f64,
    /// Tokens of one answer a second, from its first word on.
    stream_tokens_per_second: f64,
    /// Ratio of the tokens a second to those of `off` in the same round, the median over the
    /// rounds; `None` if `off` is not measured.
    against_off: Option<f64>,
    first_word_p50_ms: f64,
    first_word_p99_ms: f64,
    gap_p50_ms: f64,
    gap_p99_ms: f64,
    latency_p50_ms: f64,
    latency_p99_ms: f64,
}

/// Returns the cases in the order in which they are measured: what is compared side by side.
pub(super) fn cases<'a>(
    settings: &[MeasuredSetting<'a>],
    concurrency: &[usize],
    requests: impl Fn(usize) -> usize,
) -> Vec<BenchCase<'a>> {
    let mut cases = Vec::new();
    for &clients in concurrency {
        let kinds = settings.first().map(|s| Photographs::of(s.model));
        for &photographs in kinds.unwrap_or_default() {
            cases.extend(settings.iter().map(|&setting| BenchCase {
                setting,
                clients,
                requests: requests(clients),
                photographs,
                images: usize::from(photographs != Photographs::None),
                words: WORDS,
            }));
        }
    }
    cases
}

/// Returns the rows of measured cases, those of a setting side by side.
pub(super) fn rows(
    settings: &[MeasuredSetting<'_>],
    cases: &[BenchCase<'_>],
    measured: &[Measured],
) -> Vec<SpeedRow> {
    let samples = |case: &BenchCase<'_>| {
        let same = cases.iter().position(|other| {
            is_same(case.setting, other.setting)
                && (other.clients, other.photographs) == (case.clients, case.photographs)
        });
        same.and_then(|at| measured.get(at))
            .map(|measured| measured.samples.as_slice())
            .unwrap_or_default()
    };
    let off = settings.iter().find(|setting| !setting.guard.scores());
    let mut rows = Vec::new();
    for &setting in settings {
        for case in cases.iter().filter(|case| is_same(case.setting, setting)) {
            let own = samples(case);
            let against = off.filter(|_| setting.guard.scores()).map(|&off| {
                let other = samples(&BenchCase {
                    setting: off,
                    ..*case
                });
                against(own, other)
            });
            rows.push(row(case, own, against));
        }
    }
    rows
}

fn is_same(one: MeasuredSetting<'_>, other: MeasuredSetting<'_>) -> bool {
    std::ptr::eq(one.model, other.model) && one.guard == other.guard
}

/// Returns the ratio of the tokens a second, the median over the pairs of a round.
fn against(own: &[SpeedSample], off: &[SpeedSample]) -> f64 {
    let ratio = |(own, off): (&SpeedSample, &SpeedSample)| {
        own.tokens_per_second() / off.tokens_per_second()
    };
    quantile(own.iter().zip(off).map(ratio).collect(), 0.5)
}

fn row(case: &BenchCase<'_>, samples: &[SpeedSample], against_off: Option<f64>) -> SpeedRow {
    let of = |figure: fn(&SpeedSample, f64) -> f64, q: f64| median(samples, |s| figure(s, q));
    SpeedRow {
        guard: case.setting.guard.name.clone(),
        scorer: case.setting.scorer(),
        concurrency: case.clients,
        photographs: case.photographs,
        tokens_per_second: median(samples, SpeedSample::tokens_per_second),
        answers_per_second: median(samples, SpeedSample::answers_per_second),
        stream_tokens_per_second: median(samples, SpeedSample::stream_tokens_per_second),
        against_off,
        first_word_p50_ms: of(SpeedSample::first_word, 0.5),
        first_word_p99_ms: of(SpeedSample::first_word, 0.99),
        gap_p50_ms: of(SpeedSample::gap, 0.5),
        gap_p99_ms: of(SpeedSample::gap, 0.99),
        latency_p50_ms: of(SpeedSample::latency, 0.5),
        latency_p99_ms: of(SpeedSample::latency, 0.99),
    }
}

/// Returns the name of a mode with its scorer.
pub(super) fn mode_name(guard: &str, scorer: Option<&str>) -> String {
    scorer.map_or_else(|| guard.to_owned(), |scorer| format!("{guard}, {scorer}"))
}

/// Formats the table.
pub(super) fn format(rows: &[SpeedRow]) -> String {
    let mut out = format!(
        "{:<22} {:>8} {:>11} {:>8} {:>11} {:>12} {:>9} {:>15} {:>15} {:>17}   ms, p50 / p99\n",
        "guard",
        "requests",
        "photographs",
        "tokens/s",
        "against off",
        "one answer's",
        "answers/s",
        "first word",
        "gap",
        "answer"
    );
    for row in rows {
        let pair = |p50: f64, p99: f64| format!("{p50:.1} / {p99:.1}");
        let against = row.against_off.map(|ratio| format!("{ratio:.3}"));
        out += &format!(
            "{:<22} {:>8} {:>11} {:>8.0} {:>11} {:>12.1} {:>9.1} {:>15} {:>15} {:>17}\n",
            mode_name(&row.guard, row.scorer),
            row.concurrency,
            row.photographs.name(),
            row.tokens_per_second,
            against.unwrap_or_default(),
            row.stream_tokens_per_second,
            row.answers_per_second,
            pair(row.first_word_p50_ms, row.first_word_p99_ms),
            pair(row.gap_p50_ms, row.gap_p99_ms),
            pair(row.latency_p50_ms, row.latency_p99_ms),
        );
    }
    out
}
