//! Plots as SVG. Series differ by color, dash and mark; legends are outside the drawing.

use super::{
    Axis, NumberFormat, Plot, PlotBar, ReliabilityBin, Series,
    format::{counted, number},
    svg::{
        BOTTOM, Frame, RIGHT, Scale, TOP, WIDTH, drawable, drawing, escape, labels, line, range,
        rect, text, text_width, ticks,
    },
};

/// Number of series that `report.css` distinguishes; further ones repeat the styles.
const STYLES: usize = 6;
/// Distance in pixels below which a point is dropped.
const TOO_NEAR: f64 = 0.4;

/// A drawing and its legend.
#[derive(Debug)]
pub(super) struct RenderedPlot {
    /// Caption.
    pub(super) title: String,
    /// SVG element.
    pub(super) svg: String,
    /// Sample (a small drawing) and name of each legend entry.
    pub(super) legend: Vec<(String, String)>,
}

/// Draws a plot.
pub(super) fn draw(plot: &Plot) -> RenderedPlot {
    match plot {
        Plot::Lines {
            title,
            x,
            y,
            series,
            diagonal,
        } => lines(title, (x, y), series, *diagonal),
        Plot::Reliability { title, bins } => reliability(title, bins),
        Plot::Bars { title, label, bars } => bars_plot(title, label, bars),
    }
}

fn lines(title: &str, (x, y): (&Axis, &Axis), series: &[Series], diagonal: bool) -> RenderedPlot {
    let points: Vec<Vec<(f64, f64)>> = series
        .iter()
        .map(|s| {
            s.points
                .iter()
                .copied()
                .filter(|p| drawable(p.0) && drawable(p.1))
                .collect()
        })
        .collect();
    let all = || points.iter().flatten();
    let ranges = (
        range(x.range, all().map(|p| p.0)),
        range(y.range, all().map(|p| p.1)),
    );
    let labeled = series.iter().any(|s| !s.labels.is_empty());
    // Nearly square, if the two axes are compared.
    let height = if diagonal || labeled { 420.0 } else { 300.0 };
    let frame = Frame::new(
        ranges,
        (Some(x.label.as_str()), y.label.as_str()),
        (TOP, height - BOTTOM),
        0.0,
    );
    let mut curves = String::new();
    if diagonal {
        let (low, high) = (ranges.0.0.max(ranges.1.0), ranges.0.1.min(ranges.1.1));
        curves += &line(
            (frame.x.pixel(low), frame.y.pixel(low)),
            (frame.x.pixel(high), frame.y.pixel(high)),
            "diagonal",
        );
    }
    let mut points_drawn = String::new();
    for (i, (series, points)) in series.iter().zip(&points).enumerate() {
        let style = i % STYLES;
        let seen = thinned(
            points
                .iter()
                .map(|p| (frame.x.pixel(p.0), frame.y.pixel(p.1))),
        );
        let path: Vec<String> = seen.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        if !series.scattered {
            let name = escape(&series.name);
            curves += &format!(
                r#"<polyline points="{}" class="curve s{style}"><title>{name}</title></polyline>"#,
                path.join(" ")
            );
        }
        // A single point has no visible line.
        for &(px, py) in points.iter().filter(|p| {
            (series.marks || series.scattered || seen.len() == 1)
                && frame.x.contains(p.0)
                && frame.y.contains(p.1)
        }) {
            let tip = format!("{}: {}, {}", series.name, short(px), short(py));
            points_drawn += &mark(style, (frame.x.pixel(px), frame.y.pixel(py)), &tip);
        }
    }
    points_drawn += &point_labels(series, &frame);
    let names: Vec<&str> = series.iter().map(|s| s.name.as_str()).collect();
    let description = format!("{} against {}: {}.", y.label, x.label, names.join(", "));
    let legend = series
        .iter()
        .enumerate()
        .map(|(i, s)| (curve_sample(i % STYLES, s), s.name.clone()))
        .collect();
    RenderedPlot {
        title: title.to_owned(),
        svg: drawing(
            height,
            title,
            &description,
            &(frame.svg.clone() + &frame.clipped(&curves) + &points_drawn),
        ),
        legend,
    }
}

/// Labels of points, each where it covers neither a point nor another label; crowded points have
/// none.
fn point_labels(series: &[Series], frame: &Frame) -> String {
    const HEIGHT: f64 = 13.0;
    const NEAR: f64 = 7.0;
    let at = |p: &(f64, f64)| (frame.x.pixel(p.0), frame.y.pixel(p.1));
    let inside = |p: &&(f64, f64)| {
        drawable(p.0) && drawable(p.1) && frame.x.contains(p.0) && frame.y.contains(p.1)
    };
    // Left, top, right and bottom of occupied rectangles.
    let mut taken: Vec<[f64; 4]> = series
        .iter()
        .flat_map(|s| s.points.iter().filter(inside))
        .map(at)
        .map(|(x, y)| [x - 4.0, y - 4.0, x + 4.0, y + 4.0])
        .collect();
    let mut drawn = String::new();
    // Points without a line are labeled first: they matter most.
    let (alone, curves): (Vec<&Series>, Vec<&Series>) = series.iter().partition(|s| s.scattered);
    for series in alone.into_iter().chain(curves) {
        for (point, label) in series
            .points
            .iter()
            .zip(&series.labels)
            .filter(|(p, label)| inside(p) && !label.is_empty())
        {
            let ((x, y), width) = (at(point), text_width(label));
            let corners = [
                ("start", x + NEAR, y + 4.0, x + NEAR),
                ("end", x - NEAR, y + 4.0, x - NEAR - width),
                ("middle", x, y - NEAR, x - width / 2.0),
                ("middle", x, y + NEAR + 9.0, x - width / 2.0),
                ("start", x + NEAR, y - NEAR, x + NEAR),
                ("start", x + NEAR, y + NEAR + 9.0, x + NEAR),
                ("end", x - NEAR, y - NEAR, x - NEAR - width),
                ("end", x - NEAR, y + NEAR + 9.0, x - NEAR - width),
            ];
            let fits = |&(_, _, base, left): &(&str, f64, f64, f64)| {
                let area = [left, base - HEIGHT + 3.0, left + width, base + 3.0];
                let within = left >= frame.x.pixels.0
                    && area[2] <= WIDTH
                    && area[1] >= TOP - 12.0
                    && area[3] <= frame.y.pixels.0;
                let free = taken.iter().all(|t| {
                    area[2] <= t[0] || t[2] <= area[0] || area[3] <= t[1] || t[3] <= area[1]
                });
                (within && free).then_some(area)
            };
            let Some((&(anchor, tx, ty, _), area)) = corners
                .iter()
                .find_map(|corner| Some((corner, fits(corner)?)))
            else {
                continue;
            };
            taken.push(area);
            drawn += &text(tx, ty, "point", anchor, label);
        }
    }
    drawn
}

/// Drops indistinguishable points; the first and the last stay.
fn thinned(points: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let mut kept: Vec<(f64, f64)> = Vec::new();
    let mut dropped = None;
    for point in points {
        let near = kept.last().is_some_and(|last| {
            (last.0 - point.0).abs() < TOO_NEAR && (last.1 - point.1).abs() < TOO_NEAR
        });
        dropped = near.then_some(point);
        if !near {
            kept.push(point);
        }
    }
    // A point equal to the only one before adds nothing.
    kept.extend(dropped.filter(|_| kept.len() > 1));
    kept
}

/// Mark of a style: circle, square, triangle, diamond, cross, plus.
fn mark(style: usize, (x, y): (f64, f64), tip: &str) -> String {
    let path = [
        "m-3.5,0a3.5,3.5 0 1 0 7,0a3.5,3.5 0 1 0 -7,0z",
        "m-3.2,-3.2h6.4v6.4h-6.4z",
        "m0,-4.2l4,7h-8z",
        "m0,-4.6l4.6,4.6l-4.6,4.6l-4.6,-4.6z",
        "m-3.4,-3.4l6.8,6.8m0,-6.8l-6.8,6.8",
        "m-4.4,0h8.8m-4.4,-4.4v8.8",
    ][style % STYLES];
    format!(
        r#"<path d="M{x:.1},{y:.1}{path}" class="mark s{style}"><title>{}</title></path>"#,
        escape(tip)
    )
}

/// Small drawing for the legend.
fn sample(body: &str) -> String {
    format!(r#"<svg class="sample" viewBox="0 0 34 14" aria-hidden="true">{body}</svg>"#)
}

fn curve_sample(style: usize, series: &Series) -> String {
    let mark = if series.marks || series.scattered {
        mark(style, (17.0, 7.0), "")
    } else {
        String::new()
    };
    let curve = if series.scattered {
        String::new()
    } else {
        format!(r#"<polyline points="1,7 33,7" class="curve s{style}"/>"#)
    };
    sample(&(curve + &mark))
}

fn reliability(title: &str, bins: &[ReliabilityBin]) -> RenderedPlot {
    const SPLIT: (f64, f64) = (290.0, 330.0);
    const HEIGHT: f64 = 430.0;
    let unit = (0.0, 1.0);
    let most = bins.iter().map(|b| b.count).max().unwrap_or(0).max(1) as f64;
    let left = text_width(
        labels(&ticks((0.0, most), 2))
            .last()
            .map_or("", String::as_str),
    ) + 10.0;
    let frame = Frame::new(
        (unit, unit),
        (None, "share of good tokens"),
        (TOP, SPLIT.0),
        left,
    );
    let below = Frame::new(
        (unit, (0.0, most)),
        (Some("mean reward"), "tokens"),
        (SPLIT.1, HEIGHT - BOTTOM),
        frame.x.pixels.0,
    );
    let mut body = format!("{}{}", frame.svg, below.svg);
    for (i, bin) in bins
        .iter()
        .enumerate()
        .filter(|(_, b)| b.count > 0 && drawable(b.share_good) && drawable(b.mean_reward))
    {
        let edge = |i: usize, inset: f64| frame.x.pixel(i as f64 / bins.len() as f64) + inset;
        let (from, to) = (edge(i, 1.0), edge(i + 1, -1.0));
        let (share, reward) = (
            bin.share_good.clamp(0.0, 1.0),
            bin.mean_reward.clamp(0.0, 1.0),
        );
        let tip = format!(
            "mean reward {}, {} % good, {}",
            short(reward),
            number(share, NumberFormat::Percent),
            counted(bin.count, "token").unwrap_or_default()
        );
        body += &rect(
            (from, frame.y.pixel(0.0)),
            (to, frame.y.pixel(share)),
            "observed",
            &tip,
        );
        body += &rect(
            (from, frame.y.pixel(share)),
            (to, frame.y.pixel(reward)),
            "gap",
            &tip,
        );
        // Even a single token is visible.
        body += &rect(
            (from, below.y.pixel(0.0)),
            (
                to,
                below
                    .y
                    .pixel(bin.count as f64)
                    .min(below.y.pixel(0.0) - 1.0),
            ),
            "tokens",
            &tip,
        );
    }
    body += &line(
        (frame.x.pixel(0.0), frame.y.pixel(0.0)),
        (frame.x.pixel(1.0), frame.y.pixel(1.0)),
        "diagonal",
    );
    let legend = [
        (
            r#"<rect x="8" y="1" width="18" height="12" class="observed"/>"#,
            "share of good tokens",
        ),
        (
            r#"<rect x="8" y="1" width="18" height="12" class="gap"/>"#,
            "gap to the mean reward",
        ),
        (
            r#"<line x1="1" y1="7" x2="33" y2="7" class="diagonal"/>"#,
            "perfect calibration",
        ),
    ]
    .map(|(drawing, name)| (sample(drawing), name.to_owned()));
    let tokens: usize = bins.iter().map(|b| b.count).sum();
    let description = format!(
        "Share of good tokens against mean reward in {} bins, {tokens} tokens.",
        bins.len()
    );
    RenderedPlot {
        title: title.to_owned(),
        svg: drawing(HEIGHT, title, &description, &body),
        legend: legend.into(),
    }
}

fn bars_plot(title: &str, label: &str, bars: &[PlotBar]) -> RenderedPlot {
    const ROW: f64 = 26.0;
    let values = || bars.iter().map(|b| b.value).filter(|&v| drawable(v));
    let longest_name = bars
        .iter()
        .map(|b| text_width(&b.name))
        .fold(0.0, f64::max)
        .clamp(20.0, 150.0);
    let longest_text = bars
        .iter()
        .filter_map(|b| b.text.as_deref())
        .map(text_width)
        .fold(0.0, f64::max)
        .min(130.0);
    let height = 8.0 + ROW * bars.len() as f64 + BOTTOM;
    let bottom = height - BOTTOM;
    let x = Scale {
        range: range(None, values().chain([0.0])),
        pixels: (longest_name + 10.0, WIDTH - RIGHT.max(longest_text + 8.0)),
    };
    let x = if values().all(|v| v == 0.0) {
        Scale {
            range: (0.0, 1.0),
            ..x
        }
    } else {
        x
    };
    let mut body = String::new();
    let x_ticks = ticks(x.range, 4);
    for (&tick, label) in x_ticks.iter().zip(&labels(&x_ticks)) {
        body += &line((x.pixel(tick), 4.0), (x.pixel(tick), bottom), "grid");
        body += &text(x.pixel(tick), bottom + 17.0, "tick", "middle", label);
    }
    body += &text(x.pixels.1, bottom + 34.0, "label", "end", label);
    for (i, bar) in bars.iter().enumerate() {
        let y = 8.0 + ROW * i as f64;
        body += &text(
            longest_name + 2.0,
            y + 15.0,
            "name",
            "end",
            &shortened(&bar.name, longest_name),
        );
        if drawable(bar.value) {
            let tip = format!(
                "{}: {}",
                bar.name,
                bar.text.clone().unwrap_or_else(|| short(bar.value))
            );
            body += &rect(
                (x.pixel(0.0), y + 3.0),
                (x.pixel(bar.value), y + ROW - 5.0),
                "bar",
                &tip,
            );
            let end = x.pixel(bar.value.max(0.0)) + 5.0;
            body += &bar
                .text
                .as_deref()
                .map(|t| text(end, y + 15.0, "value", "start", &shortened(t, 130.0)))
                .unwrap_or_default();
        }
    }
    body += &line((x.pixel(0.0), 4.0), (x.pixel(0.0), bottom), "axis");
    let spoken: Vec<String> = bars
        .iter()
        .map(|b| {
            format!(
                "{} {}",
                b.name,
                b.text.clone().unwrap_or_else(|| short(b.value))
            )
        })
        .collect();
    let svg = drawing(
        height,
        title,
        &format!("{label}: {}.", spoken.join(", ")),
        &body,
    );
    RenderedPlot {
        title: title.to_owned(),
        svg,
        legend: Vec::new(),
    }
}

/// Number for a tooltip.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 || (size < 1e-3 && size > 0.0) => format!("{value:.2e}"),
        size if size >= 100.0 || value.fract() == 0.0 => number(value, NumberFormat::Count),
        _ => number(value, NumberFormat::Decimal(3)),
    }
}

/// Text cut to a width.
fn shortened(text: &str, width: f64) -> String {
    if text_width(text) <= width {
        return text.to_owned();
    }
    let mut kept: String = text
        .chars()
        .take((width / text_width("x")) as usize - 1)
        .collect();
    kept.push('…');
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::eval::report::sample;

    /// Checks that elements are closed in order and that no coordinate is missing. Returns the
    /// number of tags.
    fn well_formed(svg: &str) -> usize {
        let mut open: Vec<&str> = Vec::new();
        let mut elements = 0;
        for part in svg.split('<').skip(1) {
            let (tag, text) = part.split_once('>').expect("a closed tag");
            assert!(!text.contains('>'), "{text}");
            assert!(!tag.contains("NaN") && !tag.contains("inf"), "{tag}");
            match (tag.strip_prefix('/'), tag.ends_with('/')) {
                (Some(name), _) => assert_eq!(open.pop(), Some(name)),
                (None, true) => {}
                (None, false) => open.push(tag.split(' ').next().unwrap()),
            }
            elements += 1;
        }
        assert!(open.is_empty(), "{open:?}");
        elements
    }

    fn one_series(points: Vec<(f64, f64)>, marks: bool) -> String {
        let series = Series {
            name: "a".to_owned(),
            points,
            marks,
            ..Series::default()
        };
        draw(&Plot::Lines {
            title: "t".to_owned(),
            x: Axis::default(),
            y: Axis::default(),
            series: vec![series],
            diagonal: true,
        })
        .svg
    }

    #[test]
    fn every_plot_is_well_formed_and_escaped() {
        for plot in sample::report().sections.iter().flat_map(|s| &s.plots) {
            let drawn = draw(plot);
            assert!(well_formed(&drawn.svg) > 10);
            assert!(!drawn.svg.contains("<script"));
            drawn
                .legend
                .iter()
                .for_each(|(sample, _)| assert!(well_formed(sample) > 0));
        }
    }

    #[test]
    fn plot_without_data_is_drawn() {
        let none = || Plot::Bars {
            title: String::new(),
            label: String::new(),
            bars: Vec::new(),
        };
        for plot in [
            none(),
            Plot::Reliability {
                title: String::new(),
                bins: vec![ReliabilityBin::default(); 3],
            },
        ] {
            well_formed(&draw(&plot).svg);
        }
        well_formed(&one_series(Vec::new(), true));
    }

    #[test]
    fn non_finite_points_are_left_out() {
        let marks = |points| one_series(points, true).matches("class=\"mark").count();
        assert_eq!(
            marks(vec![
                (0.0, 1.0),
                (f64::NAN, 2.0),
                (1.0, f64::INFINITY),
                (2.0, 3.0)
            ]),
            2
        );
    }

    #[test]
    fn single_point_has_a_mark() {
        assert_eq!(
            one_series(vec![(0.5, 0.5)], false)
                .matches("class=\"mark")
                .count(),
            1
        );
        assert_eq!(
            one_series(vec![(0.5, 0.5), (0.6, 0.5)], false)
                .matches("class=\"mark")
                .count(),
            0
        );
    }

    fn labeled(points: Vec<(f64, f64)>, scattered: bool) -> String {
        let labels = (0..points.len()).map(|i| format!("point {i}")).collect();
        let series = vec![Series {
            points,
            scattered,
            labels,
            ..Series::default()
        }];
        let axis = || Axis {
            label: String::new(),
            range: Some((0.0, 10.0)),
        };
        draw(&Plot::Lines {
            title: String::new(),
            x: axis(),
            y: axis(),
            series,
            diagonal: false,
        })
        .svg
    }

    #[test]
    fn scattered_points_have_marks_and_no_line() {
        let svg = labeled(vec![(1.0, 1.0), (5.0, 5.0)], true);
        assert_eq!(
            (
                svg.matches("class=\"mark").count(),
                svg.matches("<polyline").count()
            ),
            (2, 0)
        );
        assert!(labeled(vec![(1.0, 1.0), (5.0, 5.0)], false).contains("<polyline"));
    }

    #[test]
    fn labels_are_beside_their_points_without_overlap() {
        let svg = labeled(vec![(1.0, 1.0), (5.0, 5.0), (9.9, 9.0)], true);
        (0..3).for_each(|i| assert!(svg.contains(&format!(">point {i}</text>")), "{i}"));
        let crowd = labeled(vec![(5.0, 5.0); 12], true)
            .matches("class=\"point\"")
            .count();
        assert!((1..=8).contains(&crowd), "{crowd} labels of one place");
    }

    #[test]
    fn long_curve_is_thinned_and_keeps_its_ends() {
        let curve = (0..=50_000)
            .map(|i| f64::from(i) / 50_000.0)
            .map(|x| (x * 100.0, x * 100.0));
        let kept = thinned(curve);
        assert!(kept.len() < 300, "{}", kept.len());
        assert_eq!(
            (kept[0], kept[kept.len() - 1]),
            ((0.0, 0.0), (100.0, 100.0))
        );
    }

    #[test]
    fn reliability_gap_is_between_share_and_reward() {
        let bins = vec![ReliabilityBin {
            mean_reward: 0.75,
            share_good: 0.25,
            count: 4,
        }];
        let svg = draw(&Plot::Reliability {
            title: String::new(),
            bins,
        })
        .svg;
        let height = |class: &str| -> f64 {
            let (before, _) = svg.split_once(&format!("\" class=\"{class}\"")).unwrap();
            before.rsplit_once("height=\"").unwrap().1.parse().unwrap()
        };
        assert!(
            (height("gap") - 2.0 * height("observed")).abs() < 0.2,
            "a half beside a quarter"
        );
    }

    proptest! {
        #[test]
        fn drawing_of_any_numbers_is_finite(points in prop::collection::vec((any::<f64>(),
            any::<f64>()), 0..20), marks in any::<bool>()) {
            well_formed(&one_series(points.clone(), marks));
            let bars = points
                .iter()
                .map(|p| PlotBar { name: "b".to_owned(), value: p.0, text: None })
                .collect();
            well_formed(&draw(&Plot::Bars { title: String::new(), label: String::new(),
                bars }).svg);
            let bins = points.iter()
                .map(|p| ReliabilityBin { mean_reward: p.0, share_good: p.1, count: 3 }).collect();
            well_formed(&draw(&Plot::Reliability { title: String::new(), bins }).svg);
        }
    }
}
