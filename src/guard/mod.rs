//! The guard: what to do about words that the scorer doubts.
//!
//! [`words`] cuts a response into words and gives each its reward, [`spans`] joins doubted words, [`policy`] decides (pure: rewards in, actions
//! out), [`render`] writes the result for people.

pub mod policy;
pub mod render;
pub mod spans;
pub mod words;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What the guard does with doubted words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Nothing is scored.
    Off,
    /// Rewards are reported, nothing is flagged.
    Score,
    /// Doubted spans are marked.
    #[default]
    Flag,
    /// Doubted words are rolled back and written again.
    Regenerate,
    /// The answer stops before the first span that could not be cleared.
    Block,
}

/// What the guard concluded about an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Scored, and no word is below the threshold.
    Clean,
    /// At least one word is below the threshold.
    Flagged,
    /// Doubted words were rewritten and the answer now passes.
    Repaired,
    /// The answer was cut off.
    Blocked,
    /// Not (wholly) scored: the mode does not ask for it, or the scorer failed.
    Unscored,
}

/// What was done about one span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Marked and left as it was.
    Flagged,
    /// Written again.
    Regenerated,
    /// Hedged in the rendering.
    Hedged,
    /// Left out of the rendering.
    Omitted,
    /// The answer stops here.
    Blocked,
}

/// A maximal run of doubted words (function words in between join). Offsets count Unicode code points of the answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Span {
    /// First code point.
    pub start: usize,
    /// One past the last code point.
    pub end: usize,
    /// The text between them.
    pub text: String,
    /// Lowest reward of its words, function words left out.
    pub score: f32,
    /// What was done.
    pub action: Action,
}

/// The `guard` object of a response (design, section 5).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Report {
    /// The mode that was in force.
    pub mode: Mode,
    /// The conclusion.
    pub verdict: Verdict,
    /// Lowest word reward of the answer, function words left out where there are others; absent when nothing was scored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
    /// The threshold that was in force.
    pub threshold: f32,
    /// The doubted spans, in order.
    pub spans: Vec<Span>,
    /// Repair attempts made.
    pub attempts: u32,
    /// Tokens decoded beyond the answer's own.
    pub extra_tokens: u32,
    /// The answer as a screen reader should say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alt_text: Option<String>,
}
