//! Loss curves as SVG.

use std::path::Path;

use plotters::prelude::*;

use super::{TrainError, checkpoint::LossPoint};
use crate::util::numbers::mean;

/// Plots the training loss (means over windows of about 1 % of the points) and the development
/// loss.
pub fn draw(points: &[LossPoint], title: &str, path: &Path) -> Result<(), TrainError> {
    let window = (points.len() / 100).max(1);
    let raw: Vec<(f64, f64)> = points
        .iter()
        .filter_map(|p| p.train.map(|y| (p.step as f64, y)))
        .collect();
    let train: Vec<(f64, f64)> = raw
        .chunks(window)
        .map(|c| {
            (
                c[c.len() / 2].0,
                mean(c.iter().map(|p| p.1)).unwrap_or_default(),
            )
        })
        .collect();
    let dev: Vec<(f64, f64)> = points
        .iter()
        .filter_map(|p| p.dev.map(|y| (p.step as f64, y)))
        .collect();
    let all = || train.iter().chain(&dev);
    let (low, high) = all().fold((f64::MAX, f64::MIN), |(l, h), p| (l.min(p.1), h.max(p.1)));
    let last = all().map(|p| p.0).fold(1.0, f64::max);
    if low > high {
        return Ok(());
    }
    plot(
        &train,
        &dev,
        last,
        low - 0.05 * (high - low),
        high + 1e-9,
        title,
        path,
    )
    .map_err(|e| TrainError::Run(format!("{}: {e}", path.display())))
}

fn plot(
    train: &[(f64, f64)],
    dev: &[(f64, f64)],
    last: f64,
    low: f64,
    high: f64,
    title: &str,
    path: &Path,
) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::new(path, (800, 480)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(55)
        .build_cartesian_2d(0.0..last, low..high)?;
    chart
        .configure_mesh()
        .x_desc("step")
        .y_desc("loss (nats a token)")
        .light_line_style(WHITE)
        .draw()?;
    let (blue, red) = (RGBColor(31, 90, 160), RGBColor(190, 60, 40));
    chart
        .draw_series(LineSeries::new(train.iter().copied(), &blue))?
        .label("training")
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], blue));
    chart
        .draw_series(LineSeries::new(dev.iter().copied(), red.stroke_width(2)))?
        .label("development")
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], red));
    chart
        .configure_series_labels()
        .background_style(WHITE)
        .border_style(BLACK.mix(0.4))
        .draw()?;
    area.present()?;
    Ok(())
}
