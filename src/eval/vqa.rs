//! Answers to people's questions, judged by exact match.

/// Rule by which answers are compared, for readers of a report.
pub const RULE: &str = "Right: the answer is one of the people's, word for word, after case, \
                        punctuation and the articles a, an, the are left out and number words are \
                        digits.";

/// Number words from zero.
const NUMBERS: [&str; 21] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
];

/// Returns `true` if an answer is one of `right_answers` by [`RULE`].
pub fn is_right(answer: &str, right_answers: &[String]) -> bool {
    let given = normalized(answer);
    right_answers.iter().any(|right| {
        if given.is_empty() {
            answer.trim() == right.trim()
        } else {
            normalized(right) == given
        }
    })
}

/// Words of an answer that are compared.
fn normalized(answer: &str) -> String {
    let lower = answer.to_lowercase();
    let text: String = lower
        .chars()
        .filter(|c| !matches!(c, '\'' | '’'))
        .map(|c| if c.is_alphanumeric() { c } else { ' ' })
        .collect();
    let words = text
        .split_whitespace()
        .filter(|word| !matches!(*word, "a" | "an" | "the"));
    let digits = |word: &str| {
        NUMBERS
            .iter()
            .position(|number| *number == word)
            .map(|number| number.to_string())
    };
    words
        .map(|word| digits(word).unwrap_or_else(|| word.to_owned()))
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_matches_despite_case_articles_and_punctuation() {
        let right = |answer: &str, people: &[&str]| {
            is_right(
                answer,
                &people.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>(),
            )
        };
        for (answer, people) in [
            ("Yes.", &["yes"][..]),
            ("Two.", &["2"]),
            ("10 chairs", &["ten chairs"]),
            ("A red chair.", &["the red chair"]),
            ("scissor", &["book", "scissor"]),
            ("tape-dispenser", &["tape dispenser"]),
            ("It’s a dog", &["its dog"]),
            ("ÉCLAIR!", &["éclair"]),
            ("a", &["a"]),
            ("?", &["?"]),
        ] {
            assert!(right(answer, people), "{answer} {people:?}");
        }
        for (answer, people) in [
            ("chair", &["red chair"][..]),
            ("", &["the"]),
            ("a", &["the"]),
            ("no", &["not"]),
            ("book scissor", &["book", "scissor"]),
            ("yes", &[]),
        ] {
            assert!(!right(answer, people), "{answer} {people:?}");
        }
    }
}
