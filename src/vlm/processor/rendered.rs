//! Rendered prompts, cut into the template's own text and what users wrote.

use std::collections::HashMap;

use super::message::{Message, PromptPart};

/// Piece of a rendered prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptPiece {
    /// Text of the template, in which special tokens are special.
    Template(String),
    /// Text of a message, in which nothing is special.
    User(String),
    /// Marker of the next image, or the template's text that stands in its place.
    Image(String),
}

impl PromptPiece {
    /// Returns the text of the piece.
    pub fn text(&self) -> &str {
        match self {
            Self::Template(text) | Self::User(text) | Self::Image(text) => text,
        }
    }

    /// Returns `true` if the piece is the text of a message.
    pub fn is_user(&self) -> bool {
        matches!(self, Self::User(_))
    }
}

/// Rendered prompt: its pieces, one behind the other, are the template's output.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RenderedPrompt {
    /// Pieces in order.
    pub pieces: Vec<PromptPiece>,
}

impl RenderedPrompt {
    /// Returns the whole text.
    pub fn text(&self) -> String {
        self.pieces.iter().map(PromptPiece::text).collect()
    }

    /// Returns the number of images.
    pub fn images(&self) -> usize {
        let image = |piece: &&PromptPiece| matches!(piece, PromptPiece::Image(_));
        self.pieces.iter().filter(image).count()
    }

    /// Replaces the marker of every image by `expansion` of the image's index: text in which
    /// special tokens are special, as in the template's own.
    pub fn expand_images(&mut self, mut expansion: impl FnMut(usize) -> String) {
        let images = self.pieces.iter_mut().filter_map(|piece| match piece {
            PromptPiece::Image(marker) => Some(marker),
            _ => None,
        });
        for (index, marker) in images.enumerate() {
            *marker = expansion(index);
        }
    }

    /// Cuts `text`, of which the characters marked in `user` came from messages. Where `marker`
    /// stands in the template's part, an image is.
    pub(super) fn cut(text: &str, user: &[bool], marker: Option<&str>) -> Self {
        let user = with_inner_space(text, user);
        let (mut pieces, mut stretch) = (Vec::new(), String::new());
        let mut flush = |stretch: &mut String, is_user: bool| {
            let text = std::mem::take(stretch);
            match is_user {
                _ if text.is_empty() => {}
                true => pieces.push(PromptPiece::User(text)),
                false => cut_at_markers(&text, marker, &mut pieces),
            }
        };
        let mut before = false;
        for (c, now) in text.chars().zip(user) {
            if now != before {
                flush(&mut stretch, before);
            }
            stretch.push(c);
            before = now;
        }
        flush(&mut stretch, before);
        Self { pieces }
    }
}

fn cut_at_markers(text: &str, marker: Option<&str>, pieces: &mut Vec<PromptPiece>) {
    let mut rest = text;
    if let Some(marker) = marker.filter(|marker| !marker.is_empty()) {
        while let Some((before, after)) = rest.split_once(marker) {
            if !before.is_empty() {
                pieces.push(PromptPiece::Template(before.to_owned()));
            }
            pieces.push(PromptPiece::Image(marker.to_owned()));
            rest = after;
        }
    }
    if !rest.is_empty() {
        pieces.push(PromptPiece::Template(rest.to_owned()));
    }
}

/// Marks white space between two of a message's characters too, so that no token with white space
/// in it can be made of them.
fn with_inner_space(text: &str, user: &[bool]) -> Vec<bool> {
    let mut marked = user.to_vec();
    let (mut last, mut open) = (false, None);
    for (i, c) in text.chars().enumerate() {
        if marked.get(i) == Some(&true) {
            if let Some(from) = open.take().filter(|_| last) {
                marked[from..i].fill(true);
            }
            last = true;
        } else if c.is_whitespace() {
            open = open.or(Some(i));
        } else {
            (last, open) = (false, None);
        }
    }
    marked
}

/// Stand-ins for the characters of messages: a prompt rendered from them shows which of its
/// characters came from messages, since no template writes one.
#[derive(Debug, Default)]
pub(super) struct StandIns {
    of_char: HashMap<char, char>,
    char_of: HashMap<char, char>,
}

impl StandIns {
    /// Chooses a stand-in for every character of the messages' texts but white space, which
    /// templates trim. They lie in planes 15 and 16 and not in `source`; `None` if these do not
    /// suffice.
    pub(super) fn choose(messages: &[Message], source: &str) -> Option<Self> {
        let mut free = ('\u{F0000}'..='\u{FFFFD}')
            .chain('\u{100000}'..='\u{10FFFD}')
            .filter(|&c| source.is_ascii() || !source.contains(c));
        let parts = messages.iter().flat_map(|message| &message.content);
        let texts = parts.filter_map(|part| match part {
            PromptPart::Text { text } => Some(text),
            PromptPart::Image => None,
        });
        let mut chosen = Self::default();
        for c in texts.flat_map(|text| text.chars()) {
            if !c.is_whitespace() && !chosen.of_char.contains_key(&c) {
                let stand_in = free.next()?;
                chosen.of_char.insert(c, stand_in);
                chosen.char_of.insert(stand_in, c);
            }
        }
        Some(chosen)
    }

    /// Returns the messages with their texts replaced.
    pub(super) fn replace(&self, messages: &[Message]) -> Vec<Message> {
        let replace = |text: &str| {
            let stand_in = |c| self.of_char.get(&c).copied().unwrap_or(c);
            text.chars().map(stand_in).collect()
        };
        let part = |part: &PromptPart| match part {
            PromptPart::Text { text } => PromptPart::Text {
                text: replace(text),
            },
            PromptPart::Image => PromptPart::Image,
        };
        messages
            .iter()
            .map(|message| Message {
                role: message.role.clone(),
                content: message.content.iter().map(part).collect(),
            })
            .collect()
    }

    /// Returns the prompt and which of its characters came from messages, given what the template
    /// makes of the messages (`plain`) and of their stand-ins (`marked`).
    ///
    /// Where the two differ in more than the characters replaced, the template acts on the words
    /// of a message (it splits them, or asks for one) and nobody can tell where they went. The
    /// prompt is then that of the stand-ins: the template sees words that it does not know.
    pub(super) fn locate(&self, plain: &str, marked: &str) -> (String, Vec<bool>) {
        let user: Vec<bool> = marked
            .chars()
            .map(|c| self.char_of.contains_key(&c))
            .collect();
        let same = plain.chars().count() == user.len()
            && (plain.chars().zip(marked.chars()).zip(&user)).all(|((a, b), &user)| user || a == b);
        let text = if same {
            plain.to_owned()
        } else {
            let original = |c| self.char_of.get(&c).copied().unwrap_or(c);
            marked.chars().map(original).collect()
        };
        (text, user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn located(plain: &str, render: impl Fn(&str) -> String) -> RenderedPrompt {
        let messages = [Message::text("user", plain)];
        let stand_ins = StandIns::choose(&messages, "").unwrap();
        let marked = stand_ins.replace(&messages)[0].joined_text();
        let (text, user) = stand_ins.locate(&render(plain), &render(&marked));
        RenderedPrompt::cut(&text, &user, Some("<image>"))
    }

    #[test]
    fn pieces_tell_messages_from_the_template() {
        let prompt = located(" A <image> \n", |text| {
            format!("<s>{}<image>\n", text.trim().to_lowercase())
        });
        let pieces = [
            PromptPiece::Template("<s>".to_owned()),
            PromptPiece::User("a <image>".to_owned()),
            PromptPiece::Image("<image>".to_owned()),
            PromptPiece::Template("\n".to_owned()),
        ];
        assert_eq!(prompt.pieces, pieces);
        assert_eq!(
            (prompt.images(), prompt.text()),
            (1, "<s>a <image><image>\n".to_owned())
        );
    }

    #[test]
    fn template_that_acts_on_words_sees_unknown_ones() {
        let split = |text: &str| format!("<s>{}</s>", text.rsplit("</think>").next().unwrap());
        let prompt = located("why</think>so", split);
        assert_eq!(prompt.text(), "<s>why</think>so</s>");
        assert_eq!(
            prompt.pieces[1],
            PromptPiece::User("why</think>so".to_owned())
        );
    }

    #[test]
    fn expand_images_replaces_every_marker() {
        let mut prompt = RenderedPrompt::cut("a<image>b<image>", &[false; 16], Some("<image>"));
        prompt.expand_images(|i| format!("[{i}]"));
        assert_eq!(prompt.text(), "a[0]b[1]");
    }
}
