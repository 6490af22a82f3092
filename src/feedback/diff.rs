//! Word-level difference of a response and its edited text.

use std::ops::Range;

use similar::{Algorithm, DiffTag, capture_diff_slices};

use super::fold;
use crate::util::offsets::CharRange;

/// Replacement of a span of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextChange {
    /// Code points that are replaced; empty where text is only inserted.
    pub chars: CharRange,
    /// Text that replaces them; empty where text is only removed.
    pub new: String,
}

/// Words of a text without their typography, and their positions.
struct Words {
    keys: Vec<String>,
    chars: Vec<CharRange>,
    text: Vec<char>,
}

impl Words {
    fn new(text: &str) -> Self {
        let (keys, chars) = fold::words(text)
            .into_iter()
            .map(|word| (word.key, word.chars))
            .unzip();
        Self {
            keys,
            chars,
            text: text.chars().collect(),
        }
    }

    /// Code points from the first to the last of some words; for an empty range, the gap before its
    /// position.
    fn span(&self, words: Range<usize>) -> CharRange {
        if words.is_empty() {
            let gap = self.end_before(words.start);
            return CharRange::new(gap, gap);
        }
        CharRange::new(self.chars[words.start].start, self.chars[words.end - 1].end)
    }

    /// Code points of inserted words, including the separator to their neighbors.
    fn span_added(&self, words: Range<usize>) -> CharRange {
        if words.start > 0 {
            return CharRange::new(self.end_before(words.start), self.chars[words.end - 1].end);
        }
        // Words at the beginning bring the separator that follows them.
        let next = self.chars.get(words.end);
        CharRange::new(0, next.map_or(self.text.len(), |next| next.start))
    }

    fn end_before(&self, word: usize) -> usize {
        word.checked_sub(1)
            .map_or(0, |previous| self.chars[previous].end)
    }

    fn slice(&self, chars: CharRange) -> String {
        self.text[chars.range()].iter().collect()
    }
}

/// Returns the changes that turn `old` into `new`, typography aside, in order and without overlap.
pub fn diff(old: &str, new: &str) -> Vec<TextChange> {
    let (old, new) = (Words::new(old), Words::new(new));
    let (mut changed, mut at): (Vec<(Range<usize>, Range<usize>)>, _) = (Vec::new(), (0, 0));
    for operation in capture_diff_slices(Algorithm::Myers, &old.keys, &new.keys) {
        // Positions are counted here: `similar` may shift a change without moving the start that it
        // reports.
        let (tag, from, to) = operation.as_tag_tuple();
        let (from, to) = (at.0..at.0 + from.len(), at.1..at.1 + to.len());
        at = (from.end, to.end);
        match changed.last_mut() {
            _ if tag == DiffTag::Equal => {}
            // A removal and an insertion at the same position are one replacement.
            Some((gone, come)) if gone.end == from.start && come.end == to.start => {
                (gone.end, come.end) = (from.end, to.end)
            }
            _ => changed.push((from, to)),
        }
    }
    let change = |(from, to): (Range<usize>, Range<usize>)| {
        let come = if from.is_empty() {
            new.span_added(to)
        } else {
            new.span(to)
        };
        TextChange {
            chars: old.span(from),
            new: new.slice(come),
        }
    };
    changed.into_iter().map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn apply(old: &str, changes: &[TextChange]) -> String {
        let (mut text, mut at) = (String::new(), 0);
        for change in changes {
            assert!(
                change.chars.start >= at && change.chars.start <= change.chars.end,
                "{changes:?}"
            );
            text.extend(old.chars().take(change.chars.start).skip(at));
            text += &change.new;
            at = change.chars.end;
        }
        text.extend(old.chars().skip(at));
        text
    }

    fn changes(old: &str, new: &str) -> Vec<(usize, usize, String)> {
        diff(old, new)
            .into_iter()
            .map(|c| (c.chars.start, c.chars.end, c.new))
            .collect()
    }

    #[test]
    fn diff_replaces_removes_and_inserts_words() {
        assert_eq!(
            changes("A dog on a red sofa.", "A cat on a red sofa."),
            [(2, 5, "cat".to_owned())]
        );
        assert_eq!(
            changes("A dog on a red sofa.", "A dog on a sofa."),
            [(11, 14, String::new())]
        );
        assert_eq!(
            changes("A dog on a sofa.", "A dog on a red sofa."),
            [(10, 10, " red".to_owned())]
        );
        assert_eq!(
            changes("A dog.", "Two dogs run."),
            [(0, 5, "Two dogs run".to_owned())]
        );
        assert_eq!(changes("Red dogs.", "dogs."), [(0, 3, String::new())]);
        assert_eq!(changes("Dogs.", "Red Dogs."), [(0, 0, "Red ".to_owned())]);
        assert_eq!(
            changes("Ein süßer Hund 🐶.", "Ein süßer Kater 🐱."),
            [(10, 16, "Kater 🐱".to_owned())]
        );
        assert_eq!(changes("a  b", "a b"), []);
        assert_eq!(changes("", "a b"), [(0, 0, "a b".to_owned())]);
        assert_eq!(
            changes("A dog. A cat sits.", "A dog, a bird sits…"),
            [(9, 12, "bird".to_owned())]
        );
        assert_eq!(
            changes("A dog.", "A dog. It sits."),
            [(5, 5, ". It sits".to_owned())]
        );
    }

    proptest! {
        #[test]
        fn diff_applied_yields_the_new_text(
            old in "([ab.]|dog|é|👩‍🚀| ){0,12}",
            new in "([ab.]|dog|é|👩‍🚀| ){0,12}",
        ) {
            let words = |t: &str| fold::words(t).into_iter()
                .map(|word| word.key).collect::<Vec<_>>();
            let changes = diff(&old, &new);
            // Text between unchanged words is ignored and may join or split them.
            prop_assert_eq!(words(&apply(&old, &changes)).concat(), words(&new).concat());
            prop_assert_eq!(changes.is_empty(), words(&old) == words(&new));
        }
    }
}
