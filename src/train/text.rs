//! Normalization of raw captions into sentences.

/// Suffixes that attach to the preceding word.
const CLITICS: [&str; 6] = ["'s", "n't", "'re", "'ve", "'ll", "'d"];

/// Returns `true` if a token consists of punctuation that attaches to the preceding word.
fn is_punctuation(token: &str) -> bool {
    token.chars().all(|c| ",.!?;:".contains(c))
}

/// Normalizes a tokenized caption into a sentence:
/// `A black dog is running after a white dog in the snow .` becomes
/// `A black dog is running after a white dog in the snow.`
///
/// White space collapses; punctuation, clitics (`'s`), quotes and brackets lose the tokenizer's
/// spaces; unpaired quotes and brackets are dropped; everything but the first letter is
/// lower-cased; one period ends the text. An empty caption stays empty.
pub fn normalize_caption(caption: &str) -> String {
    let lower = caption
        .to_lowercase()
        .replace(['“', '”'], "\"")
        .replace(['‘', '’'], "'");
    let spaced = ["\"", "(", ")"]
        .iter()
        .fold(lower.replace("''", "\""), |text, mark| {
            text.replace(mark, &format!(" {mark} "))
        });
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    capitalized(&ended(&joined(&tokens)))
}

/// Capitalizes the first letter or digit.
pub fn capitalized(text: &str) -> String {
    match text.char_indices().find(|(_, c)| c.is_alphanumeric()) {
        Some((at, c)) => format!(
            "{}{}{}",
            &text[..at],
            c.to_uppercase(),
            &text[at + c.len_utf8()..]
        ),
        None => text.to_owned(),
    }
}

/// Joins tokens with the spacing that each needs.
fn joined(tokens: &[&str]) -> String {
    let count = |mark: &str| tokens.iter().filter(|&&t| t == mark).count();
    let paired_brackets = count("(") == count(")");
    let paired = |mark: &str| count(mark) % 2 == 0;
    let mut out = String::new();
    let (mut open_double, mut open_single, mut glue) = (false, false, true);
    for &token in tokens {
        let (keep, left, right) = match token {
            "\"" => {
                open_double = !open_double;
                (paired("\""), !open_double, open_double)
            }
            "'" if paired("'") => {
                open_single = !open_single;
                (true, !open_single, open_single)
            }
            "'" => (out.ends_with('s'), true, false),
            "(" => (paired_brackets, false, true),
            ")" => (paired_brackets, true, false),
            "#" => (true, false, true),
            "-" => (true, ends_in_lone_letter(&out), ends_in_lone_letter(&out)),
            _ => {
                let hyphen = token.starts_with('-') && out.ends_with(char::is_alphanumeric);
                (
                    true,
                    hyphen || CLITICS.contains(&token) || is_punctuation(token),
                    false,
                )
            }
        };
        if !keep {
            continue;
        }
        if !(out.is_empty() || glue || left) {
            out.push(' ');
        }
        out.push_str(token);
        glue = right;
    }
    out
}

/// Returns `true` if the text ends in a one-letter word, as in `t - shirt`.
fn ends_in_lone_letter(text: &str) -> bool {
    let mut last = text.chars().rev();
    last.next().is_some_and(char::is_alphabetic) && last.next().is_none_or(char::is_whitespace)
}

/// Replaces the final punctuation, also inside a closing quote, with one period.
fn ended(text: &str) -> String {
    let is_end =
        |c: char| matches!(c, '.' | ',' | ';' | ':' | '!' | '?' | '-' | '#') || c.is_whitespace();
    let body = text.trim_end_matches(is_end);
    match body
        .strip_suffix('"')
        .map(|quoted| quoted.trim_end_matches(is_end))
    {
        Some(quoted) if quoted.contains('"') => format!("{quoted}\"."),
        _ if body.is_empty() => String::new(),
        _ => format!("{body}."),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn normalize_caption_examples_become_sentences() {
        for (raw, want) in [
            (
                "A black dog is running after a white dog in the snow .",
                "A black dog is running after a white dog in the snow.",
            ),
            (
                "Black dog chasing brown dog through snow",
                "Black dog chasing brown dog through snow.",
            ),
            (
                "A sign that says \" HELL \" .",
                "A sign that says \"hell\".",
            ),
            (
                "A sign that says , \" The Rescue . \"",
                "A sign that says, \"the rescue\".",
            ),
            (
                "A man sits in a woman 's lap , smiling .",
                "A man sits in a woman's lap, smiling.",
            ),
            (
                "Two boys ' football teams compete .",
                "Two boys' football teams compete.",
            ),
            (
                "The back of a man in a ' plane ' pose .",
                "The back of a man in a 'plane' pose.",
            ),
            (
                "a baby sitting in an adult '",
                "A baby sitting in an adult.",
            ),
            (
                "Something that ca n't be seen .",
                "Something that can't be seen.",
            ),
            (
                "The # 2 greyhound ( left ) runs .",
                "The #2 greyhound (left) runs.",
            ),
            (
                "Three boys ( one in red , two in blue , play .",
                "Three boys one in red, two in blue, play.",
            ),
            ("A boy in a t - shirt .", "A boy in a t-shirt."),
            (
                "Two adults - a man and a woman - stand .",
                "Two adults - a man and a woman - stand.",
            ),
            ("  A girl   finds joy !! ", "A girl finds joy."),
            ("\" know what this is \" ?", "\"Know what this is\"."),
            (" . ", ""),
        ] {
            assert_eq!(normalize_caption(raw), want);
        }
    }

    const TOKENS: [&str; 10] = ["A", "dog", "B", ",", ".", "'s", "t-shirt", "!", "#", "é"];

    proptest! {
        #[test]
        fn normalize_caption_any_text_is_idempotent_and_ends_once(
            tokens in prop::collection::vec(prop::sample::select(TOKENS.to_vec()), 0..12),
        ) {
            let raw = tokens.join(" ");
            let once = normalize_caption(&raw);
            prop_assert_eq!(normalize_caption(&once), once.clone());
            prop_assert!(once.is_empty() || (once.ends_with('.') && !once.ends_with("..")));
            prop_assert!(!once.contains("  "));
        }
    }
}
