//! Parts shared by plots: scales, ticks, the frame, and text that cannot break out of its element.
//! Colors are CSS classes of `report.css`.

use super::format::{grouped, plain};

/// Width of a drawing. Small, because drawings shrink to a phone's width and the text must stay
/// legible.
pub(super) const WIDTH: f64 = 460.0;
/// Height for the label of the vertical axis.
pub(super) const TOP: f64 = 26.0;
/// Height for ticks and label of the horizontal axis.
pub(super) const BOTTOM: f64 = 40.0;
/// Width for half a tick label.
pub(super) const RIGHT: f64 = 16.0;
/// Mean width of a small character in pixels.
const CHARACTER: f64 = 6.3;
/// Larger values are treated as not finite: a span of two could not be represented.
const LARGEST: f64 = 1e100;

/// Escapes text for an element or an attribute.
pub(super) fn escape(text: &str) -> String {
    plain(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

/// Approximate width of a text in pixels.
pub(super) fn text_width(text: &str) -> f64 {
    text.chars().count() as f64 * CHARACTER
}

/// SVG element with a description for screen readers.
pub(super) fn drawing(height: f64, title: &str, description: &str, body: &str) -> String {
    format!(
        "<svg class=\"plot\" viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" \
             aria-label=\"{}\"><desc>{}</desc>{body}</svg>",
        escape(title),
        escape(description),
    )
}

/// Text at a point; `anchor` is SVG's `text-anchor`.
pub(super) fn text(x: f64, y: f64, class: &str, anchor: &str, text: &str) -> String {
    format!(
        r#"<text x="{x:.1}" y="{y:.1}" class="{class}" text-anchor="{anchor}">{}</text>"#,
        escape(text)
    )
}

/// A straight line.
pub(super) fn line(from: (f64, f64), to: (f64, f64), class: &str) -> String {
    format!(
        r#"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" class="{class}"/>"#,
        from.0, from.1, to.0, to.1
    )
}

/// Rectangle between two corners, with a tooltip.
pub(super) fn rect(a: (f64, f64), b: (f64, f64), class: &str, tip: &str) -> String {
    let (x, y, width, height) = (
        a.0.min(b.0),
        a.1.min(b.1),
        (a.0 - b.0).abs(),
        (a.1 - b.1).abs(),
    );
    let tip = if tip.is_empty() {
        String::new()
    } else {
        format!("<title>{}</title>", escape(tip))
    };
    format!(
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
         class=\"{class}\">{tip}</rect>"
    )
}

/// Returns `true` if a value can be drawn.
pub(super) fn drawable(value: f64) -> bool {
    value.abs() < LARGEST
}

/// Range of an axis: as requested, or that of the data with a margin that does not extend beyond
/// zero.
pub(super) fn range(requested: Option<(f64, f64)>, data: impl Iterator<Item = f64>) -> (f64, f64) {
    if let Some((low, high)) =
        requested.filter(|&(low, high)| drawable(low) && drawable(high) && high - low > 1e-12)
    {
        return (low, high);
    }
    let (low, high) = data
        .filter(|&v| drawable(v))
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| {
            (l.min(v), h.max(v))
        });
    let size = low.abs().max(high.abs());
    if low > high {
        (0.0, 1.0)
    } else if size < 1e-9 {
        (-1.0, 1.0)
    } else {
        let several = high - low > 1e-9 * size;
        let air = if several {
            0.04 * (high - low)
        } else {
            0.1 * size
        };
        (
            if low < 0.0 {
                low - air
            } else {
                (low - air).max(0.0)
            },
            if high > 0.0 {
                high + air
            } else {
                (high + air).min(0.0)
            },
        )
    }
}

/// Round values for the ticks of a range, about `wanted` of them.
pub(super) fn ticks((low, high): (f64, f64), wanted: usize) -> Vec<f64> {
    let rough = (high - low) / wanted.max(1) as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = power
        * [1.0, 2.0, 5.0]
            .into_iter()
            .find(|m| m * power >= 0.999 * rough)
            .unwrap_or(10.0);
    let (first, last) = ((low / step - 1e-6).ceil(), (high / step + 1e-6).floor());
    // Counted, since adding the step may not change a large number.
    (0..=(last - first).clamp(0.0, 50.0) as usize)
        .map(|i| (first + i as f64) * step)
        .collect()
}

/// Tick labels with as many decimals as distinguish them.
pub(super) fn labels(ticks: &[f64]) -> Vec<String> {
    let step = ticks
        .windows(2)
        .map(|w| w[1] - w[0])
        .fold(f64::INFINITY, f64::min);
    let step = if step.is_finite() {
        step
    } else {
        ticks.first().map_or(1.0, |t| t.abs()).max(1e-9)
    };
    let largest = ticks.iter().fold(0.0, |m: f64, t| m.max(t.abs()));
    let label = |&tick: &f64| {
        let tick = if tick.abs() < step / 2.0 { 0.0 } else { tick };
        match -(step * 1.001).log10().floor() {
            _ if !(1e-5..1e9).contains(&largest) => format!("{tick:.1e}"),
            decimals if decimals > 0.0 => format!("{tick:.0$}", decimals as usize),
            _ => grouped(&format!("{tick:.0}")),
        }
    };
    ticks.iter().map(label).collect()
}

/// Linear map from a range of values to pixels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    /// Range of values.
    pub(super) range: (f64, f64),
    /// Pixels of its ends.
    pub(super) pixels: (f64, f64),
}

impl Scale {
    /// Returns the pixel of a value. Values far outside are clamped to a distance that every
    /// renderer can clip.
    pub(super) fn pixel(&self, value: f64) -> f64 {
        let share = (value - self.range.0) / (self.range.1 - self.range.0);
        self.pixels.0 + share.clamp(-9.0, 10.0) * (self.pixels.1 - self.pixels.0)
    }

    /// Returns `true` if a value lies in the range.
    pub(super) fn contains(&self, value: f64) -> bool {
        (self.range.0..=self.range.1).contains(&value)
    }
}

/// The two scales of a plot with their grid, ticks and labels.
#[derive(Debug)]
pub(super) struct Frame {
    /// Horizontal.
    pub(super) x: Scale,
    /// Vertical.
    pub(super) y: Scale,
    /// Grid, ticks and labels, to be drawn below the data.
    pub(super) svg: String,
}

impl Frame {
    /// Frame from `top` to `bottom` around these ranges. `left` is the minimum margin, so that
    /// frames above each other can align; without a horizontal label there are no horizontal ticks
    /// either.
    pub(super) fn new(
        (x_range, y_range): ((f64, f64), (f64, f64)),
        (x_label, y_label): (Option<&str>, &str),
        (top, bottom): (f64, f64),
        left: f64,
    ) -> Self {
        let y_ticks = ticks(y_range, if bottom - top > 120.0 { 5 } else { 2 });
        let y_labels = labels(&y_ticks);
        let left = y_labels
            .iter()
            .map(|l| text_width(l) + 10.0)
            .fold(left, f64::max);
        let x = Scale {
            range: x_range,
            pixels: (left, WIDTH - RIGHT),
        };
        let y = Scale {
            range: y_range,
            pixels: (bottom, top),
        };
        let mut svg = text(0.0, top - 14.0, "label", "start", y_label);
        for (&tick, label) in y_ticks.iter().zip(&y_labels) {
            svg += &line((left, y.pixel(tick)), (x.pixels.1, y.pixel(tick)), "grid");
            svg += &text(left - 6.0, y.pixel(tick) + 4.0, "tick", "end", label);
        }
        if let Some(x_label) = x_label {
            let x_ticks = ticks(x_range, 5);
            for (&tick, label) in x_ticks.iter().zip(&labels(&x_ticks)) {
                svg += &line(
                    (x.pixel(tick), bottom),
                    (x.pixel(tick), bottom + 4.0),
                    "axis",
                );
                svg += &text(x.pixel(tick), bottom + 17.0, "tick", "middle", label);
            }
            svg += &text(x.pixels.1, bottom + 34.0, "label", "end", x_label);
        }
        svg += &line((left, bottom), (x.pixels.1, bottom), "axis");
        Self { x, y, svg }
    }

    /// Clips a drawing to the frame. A nested SVG clips without an id, which another plot of the
    /// page might also use.
    pub(super) fn clipped(&self, body: &str) -> String {
        let ((left, right), (bottom, top)) = (self.x.pixels, self.y.pixels);
        // A curve along the edge keeps its whole width.
        let (x, y, width, height) = (
            left - 2.0,
            top - 2.0,
            right - left + 4.0,
            bottom - top + 4.0,
        );
        format!(
            "<svg x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
             viewBox=\"{x:.1} {y:.1} {width:.1} {height:.1}\" overflow=\"hidden\">{body}</svg>"
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ticks_are_round_and_their_labels_short() {
        let shown = |low, high| labels(&ticks((low, high), 5));
        assert_eq!(shown(0.0, 1.0), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(shown(0.0, 12_000.0), ["0", "5,000", "10,000"]);
        assert_eq!(shown(-0.3, 0.3), ["-0.2", "0.0", "0.2"]);
        assert_eq!(shown(0.27, 0.33), ["0.28", "0.30", "0.32"]);
    }

    #[test]
    fn range_of_the_data_is_never_empty() {
        assert_eq!(range(Some((0.0, 2.0)), [5.0].into_iter()), (0.0, 2.0));
        assert_eq!(
            range(Some((2.0, f64::NAN)), [0.0, f64::NAN, 50.0].into_iter()),
            (0.0, 52.0)
        );
        assert_eq!(range(None, [-50.0, -25.0].into_iter()), (-51.0, -24.0));
        assert_eq!(range(None, [f64::INFINITY].into_iter()), (0.0, 1.0));
        assert_eq!(range(None, [2.0, 2.0].into_iter()), (1.8, 2.2));
        assert_eq!(range(None, [0.0].into_iter()), (-1.0, 1.0));
    }

    proptest! {
        #[test]
        fn any_range_has_a_few_ticks_inside(a in any::<f64>(), b in any::<f64>()) {
            let range = range(None, [a, b].into_iter());
            let ticks = ticks(range, 5);
            let slack = 1e-5 * (range.1 - range.0);
            prop_assert!(range.0 < range.1);
            prop_assert!((1..=8).contains(&ticks.len()), "{ticks:?} in {range:?}");
            prop_assert!(ticks.iter().all(|&t| t >= range.0 - slack && t <= range.1 + slack));
        }
    }
}
