//! The programs in `examples/`, as their headers say to run them.

use std::{path::PathBuf, process::Command};

use crate::support::needed;

const CAT: &str = "tests/fixtures/photos/cat.jpg";

/// Runs a built example in the repository's root and returns its output; `None` if it is not built.
/// `cargo test` and `cargo nextest run` build the examples unless they are told `--test it`.
fn output(name: &str, args: &[&str]) -> Option<String> {
    // The test binary is `target/PROFILE/deps/it-HASH`.
    let binary = std::env::current_exe().unwrap();
    let profile = binary.parent().unwrap().parent().unwrap();
    let example: PathBuf = profile.join("examples").join(name);
    let example = needed(
        &format!("{} (`cargo build --examples`)", example.display()),
        example.is_file().then_some(example.as_path()),
    )?;
    let output = Command::new(example)
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {err}");
    Some(String::from_utf8(output.stdout).unwrap())
}

/// Returns the number that follows `name` on a line of its own.
fn number(text: &str, name: &str) -> f64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    let value = value.unwrap_or_else(|| panic!("{name}: {text}"));
    value.trim().parse().unwrap()
}

#[test]
fn caption_of_a_photograph_marks_the_wrong_animal() {
    let Some(text) = output("caption", &[CAT]) else {
        return;
    };
    // The model takes the cat for a dog, and its scorer notices.
    assert!(text.lines().next().unwrap().contains("dog?0."), "{text}");
    assert!(text.contains("verdict: \"flagged\""), "{text}");
    assert!(text.contains("alt text: "), "{text}");
    let familiarity = number(&text, "familiarity:");
    assert!((0.0..=1.0).contains(&familiarity), "{text}");
}

#[test]
fn scores_of_a_text_are_one_a_word() {
    let Some(text) = output("score_text", &[CAT, "A cat on a bicycle."]) else {
        return;
    };
    let (verdict, words) = text
        .lines()
        .collect::<Vec<_>>()
        .split_last()
        .map(|(last, words)| (last.to_string(), words.to_vec()))
        .unwrap();
    assert!(verdict.starts_with("verdict: "), "{text}");
    let scored: Vec<(f64, &str)> = words
        .iter()
        .map(|line| {
            let (score, word) = line.split_once(' ').unwrap();
            (score.parse().unwrap(), word)
        })
        .collect();
    let written: Vec<&str> = scored.iter().map(|&(_, word)| word).collect();
    assert_eq!(written.concat(), "Acatonabicycle.", "{text}");
    assert!(
        scored.iter().all(|(score, _)| (0.0..=1.0).contains(score)),
        "{text}"
    );
    let score = |word: &str| {
        let found = scored.iter().find(|(_, written)| written.starts_with(word));
        found.unwrap_or_else(|| panic!("{word}: {text}")).0
    };
    assert!(score("cat") > score("bicycle"), "{text}");
}

#[test]
fn guard_flags_the_words_below_the_threshold() {
    let Some(text) = output("guard_words", &[]) else {
        return;
    };
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[..3],
        [
            "A dog catches a [red frisbee?0.22].",
            "verdict: Flagged",
            "characters 16 to 27: \"red frisbee\", score 0.22",
        ]
    );
    assert!(lines[3].starts_with("alt text: ") && lines[3].contains("may be"));
    let lower = output("guard_words", &["0.2"]).unwrap();
    assert!(
        lower.starts_with("A dog catches a red frisbee.\nverdict: Clean\n"),
        "{lower}"
    );
}

#[test]
fn chair_counts_the_invented_object() {
    let Some(text) = output(
        "chair",
        &["examples/captions.jsonl", "examples/references.jsonl"],
    ) else {
        return;
    };
    // Mentions are dog, cat and couch, person and horse; the cat alone is in no reference.
    assert!(text.starts_with("couch.jpg: invented cat\n"), "{text}");
    assert_eq!(number(&text, "CHAIR_i"), 0.2);
    assert_eq!(number(&text, "CHAIR_s"), 0.5);
    assert_eq!(number(&text, "recall"), 1.0);
    assert!(number(&text, "CIDEr-D") > 0.0, "{text}");
}

#[test]
fn feedback_labels_tokens_up_to_the_first_error() {
    let Some(text) = output("feedback_record", &[]) else {
        return;
    };
    let labels: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.split_once('"'))
        .map(|(label, token)| (label.trim(), token.trim_end_matches('"')))
        .collect();
    let label_of = |word: &str| {
        let token = labels.iter().find(|(_, token)| token.trim() == word);
        token.unwrap_or_else(|| panic!("{word}: {text}")).0
    };
    assert_eq!(label_of("dog"), "good");
    assert_eq!(label_of("blue"), "bad");
    assert!(
        labels
            .iter()
            .skip_while(|(label, _)| *label != "bad")
            .skip(1)
            .all(|(label, _)| *label == "-"),
        "{text}"
    );
    assert!(
        text.ends_with("A dog is chewing on a [blue → red]\n"),
        "{text}"
    );
}
