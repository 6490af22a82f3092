//! Formatting of numbers, shared by terminal and HTML.

use super::{Column, Estimate, GoodDirection, NumberFormat, TableCell};

/// Text of a cell without a value.
pub(super) const ABSENT: &str = "–";

/// Text of a cell: value and interval.
pub(super) fn cell(cell: Option<&TableCell>, format: NumberFormat) -> (String, Option<String>) {
    match cell {
        Some(TableCell::Text(text)) => (plain(text), None),
        Some(TableCell::Value(Estimate { value, interval })) if value.is_finite() => {
            let finite = interval.filter(|(low, high)| low.is_finite() && high.is_finite());
            (
                number(*value, format),
                finite.map(|(low, high)| {
                    format!("[{}, {}]", number(low, format), number(high, format))
                }),
            )
        }
        _ => (ABSENT.to_owned(), None),
    }
}

/// Figure within a sentence: value, unit, interval.
pub(crate) fn stated(estimate: &Estimate, format: NumberFormat) -> String {
    let unit = if format == NumberFormat::Percent {
        "\u{a0}%"
    } else {
        ""
    };
    match cell(Some(&TableCell::Value(*estimate)), format) {
        (value, _) if value == ABSENT => "unknown".to_owned(),
        (value, Some(interval)) => format!("{value}{unit} {interval}"),
        (value, None) => format!("{value}{unit}"),
    }
}

/// Number in its column's format.
pub(super) fn number(value: f64, format: NumberFormat) -> String {
    let text = match format {
        NumberFormat::Percent => format!("{:.1}", value * 100.0),
        NumberFormat::Decimal(places) => format!("{value:.places$}"),
        NumberFormat::Count => grouped(&format!("{value:.0}")),
        NumberFormat::Text => value.to_string(),
    };
    // A small negative number rounds to "-0.0".
    match text.strip_prefix('-') {
        Some(zero) if zero.bytes().all(|b| matches!(b, b'0' | b'.')) => zero.to_owned(),
        _ => text,
    }
}

/// Whole number with thousands separated.
pub(super) fn grouped(digits: &str) -> String {
    let first = digits.find(|c: char| c.is_ascii_digit()).unwrap_or(0);
    let mut out = String::new();
    for (i, c) in digits.char_indices() {
        if i > first && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// Unit and direction of a column, shown after its name.
pub(super) fn marks(column: &Column) -> impl Iterator<Item = &'static str> {
    let unit = (column.format == NumberFormat::Percent).then_some("%");
    let arrow = column.better.map(|better| match better {
        GoodDirection::Higher => "↑",
        GoodDirection::Lower => "↓",
    });
    unit.into_iter().chain(arrow)
}

/// Text without control characters: captions and file names must not steer a terminal, and XML
/// forbids most of them.
pub(super) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// `1 plot`, `2 plots`; `None` for zero.
pub(super) fn counted(count: usize, noun: &str) -> Option<String> {
    match count {
        0 => None,
        1 => Some(format!("1 {noun}")),
        _ => Some(format!("{count} {noun}s")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_follows_its_format() {
        for (value, format, text) in [
            (0.3056, NumberFormat::Percent, "30.6"),
            (-0.0001, NumberFormat::Percent, "0.0"),
            (-0.25, NumberFormat::Decimal(1), "-0.2"),
            (1234567.0, NumberFormat::Count, "1,234,567"),
            (-123456.0, NumberFormat::Count, "-123,456"),
            (999.0, NumberFormat::Count, "999"),
            (0.5, NumberFormat::Text, "0.5"),
        ] {
            assert_eq!(number(value, format), text);
        }
    }

    #[test]
    fn cell_shows_its_interval_or_a_dash() {
        let estimate = |value, interval| TableCell::Value(Estimate { value, interval });
        let shown = |c: &TableCell| cell(Some(c), NumberFormat::Percent);
        assert_eq!(
            shown(&estimate(0.306, Some((0.281, 0.33)))),
            ("30.6".to_owned(), Some("[28.1, 33.0]".to_owned()))
        );
        assert_eq!(
            shown(&estimate(0.306, Some((f64::NAN, 0.33)))),
            ("30.6".to_owned(), None)
        );
        for absent in [
            None,
            Some(&TableCell::Absent),
            Some(&estimate(f64::NAN, Some((0.1, 0.2)))),
        ] {
            assert_eq!(
                cell(absent, NumberFormat::Percent),
                (ABSENT.to_owned(), None)
            );
        }
        assert_eq!(
            shown(&"\u{1b}[31mred".into()),
            (" [31mred".to_owned(), None)
        );
    }
}
