//! Report of an evaluation: one data model, written as a terminal's tables, as JSON and as one
//! self-contained page of HTML.

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
    /// The command that makes it again.
    pub command: String,
    /// Model, data, split, images, seed ...: name and value.
    pub facts: Vec<(String, String)>,
    /// Remarks that a reader must know before quoting a figure.
    pub notes: Vec<String>,
    /// The parts, in reading order.
    pub sections: Vec<Section>,
}

/// A part of a report.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Section {
    /// Heading.
    pub title: String,
    /// Paragraphs.
    pub text: Vec<String>,
    /// Tables, before the plots.
    pub tables: Vec<ReportTable>,
    /// Plots; the terminal leaves them out.
    pub plots: Vec<Plot>,
    /// Captions word by word; the terminal leaves them out.
    pub cards: Vec<CaptionCard>,
}

/// A table. Its first column, the names of the rows, is implied.
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
    /// Which direction is good, where one is.
    pub better: Option<GoodDirection>,
    /// Meaning of the figure; may be empty.
    pub help: String,
}

impl Column {
    /// A column without a direction and without help.
    pub fn new(name: impl Into<String>, format: NumberFormat) -> Self {
        Self {
            name: name.into(),
            format,
            better: None,
            help: String::new(),
        }
    }

    /// Says which direction is good.
    #[must_use]
    pub fn better(self, better: GoodDirection) -> Self {
        Self {
            better: Some(better),
            ..self
        }
    }

    /// Says what the figure means.
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
    /// A share of 1, written in percent with one decimal.
    Percent,
    /// So many decimals.
    Decimal(usize),
    /// A whole number, its thousands set apart.
    Count,
    /// Words; a number as it is.
    Text,
}

/// The good direction of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GoodDirection {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
}

/// A row of a table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TableRow {
    /// Name.
    pub name: String,
    /// One cell a column; missing ones are absent.
    pub cells: Vec<TableCell>,
    /// Indicates whether the row is the one to look at.
    pub emphasis: bool,
}

impl TableRow {
    /// A row without emphasis.
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
    /// Nothing was there to measure.
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
        /// Caption.
        title: String,
        /// Horizontal axis.
        x: Axis,
        /// Vertical axis.
        y: Axis,
        /// The curves.
        series: Vec<Series>,
        /// Indicates whether to draw the line y = x, as a ROC curve wants it.
        diagonal: bool,
    },
    /// Reliability diagram (DeGroot and Fienberg 1983; Guo et al., ICML 2017) with the histogram of
    /// its bins.
    Reliability {
        /// Caption.
        title: String,
        /// Equal bins of `[0, 1]` in order, empty ones included.
        bins: Vec<ReliabilityBin>,
    },
    /// Horizontal bars from zero.
    Bars {
        /// Caption.
        title: String,
        /// Quantity that the bars measure.
        label: String,
        /// The bars, from the top.
        bars: Vec<PlotBar>,
    },
}

/// An axis.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Axis {
    /// Quantity that it measures.
    pub label: String,
    /// From where to where; the data decides if there is none. Lines are cut off outside.
    pub range: Option<(f64, f64)>,
}

/// A curve. Points that are not finite are left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Name, for the legend.
    pub name: String,
    /// Its points in drawing order.
    pub points: Vec<(f64, f64)>,
    /// Indicates whether every point gets a mark.
    pub marks: bool,
    /// Indicates whether the points stand alone, without a line between them.
    #[serde(default)]
    pub scattered: bool,
    /// Labels beside the points, where there is room; may be empty.
    #[serde(default)]
    pub labels: Vec<String>,
}

/// A bin of a reliability diagram.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ReliabilityBin {
    /// Mean reward of its tokens.
    pub mean_reward: f64,
    /// Share of them that is good.
    pub share_good: f64,
    /// Number of its tokens.
    pub count: usize,
}

/// A bar.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PlotBar {
    /// Name.
    pub name: String,
    /// Length.
    pub value: f64,
    /// Text at its end, where there is one.
    pub text: Option<String>,
}

/// A caption, or the answer to a question, word by word, beside its photograph.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CaptionCard {
    /// Name of the image.
    pub id: String,
    /// Heading, as the question that is answered; may be empty.
    #[serde(default)]
    pub title: String,
    /// The photograph; only the page of HTML shows it.
    #[serde(skip)]
    pub photo: Option<Photo>,
    /// The caption before it was changed; empty where it was not.
    #[serde(default)]
    pub before: Vec<CardWord>,
    /// The caption.
    pub words: Vec<CardWord>,
    /// Other facts about it: name and value.
    #[serde(default)]
    pub facts: Vec<(String, String)>,
    /// A remark; may be empty.
    pub note: String,
    /// Texts that people wrote.
    pub references: Vec<String>,
}

/// A word of a caption.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CardWord {
    /// The word with the white space before it.
    pub text: String,
    /// Its reward, where it was scored.
    pub reward: Option<f32>,
    /// Indicates whether its reward is below the threshold in use: it is underlined, so that the
    /// heat map does not speak by color alone.
    pub doubted: bool,
    /// Indicates whether it names something that the references do not support, where that was
    /// judged.
    pub hallucinated: Option<bool>,
    /// Change of the word, where it stands in only one of the two captions that are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<WordChange>,
}

/// Difference of a word between a caption and what it was changed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WordChange {
    /// It stands only in the caption before.
    Removed,
    /// It stands only in the caption after.
    Added,
}
