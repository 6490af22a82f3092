//! Evaluation report: one data model, rendered as terminal tables, as JSON and as one
//! self-contained HTML page.

use serde::{Deserialize, Serialize};

pub mod answers;
mod format;
mod html;
mod json;
mod photo;
mod plots;
#[cfg(test)]
mod sample;
mod svg;
mod terminal;

pub use super::bootstrap::Estimate;
pub(crate) use format::stated;
pub use json::SCHEMA;
pub use photo::Photo;

/// A whole evaluation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EvaluationReport {
    /// Subject of the evaluation.
    pub title: String,
    /// Command that reproduces it.
    pub command: String,
    /// Name and value of facts: model, data, split, images, seed, and so on.
    pub facts: Vec<(String, String)>,
    /// Remarks that a reader must know before quoting a figure.
    pub notes: Vec<String>,
    /// Sections in reading order.
    pub sections: Vec<Section>,
}

/// A section of a report.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Section {
    /// Heading.
    pub title: String,
    /// Paragraphs.
    pub text: Vec<String>,
    /// Tables, before the plots.
    pub tables: Vec<ReportTable>,
    /// Plots; omitted on the terminal.
    pub plots: Vec<Plot>,
    /// Captions word by word; omitted on the terminal.
    pub cards: Vec<CaptionCard>,
}

/// A table. Its first column, with the names of rows, is implied.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ReportTable {
    /// Caption.
    pub title: String,
    /// A remark below the table; may be empty.
    pub note: String,
    /// The columns after the row names.
    pub columns: Vec<Column>,
    /// The rows.
    pub rows: Vec<TableRow>,
}

/// Heading of a column and the format of its numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Heading, without unit and arrow.
    pub name: String,
    /// Format of its numbers.
    pub format: NumberFormat,
    /// Good direction, if there is one.
    pub better: Option<GoodDirection>,
    /// Meaning of the figure; may be empty.
    pub help: String,
}

impl Column {
    /// Column without a direction or help.
    pub fn new(name: impl Into<String>, format: NumberFormat) -> Self {
        Self {
            name: name.into(),
            format,
            better: None,
            help: String::new(),
        }
    }

    /// Sets the good direction.
    #[must_use]
    pub fn better(self, better: GoodDirection) -> Self {
        Self {
            better: Some(better),
            ..self
        }
    }

    /// Sets the meaning of the figure.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Self {
            help: help.into(),
            ..self
        }
    }
}

/// Format of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NumberFormat {
    /// Share of 1, as a percentage with one decimal.
    Percent,
    /// Number with this many decimals.
    Decimal(usize),
    /// Whole number with thousands separated.
    Count,
    /// Text; numbers are shown as they are.
    Text,
}

/// Good direction of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GoodDirection {
    /// Higher is better.
    Higher,
    /// Lower is better.
    Lower,
}

/// A row of a table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TableRow {
    /// Name.
    pub name: String,
    /// One cell per column; missing ones are absent.
    pub cells: Vec<TableCell>,
    /// `true` if the row is emphasized.
    pub emphasis: bool,
}

impl TableRow {
    /// Row without emphasis.
    pub fn new(name: impl Into<String>, cells: Vec<TableCell>) -> Self {
        Self {
            name: name.into(),
            cells,
            emphasis: false,
        }
    }
}

/// A cell of a table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableCell {
    /// Nothing was measured.
    #[default]
    Absent,
    /// Words.
    Text(String),
    /// A number.
    Value(Estimate),
}

impl From<Estimate> for TableCell {
    fn from(estimate: Estimate) -> Self {
        Self::Value(estimate)
    }
}

impl From<f64> for TableCell {
    fn from(value: f64) -> Self {
        Self::Value(Estimate {
            value,
            interval: None,
        })
    }
}

impl From<usize> for TableCell {
    fn from(count: usize) -> Self {
        Self::from(count as f64)
    }
}

impl From<&str> for TableCell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl<T: Into<TableCell>> From<Option<T>> for TableCell {
    fn from(cell: Option<T>) -> Self {
        cell.map_or(Self::Absent, Into::into)
    }
}

/// A plot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Plot {
    /// Curves.
    Lines {
        /// Caption of the plot.
        title: String,
        /// Horizontal axis.
        x: Axis,
        /// Vertical axis.
        y: Axis,
        /// The curves.
        series: Vec<Series>,
        /// `true` to draw the line y = x, as for ROC curves.
        diagonal: bool,
    },
    /// Reliability diagram (DeGroot and Fienberg 1983; Guo et al., ICML 2017) with the histogram of
    /// its bins.
    Reliability {
        /// Caption of the plot.
        title: String,
        /// Equal bins of `[0, 1]` in order, empty ones included.
        bins: Vec<ReliabilityBin>,
    },
    /// Horizontal bars from zero.
    Bars {
        /// Caption of the plot.
        title: String,
        /// Quantity that the bars measure.
        label: String,
        /// Bars, from the top.
        bars: Vec<PlotBar>,
    },
}

/// An axis of a plot.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Axis {
    /// Quantity on the axis.
    pub label: String,
    /// Range of values; `None` fits the data. Lines outside are clipped.
    pub range: Option<(f64, f64)>,
}

/// A curve. Points that are not finite are left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Points in drawing order.
    pub points: Vec<(f64, f64)>,
    /// `true` to draw a mark at every point.
    pub marks: bool,
    /// `true` to draw no line between the points.
    #[serde(default)]
    pub scattered: bool,
    /// Labels beside the points, drawn if there is room; may be empty.
    #[serde(default)]
    pub labels: Vec<String>,
}

/// A bin of a reliability diagram.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ReliabilityBin {
    /// Mean reward of its tokens.
    pub mean_reward: f64,
    /// Share of grounded tokens.
    pub share_good: f64,
    /// Number of tokens.
    pub count: usize,
}

/// A bar.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PlotBar {
    /// Name.
    pub name: String,
    /// Length of the bar.
    pub value: f64,
    /// Text at its end.
    pub text: Option<String>,
}

/// A caption or answer, word by word, beside its photograph.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CaptionCard {
    /// Name of the image.
    pub id: String,
    /// Heading, such as the question; may be empty.
    #[serde(default)]
    pub title: String,
    /// Photograph, shown on the HTML page only.
    #[serde(skip)]
    pub photo: Option<Photo>,
    /// Words of the caption before a repair; empty if there was none.
    #[serde(default)]
    pub before: Vec<CardWord>,
    /// Words of the caption.
    pub words: Vec<CardWord>,
    /// Other facts about it: name and value.
    #[serde(default)]
    pub facts: Vec<(String, String)>,
    /// A remark; may be empty.
    pub note: String,
    /// Reference captions or answers.
    pub references: Vec<String>,
}

/// A word of a caption.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CardWord {
    /// The word with the white space before it.
    pub text: String,
    /// Reward of the word, if it was scored.
    pub reward: Option<f32>,
    /// `true` if its reward is below the threshold in use: the word is underlined, so that the heat
    /// map does not rely on color alone.
    #[serde(rename = "doubted")]
    pub flagged: bool,
    /// `true` if the word names an object that the references do not support; `None` if that was
    /// not judged.
    pub hallucinated: Option<bool>,
    /// Change of the word, if only one of two compared captions has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<WordChange>,
}

/// Change of a word between two captions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WordChange {
    /// Only the caption before has it.
    Removed,
    /// Only the caption after has it.
    Added,
}
