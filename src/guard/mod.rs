//! The guard: what to do about words that the scorer doubts.
//!
//! [`markup`] says what of a text is no text, [`words`] cuts a response into words and gives each
//! its reward, [`thresholds`] says which are doubted, [`spans`] joins those, [`repair`] says how
//! they are written again, [`sentence`] what a sentence that was written again is held to and
//! [`policy`] what is concluded (all pure: rewards in, actions out), [`render`] writes the result
//! for people, [`question`] tells what a question asks for and [`abstain`] when it gets no answer,
//! [`report`] puts all of it together for a text that is there as a whole.

pub mod abstain;
pub mod markup;
pub mod policy;
pub mod question;
pub mod render;
pub mod repair;
pub mod repetition;
pub mod report;
pub mod sentence;
pub mod spans;
pub mod thresholds;
pub mod words;

use std::ops::Range;

use serde::{Deserialize, Serialize};

pub use abstain::OnUnanswerable;
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
    /// Low-reward words are rolled back and written again.
    Regenerate,
    /// The answer stops before the first span that could not be cleared.
    Block,
}

/// Treatment of words whose reward stays low: because no attempt could repair them, or because the
/// mode repairs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExhausted {
    /// They are marked.
    #[default]
    Flag,
    /// The answer says that they may be wrong; where most of a caption is low, that the photograph
    /// is unfamiliar as well.
    Hedge,
    /// The answer leaves them out; where most of a caption is low, it says that the photograph is
    /// unfamiliar and names what is likely.
    Omit,
}

impl OnExhausted {
    /// Returns the style in which the answer is written again, and the action that its spans then
    /// have; `None` where it stays.
    pub fn rewrites(self) -> Option<(render::RenderStyle, Action)> {
        match self {
            Self::Flag => None,
            Self::Hedge => Some((render::RenderStyle::Hedged, Action::Hedged)),
            Self::Omit => Some((render::RenderStyle::Omitted, Action::Omitted)),
        }
    }
}

/// Conclusion of the guard about an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Scored, and no word is below the threshold.
    Clean,
    /// At least one word is below the threshold.
    Flagged,
    /// Doubted words were rewritten or left out, and the answer now passes; what was rewritten and
    /// is still low makes it `flagged`.
    Repaired,
    /// The answer was cut off.
    Blocked,
    /// Not (wholly) scored: the mode does not ask for it, or the scorer failed.
    Unscored,
    /// No answer: it cannot be told, or was too likely wrong.
    Abstained,
}

/// Action that was taken on one span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Marked and left as it was.
    Flagged,
    /// Written again.
    Regenerated,
    /// The answer says that it may be wrong.
    Hedged,
    /// The answer leaves it out.
    Omitted,
    /// The answer stops here.
    Blocked,
}

/// A maximal run of low-reward words (function words in between join). Offsets count Unicode code
/// points of the answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// First code point.
    pub start: usize,
    /// One past the last code point.
    pub end: usize,
    /// The text between them.
    pub text: String,
    /// Lowest reward of its words, function words left out.
    pub score: f32,
    /// Action that was taken.
    pub action: Action,
    /// Text that stood there before it was written again, hedged or left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<String>,
    /// Other versions that were tried there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alternatives: Vec<Candidate>,
}

/// A version of a span that was tried and not taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// As far as it was written.
    pub text: String,
    /// Its lowest reward; absent when it claims nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
}

impl Span {
    /// Returns `true` if what it says stands in the answer and is doubted: not what was written
    /// again and passes, nor what was left out or cut off.
    pub fn is_doubted(&self) -> bool {
        matches!(self.action, Action::Flagged | Action::Hedged) && self.start < self.end
    }

    /// Returns `true` if it is doubted and the answer does not say so.
    pub fn is_unsaid(&self) -> bool {
        self.action == Action::Flagged && self.start < self.end
    }

    /// A span that was not written again.
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

/// The `guard` object of a response (design, section 5).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuardReport {
    /// The mode that was in force.
    pub mode: Mode,
    /// The conclusion.
    pub verdict: Verdict,
    /// Why there is no answer, where the verdict is `abstained`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<question::Unanswerable>,
    /// The answer that is not given, where one was written and the request asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withheld: Option<String>,
    /// Probability that a short answer is right as a whole, where the model has a calibration of
    /// that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_probability: Option<f32>,
    /// Lowest word reward of the answer, function words left out where there are others; absent
    /// when nothing was scored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
    /// Geometric mean of its words' rewards, function words left out where there are others: what
    /// answers of different lengths are compared by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_score: Option<f32>,
    /// Closeness of the photograph to those that the model learned from: 1 is familiar, 0 is not.
    /// Absent where the model cannot tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub familiarity: Option<f32>,
    /// The threshold that was in force.
    pub threshold: f32,
    /// Those of classes of words that have one of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thresholds: Option<ClassThresholds>,
    /// The low-reward spans, in order.
    pub spans: Vec<Span>,
    /// Repair attempts made.
    pub attempts: u32,
    /// Tokens decoded beyond the answer's own.
    pub extra_tokens: u32,
    /// The answer as a screen reader should say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alt_text: Option<String>,
    /// Other answers, where `guard.candidates` asked for several: best first, by `mean_score`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Candidate>,
}

impl GuardReport {
    /// On an answer of which nothing is known.
    pub fn new(mode: Mode, thresholds: Thresholds) -> Self {
        Self {
            mode,
            verdict: Verdict::Unscored,
            reason: None,
            withheld: None,
            answer_probability: None,
            score: None,
            mean_score: None,
            familiarity: None,
            threshold: thresholds.common,
            thresholds: (thresholds.by_class != ClassThresholds::default())
                .then_some(thresholds.by_class),
            spans: Vec::new(),
            attempts: 0,
            extra_tokens: 0,
            alt_text: None,
            candidates: Vec::new(),
        }
    }
}
