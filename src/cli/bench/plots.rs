//! Growth as SVG.

use std::{collections::BTreeMap, error::Error};

use plotters::{coord::Shift, prelude::*};

use super::growth::{GrowthAxis, GrowthCurve, GrowthPoint};

const SIZE: (u32, u32) = (900, 380);

const COLORS: [RGBColor; 6] = [
    RGBColor(31, 90, 160),
    RGBColor(190, 60, 40),
    RGBColor(60, 130, 70),
    RGBColor(150, 90, 170),
    RGBColor(200, 140, 20),
    RGBColor(90, 90, 90),
];

/// One drawing: what is drawn against the axis.
struct Panel {
    title: &'static str,
    /// Name and points of each line.
    series: Vec<(String, Vec<(f64, f64)>)>,
}

impl Panel {
    /// Draws a figure of each series.
    fn of_series(
        title: &'static str,
        curve: &GrowthCurve,
        figure: fn(&GrowthPoint) -> f64,
    ) -> Self {
        let mut series: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
        for point in &curve.points {
            let (name, place) = (point.series(), (point.at as f64, figure(point)));
            match series.iter_mut().find(|(other, _)| *other == name) {
                Some((_, points)) => points.push(place),
                None => series.push((name, vec![place])),
            }
        }
        Self { title, series }
    }

    /// Draws the memory of the process, which all series share.
    fn of_memory(curve: &GrowthCurve) -> Self {
        let mut most: BTreeMap<u64, f64> = BTreeMap::new();
        for point in &curve.points {
            let mib = most.entry(point.at).or_insert(f64::NAN);
            *mib = mib.max(point.resident_mib.unwrap_or(f64::NAN));
        }
        let points = most.into_iter().map(|(at, mib)| (at as f64, mib)).collect();
        Self {
            title: "resident memory, MiB",
            series: vec![(String::new(), points)],
        }
    }
}

/// Returns a drawing of a curve.
///
/// # Errors
/// When it cannot be drawn.
pub(super) fn draw(curve: &GrowthCurve) -> Result<String, Box<dyn Error>> {
    let panels = match curve.against {
        GrowthAxis::Clients => [
            Panel::of_series("tokens/s, all together", curve, |p| p.tokens_per_second),
            Panel::of_memory(curve),
        ],
        GrowthAxis::Prompt => [
            Panel::of_series("first word, ms", curve, |p| p.first_word_p50_ms),
            Panel::of_series("tokens/s of the answer", curve, |p| {
                p.stream_tokens_per_second
            }),
        ],
        GrowthAxis::Images => [
            Panel::of_series("first word, ms", curve, |p| p.first_word_p50_ms),
            Panel::of_memory(curve),
        ],
    };
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    for (area, panel) in area.split_evenly((1, panels.len())).iter().zip(&panels) {
        draw_panel(area, curve.against, panel)?;
    }
    area.present()?;
    drop(area);
    Ok(svg)
}

fn draw_panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    axis: GrowthAxis,
    panel: &Panel,
) -> Result<(), Box<dyn Error>> {
    // Clients double from point to point.
    let doubles = axis == GrowthAxis::Clients;
    let place = |&(x, y): &(f64, f64)| (if doubles { x.log2() } else { x }, y);
    let lines: Vec<(&str, Vec<(f64, f64)>)> = panel
        .series
        .iter()
        .map(|(name, points)| {
            let drawable = points.iter().filter(|point| point.1.is_finite());
            (name.as_str(), drawable.map(place).collect())
        })
        .collect();
    let all = || lines.iter().flat_map(|(_, points)| points);
    let (low, last) = all().fold((f64::MAX, f64::MIN), |(l, h), p| (l.min(p.0), h.max(p.0)));
    let high = all().map(|p| p.1).fold(0.0, f64::max);
    if low > last {
        return Ok(());
    }
    let margin = ((last - low) * 0.05).max(0.05);
    // Room for the legend above the lines.
    let top = if lines.len() > 1 { 1.4 } else { 1.1 };
    let mut chart = ChartBuilder::on(area)
        .caption(panel.title, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(low - margin..last + margin, 0.0..(high * top).max(1e-9))?;
    let label = |x: &f64| match (x - x.round()).abs() < 1e-6 {
        true => format!("{:.0}", if doubles { x.exp2() } else { *x }),
        false => String::new(),
    };
    chart
        .configure_mesh()
        .x_desc(axis.label())
        .x_labels(8)
        .y_labels(6)
        .x_label_formatter(&label)
        .light_line_style(WHITE)
        .draw()?;
    for ((name, points), color) in lines.iter().zip(COLORS.into_iter().cycle()) {
        let line = chart.draw_series(LineSeries::new(
            points.iter().copied(),
            color.stroke_width(2),
        ))?;
        if !name.is_empty() {
            line.label(*name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color));
        }
        chart.draw_series(
            points
                .iter()
                .map(|&point| Circle::new(point, 3, color.filled())),
        )?;
    }
    if lines.len() > 1 {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE)
            .border_style(BLACK.mix(0.4))
            .draw()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::case::Photographs;

    fn point(at: u64, guard: &str, speed: f64, resident_mib: Option<f64>) -> GrowthPoint {
        GrowthPoint {
            at,
            guard: guard.to_owned(),
            scorer: None,
            photographs: Photographs::None,
            tokens_per_second: speed,
            stream_tokens_per_second: speed,
            first_word_p50_ms: speed,
            resident_mib,
        }
    }

    fn circles(against: GrowthAxis, points: Vec<GrowthPoint>) -> usize {
        let svg = draw(&GrowthCurve { against, points }).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        svg.matches("<circle").count()
    }

    #[test]
    fn drawing_has_every_finite_point_once_a_series() {
        let points = || {
            vec![
                point(1, "off", 10.0, Some(1.0)),
                point(1, "flag", 9.0, Some(2.0)),
                point(2, "off", 18.0, Some(3.0)),
                point(2, "flag", f64::NAN, None),
            ]
        };
        // Three of four speeds are finite; the memory has a point a size.
        assert_eq!(circles(GrowthAxis::Clients, points()), 3 + 2);
        assert_eq!(circles(GrowthAxis::Prompt, points()), 3 + 3);
        assert_eq!(circles(GrowthAxis::Images, points()), 3 + 2);
    }

    #[test]
    fn drawing_of_one_point_or_none_does_not_fail() {
        assert_eq!(
            circles(GrowthAxis::Images, vec![point(1, "off", 0.0, None)]),
            1
        );
        assert_eq!(circles(GrowthAxis::Clients, Vec::new()), 0);
    }
}
