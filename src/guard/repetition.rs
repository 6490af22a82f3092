//! Detection of a text that repeats itself, as a small policy does where it has nothing left to
//! say.

use crate::lexicon::words;

/// So many words in the same order twice are a loop.
const LONG_REPEAT: usize = 5;

/// Pairs such as "more and more" are no loops.
const EMPHASIS: [&str; 8] = [
    "again", "around", "down", "more", "on", "over", "round", "up",
];

/// Returns whether words stand twice in a row in a text, a linking word between them or none, or a
/// long run of them stands anywhere twice.
pub fn repeats(text: &str) -> bool {
    let found = words(text);
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
    let runs: Vec<&[&str]> = words.windows(LONG_REPEAT).collect();
    in_a_row
        || runs
            .iter()
            .enumerate()
            .any(|(i, run)| runs[i + 1..].contains(run))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_repeat_words() {
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
