//! Closed vocabularies: objects and the words that name them.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use thiserror::Error;

use super::plain::{self, PlainWords};

/// Method of finding the words of a list in captions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum MatchStyle {
    /// As English: plurals are derived, the longest phrase wins, and a word that is not used as a
    /// noun, or that modifies another noun, names nothing.
    #[default]
    Plain,
    /// As CHAIR's reference code does, for comparison with published figures: see
    /// [`singularize`](super::singularize()).
    Original,
}

/// Error in a list of words.
#[derive(Debug, Error)]
pub enum VocabularyError {
    /// The file cannot be read.
    #[error("{}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A line is invalid.
    #[error("{file}:{line}: {problem}")]
    Line {
        /// Name of the list.
        file: String,
        /// Line number, from 1.
        line: usize,
        /// Problem of the line.
        problem: VocabularyProblem,
    },
    /// The list names no object.
    #[error("{0}: no objects")]
    Empty(String),
}

/// Error in a line of a list.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VocabularyProblem {
    /// The line is empty.
    #[error("empty line; an object's words are expected, separated by commas")]
    EmptyLine,
    /// There is nothing between two commas.
    #[error("empty word between commas")]
    EmptyWord,
    /// Two lines have the same object.
    #[error("object `{0}` already has a line")]
    SecondLine(String),
    /// A word already names another object.
    #[error("`{word}` already names `{object}`; a word can name only one object")]
    Ambiguous {
        /// The word.
        word: String,
        /// The other object.
        object: String,
    },
    /// A word has a character inside that no caption can match.
    #[error("`{0}` has a character other than hyphen and apostrophe and would never be found")]
    Unmatchable(String),
}

/// The words of a list.
#[derive(Debug)]
pub(super) enum Words {
    Plain(PlainWords),
    /// Words with the index of their object.
    Original(HashMap<String, usize>),
}

/// Objects and the words that name them.
#[derive(Debug)]
pub struct ChairVocabulary {
    /// Names of the objects, in the list's order.
    names: Vec<String>,
    words: Words,
}

static COCO80: LazyLock<ChairVocabulary> = LazyLock::new(|| {
    ChairVocabulary::parse(MatchStyle::Plain, include_str!("coco80.txt"), "coco80.txt")
        .unwrap_or_default()
});

impl Default for ChairVocabulary {
    /// No objects.
    fn default() -> Self {
        Self {
            names: Vec::new(),
            words: Words::Original(HashMap::new()),
        }
    }
}

impl ChairVocabulary {
    /// The 80 objects of COCO with the words that captions use for them; `coco80.txt` lists the
    /// differences from CHAIR's own list.
    pub fn coco80() -> &'static Self {
        &COCO80
    }

    /// Reads a vocabulary from a file.
    ///
    /// # Errors
    /// If the file cannot be read, and as for [`Self::parse`].
    pub fn load(style: MatchStyle, file: &Path) -> Result<Self, VocabularyError> {
        let text = fs::read_to_string(file).map_err(|source| VocabularyError::Read {
            file: file.to_owned(),
            source,
        })?;
        Self::parse(style, &text, &file.display().to_string())
    }

    /// Parses a vocabulary: one object per line, its words separated by commas, its name first;
    /// `file` names the source in errors. Lines that begin with `#` are comments.
    ///
    /// A list in plain style ignores case, needs no plurals, and may have lines whose name is `-`:
    /// their phrases name no object and hide the shorter ones inside (`-, hot tub`). A list in
    /// original style is read as the reference code reads it: words end at a comma with **one**
    /// space, capitals never match, phrases match only if the reference code joins them, and of two
    /// objects for a word the last one wins.
    ///
    /// # Errors
    /// If a line or a word is empty, an object has two lines, or the list has no object; in plain
    /// style also if a word names two objects or cannot occur in a caption.
    pub fn parse(style: MatchStyle, text: &str, file: &str) -> Result<Self, VocabularyError> {
        let mut names: Vec<String> = Vec::new();
        let mut words: Vec<(String, Option<usize>)> = Vec::new();
        for (i, line) in text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.starts_with('#'))
        {
            let at_line = |problem| VocabularyError::Line {
                file: file.to_owned(),
                line: i + 1,
                problem,
            };
            let line = split(style, line).map_err(at_line)?;
            let object = (style == MatchStyle::Original || line[0] != plain::NO_OBJECT)
                .then_some(names.len());
            if object.is_some() {
                if names.contains(&line[0]) {
                    return Err(at_line(VocabularyProblem::SecondLine(line[0].clone())));
                }
                names.push(line[0].clone());
            }
            let skipped = usize::from(object.is_none());
            for word in line.into_iter().skip(skipped) {
                if let Some((_, other)) = words
                    .iter()
                    .find(|(w, of)| style == MatchStyle::Plain && *w == word && *of != object)
                {
                    let object = other
                        .map_or(plain::NO_OBJECT, |other| &names[other])
                        .to_owned();
                    return Err(at_line(VocabularyProblem::Ambiguous { word, object }));
                }
                words.push((word, object));
            }
        }
        if names.is_empty() {
            return Err(VocabularyError::Empty(file.to_owned()));
        }
        let words = match style {
            MatchStyle::Plain => Words::Plain(PlainWords::new(words)),
            MatchStyle::Original => Words::Original(
                words
                    .into_iter()
                    .filter_map(|(word, object)| Some((word, object?)))
                    .collect(),
            ),
        };
        Ok(Self { names, words })
    }

    /// Returns the style in which captions are read.
    pub fn style(&self) -> MatchStyle {
        match self.words {
            Words::Plain(_) => MatchStyle::Plain,
            Words::Original(_) => MatchStyle::Original,
        }
    }

    /// Names of the objects, in the list's order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Object that a word of the list names (`aeroplane`: `airplane`).
    pub fn object(&self, word: &str) -> Option<&str> {
        let object = match &self.words {
            Words::Plain(words) => words.object(&word.to_lowercase()),
            Words::Original(words) => words.get(word).copied(),
        };
        object.map(|object| self.names[object].as_str())
    }

    pub(super) fn words(&self) -> &Words {
        &self.words
    }
}

/// Splits a line into words.
fn split(style: MatchStyle, line: &str) -> Result<Vec<String>, VocabularyProblem> {
    let line = line.trim();
    if line.is_empty() {
        return Err(VocabularyProblem::EmptyLine);
    }
    let separator = if style == MatchStyle::Original {
        ", "
    } else {
        ","
    };
    let word = |word: &str| match word.trim() {
        "" => Err(VocabularyProblem::EmptyWord),
        _ if style == MatchStyle::Original => Ok(word.to_owned()),
        plain::NO_OBJECT => Ok(plain::NO_OBJECT.to_owned()),
        trimmed => plain::normalized(trimmed)
            .ok_or_else(|| VocabularyProblem::Unmatchable(trimmed.to_owned())),
    };
    line.split(separator).map(word).collect()
}
