//! Messages of a conversation.

use serde::{Deserialize, Serialize};

/// Message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Texts and images in order.
    pub content: Vec<PromptPart>,
}

/// Part of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PromptPart {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// The next image of the request.
    Image,
}

impl Message {
    /// Creates a message of text alone.
    pub fn text(role: &str, text: impl Into<String>) -> Self {
        Self {
            role: role.to_owned(),
            content: vec![PromptPart::Text { text: text.into() }],
        }
    }

    /// Returns the texts of the message, joined by line breaks.
    pub fn joined_text(&self) -> String {
        let texts = self.content.iter().filter_map(|part| match part {
            PromptPart::Text { text } => Some(text.as_str()),
            PromptPart::Image => None,
        });
        texts.collect::<Vec<_>>().join("\n")
    }

    /// Returns the bytes of its texts.
    pub fn text_bytes(&self) -> usize {
        let bytes = |part: &PromptPart| match part {
            PromptPart::Text { text } => text.len(),
            PromptPart::Image => 0,
        };
        self.content.iter().map(bytes).sum()
    }

    /// Returns the message with its texts, joined, alone.
    pub fn without_images(&self) -> Self {
        Self::text(&self.role, self.joined_text())
    }

    /// Returns the number of images in the message.
    pub fn images(&self) -> usize {
        self.content
            .iter()
            .filter(|part| **part == PromptPart::Image)
            .count()
    }
}

/// Returns the text of the last user message, the current question.
pub fn question(messages: &[Message]) -> Option<String> {
    messages
        .iter()
        .rev()
        .find(|message| message.role == "user")
        .map(Message::joined_text)
}
