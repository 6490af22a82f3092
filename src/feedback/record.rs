//! Stored data: receipts of completions, and records of feedback. Offsets count Unicode code points
//! of the response.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::fold::is_blank;
use crate::{
    guard::{Span, Verdict},
    util::{
        digest::sha256,
        offsets::{CharRange, TokenRange},
    },
};

/// Punctuation that ends a clause or sentence.
const STOPS: &str = ".,;:!?";

/// Content address of an image: SHA-256 of its file, written as lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ImageHash([u8; 32]);

impl ImageHash {
    /// Computes the address of a file.
    pub fn digest(file: &[u8]) -> Self {
        Self(sha256(file))
    }

    /// First byte, uniform over all images.
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

/// Error of a text that is not an [`ImageHash`].
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

/// Digest of an owner's answer to a prompt about an image, the same for every completion that gave
/// it: SHA-256 in hexadecimal. Equal answers of different owners differ.
pub fn item_digest(owner: &str, image: ImageHash, prompt: &str, response: &str) -> String {
    // Without an owner as earlier versions computed it, which had no owners.
    let owner = if owner.is_empty() {
        String::new()
    } else {
        format!("owner {} {owner} ", owner.len())
    };
    ImageHash::digest(format!("{owner}{image} {} {prompt}{response}", prompt.len()).as_bytes())
        .to_string()
}

/// Versions of the model, policy, adapter and scorer that wrote and scored an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Name of the model; of an answer of another server, the submitter's name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Version of the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Version of the adapter, if one is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// Kind and version of the scorer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<String>,
    /// SHA-256 of the vocabulary that the token ids belong to; absent in records of earlier
    /// versions, whose texts training tokenizes again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
}

/// Label of a token by a person.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenLabel {
    /// The image supports it.
    Good,
    /// The image does not support it.
    Bad,
    /// Not judged. Never taken for good.
    #[default]
    None,
}

/// Token of a response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResponseToken {
    /// Vocabulary id.
    pub id: u32,
    /// Text that it writes; its first and last code point may be shared with a neighbor.
    pub text: String,
    /// First code point.
    pub start: usize,
    /// One past the last code point.
    pub end: usize,
    /// Natural logarithm of its probability under the untempered policy; absent if the policy did
    /// not write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprob: Option<f32>,
    /// Calibrated reward; absent if it was not scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<f32>,
    /// Label by a person.
    #[serde(default)]
    pub label: TokenLabel,
}

impl ResponseToken {
    /// Range of the code points that it writes.
    pub fn chars(&self) -> CharRange {
        CharRange::new(self.start, self.end)
    }
}

/// Answer of a completion, as it was served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordedChoice {
    /// Text of the answer.
    pub response: String,
    /// Tokens of the answer, in order.
    pub tokens: Vec<ResponseToken>,
    /// Verdict of the guard.
    pub verdict: Verdict,
    /// Threshold that the guard applied.
    pub threshold: f32,
    /// Spans that the guard flagged or repaired.
    pub spans: Vec<Span>,
    /// Familiarity of the photograph; absent if the model has no familiarity measure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub familiarity: Option<f32>,
}

/// Completion as it was served, kept for a while so that feedback needs only its id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// Completion id.
    pub id: String,
    /// Unix time in seconds.
    pub created: u64,
    /// Owner of the API key; empty without keys.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// Versions of the model and scorer that wrote and scored the answers.
    pub versions: Versions,
    /// The image.
    pub image: ImageHash,
    /// Bytes of the image file.
    #[serde(default)]
    pub image_bytes: u64,
    /// Text of the last user message.
    pub prompt: String,
    /// `user` of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// `true` if the answers were shown without scores, marks or repairs. Corrections of such
    /// answers estimate recall without bias.
    pub unassisted: bool,
    /// Answers, in order of the choices.
    pub choices: Vec<RecordedChoice>,
}

/// Kind of a judgment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JudgmentKind {
    /// Part of the response is wrong.
    Bad,
    /// All of the response is right.
    Good,
    /// Content is missing from the response.
    Missing,
}

impl JudgmentKind {
    /// Name in JSON, in the database and in metrics.
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
    /// Up to the first error; tokens after it are unlabeled.
    FirstError,
    /// The whole response; tokens outside of errors are good.
    AllErrors,
}

/// Origin of a record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedbackSource {
    /// Person, through the API.
    #[default]
    Human,
    /// Imported file.
    Import,
    /// Program that simulates a person.
    Simulated,
}

impl FeedbackSource {
    /// Name in JSON and in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Import => "import",
            Self::Simulated => "simulated",
        }
    }
}

/// Error in a response, and its correction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Correction {
    /// First code point; for an insertion, its position.
    pub start: usize,
    /// One past the last code point.
    pub end: usize,
    /// Text of the error.
    pub text: String,
    /// Text that replaces the error: absent if unknown, empty if the error has only to be removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correction: Option<String>,
    /// Response before the error.
    pub partial_caption: String,
    /// Index of the first token that writes part of the error.
    pub token_start: usize,
    /// One past the index of the last such token.
    pub token_end: usize,
    /// Ids of those tokens.
    pub error_tokens: Vec<u32>,
    /// Ids of the tokens that replace them; absent if the correction is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrected_tokens: Option<Vec<u32>>,
}

impl Correction {
    /// Range of the error's code points, empty for an insertion.
    pub fn chars(&self) -> CharRange {
        CharRange::new(self.start, self.end)
    }

    /// Range of the tokens that write the error.
    pub fn tokens(&self) -> TokenRange {
        TokenRange::new(self.token_start, self.token_end)
    }
}

/// Details of an answer that the annotation queue gave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueDetails {
    /// `true` if a second annotator judges it too.
    pub overlap: bool,
}

/// Record of feedback about a response, from which rewards and policies are trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Feedback {
    /// `fb_...`; ids grow with time.
    pub id: String,
    /// Unix time in seconds.
    pub created: u64,
    /// Owner of the completion or, for an answer of another server, of the API key. Absent without
    /// keys, and for readers without the scope `feedback:read`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// Id of the completion; absent for an answer of another server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_id: Option<String>,
    /// Index of the answer among the completion's choices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice: Option<usize>,
    /// The image.
    pub image: ImageHash,
    /// The prompt.
    pub prompt: String,
    /// The answer.
    pub response: String,
    /// Tokens of the answer, with labels.
    pub tokens: Vec<ResponseToken>,
    /// Kind of the judgment.
    pub kind: JudgmentKind,
    /// Part that was judged; absent if only missing content was named, which judges no token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<JudgedPart>,
    /// Errors, in order of the response.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Correction>,
    /// Descriptions of content that the response should have and has not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// Spans that the guard flagged; absent if the answer was not scored.
    #[serde(rename = "doubted", default, skip_serializing_if = "Option::is_none")]
    pub flagged: Option<Vec<CharRange>>,
    /// Versions of the model and scorer that wrote and scored the answer.
    pub versions: Versions,
    /// `true` if the answer was shown without scores, marks or repairs.
    #[serde(default)]
    pub unassisted: bool,
    /// Present if the annotation queue gave out the answer; `unassisted` then tells how the queue
    /// showed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued: Option<QueueDetails>,
    /// Name of the annotator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotator: Option<String>,
    /// Owner of the annotator's API key. Absent like `owner`, and if annotators are not named.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub annotator_owner: String,
    /// End user whom the record belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Free-text comment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Origin of the record.
    #[serde(default)]
    pub source: FeedbackSource,
}

/// Names that a reader of records may see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShownNames {
    /// Names of annotators.
    pub annotators: bool,
    /// Names of owners.
    pub owners: bool,
}

impl Feedback {
    /// Removes the names that are not shown.
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

    /// Removes the annotator's name for good.
    pub fn forget_annotator(&mut self) {
        self.annotator = None;
        self.annotator_owner.clear();
    }

    /// Returns the response with its errors corrected; `None` if a correction is unknown.
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

/// Closes the gap that a removal leaves between `text` and `rest`: drops white space and
/// punctuation that would stand twice. Returns the number of characters to drop from `rest`.
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
    fn item_digest_of_two_owners_differs() {
        let image = ImageHash::digest(b"image");
        let digest_for = |owner| item_digest(owner, image, "What?", "A dog.");
        assert_eq!(digest_for("").len(), 64);
        let all: std::collections::BTreeSet<String> =
            ["", "a", "b", "a ", "1 a"].map(digest_for).into();
        assert_eq!(all.len(), 5);
        // Earlier versions computed the same digest.
        assert_eq!(
            digest_for(""),
            ImageHash::digest(format!("{image} 5 What?A dog.").as_bytes()).to_string()
        );
    }

    #[test]
    fn image_hash_round_trips_and_rejects_other_texts() {
        let hash = ImageHash::digest(b"abc");
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
