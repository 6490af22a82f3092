//! Training log: `metrics.jsonl`, a TensorBoard event file and `metrics.svg`.

use std::{collections::BTreeMap, fs, io::Write, path::PathBuf};

use plotters::prelude::*;
use serde::{Deserialize, Serialize};

use super::events::EventFile;
use crate::{
    util::jsonl,
    {
        train::{
            TrainError,
            checkpoint::{RunDir, write_atomically},
        },
        util::time::unix_seconds,
    },
};

/// Metrics by name.
pub(super) type RunMetrics = BTreeMap<String, f64>;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Line {
    iteration: usize,
    /// Unix time in seconds.
    time: u64,
    #[serde(flatten)]
    metrics: RunMetrics,
}

/// Metrics log of a run.
pub(super) struct RunLog {
    jsonl: PathBuf,
    svg: PathBuf,
    lines: Vec<Line>,
    events: EventFile,
    path: PathBuf,
}

impl RunLog {
    /// Opens the log of a run after `done` iterations. Lines of later iterations and a line torn by
    /// a crash are dropped.
    pub(super) fn open(run: &RunDir, done: usize) -> Result<Self, TrainError> {
        let (jsonl, path) = (
            run.file("metrics.jsonl"),
            run.file("events.out.tfevents.0.candor"),
        );
        let text = if jsonl.exists() {
            fs::read_to_string(&jsonl).map_err(TrainError::io(&jsonl))?
        } else {
            String::new()
        };
        let lines: Vec<Line> = jsonl::parse(&text)
            .filter_map(|(_, line)| line.ok())
            .filter(|l: &Line| l.iteration <= done)
            .collect();
        let retained: String = lines
            .iter()
            .filter_map(|l| serde_json::to_string(l).ok())
            .map(|l| l + "\n")
            .collect();
        write_atomically(&jsonl, retained.as_bytes())?;
        let mut events = EventFile::create(
            &path,
            lines.first().map_or_else(unix_seconds, |l| l.time) as f64,
        )
        .map_err(TrainError::io(&path))?;
        for line in &lines {
            events
                .scalars(line.iteration, line.time as f64, line.metrics.iter())
                .map_err(TrainError::io(&path))?;
        }
        Ok(Self {
            jsonl,
            svg: run.file("metrics.svg"),
            lines,
            events,
            path,
        })
    }

    /// First logged value of a metric.
    pub(super) fn first(&self, name: &str) -> Option<f64> {
        self.lines
            .iter()
            .find_map(|line| line.metrics.get(name).copied())
    }

    /// Appends the metrics after `iteration` iterations.
    pub(super) fn write(
        &mut self,
        iteration: usize,
        metrics: RunMetrics,
    ) -> Result<(), TrainError> {
        let line = Line {
            iteration,
            time: unix_seconds(),
            metrics,
        };
        let json = serde_json::to_string(&line).map_err(|e| TrainError::Run(e.to_string()))?;
        let mut out = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.jsonl)
            .map_err(TrainError::io(&self.jsonl))?;
        writeln!(out, "{json}").map_err(TrainError::io(&self.jsonl))?;
        self.events
            .scalars(iteration, line.time as f64, line.metrics.iter())
            .map_err(TrainError::io(&self.path))?;
        self.lines.push(line);
        Ok(())
    }

    /// Plots each metric over the iterations into `metrics.svg`.
    pub(super) fn draw(&self) -> Result<(), TrainError> {
        let mut series: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
        for line in &self.lines {
            let points = line.metrics.iter().filter(|(_, y)| y.is_finite());
            points.for_each(|(name, y)| {
                series
                    .entry(name)
                    .or_default()
                    .push((line.iteration as f64, *y))
            });
        }
        draw(&series, &self.svg)
            .map_err(|e| TrainError::Run(format!("{}: {e}", self.svg.display())))
    }
}

fn draw(
    series: &BTreeMap<&str, Vec<(f64, f64)>>,
    path: &std::path::Path,
) -> Result<(), Box<dyn std::error::Error>> {
    const COLUMNS: usize = 4;
    let rows = series.len().div_ceil(COLUMNS).max(1);
    let area = SVGBackend::new(path, (300 * COLUMNS as u32, 190 * rows as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    for (area, (name, points)) in area.split_evenly((rows, COLUMNS)).iter().zip(series) {
        let (low, high) = points
            .iter()
            .fold((f64::MAX, f64::MIN), |(l, h), p| (l.min(p.1), h.max(p.1)));
        let (margin, last) = (
            (high - low).max(1e-6) * 0.05,
            points.iter().map(|p| p.0).fold(1.0, f64::max),
        );
        let mut chart = ChartBuilder::on(area)
            .caption(name, ("sans-serif", 14))
            .margin(6)
            .x_label_area_size(18)
            .y_label_area_size(44)
            .build_cartesian_2d(0.0..last, low - margin..high + margin)?;
        chart
            .configure_mesh()
            .x_labels(4)
            .y_labels(4)
            .light_line_style(WHITE)
            .draw()?;
        chart.draw_series(LineSeries::new(
            points.iter().copied(),
            RGBColor(31, 90, 160),
        ))?;
    }
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_after_resume_drops_later_and_torn_lines() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::open(dir.path(), &1, false).unwrap();
        let metrics = |x: f64| RunMetrics::from([("kl".to_owned(), x)]);
        let mut log = RunLog::open(&run, 0).unwrap();
        (1..=5).for_each(|i| log.write(i, metrics(f64::from(i as u32))).unwrap());
        log.draw().unwrap();
        fs::OpenOptions::new()
            .append(true)
            .open(run.file("metrics.jsonl"))
            .unwrap()
            .write_all(b"{\"iter")
            .unwrap();
        let events = |run: &RunDir| {
            fs::metadata(run.file("events.out.tfevents.0.candor"))
                .unwrap()
                .len()
        };
        let whole = events(&run);
        let log = RunLog::open(&run, 3).unwrap();
        assert_eq!((log.lines.len(), log.first("kl")), (3, Some(1.0)));
        assert_eq!(
            fs::read_to_string(run.file("metrics.jsonl"))
                .unwrap()
                .lines()
                .count(),
            3
        );
        assert!(events(&run) < whole);
        assert!(
            fs::read_to_string(run.file("metrics.svg"))
                .unwrap()
                .contains("<svg")
        );
    }
}
