//! Classification of questions: their kind, and those that no photograph answers. The rules are
//! data: `patterns.txt`.

mod pattern;

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use self::pattern::WordPattern;
use crate::lexicon::{Lexicon, words};

/// Kind of question, by the answer that it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuestionKind {
    /// A description of the photograph.
    Caption,
    /// A number.
    Count,
    /// A color.
    Color,
    /// One of several alternatives, which the question may name.
    Choice,
    /// An activity.
    Activity,
    /// Clothing.
    Clothing,
    /// The position of an object.
    Place,
    /// The presence of an object.
    Presence,
    /// Yes or no about anything else.
    YesNo,
    /// Anything else.
    Open,
}

impl QuestionKind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Caption,
        Self::Count,
        Self::Color,
        Self::Choice,
        Self::Activity,
        Self::Clothing,
        Self::Place,
        Self::Presence,
        Self::YesNo,
        Self::Open,
    ];

    /// Returns its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Caption => "caption",
            Self::Count => "count",
            Self::Color => "color",
            Self::Choice => "choice",
            Self::Activity => "activity",
            Self::Clothing => "clothing",
            Self::Place => "place",
            Self::Presence => "presence",
            Self::YesNo => "yes_no",
            Self::Open => "open",
        }
    }

    /// Returns `true` if the answer is yes or no.
    pub fn is_yes_no(self) -> bool {
        matches!(self, Self::Presence | Self::YesNo)
    }
}

/// Reason for which a question is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unanswerable {
    /// It asks for text in the photograph.
    Text,
    /// It asks for a time or a date.
    Time,
    /// It asks for an identity, or for a name, age or relation that no photograph shows.
    Identity,
    /// It asks for advice, or what is safe, healthy or legal.
    Advice,
    /// It asks for a price.
    Price,
    /// It is not in English.
    Language,
    /// It asks about something else that no photograph shows.
    Beyond,
    /// The photograph is unfamiliar to the model.
    Unfamiliar,
    /// The generated answer is probably wrong.
    Unsure,
}

impl Unanswerable {
    /// Returns the text of the abstention.
    pub fn wording(self) -> &'static str {
        match self {
            Self::Text => "I cannot read text in photographs.",
            Self::Time => "I cannot tell times and dates from a photograph.",
            Self::Identity => "I cannot tell who or what place this is.",
            Self::Advice => "I cannot give advice, or tell what is safe, healthy or legal.",
            Self::Price => "I cannot tell prices from a photograph.",
            Self::Language => "I can only answer questions in English.",
            Self::Beyond => "I can only answer questions about what the photograph shows.",
            Self::Unfamiliar => "I cannot tell: this photograph is unlike those that I know.",
            Self::Unsure => "I cannot tell from this photograph.",
        }
    }

    /// All of them.
    const ALL: [Self; 9] = [
        Self::Text,
        Self::Time,
        Self::Identity,
        Self::Advice,
        Self::Price,
        Self::Language,
        Self::Beyond,
        Self::Unfamiliar,
        Self::Unsure,
    ];

    /// Returns `true` if a text is an abstention.
    pub fn is_wording(text: &str) -> bool {
        Self::ALL
            .iter()
            .any(|reason| reason.wording() == text.trim())
    }

    /// Reasons that the text of a question alone can give, by the name of their section in
    /// `patterns.txt`.
    const IN_TEXT: [(&'static str, Self); 6] = [
        ("text", Self::Text),
        ("time", Self::Time),
        ("identity", Self::Identity),
        ("advice", Self::Advice),
        ("price", Self::Price),
        ("beyond", Self::Beyond),
    ];
}

/// Patterns of a section, and exceptions from them.
#[derive(Debug, Default)]
struct Section {
    patterns: Vec<WordPattern>,
    exceptions: Vec<WordPattern>,
}

impl Section {
    fn parse(text: &'static str) -> Self {
        let mut section = Self::default();
        for line in text.lines() {
            match line.strip_prefix("! ") {
                Some(exception) => section.exceptions.push(WordPattern::parse(exception)),
                None => section.patterns.push(WordPattern::parse(line)),
            }
        }
        section
    }

    fn matches(&self, words: &[String]) -> bool {
        let found =
            |patterns: &[WordPattern]| patterns.iter().any(|pattern| pattern.matches(words));
        found(&self.patterns) && !found(&self.exceptions)
    }
}

/// The rules of `patterns.txt`.
struct Rules {
    lead: Section,
    greeting: Section,
    kinds: Vec<(QuestionKind, Section)>,
    scope: Vec<(Unanswerable, Section)>,
    english: Vec<&'static str>,
    foreign: Vec<&'static str>,
}

/// Maximum number of words of a text that are read; no prompt holds more.
const MAX_WORDS: usize = 1024;

static RULES: LazyLock<Rules> = LazyLock::new(|| Rules::parse(include_str!("patterns.txt")));

impl Rules {
    /// Parses the rules. They are compiled in; a test checks the names of their sections.
    fn parse(text: &'static str) -> Self {
        let section = |name: &str| {
            sections(text)
                .find(|(found, _)| *found == name)
                .map_or("", |(_, body)| body)
        };
        let list = |name: &str| section(name).split_whitespace().collect::<Vec<_>>();
        let english = list("english");
        Self {
            lead: Section::parse(section("lead")),
            greeting: Section::parse(section("greeting")),
            kinds: QuestionKind::ALL
                .map(|kind| {
                    (
                        kind,
                        Section::parse(section(&format!("kind {}", kind.name()))),
                    )
                })
                .into(),
            scope: Unanswerable::IN_TEXT
                .map(|(name, reason)| (reason, Section::parse(section(&format!("scope {name}")))))
                .into(),
            foreign: list("foreign")
                .into_iter()
                .filter(|word| !english.contains(word))
                .collect(),
            english,
        }
    }

    /// Returns a sentence without the words that lead to its question.
    fn strip_lead<'w>(&self, mut words: &'w [String]) -> &'w [String] {
        while let Some(matched) = self
            .lead
            .patterns
            .iter()
            .find_map(|pattern| pattern.prefix(words))
        {
            words = &words[matched..];
        }
        words
    }

    fn is_foreign(&self, text: &str, words: &[&str]) -> bool {
        let (latin, other) =
            text.chars()
                .filter(|c| c.is_alphabetic())
                .fold((0, 0), |(latin, other), c| match c {
                    '\0'..='\u{24F}' | '\u{1E00}'..='\u{1EFF}' => (latin + 1, other),
                    _ => (latin, other + 1),
                });
        if other > latin {
            return true;
        }
        let count = |list: &[&str]| words.iter().filter(|word| list.contains(word)).count();
        let (english, foreign) = (count(&self.english), count(&self.foreign));
        let known = words.iter().filter(|word| is_known(word)).count();
        // Other languages share a few of English's short words.
        let is_strange = match words.len() {
            0..=2 => false,
            3 => english == 0 && known < 2,
            all => english * 4 <= all && known * 2 <= all,
        };
        is_strange || (foreign > english && (foreign > 1 || known == 0))
    }
}

/// Returns the sections of a rules file with their lines, comments left out.
fn sections(text: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    text.split("\n[").skip(1).filter_map(|section| {
        let (name, body) = section.split_once("]\n")?;
        Some((name, body.split("\n#").next().unwrap_or(body).trim_end()))
    })
}

/// Returns `true` if a word has an ending that is common in English and rare elsewhere.
fn is_english_form(word: &str) -> bool {
    word.len() > 4
        && [
            "ing", "ed", "tion", "ly", "ous", "ness", "ity", "ful", "less",
        ]
        .iter()
        .any(|end| word.ends_with(end))
}

/// Returns `true` if the lexicon knows a word, or it looks English.
fn is_known(word: &str) -> bool {
    let lexicon = Lexicon::shared();
    let classes = lexicon.classes();
    let is_of_class = classes.is_function(word)
        || classes.is_adjective(word)
        || classes.is_determiner(word)
        || classes.is_relation(word);
    let is_listed = classes
        .color(word)
        .or(classes.count(word))
        .or(classes.size(word))
        .or(classes.material(word))
        .is_some();
    is_english_form(word)
        || is_of_class
        || is_listed
        || !lexicon.all_mentions(word).is_empty()
        || lexicon.verbs().analyze(word).is_some()
}

/// Returns the words of a sentence with contractions expanded.
fn expanded_words(sentence: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    // Contractions are matched in lower case.
    let sentence = sentence.to_lowercase();
    for word in words(&sentence)
        .into_iter()
        .take(MAX_WORDS)
        .map(|word| word.text)
    {
        let is_asked = |before: &String| {
            [
                "what", "who", "where", "when", "how", "which", "why", "that", "it", "there",
                "here", "he", "she",
            ]
            .contains(&before.as_str())
        };
        let parts = match word.as_str() {
            "'s" if found.last().is_some_and(is_asked) => vec!["is"],
            "whats" => vec!["what", "is"],
            "whos" => vec!["who", "is"],
            "wheres" => vec!["where", "is"],
            "can't" | "cannot" => vec!["can", "not"],
            "won't" => vec!["will", "not"],
            word => match (word.strip_suffix("n't"), word.strip_suffix("'re")) {
                (Some(verb), _) if !verb.is_empty() => vec![verb, "not"],
                (_, Some(subject)) if !subject.is_empty() => vec![subject, "are"],
                _ => vec![word],
            },
        };
        found.extend(parts.into_iter().map(str::to_owned));
    }
    found
}

/// Returns the words of each nonempty sentence, and `true` if it ends in a question mark.
fn read_sentences(text: &str) -> Vec<(Vec<String>, bool)> {
    let pieces = text.split_inclusive(['.', '?', '!', ';', '\n']);
    let mut left = MAX_WORDS;
    pieces
        .map(|piece| (expanded_words(piece), piece.ends_with('?')))
        .filter(|(words, _)| !words.is_empty())
        .take_while(|(words, _)| {
            let has_room = left > 0;
            left = left.saturating_sub(words.len());
            has_room
        })
        .collect()
}

/// Returns the kind of a text's first question, or of its first sentence if there is none. A text
/// without words asks for a caption.
pub fn kind(text: &str) -> QuestionKind {
    let sentences = read_sentences(text);
    let question = sentences
        .iter()
        .find(|(_, is_question)| *is_question)
        .or(sentences.first());
    let words = RULES.strip_lead(question.map_or(&[], |(words, _)| words));
    RULES
        .kinds
        .iter()
        .find(|(_, section)| section.matches(words))
        .map_or(QuestionKind::Open, |(kind, _)| *kind)
}

/// Nouns with which questions refer to the photograph.
pub const PHOTOGRAPH: [&str; 4] = ["picture", "photo", "photograph", "image"];

/// Returns `true` if a yes-or-no question is negated, so that yes means absence: "Is there no cat?"
/// Not negated are "Isn't there a cat?" and "Is there a cat without a collar?"
pub fn is_negated(text: &str) -> bool {
    let sentences = read_sentences(text);
    let question = sentences
        .iter()
        .find(|(_, is_question)| *is_question)
        .or(sentences.first());
    let words = RULES.strip_lead(question.map_or(&[], |(words, _)| words));
    let is_presence = || {
        RULES
            .kinds
            .iter()
            .find(|(_, section)| section.matches(words))
            .is_some_and(|(kind, _)| *kind == QuestionKind::Presence)
    };
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    let asks =
        |at: usize| at == 1 || (at == 2 && matches!(word(1), "there" | "you" | "i" | "we" | "one"));
    // In questions about presence, "without" describes the object, unless it follows a noun for the
    // photograph.
    let is_of_part = |at: usize| is_presence() && !PHOTOGRAPH.contains(&word(at - 1));
    (1..words.len())
        .filter(|&at| word(at - 1) != "or")
        .any(|at| match word(at) {
            "no" if word(at - 1) == "with" => at == 1 || !is_of_part(at - 1),
            "no" | "nobody" | "nothing" | "none" => word(at + 1) != "but",
            "never" | "neither" | "zero" | "lack" | "lacks" | "lacking" => true,
            "without" => !is_of_part(at),
            "free" => word(at + 1) == "of",
            "missing" | "absent" => matches!(word(at + 1), "" | "in" | "from" | "here"),
            "not" => !asks(at),
            _ => false,
        })
}

/// Returns the reason for which no photograph answers a question; `None` if one may.
pub fn unanswerable_reason(text: &str) -> Option<Unanswerable> {
    let sentences = read_sentences(text);
    let words: Vec<&str> = sentences
        .iter()
        .flat_map(|(words, _)| words)
        .map(String::as_str)
        .filter(|word| is_word(word))
        .collect();
    if RULES.is_foreign(text, &words) {
        return Some(Unanswerable::Language);
    }
    let questions = || {
        sentences
            .iter()
            .map(|(words, _)| words.as_slice())
            .filter(|words| !RULES.greeting.matches(words))
    };
    if questions().next().is_none() && !sentences.is_empty() {
        return Some(Unanswerable::Beyond);
    }
    let found = |words: &[String]| {
        RULES
            .scope
            .iter()
            .find(|(_, section)| section.matches(words))
            .map(|(reason, _)| *reason)
    };
    questions().find_map(|words| found(words).or_else(|| found(RULES.strip_lead(words))))
}

fn is_word(text: &str) -> bool {
    text.chars().any(char::is_alphabetic)
}

#[cfg(test)]
mod tests;
