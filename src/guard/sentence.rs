//! Requirements on a rewritten sentence: it must be no worse a sentence than the one it replaces,
//! keep what was trusted, and not contradict it.

use std::ops::Range;

use super::{
    Action, Span,
    render::{is_whole, statement},
    repair::{RepairStart, begins_sentence, connects, repair_start},
    words::Word,
};
use crate::lexicon::{self, Lexicon, WordClass};

/// Words that captions use for any photograph: a repair that replaces a flagged word with nothing
/// else says nothing.
const STOCK_WORDS: [&str; 15] = [
    "background",
    "camera",
    "foreground",
    "image",
    "photo",
    "photograph",
    "picture",
    "pose",
    "posing",
    "scene",
    "shot",
    "somebody",
    "someone",
    "something",
    "thing",
];

/// A sentence of an answer.
#[derive(Debug, Clone, Copy)]
pub struct Sentence<'a> {
    /// Text, without trailing white space.
    pub text: &'a str,
    /// Words.
    pub words: &'a [Word],
    /// Start in the answer, in bytes.
    start: usize,
}

/// Fault for which a rewritten sentence is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It repeats itself.
    Loop,
    /// It answers yes instead of no or the reverse, or denies what the original did not.
    Flip,
    /// It is not a complete sentence.
    Fragment,
    /// It drops a trusted object mention, or other trusted words.
    Loss,
    /// All that is new in it fits any photograph.
    Stock,
    /// The original is a short answer, and the new score is not clearly higher.
    NoGain,
}

impl<'a> Sentence<'a> {
    /// Returns the sentence that contains word `at`, or would if the word existed; `None` if the
    /// sentence may continue because no other follows and the answer is not `complete`.
    pub fn containing(text: &'a str, words: &'a [Word], at: usize, complete: bool) -> Option<Self> {
        let first = repair_start(
            RepairStart::Sentence,
            text,
            words,
            at.min(words.len().saturating_sub(1)),
        );
        if at >= words.len() {
            let end = words.last().map_or(0, |word| word.bytes.end);
            return complete.then_some(Self {
                text: text.get(end..).unwrap_or_default().trim(),
                words: &[],
                start: end,
            });
        }
        let next = (at + 1..words.len()).find(|&i| begins_sentence(text, words, i));
        let end = next.or(complete.then_some(words.len()))?;
        let bytes =
            words[first].bytes.start..words.get(end).map_or(text.len(), |word| word.bytes.start);
        Some(Self {
            text: text[bytes.clone()].trim_end(),
            words: &words[first..end],
            start: bytes.start,
        })
    }

    /// Returns a statement that names the trusted mentions of this sentence and those of `likely`
    /// that it does not name; `None` if there is nothing to name.
    pub fn statement(&self, likely: &[&str]) -> Option<String> {
        let chars = |byte: usize| {
            self.text
                .get(..byte.saturating_sub(self.start))
                .unwrap_or(self.text)
                .chars()
                .count()
        };
        let flagged = self.words.iter().filter(|word| word.is_flagged());
        let spans: Vec<Span> = flagged
            .map(|word| {
                Span::new(
                    chars(word.bytes.start)..chars(word.bytes.end),
                    "",
                    0.0,
                    Action::Flagged,
                )
            })
            .collect();
        statement(self.text, &spans, likely)
    }

    /// Returns the end of the sentence in the answer, in bytes.
    pub fn end(&self) -> usize {
        self.start + self.text.len()
    }

    /// Returns the score: the lowest score of its content words, or of all words if it has none.
    pub fn score(&self) -> Option<f32> {
        super::policy::judge(super::Mode::Score, self.words, true).1
    }

    /// Returns the words that overlap a byte range of the sentence's text.
    fn words_at(&self, range: &Range<usize>) -> impl Iterator<Item = &Word> {
        let bytes = range.start + self.start..range.end + self.start;
        self.words
            .iter()
            .filter(move |word| word.bytes.start < bytes.end && bytes.start < word.bytes.end)
    }

    fn word_text(&self, word: &Word) -> String {
        self.text
            .get(word.bytes.start - self.start..word.bytes.end - self.start)
            .unwrap_or_default()
            .to_lowercase()
    }

    /// Returns the object mentions: all, or those whose words are trusted.
    fn mentions(&self, trusted: bool) -> Vec<crate::lexicon::Mention> {
        let is_low = |range: &Range<usize>| self.words_at(range).any(Word::is_flagged);
        let mut mentions = Lexicon::shared().mentions(self.text);
        mentions.retain(|mention| !(is_stock(mention.lemma) || trusted && is_low(&mention.range)));
        mentions
    }

    /// Returns the number of trusted content words beside object mentions: actions, counts and
    /// attributes. A word that only describes a flagged object is not counted, nor is a word for
    /// its position.
    fn trusted_words_beside_mentions(&self) -> usize {
        let mentions = Lexicon::shared().mentions(self.text);
        let classes = Lexicon::shared().word_classes(self.text);
        let counts = |(i, (range, class)): (usize, &(Range<usize>, WordClass))| {
            let names_object = mentions
                .iter()
                .any(|mention| mention.range.start < range.end && range.start < mention.range.end);
            let is_claim = self
                .words_at(range)
                .next()
                .is_some_and(|word| !word.function && !word.is_flagged());
            let describes = matches!(
                class,
                WordClass::Attribute | WordClass::Count | WordClass::Other
            );
            let rest = classes[i + 1..].iter().map_while(|(range, class)| {
                let next = self.words_at(range).next()?;
                (next.is_flagged()
                    || matches!(class, WordClass::Attribute | WordClass::Count) && !next.function)
                    .then_some(next)
            });
            let falls = describes && rest.into_iter().any(Word::is_flagged);
            let text = &self.text[range.clone()];
            let connects = *class == WordClass::Relation || connects(&text.to_lowercase());
            is_claim && !names_object && !connects && !falls && !is_stock(text)
        };
        classes
            .iter()
            .enumerate()
            .filter(|&counted| counts(counted))
            .count()
    }

    /// Returns the base forms of its content words.
    fn claims(&self) -> Vec<String> {
        self.words
            .iter()
            .filter(|word| !word.function)
            .map(|word| base(&self.word_text(word)))
            .collect()
    }
}

/// Returns the fault for which a sentence must not replace another. `gain` is the minimum gain in
/// score for a short answer.
pub fn fault(before: &Sentence<'_>, after: &Sentence<'_>, gain: f32) -> Option<Fault> {
    let is_short = !is_whole(before.text);
    let gains = || {
        after
            .score()
            .zip(before.score())
            .is_some_and(|(new, old)| new - old >= gain)
    };
    if repeats(after.text) {
        Some(Fault::Loop)
    } else if contradict_each_other(before.text, after.text) {
        Some(Fault::Flip)
    } else if !is_short && !is_whole(after.text) {
        Some(Fault::Fragment)
    } else if loses(before, after) {
        Some(Fault::Loss)
    } else if is_stock_only(before, after) {
        Some(Fault::Stock)
    } else {
        (is_short && !gains()).then_some(Fault::NoGain)
    }
}

/// Returns `true` if two sentences contradict each other: one says yes and the other no, or only
/// one of them denies something.
fn contradict_each_other(before: &str, after: &str) -> bool {
    contradicts(before, after) || denies(before) && !denies(after)
}

/// Returns `true` if the beginning of a sentence already contradicts another: a different yes or
/// no, or a denial that the other lacks.
pub fn contradicts(before: &str, beginning: &str) -> bool {
    let first = |text: &str| {
        text.split(|c: char| !c.is_alphabetic())
            .find(|word| !word.is_empty())
            .map(str::to_lowercase)
    };
    let answer = first(before).filter(|word| matches!(word.as_str(), "yes" | "no"));
    answer
        .zip(first(beginning))
        .is_some_and(|(answer, other)| answer != other)
        || denies(beginning) && !denies(before)
}

fn denies(text: &str) -> bool {
    const DENIALS: [&str; 8] = [
        "cannot", "never", "no", "nobody", "none", "not", "nothing", "without",
    ];
    let lower = text.to_lowercase();
    let mut words = lower.split(|c: char| !c.is_alphanumeric() && c != '\'' && c != '’');
    words.any(|word| DENIALS.contains(&word) || word.ends_with("n't") || word.ends_with("n’t"))
}

/// Returns `true` if a sentence drops what another named or stated with trusted words.
fn loses(before: &Sentence<'_>, after: &Sentence<'_>) -> bool {
    let (named, all) = (before.mentions(true), after.mentions(false));
    let lexicon = Lexicon::shared();
    let is_lost = |concept| {
        !all.iter()
            .any(|other| other.concept == concept || lexicon.related(other.concept, concept))
    };
    // An existential sentence is expected to drop statements about its objects.
    let says_less = !is_existential(after.text)
        && after.trusted_words_beside_mentions() < before.trusted_words_beside_mentions();
    named.iter().any(|mention| is_lost(mention.concept)) || says_less
}

/// Returns `true` if a sentence is existential: "There is a dog."
fn is_existential(sentence: &str) -> bool {
    ["There is ", "There are "]
        .iter()
        .any(|start| sentence.starts_with(start))
}

/// Returns `true` if all new words of a sentence are words that captions use for any photograph.
fn is_stock_only(before: &Sentence<'_>, after: &Sentence<'_>) -> bool {
    let old = before.claims();
    let mut new = after
        .claims()
        .into_iter()
        .filter(|word| !old.contains(word))
        .peekable();
    new.peek().is_some() && new.all(|word| is_stock(&word))
}

fn is_stock(word: &str) -> bool {
    STOCK_WORDS.contains(&base(word).as_str())
}

/// Returns the base form of a verb, or a noun without its plural "s", in lower case.
fn base(word: &str) -> String {
    let lower = word.to_lowercase();
    let verb = Lexicon::shared()
        .verbs()
        .analyze(&lower)
        .map(|(base, _)| base.to_owned());
    verb.unwrap_or_else(|| {
        lower
            .strip_suffix('s')
            .filter(|stem| !stem.ends_with('s'))
            .unwrap_or(&lower)
            .to_owned()
    })
}

/// Length in words of a repetition that counts as a loop anywhere in a text.
const LONG_REPETITION: usize = 5;

/// Words that are repeated for emphasis ("more and more").
const EMPHASIS: [&str; 8] = [
    "again", "around", "down", "more", "on", "over", "round", "up",
];

/// Returns `true` if a text repeats itself: the same words twice in a row, with or without "and" or
/// "or" between them, or a long run of words twice anywhere. Small policies do this when they have
/// nothing left to say.
pub fn repeats(text: &str) -> bool {
    let found = lexicon::words(text);
    let words: Vec<&str> = found.iter().map(|word| word.text.as_str()).collect();
    let linked = |at: usize, n: usize| {
        let first = &words[at..at + n];
        let second = |from: usize| words.get(from..from + n) == Some(first);
        let link = words
            .get(at + n)
            .is_some_and(|word| matches!(*word, "and" | "or"));
        second(at + n) || link && second(at + n + 1) && !(n == 1 && EMPHASIS.contains(&first[0]))
    };
    let in_a_row = (1..=words.len() / 2).any(|n| (0..=words.len() - 2 * n).any(|at| linked(at, n)));
    let runs: Vec<&[&str]> = words.windows(LONG_REPETITION).collect();
    in_a_row
        || runs
            .iter()
            .enumerate()
            .any(|(i, run)| runs[i + 1..].contains(run))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::testing::scored_words;

    #[test]
    fn sentence_ends_where_the_next_begins_or_a_complete_answer_ends() {
        let (text, found) = scored_words("It rains. A dog runs. It");
        let sentence_at = |at: usize, complete: bool| {
            Sentence::containing(&text, &found, at, complete).map(|s| s.text.to_owned())
        };
        assert_eq!(sentence_at(1, false).as_deref(), Some("It rains."));
        assert_eq!(sentence_at(3, false).as_deref(), Some("A dog runs."));
        assert_eq!(sentence_at(5, false), None);
        assert_eq!(sentence_at(5, true).as_deref(), Some("It"));
        assert_eq!(sentence_at(9, false), None);
        assert_eq!(sentence_at(9, true).as_deref(), Some(""));
    }

    #[test]
    fn repeated_words_are_a_loop_and_emphasis_is_not() {
        for looped in [
            "A man in a white shirt and white shirt is running.",
            "A dog dog runs.",
            "Two women are are are",
            "A brown and brown dog.",
            "A dog and a dog play.",
            "A man in front of a building with a man in front of a building.",
            "On a street on a street on a street.",
        ] {
            assert!(repeats(looped), "{looped}");
        }
        for fine in [
            "A man in a red shirt and a man in a blue shirt talk.",
            "A black and white dog runs over and over.",
            "A man and a woman and a boy sit on a bench.",
            "Dogs.",
            "",
        ] {
            assert!(!repeats(fine), "{fine}");
        }
    }
}
