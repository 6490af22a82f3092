//! Durations in OpenAI's header format: `20ms`, `1.5s`, `6m0s`.

use std::time::Duration;

/// Formats a duration, rounded up to milliseconds.
pub(super) fn format_duration(duration: Duration) -> String {
    let millis = duration.as_nanos().div_ceil(1_000_000);
    let (minutes, millis) = (millis / 60_000, millis % 60_000);
    let (hours, minutes) = (minutes / 60, minutes % 60);
    if hours == 0 && minutes == 0 && (1..1000).contains(&millis) {
        return format!("{millis}ms");
    }
    let seconds = format!("{}.{:03}", millis / 1000, millis % 1000);
    let seconds = seconds.trim_end_matches('0').trim_end_matches('.');
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_openais_format() {
        let written = [
            0, 1, 20, 999, 1000, 1500, 8640, 10_000, 59_999, 60_000, 360_000, 361_250, 3_600_000,
            90_061_001,
        ]
        .map(|millis| format_duration(Duration::from_millis(millis)));
        let expected = [
            "0s",
            "1ms",
            "20ms",
            "999ms",
            "1s",
            "1.5s",
            "8.64s",
            "10s",
            "59.999s",
            "1m0s",
            "6m0s",
            "6m1.25s",
            "1h0m0s",
            "25h1m1.001s",
        ];
        assert_eq!(written, expected);
        assert_eq!(format_duration(Duration::from_nanos(1)), "1ms");
    }
}
