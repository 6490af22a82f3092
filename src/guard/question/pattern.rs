//! Word patterns of `patterns.txt`.

use crate::lexicon::{Lexicon, VerbForm};

/// Item of a pattern, by the words that it matches.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    /// One of these words; `true` for a prefix that longer words may begin with.
    Words(Vec<(&'static str, bool)>),
    /// Any word.
    Any,
    /// Any number of words.
    Gap,
    /// A word with the ending -ing.
    Ing,
    /// A verb of the lexicon, other than its form in -ing.
    Verb,
    /// A spatial relation.
    Relation,
    /// A noun of the lexicon.
    Noun,
    /// Digits.
    Number,
}

impl Item {
    fn takes(&self, word: &str) -> bool {
        let lexicon = Lexicon::shared();
        match self {
            Self::Words(words) => words.iter().any(|(text, begins)| {
                if *begins {
                    word.starts_with(text)
                } else {
                    word == *text
                }
            }),
            Self::Any | Self::Gap => true,
            Self::Ing => word.len() > 4 && word.ends_with("ing"),
            Self::Verb => lexicon
                .verbs()
                .analyze(word)
                .is_some_and(|(_, form)| form != VerbForm::Ing),
            Self::Relation => lexicon.classes().is_relation(word),
            Self::Noun => lexicon.concept(word).is_some(),
            Self::Number => word.bytes().all(|byte| byte.is_ascii_digit()),
        }
    }
}

/// Sequence of items that matches words in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WordPattern {
    /// Items; `true` for an optional one.
    items: Vec<(Item, bool)>,
    /// `true` if it matches only at the beginning of a sentence.
    from_start: bool,
    to_end: bool,
}

impl WordPattern {
    pub(super) fn parse(line: &'static str) -> Self {
        let mut pattern = Self {
            items: Vec::new(),
            from_start: false,
            to_end: false,
        };
        for text in line.split_whitespace() {
            let (text, is_optional) = text
                .strip_suffix('?')
                .map_or((text, false), |text| (text, true));
            let item = match text {
                "^" => {
                    pattern.from_start = true;
                    continue;
                }
                "$" => {
                    pattern.to_end = true;
                    continue;
                }
                "..." => Item::Gap,
                "_" => Item::Any,
                "{ing}" => Item::Ing,
                "{verb}" => Item::Verb,
                "{relation}" => Item::Relation,
                "{noun}" => Item::Noun,
                "{number}" => Item::Number,
                words => Item::Words(
                    words
                        .split('|')
                        .map(|word| {
                            word.strip_suffix('*')
                                .map_or((word, false), |stem| (stem, true))
                        })
                        .collect(),
                ),
            };
            pattern.items.push((item, is_optional));
        }
        pattern
    }

    /// Returns the number of words of the longest match at the beginning; `None` without a nonempty
    /// match.
    pub(super) fn prefix(&self, words: &[String]) -> Option<usize> {
        let mut longest = None;
        self.run(words, true, |matched| {
            longest = Some(matched).filter(|matched| *matched > 0).or(longest)
        });
        longest
    }

    /// Returns `true` if it matches in a sentence.
    pub(super) fn matches(&self, words: &[String]) -> bool {
        let mut is_found = false;
        self.run(words, self.from_start, |matched| {
            is_found |= !self.to_end || matched == words.len()
        });
        is_found
    }

    /// Calls `complete` with every number of words after which a match can end. All reachable
    /// states are followed at once, so that the time is proportional to words times items.
    fn run(&self, words: &[String], from_start: bool, mut complete: impl FnMut(usize)) {
        let last = self.items.len();
        let mut reached = vec![false; last + 1];
        reached[0] = true;
        for matched in 0..=words.len() {
            for (at, (item, is_optional)) in self.items.iter().enumerate() {
                reached[at + 1] |= reached[at] && (*is_optional || *item == Item::Gap);
            }
            if reached[last] {
                complete(matched);
            }
            let Some(word) = words.get(matched) else {
                break;
            };
            let mut next = vec![false; last + 1];
            next[0] = !from_start;
            for (at, (item, _)) in self.items.iter().enumerate().filter(|(at, _)| reached[*at]) {
                if item.takes(word) {
                    next[if *item == Item::Gap { at } else { at + 1 }] = true;
                }
            }
            reached = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn pattern_matches_words_in_order() {
        for (pattern, text, found) in [
            ("a b", "x a b y", true),
            ("a b", "a x b", false),
            ("a ... b", "a x y b", true),
            ("a ... b", "b a", false),
            ("a _ b", "a x b", true),
            ("a _ b", "a b", false),
            ("a x|y? b", "a b", true),
            ("a x|y? b", "a y b", true),
            ("a x|y? b", "a z b", false),
            ("^ a", "x a", false),
            ("a $", "a x", false),
            ("a $", "x a a", true),
            ("^ $", "", true),
            ("^ $", "a", false),
            ("a ... b $", "a b x b", true),
            ("dia*", "the diagnosis", true),
            ("^ who is {ing}", "who is running", true),
            ("^ who is {ing}", "who is king", false),
            ("{relation}", "behind", true),
            ("^ who {verb}", "who runs", true),
            ("^ who {verb}", "who owns", false),
            ("safety {noun}", "safety vest", true),
            ("{number} {number}", "2 22", true),
            ("{number}", "2nd", false),
        ] {
            assert_eq!(
                WordPattern::parse(pattern).matches(&words(text)),
                found,
                "{pattern} in {text}"
            );
        }
    }

    #[test]
    fn prefix_of_pattern_is_the_longest_match() {
        let lead = WordPattern::parse("please? tell me|us?");
        assert_eq!(lead.prefix(&words("please tell me what")), Some(3));
        assert_eq!(lead.prefix(&words("tell what")), Some(1));
        assert_eq!(lead.prefix(&words("what")), None);
    }
}
