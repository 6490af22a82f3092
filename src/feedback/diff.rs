//! From an edit of the whole text to the spans that it changes, word by word.

use std::ops::Range;

use similar::{Algorithm, DiffTag, capture_diff_slices};
use unicode_segmentation::UnicodeSegmentation;

/// A change of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The code points that go; empty where something is only added.
    pub chars: Range<usize>,
    /// What comes in their place; empty where something is only taken out.
    pub new: String,
}

/// Words and signs (UAX #29) with their code points; white space is none.
struct Words<'a> {
    words: Vec<&'a str>,
    chars: Vec<Range<usize>>,
    text: Vec<char>,
}

impl<'a> Words<'a> {
    fn of(text: &'a str) -> Self {
        let (mut words, mut chars, mut at) = (Vec::new(), Vec::new(), 0);
        for word in text.split_word_bounds() {
            let end = at + word.chars().count();
            if !word.trim().is_empty() {
                words.push(word);
                chars.push(at..end);
            }
            at = end;
        }
        Self { words, chars, text: text.chars().collect() }
    }

    /// The code points of some words. Where nothing stands in their place in the other text, with the white space that parts them from their neighbours.
    fn span(&self, words: Range<usize>, alone: bool) -> Range<usize> {
        let end_before = |word: usize| word.checked_sub(1).map_or(0, |previous| self.chars[previous].end);
        if words.is_empty() {
            let place = end_before(words.start);
            return place..place;
        }
        let (start, end) = (self.chars[words.start].start, self.chars[words.end - 1].end);
        match (alone, words.start) {
            (false, _) => start..end,
            // The first words have none before them.
            (true, 0) => 0..self.chars.get(words.end).map_or(self.text.len(), |next| next.start),
            (true, first) => end_before(first)..end,
        }
    }

    fn slice(&self, chars: Range<usize>) -> String {
        self.text[chars].iter().collect()
    }
}

/// What has to change in `old` to make it read like `new`, white space aside; in order, apart from each other.
pub fn diff(old: &str, new: &str) -> Vec<Change> {
    let (old, new) = (Words::of(old), Words::of(new));
    let (mut changed, mut at): (Vec<(Range<usize>, Range<usize>)>, _) = (Vec::new(), (0, 0));
    for operation in capture_diff_slices(Algorithm::Myers, &old.words, &new.words) {
        // Counted here: an operation's own start is not that of its place where the library moved it.
        let (tag, from, to) = operation.as_tag_tuple();
        let (from, to) = (at.0..at.0 + from.len(), at.1..at.1 + to.len());
        at = (from.end, to.end);
        match changed.last_mut() {
            _ if tag == DiffTag::Equal => {}
            // What goes and what comes at one place is one change.
            Some((gone, come)) if gone.end == from.start && come.end == to.start => (gone.end, come.end) = (from.end, to.end),
            _ => changed.push((from, to)),
        }
    }
    let change = |(from, to): (Range<usize>, Range<usize>)| {
        let (adds, takes) = (from.is_empty(), to.is_empty());
        Change { chars: old.span(from, takes), new: new.slice(new.span(to, adds)) }
    };
    changed.into_iter().map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn apply(old: &str, changes: &[Change]) -> String {
        let (mut text, mut at) = (String::new(), 0);
        for change in changes {
            assert!(change.chars.start >= at && change.chars.start <= change.chars.end, "{changes:?}");
            text.extend(old.chars().take(change.chars.start).skip(at));
            text += &change.new;
            at = change.chars.end;
        }
        text.extend(old.chars().skip(at));
        text
    }

    fn changes(old: &str, new: &str) -> Vec<(usize, usize, String)> {
        diff(old, new).into_iter().map(|c| (c.chars.start, c.chars.end, c.new)).collect()
    }

    #[test]
    fn words_that_change_go_and_come() {
        assert_eq!(changes("A dog on a red sofa.", "A cat on a red sofa."), [(2, 5, "cat".to_owned())]);
        assert_eq!(changes("A dog on a red sofa.", "A dog on a sofa."), [(10, 14, String::new())]);
        assert_eq!(changes("A dog on a sofa.", "A dog on a red sofa."), [(10, 10, " red".to_owned())]);
        assert_eq!(changes("A dog.", "Two dogs run."), [(0, 5, "Two dogs run".to_owned())]);
        assert_eq!(changes("Red dogs.", "dogs."), [(0, 4, String::new())]);
        assert_eq!(changes("Dogs.", "Red Dogs."), [(0, 0, "Red ".to_owned())]);
        assert_eq!(changes("Ein süßer Hund 🐶.", "Ein süßer Kater 🐱."), [(10, 16, "Kater 🐱".to_owned())]);
        assert_eq!(changes("a  b", "a b"), []);
        assert_eq!(changes("", "a b"), [(0, 0, "a b".to_owned())]);
    }

    proptest! {
        #[test]
        fn applied_changes_make_the_new_text(
            old in "([ab.]|dog|é|👩‍🚀| ){0,12}",
            new in "([ab.]|dog|é|👩‍🚀| ){0,12}",
        ) {
            let words = |t: &str| t.split_word_bounds().filter(|w| !w.trim().is_empty()).map(str::to_owned).collect::<Vec<_>>();
            let changes = diff(&old, &new);
            // White space between words that stay is not looked at, and may join or part them.
            prop_assert_eq!(words(&apply(&old, &changes)).concat(), words(&new).concat());
            prop_assert_eq!(changes.is_empty(), words(&old) == words(&new));
        }
    }
}
