//! Rows of TRL's trainers: preferences with images for DPO, and stepwise supervision for process
//! reward models (PRM).

use std::iter::once;

use parquet::record::{Field, Row};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    IncomingRecord,
    columns::{ColumnValue, field, image_value, text},
    records::{PreferencePair, RowImage, imported_answer, line},
};
use crate::feedback::{
    record::{Feedback, ImageHash, JudgedPart, TokenLabel},
    submission::{ErrorSpan, Judgment, Submission},
};

/// Every list has one item: TRL allows several images and turns.
pub(super) const SCHEMA: &str = "message schema {
    OPTIONAL GROUP images (LIST) { REPEATED GROUP list { OPTIONAL GROUP element { OPTIONAL BINARY \
    bytes; OPTIONAL BINARY path (UTF8); } } }
    OPTIONAL GROUP prompt (LIST) { REPEATED GROUP list { OPTIONAL GROUP element { OPTIONAL BINARY \
    role (UTF8); OPTIONAL BINARY content (UTF8); } } }
    OPTIONAL GROUP chosen (LIST) { REPEATED GROUP list { OPTIONAL GROUP element { OPTIONAL BINARY \
    role (UTF8); OPTIONAL BINARY content (UTF8); } } }
    OPTIONAL GROUP rejected (LIST) { REPEATED GROUP list { OPTIONAL GROUP element { OPTIONAL \
    BINARY role (UTF8); OPTIONAL BINARY content (UTF8); } } }
}";

/// Columns that a record is made from.
pub(super) const READ: &[&str] = &["images", "image", "prompt", "chosen", "rejected"];

pub(super) fn features() -> Value {
    let text = json!({ "dtype": "string", "_type": "Value" });
    let messages = json!({ "feature": { "role": text, "content": text }, "_type": "List" });
    json!({ "images": { "feature": { "_type": "Image" }, "_type": "List" }, "prompt": messages,
        "chosen": messages, "rejected": messages })
}

pub(super) fn row(record: &Feedback, image: Vec<u8>) -> Option<Vec<ColumnValue>> {
    let PreferencePair {
        prompt,
        chosen,
        rejected,
    } = PreferencePair::from_record(record)?;
    let messages = [
        ("user", prompt),
        ("assistant", chosen),
        ("assistant", rejected),
    ];
    let messages = messages
        .into_iter()
        .flat_map(|(role, content)| [ColumnValue::text(role), ColumnValue::text(content)]);
    Some(
        [
            ColumnValue::Bytes(image),
            ColumnValue::text(record.image.to_string()),
        ]
        .into_iter()
        .chain(messages)
        .collect(),
    )
}

/// Reads a preference pair in any of TRL's forms: messages or texts, with the prompt in its own
/// column or (implicit) in front of both answers. Rows with several images or turns, which a record
/// cannot keep, are refused.
pub(super) fn read(row: &Row) -> Result<Vec<IncomingRecord>, String> {
    let picture = single_image(row)?;
    let turns = |name: &str| {
        turns(
            name,
            field(row, name).ok_or_else(|| format!("'{name}' is missing"))?,
        )
    };
    let (mut chosen, mut rejected) = (turns("chosen")?, turns("rejected")?);
    // The last message of each is its answer, never part of a shared prompt.
    let most = chosen.len().min(rejected.len()).saturating_sub(1);
    let shared = chosen
        .iter()
        .zip(&rejected)
        .take(most)
        .take_while(|(one, other)| one == other)
        .count();
    let mut context: Vec<Message> = chosen.drain(..shared).collect();
    rejected.drain(..shared);
    if field(row, "prompt").is_some() {
        let prompt: Vec<Message> = turns("prompt")?
            .into_iter()
            .map(Message::with_user_role)
            .collect();
        if !context.is_empty()
            && context.iter().rfind(|turn| turn.role == "user")
                != prompt.iter().rfind(|turn| turn.role == "user")
        {
            return Err(
                "'prompt' differs from the turns before the answers in 'chosen' and 'rejected'"
                    .to_owned(),
            );
        }
        context = if context.len() > prompt.len() {
            context
        } else {
            prompt
        };
    }
    let (system, context): (Vec<Message>, Vec<Message>) =
        context.into_iter().partition(|turn| turn.role == "system");
    let prompt = match &context[..] {
        [] => String::new(),
        [turn] if turn.role == "user" => turn.content.replace("<image>", "").trim().to_owned(),
        [turn] => {
            return Err(format!(
                "'prompt[0].role' is `{}`; the user asks",
                turn.role
            ));
        }
        turns => {
            return Err(format!(
                "'prompt' has {} turns; a record keeps one question and its answer",
                turns.len()
            ));
        }
    };
    let pair = PreferencePair {
        prompt,
        chosen: single_answer("chosen", chosen)?,
        rejected: single_answer("rejected", rejected)?,
    };
    let left_out = system
        .iter()
        .map(|_| IncomingRecord::LeftOut("system messages".to_owned()));
    Ok(once(pair.into_submission(picture))
        .chain(left_out)
        .collect())
}

fn single_image(row: &Row) -> Result<RowImage, String> {
    let mut pictures = Vec::new();
    for name in ["images", "image"] {
        match field(row, name) {
            Some(Field::ListInternal(list)) => {
                let own = list
                    .elements()
                    .iter()
                    .enumerate()
                    .map(|(i, element)| image_value(Some(element), &format!("{name}[{i}]")));
                pictures.extend(own.collect::<Result<Vec<_>, _>>()?);
            }
            None => {}
            one => pictures.push(image_value(one, name)?),
        }
    }
    match (pictures.pop(), pictures.len()) {
        (Some(picture), 0) => Ok(picture),
        (None, _) => Err("'images' contains no image".to_owned()),
        (Some(_), others) => Err(format!(
            "'images' has {} images; a record keeps one",
            others + 1
        )),
    }
}

/// Message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Message {
    role: String,
    content: String,
}

impl Message {
    fn new(role: &str, content: impl Into<String>) -> Self {
        let role = match role {
            "human" => "user",
            "gpt" | "model" => "assistant",
            role => role,
        };
        Self {
            role: role.to_owned(),
            content: content.into(),
        }
    }

    /// Gives the user's role to a message without one.
    fn with_user_role(self) -> Self {
        if self.role.is_empty() {
            Self::new("user", self.content)
        } else {
            self
        }
    }
}

/// Returns the messages of a column. A text is one message without a role, or a dialog such as
/// `\n\nHuman: ...\n\nAssistant: ...`.
fn turns(name: &str, field: &Field) -> Result<Vec<Message>, String> {
    let Field::ListInternal(list) = field else {
        let text = text(field).ok_or_else(|| format!("'{name}' is neither messages nor a text"))?;
        return Ok(dialog(&text).unwrap_or_else(|| vec![Message::new("", text)]));
    };
    let message = |(i, message): (usize, &Field)| {
        let Field::Group(message) = message else {
            return Err(format!("'{name}[{i}]' is not a message"));
        };
        let role = self::field(message, "role")
            .and_then(text)
            .ok_or_else(|| format!("'{name}[{i}].role' is missing or not a text"))?;
        let path = format!("{name}[{i}].content");
        Ok(Message::new(
            &role,
            content(&path, self::field(message, "content"))?,
        ))
    };
    list.elements().iter().enumerate().map(message).collect()
}

fn dialog(text: &str) -> Option<Vec<Message>> {
    const MARKS: [(&str, &str); 2] = [("\n\nHuman:", "user"), ("\n\nAssistant:", "assistant")];
    let next = |text: &str| {
        MARKS
            .iter()
            .filter_map(|(mark, role)| Some((text.find(mark)?, mark.len(), *role)))
            .min()
    };
    let (mut turns, mut rest) = (Vec::new(), format!("\n\n{}", text.trim_start()));
    while let Some((0, mark, role)) = next(&rest) {
        let content = rest.split_off(mark);
        let end = next(&content).map_or(content.len(), |(at, ..)| at);
        turns.push(Message::new(role, content[..end].trim()));
        rest = content[end..].to_owned();
    }
    // A prompt may end with the mark of the answer, which has its own column.
    turns.pop_if(|last| last.role == "assistant" && last.content.is_empty());
    (!turns.is_empty() && rest.is_empty()).then_some(turns)
}

/// Returns the text of a message, its text parts joined. Image parts are skipped.
fn content(path: &str, field: Option<&Field>) -> Result<String, String> {
    let Some(Field::ListInternal(parts)) = field else {
        return field
            .and_then(text)
            .ok_or_else(|| format!("'{path}' is missing or not a text"));
    };
    let part = |(i, part): (usize, &Field)| {
        let Field::Group(part) = part else {
            return Err(format!("'{path}[{i}]' is not a part of a message"));
        };
        let kind = self::field(part, "type")
            .and_then(text)
            .unwrap_or_else(|| "text".to_owned());
        match (kind.as_str(), self::field(part, "text").and_then(text)) {
            ("text", Some(text)) => Ok(text),
            ("image", _) => Ok(String::new()),
            _ => Err(format!("'{path}[{i}]' has the type `{kind}` and no text")),
        }
    };
    parts.elements().iter().enumerate().map(part).collect()
}

/// Returns the single answer that a column ends with.
fn single_answer(name: &str, mut turns: Vec<Message>) -> Result<String, String> {
    match (turns.pop(), turns.len()) {
        (Some(turn), 0) if matches!(turn.role.as_str(), "" | "assistant") => Ok(turn.content),
        (Some(turn), 0) => Err(format!(
            "'{name}' ends with a message of the role `{}`; an answer is the assistant's",
            turn.role
        )),
        (None, _) => Err(format!("'{name}' contains no answer")),
        (Some(_), before) => Err(format!(
            "'{name}' has {} turns of its own; a record keeps one answer",
            before + 1
        )),
    }
}

/// Row of stepwise supervision. TRL joins steps with a separator; here the separator is empty.
#[derive(Serialize, Deserialize)]
struct Steps {
    prompt: String,
    completions: Vec<String>,
    labels: Vec<bool>,
    /// SHA-256 of the image.
    image: ImageHash,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// Appends the response cut into steps where its labels change; what was not judged is left out.
pub(super) fn write_steps(record: &Feedback, out: &mut Vec<u8>) -> serde_json::Result<()> {
    let Some(scope) = record.scope else {
        return Ok(());
    };
    let text: Vec<char> = record.response.chars().collect();
    let judged = match (scope, record.errors.first()) {
        (JudgedPart::FirstError, Some(first)) => first.end,
        _ => text.len(),
    };
    let (mut completions, mut labels, mut at) = (Vec::new(), Vec::new(), 0);
    let errors = record
        .errors
        .iter()
        .filter(|error| error.start < error.end)
        .map(|error| (error.start, error.end));
    for (start, end) in errors
        .chain(once((judged, judged)))
        .filter(|(_, end)| *end <= judged)
    {
        for (range, label) in [(at..start, true), (start..end, false)] {
            if !range.is_empty() {
                completions.push(text[range].iter().collect());
                labels.push(label);
            }
        }
        at = end;
    }
    if labels.is_empty()
        || record
            .tokens
            .iter()
            .all(|token| token.label == TokenLabel::None)
    {
        return Ok(());
    }
    line(
        &Steps {
            prompt: record.prompt.clone(),
            completions,
            labels,
            image: record.image,
            others: Map::new(),
        },
        out,
    )
}

/// Reads steps; wrong ones become errors without a correction.
pub(super) fn read_steps(line: &[u8]) -> Result<Vec<IncomingRecord>, String> {
    let Steps {
        prompt,
        completions,
        labels,
        image,
        others,
    } = serde_json::from_slice(line).map_err(|e| e.to_string())?;
    if completions.len() != labels.len() {
        return Err(format!(
            "'labels' has {} items and 'completions' {}",
            labels.len(),
            completions.len()
        ));
    }
    let (mut errors, mut at) = (Vec::new(), 0);
    for (step, right) in completions.iter().zip(&labels) {
        let (start, end) = (at, at + step.chars().count());
        if !right {
            errors.push(ErrorSpan {
                start,
                end,
                ..ErrorSpan::default()
            });
        }
        at = end;
    }
    let submission = imported_answer(prompt, completions.concat());
    let submission = if errors.is_empty() {
        Submission {
            label: Some(Judgment::Good),
            ..submission
        }
    } else {
        Submission {
            errors: Some(errors),
            ..submission
        }
    };
    let item = IncomingRecord::Submission(Box::new(submission), RowImage::Hash(image));
    Ok(once(item)
        .chain(
            others
                .into_iter()
                .map(|(name, _)| IncomingRecord::LeftOut(format!("'{name}'"))),
        )
        .collect())
}
