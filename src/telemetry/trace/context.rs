//! W3C Trace Context: the headers `traceparent` and `tracestate`.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// Header that names the caller's span.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Header with further data of the trace, for the systems named in it.
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// Longest `tracestate` that is kept, in bytes: the length that every system has to pass on.
const MAX_STATE: usize = 512;

/// Returns the caller's span; `None` without a valid `traceparent`.
pub(crate) fn read(headers: &HeaderMap) -> Option<SpanContext> {
    let mut given = headers.get_all(TRACEPARENT).iter();
    let (trace, span, flags) = parse(given.next()?.to_str().ok()?)?;
    if given.next().is_some() {
        return None;
    }
    let context = SpanContext::new(trace, span, flags, true, read_state(headers));
    context.is_valid().then_some(context)
}

/// Parses `VERSION-TRACE-SPAN-FLAGS`; versions above 0 may have further parts.
fn parse(text: &str) -> Option<(TraceId, SpanId, TraceFlags)> {
    let mut parts = text.split('-');
    let mut hex = |length: usize| {
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        parts
            .next()
            .filter(|part| part.len() == length && part.bytes().all(is_hex))
    };
    let (version, trace, span, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
    if version == "ff" || version == "00" && parts.next().is_some() {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
    Some((
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        flags & TraceFlags::SAMPLED,
    ))
}

/// Returns the `tracestate`; an invalid one is empty, as the specification has it.
fn read_state(headers: &HeaderMap) -> TraceState {
    let lines: Option<Vec<&str>> = headers
        .get_all(TRACESTATE)
        .iter()
        .map(|line| line.to_str().ok())
        .collect();
    lines
        .map(|lines| lines.join(","))
        .filter(|state| state.len() <= MAX_STATE)
        .and_then(|state| state.parse().ok())
        .unwrap_or_default()
}

/// Returns the value of `traceparent` that names a span.
pub(crate) fn header(context: &SpanContext) -> Option<HeaderValue> {
    let (trace, span) = (context.trace_id(), context.span_id());
    let text = format!("00-{trace}-{span}-{:02x}", context.trace_flags().to_u8());
    HeaderValue::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn headers(lines: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn read_one(parent: &str) -> Option<SpanContext> {
        read(&headers(&[(TRACEPARENT, parent)]))
    }

    #[test]
    fn valid_parents_are_read_and_written() {
        for (flags, sampled) in [("00", "00"), ("01", "01"), ("03", "01"), ("08", "00")] {
            let context = read_one(&format!("00-{TRACE}-{SPAN}-{flags}")).unwrap();
            assert_eq!(context.trace_id().to_string(), TRACE);
            assert!(context.is_remote());
            let written = header(&context).unwrap();
            assert_eq!(written, format!("00-{TRACE}-{SPAN}-{sampled}").as_str());
        }
        assert!(read_one(&format!("01-{TRACE}-{SPAN}-01-what-comes-later")).is_some());
    }

    #[test]
    fn invalid_parents_are_ignored() {
        for bad in [
            String::new(),
            "00".to_owned(),
            format!("00-{TRACE}-{SPAN}"),
            format!("0-{TRACE}-{SPAN}-01"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{}-{SPAN}-01", &TRACE[1..]),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{TRACE}-+{}-01", &SPAN[1..]),
            format!("00-{TRACE}-{SPAN}-zz"),
            format!(" 00-{TRACE}-{SPAN}-01 x"),
        ] {
            assert_eq!(read_one(&bad), None, "{bad}");
        }
        let one = format!("00-{TRACE}-{SPAN}-01");
        let two = [(TRACEPARENT, one.as_str()), (TRACEPARENT, one.as_str())];
        assert_eq!(read(&headers(&two)), None);
        assert_eq!(read(&HeaderMap::new()), None);
    }

    #[test]
    fn state_is_joined_and_dropped_if_invalid() {
        let parent = format!("00-{TRACE}-{SPAN}-01");
        let state = |lines: &[&str]| {
            let lines = lines.iter().map(|line| (TRACESTATE, *line));
            let all: Vec<_> = [(TRACEPARENT, parent.as_str())]
                .into_iter()
                .chain(lines)
                .collect();
            read(&headers(&all)).unwrap().trace_state().header()
        };
        assert_eq!(state(&["a=1,b=2", "c=3"]), "a=1,b=2,c=3");
        assert_eq!(state(&[]), "");
        assert_eq!(state(&["no list"]), "");
        assert_eq!(state(&[&format!("a={}", "x".repeat(600))]), "");
    }
}
