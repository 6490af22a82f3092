//! The guard: detection and repair of low-reward words.
//!
//! Pure functions from tokens and rewards to actions. [`markup`] finds what is not prose, [`words`]
//! cuts a response into words and scores each, [`thresholds`] decides which are flagged, [`spans`]
//! joins flagged words, [`repair`] plans how they are rewritten, [`sentence`] checks a rewritten
//! sentence, [`policy`] reaches a verdict, [`render`] writes the result for people, [`question`]
//! classifies questions, [`abstain`] withholds answers, and [`report`] runs all of it on a complete
//! text.

pub mod abstain;
pub mod markup;
pub mod policy;
pub mod question;
pub mod render;
pub mod repair;
pub mod report;
pub mod sentence;
pub mod spans;
#[cfg(test)]
pub(crate) mod testing;
pub mod thresholds;
pub mod words;

use std::ops::Range;

use serde::{Deserialize, Serialize};

pub use abstain::OnUnanswerable;
pub use report::GuardReport;
pub use thresholds::{ClassThresholds, Thresholds};

/// Mode of the guard: its treatment of low-reward words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Nothing is scored.
    Off,
    /// Rewards are reported, nothing is flagged.
    Score,
    /// Low-reward spans are marked.
    #[default]
    Flag,
    /// Low-reward words are rolled back and rewritten.
    Regenerate,
    /// The answer is cut before the first span that could not be repaired.
    Block,
}

/// Treatment of words that stay low-reward because no attempt repaired them, or because the mode
/// does not repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExhausted {
    /// They are flagged.
    #[default]
    Flag,
    /// The answer says that they may be wrong and, if most of a caption is low-reward, that the
    /// photograph is unfamiliar.
    Hedge,
    /// The answer leaves them out; if most of a caption is low-reward, it says that the photograph
    /// is unfamiliar and names likely objects.
    Omit,
}

impl OnExhausted {
    /// Returns the style in which the answer is rendered anew and the action that its spans then
    /// have; `None` if the answer stays as written.
    pub fn rewrites(self) -> Option<(RenderStyle, Action)> {
        match self {
            Self::Flag => None,
            Self::Hedge => Some((RenderStyle::Hedged, Action::Hedged)),
            Self::Omit => Some((RenderStyle::Omitted, Action::Omitted)),
        }
    }
}

/// Rendering of an answer's flagged spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RenderStyle {
    /// As generated.
    Plain,
    /// Hedged: "what may be a frisbee".
    #[default]
    Hedged,
    /// Left out, or replaced by "something" where the sentence requires a noun.
    Omitted,
}

/// Verdict of the guard on an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Scored, and no word is below its threshold.
    Clean,
    /// At least one word is below its threshold.
    Flagged,
    /// Flagged words were rewritten or left out and the answer now passes; an answer with a
    /// rewritten word that is still low-reward is `flagged`.
    Repaired,
    /// The answer was cut off.
    Blocked,
    /// Not scored, or not completely: the mode does not ask for scores, or the scorer failed.
    Unscored,
    /// No answer was given: the photograph cannot answer the question, or the answer was probably
    /// wrong.
    Abstained,
}

/// Action taken on a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Marked, and left as written.
    Flagged,
    /// Rewritten.
    Regenerated,
    /// Hedged: the answer says that it may be wrong.
    Hedged,
    /// Left out of the answer.
    Omitted,
    /// The answer was cut before it.
    Blocked,
}

/// Maximal run of low-reward words, joined across function words. Offsets count Unicode code points
/// of the answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// Start, in code points.
    pub start: usize,
    /// End, in code points; exclusive.
    pub end: usize,
    /// Text of the span in the answer.
    pub text: String,
    /// Lowest score of its content words.
    pub score: f32,
    /// Action taken.
    pub action: Action,
    /// Text before it was rewritten, hedged or left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<String>,
    /// Other versions that were tried in its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alternatives: Vec<Candidate>,
}

/// Version of a span, or of an answer, that was generated and not used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Text, as far as it was generated.
    pub text: String,
    /// Score; absent if it has no content words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
}

impl Span {
    /// Returns `true` if the answer still contains the span as low-reward text, hedged or not;
    /// `false` if it was repaired, left out or cut off.
    pub fn is_still_low(&self) -> bool {
        matches!(self.action, Action::Flagged | Action::Hedged) && self.start < self.end
    }

    /// Returns `true` if the answer still contains the span as low-reward text and does not hedge
    /// it.
    pub fn is_unhedged(&self) -> bool {
        self.action == Action::Flagged && self.start < self.end
    }

    /// Creates a span without alternatives or original text.
    pub fn new(chars: Range<usize>, text: &str, score: f32, action: Action) -> Self {
        Self {
            start: chars.start,
            end: chars.end,
            text: text.to_owned(),
            score,
            action,
            original: None,
            alternatives: Vec::new(),
        }
    }
}
