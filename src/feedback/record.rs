//! Data that is kept: receipts of completions, and feedback about them. All offsets count Unicode
//! code points of the response.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::fold::is_blank;
use crate::{
    guard::{Span, Verdict},
    util::digest::sha256,
};

/// Punctuation that ends something.
const STOPS: &str = ".,;:!?";

/// The address of an image by its content: SHA-256 of the file, written in lower-case hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ImageHash([u8; 32]);

impl ImageHash {
    /// The address of this file.
    pub fn of(file: &[u8]) -> Self {
        Self(sha256(file))
    }

    /// The first byte: as good as random.
    pub(crate) fn first_byte(&self) -> u8 {
        self.0[0]
    }
}

impl From<[u8; 32]> for ImageHash {
    fn from(hash: [u8; 32]) -> Self {
        Self(hash)
    }
}

impl fmt::Display for ImageHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ImageHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no [`ImageHash`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an image is named by its SHA-256, 64 lower-case hexadecimal digits")]
pub struct InvalidImageHash;

impl FromStr for ImageHash {
    type Err = InvalidImageHash;

    fn from_str(text: &str) -> Result<Self, InvalidImageHash> {
        let digits: Option<Vec<u8>> = text
            .bytes()
            .map(|b| {
                matches!(b, b'0'..=b'9' | b'a'..=b'f')
                    .then(|| if b <= b'9' { b - b'0' } else { b - b'a' + 10 })
            })
            .collect();
        let bytes: Vec<u8> = digits
            .ok_or(InvalidImageHash)?
            .chunks(2)
            .map(|pair| pair.iter().fold(0, |sum, digit| sum << 4 | digit))
            .collect();
        if text.len() == 64 {
            bytes.try_into().map(Self).map_err(|_| InvalidImageHash)
        } else {
            Err(InvalidImageHash)
        }
    }
}

impl TryFrom<String> for ImageHash {
    type Error = InvalidImageHash;

    fn try_from(text: String) -> Result<Self, InvalidImageHash> {
        text.parse()
    }
}

impl From<ImageHash> for String {
    fn from(hash: ImageHash) -> Self {
        hash.to_string()
    }
}

/// Returns what an owner's answer to a prompt about an image is known by, whichever completion gave
/// it: a SHA-256 in hexadecimal. The same answer of two owners is two.
pub fn item_digest(owner: &str, image: ImageHash, prompt: &str, response: &str) -> String {
    // Without an owner, as versions wrote it that knew none.
    let owner = if owner.is_empty() {
        String::new()
    } else {
        format!("owner {} {owner} ", owner.len())
    };
    ImageHash::of(format!("{owner}{image} {} {prompt}{response}", prompt.len()).as_bytes())
        .to_string()
}

/// Versions of the model, policy, adapter and scorer that wrote and scored an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// The model's name; of answers that were written elsewhere, what the submitter calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The policy's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The adapter's version, where one is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// The scorer's kind and version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<String>,
}

/// A person's judgment of a token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenLabel {
    /// The image supports it.
    Good,
    /// The image does not.
    Bad,
    /// Nobody said: never to be taken for good.
    #[default]
    None,
}

/// A token of a response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResponseToken {
    /// Vocabulary id.
    pub id: u32,
    /// The code points that it writes, one of which it may share with a neighbour.
    pub text: String,
    /// First code point.
    pub start: usize,
    /// One past the last code point.
    pub end: usize,
    /// Natural logarithm of its probability under the untempered policy; absent when the policy did
    /// not write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprob: Option<f32>,
    /// Its calibrated reward; absent when it was not scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<f32>,
    /// A person's judgment of it.
    #[serde(default)]
    pub label: TokenLabel,
}

/// One answer of a completion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordedChoice {
    /// The text.
    pub response: String,
    /// Its tokens, in order.
    pub tokens: Vec<ResponseToken>,
    /// The guard's conclusion.
    pub verdict: Verdict,
    /// The threshold that was in force.
    pub threshold: f32,
    /// The spans that the guard doubted.
    pub spans: Vec<Span>,
    /// Familiarity of the photograph; absent where the model cannot tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub familiarity: Option<f32>,
}

/// Data of a completion, kept for a while so that feedback about it needs only its id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// The completion's id.
    pub id: String,
    /// Unix time in seconds.
    pub created: u64,
    /// The tenant whose key asked; empty without keys.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// Versions of the model and the scorer that wrote and scored it.
    pub versions: Versions,
    /// The image.
    pub image: ImageHash,
    /// Bytes of the image's file.
    #[serde(default)]
    pub image_bytes: u64,
    /// The prompt: the text of the last user message.
    pub prompt: String,
    /// The request's `user`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Indicates whether the answer was shown without scores, marks or repairs: corrections of such
    /// answers estimate recall without bias.
    pub unassisted: bool,
    /// The answers, by choice.
    pub choices: Vec<RecordedChoice>,
}

/// Kind of judgment that a record states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JudgmentKind {
    /// Something in the response is wrong.
    Bad,
    /// All of it is right.
    Good,
    /// Something that matters is not in it.
    Missing,
}

impl JudgmentKind {
    /// Its name in JSON, in the database and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bad => "bad",
            Self::Good => "good",
            Self::Missing => "missing",
        }
    }
}

/// Part of the response that was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JudgedPart {
    /// Up to the first error and no further: what comes after it is unlabelled.
    FirstError,
    /// All of it: what is not marked as an error is good.
    AllErrors,
}

/// Origin of a record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedbackSource {
    /// A person, through the API.
    #[default]
    Human,
    /// A file.
    Import,
    /// A program that stands in for a person.
    Simulated,
}

impl FeedbackSource {
    /// Its name in JSON and in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Import => "import",
            Self::Simulated => "simulated",
        }
    }
}

/// An error and what should stand in its place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Correction {
    /// First code point; where something has only to be added, the place.
    pub start: usize,
    /// One past the last code point.
    pub end: usize,
    /// The text between them.
    pub text: String,
    /// Text that should stand there: absent when nobody said, empty when nothing should.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correction: Option<String>,
    /// The response up to the error.
    pub partial_caption: String,
    /// Index of the first token that writes some of the error.
    pub token_start: usize,
    /// One past the index of the last.
    pub token_end: usize,
    /// Those tokens.
    pub error_tokens: Vec<u32>,
    /// Tokens that should stand in the place of those tokens; absent when nobody said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrected_tokens: Option<Vec<u32>>,
}

/// Code points of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CharRange {
    /// The first.
    pub start: usize,
    /// One past the last.
    pub end: usize,
}

/// Details of an answer that was judged out of the annotation queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueDetails {
    /// Indicates whether another annotator judges it too.
    pub overlap: bool,
}

/// Feedback about a response: the tuple that rewards and policies are trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Feedback {
    /// `fb_...`; ids grow with time.
    pub id: String,
    /// Unix time in seconds.
    pub created: u64,
    /// The tenant that it belongs to: that of the completion or, without one, of the key that
    /// handed it in. Absent without keys, and where the reader has not the scope `feedback:read`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// The completion that it is about, when it was one of this server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_id: Option<String>,
    /// Which of its answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice: Option<usize>,
    /// The image.
    pub image: ImageHash,
    /// The prompt.
    pub prompt: String,
    /// The answer.
    pub response: String,
    /// The answer's tokens and their labels.
    pub tokens: Vec<ResponseToken>,
    /// Kind of judgment that it states.
    pub kind: JudgmentKind,
    /// Part that was judged; absent when only missing content was named, which judges no token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<JudgedPart>,
    /// The errors, in the order of the response.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Correction>,
    /// Content that is not in the response and should be, in the words of who misses it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// Spans that the guard flagged; absent when the answer was not scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubted: Option<Vec<CharRange>>,
    /// Versions of the model and the scorer that wrote and scored the answer.
    pub versions: Versions,
    /// Indicates whether the answer was shown without scores, marks or repairs.
    #[serde(default)]
    pub unassisted: bool,
    /// Present where the annotation queue gave the answer to who judged; then `unassisted` says
    /// what the queue showed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued: Option<QueueDetails>,
    /// Who judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotator: Option<String>,
    /// The tenant with whose key they judged. Absent as `owner` is, and where annotators are not
    /// named.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub annotator_owner: String,
    /// The end user whom it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A remark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Origin of the record.
    #[serde(default)]
    pub source: FeedbackSource,
}

/// Which names of a record its reader sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShownNames {
    /// Those of annotators.
    pub annotators: bool,
    /// Those of owners.
    pub owners: bool,
}

impl Feedback {
    /// Takes away the names that are not shown.
    pub fn hide_names(&mut self, shown: ShownNames) {
        if !shown.annotators {
            self.annotator = None;
        }
        if !shown.owners {
            self.owner.clear();
        }
        if !(shown.annotators && shown.owners) {
            self.annotator_owner.clear();
        }
    }

    /// Takes away who judged, for good.
    pub fn forget_annotator(&mut self) {
        self.annotator = None;
        self.annotator_owner.clear();
    }

    /// The response with its errors corrected; `None` where nobody said how.
    pub fn corrected(&self) -> Option<String> {
        let response: Vec<char> = self.response.chars().collect();
        let (mut text, mut at) = (String::new(), 0);
        for error in &self.errors {
            text.extend(response.get(at..error.start)?);
            let correction = error.correction.as_ref()?;
            text.push_str(correction);
            at = error.end;
            if correction.is_empty() {
                at += close_gap(&mut text, response.get(at..)?);
            }
        }
        text.extend(response.get(at..)?);
        Some(text)
    }
}

/// Takes away what would stand twice where words are taken out between `text` and `rest`: white
/// space and punctuation. Returns how much of `rest` goes.
fn close_gap(text: &mut String, rest: &[char]) -> usize {
    let parts = |c: &char| is_blank(*c) || STOPS.contains(*c);
    if text.chars().all(is_blank) {
        return rest.iter().take_while(|c| parts(c)).count();
    }
    if rest.first().is_some_and(|c| !parts(c)) {
        return 0;
    }
    text.truncate(text.trim_end_matches(is_blank).len());
    let stop = rest.first().is_some_and(|c| STOPS.contains(*c));
    match text.chars().next_back() {
        Some('.' | '!' | '?') if stop => 1,
        Some(last) if stop && STOPS.contains(last) => {
            text.pop();
            0
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_answer_of_two_owners_is_two() {
        let image = ImageHash::of(b"image");
        let of = |owner| item_digest(owner, image, "What?", "A dog.");
        assert_eq!(of("").len(), 64);
        let all: std::collections::BTreeSet<String> = ["", "a", "b", "a ", "1 a"].map(of).into();
        assert_eq!(all.len(), 5);
        // As earlier versions knew it.
        assert_eq!(
            of(""),
            ImageHash::of(format!("{image} 5 What?A dog.").as_bytes()).to_string()
        );
    }

    #[test]
    fn hashes_are_read_as_they_are_written() {
        let hash = ImageHash::of(b"abc");
        assert_eq!(
            hash.to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert_eq!(
            serde_json::from_str::<ImageHash>(&serde_json::to_string(&hash).unwrap()).unwrap(),
            hash
        );
        for bad in [
            "",
            "ba78",
            &"B".repeat(64),
            &"é".repeat(32),
            &"0".repeat(65),
            &"../".repeat(22)[..64],
        ] {
            assert_eq!(bad.parse::<ImageHash>(), Err(InvalidImageHash), "{bad}");
        }
    }
}
