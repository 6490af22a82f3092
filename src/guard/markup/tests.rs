//! Tests of scanning, at once and incrementally.

use proptest::prelude::*;

use super::*;
use crate::guard::words::words;

/// Returns the words of a text.
fn cut(text: &str) -> Vec<String> {
    let (text, words) = words([text.as_bytes()], &[1.0]);
    words
        .iter()
        .map(|word| text[word.bytes.clone()].to_owned())
        .collect()
}

#[test]
fn words_exclude_markup() {
    for (text, expected) in [
        (
            "A <b>dog</b> runs.<br/>It's <img src=\"a>b.png\" alt='x'>wet",
            "A dog runs It's wet",
        ),
        ("a <ref>cat</ref><box>(1,2),(3,4)</box> sits", "a cat sits"),
        (
            "<|object_ref_start|>dog<|object_ref_end|><|box_start|>(12,34),(56,78)<|box_end|>",
            "dog",
        ),
        (
            "A dog [0.1, 0.25, 0.5, 0.75] and a cat (12, 34)",
            "A dog and a cat",
        ),
        ("<loc0012><loc0345> dog ; <p>a cat</p> [SEG]", "dog a cat"),
        (
            "A **dog** and _a_ __red__ *cat* ~~bird~~, a snake_case",
            "A dog and a red cat bird a snake_case",
        ),
        (
            "See [a dog](https://example.org/dog_(1) \"a title\") and ![two cats](cats.png)",
            "See a dog and two cats",
        ),
        (
            "[note][1] and a footnote[^2] or a source[12]",
            "note and a footnote or a source",
        ),
        ("`cat` and ``a ` dog`` but not a ` b", "and but not a b"),
        (
            "# A dog\n\n- one cat\n* two\n1. three\n2) four\n> five\n### six",
            "A dog one cat two three four five six",
        ),
        ("2. Two dogs", "2 Two dogs"),
        (
            "| animal | count |\n|---|:--|\n| dog | 2 |",
            "animal count dog 2",
        ),
        (
            "```json\n{\"a dog\": \"a cat\"}\n```\nA horse",
            "a cat A horse",
        ),
        ("```python\ndog = 'cat'\n```\nA horse", "A horse"),
        (
            "{\"caption\": \"A dog\", \"objects\": [\"cat\", {\"n\": 2, \"is\": true}], \"box\": \
             [1, 2, 3, 4]} A horse",
            "A dog cat 2 true A horse",
        ),
        ("{'caption': 'A dog'}", "A dog"),
        (
            "{\"caption\": \"A \\\"big\\\" dog\\nruns\\u0021 on caf\\u00e9 {grass} <b>here</b> at \
             a.jpg\"}",
            "A big dog runs on here at",
        ),
        ("{\"caption\": \"A dog", "A dog"),
        ("{ \"dog\" and a cat", "dog and a cat"),
        (
            "caption: A dog\nmain_objects:\n  - cat\n  - a bird\nthe scene: in snow",
            "A dog cat a bird in snow",
        ),
        ("**Main objects:** a dog", "a dog"),
        ("\"caption\": \"A dog\"", "A dog"),
        ("\"A dog\": that is what it is", "that is what it is"),
        (
            "Visit https://example.org/a?b=1&c=2, www.example.org or example.com/dogs. Write to \
             a.b@example.org!",
            "Visit or Write to",
        ),
        ("IMG_1.JPG, photo.png and ./a/b or /home/dog", "and or"),
        ("#dog @cat_1 and #1 :smile: #ff0000", "and 1"),
        (
            "dogs&nbsp;and&amp;cats' dog&#39;s caf&eacute;s AT&T a&b;",
            "dogs and cats dog AT T a b",
        ),
        ("5 km, 20%, $5, 5:30 pm, 1/2", "5 km 20 5 5 30 pm 1 2"),
        ("1\u{FE0F}\u{20E3} 🇺🇸 👨‍👩‍👧 🅰 dog 🐕", "dog"),
        ("a \\textbf{dog} \\* and {name} or {{x}}", "a dog and or"),
        (
            "He said: \"a dog\" (wet) – {or} <3 a < b > c [sic]",
            "He said a dog wet 3 a b c sic",
        ),
        ("score=0.9 x", "x"),
        ("<!-- a dog --><script>var x = 1;</script>A cat", "A cat"),
        ("<https://example.org> <me@example.org> dog", "dog"),
    ] {
        assert_eq!(cut(text).join(" "), expected, "{text}");
    }
}

#[test]
fn word_is_scanned_once_it_cannot_become_markup() {
    let mut scanner = Scanner::default();
    let mut read = |text: &str| {
        scanner.read(text, false);
        scanner.scanned_to()
    };
    assert_eq!(
        [read("A big"), read("A big dog"), read("A big dog, ")],
        [2, 6, 11]
    );
    assert_eq!(
        [
            read("A big dog, <b"),
            read("A big dog, <b>w"),
            read("A big dog, <b>wet ")
        ],
        [11, 14, 18]
    );
}

/// Generates text from parts of markup.
pub(crate) fn marked_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        3 => "(a|the|dog|cats|red|two|runs|in|is|and|No|5|3.5)",
        2 => "[ \n.,:;!?]",
        3 => "[-<>/\\[\\](){}\"'`*_~|#&@=\\\\+$%0-9a]",
        2 => prop_oneof![
            Just("</b>"), Just("<b>"), Just("<br/>"), Just("<|x|>"), Just("<box>"), Just("</box>"),
            Just("<!--"), Just("-->"), Just("]("), Just("https://x.org/a_(b)"),
            Just("&amp;"), Just("&#39;"), Just("&eacute;"), Just("```"), Just("\n- "),
            Just("\n1. "), Just("(1, 2)"), Just("\": \""), Just("{\""), Just("[\""),
            Just("\\u00e9"),
            Just("\\n"), Just("a.jpg"), Just("me@x.org"), Just("\u{FE0F}\u{20E3}"), Just("key: "),
            Just("**"), Just("犬"), Just("é"), Just("\u{301}"), Just("true"), Just("www.")
        ].prop_map(str::to_owned),
        1 => "\\PC",
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn markup_of_growing_text_equals_that_of_the_whole(text in marked_text(), size in 1usize..6) {
        let mut scanner = Scanner::default();
        for end in (0..text.len()).step_by(size) {
            scanner.read(&text[..text.floor_char_boundary(end)], false);
        }
        scanner.read(&text, true);
        prop_assert_eq!(scanner.found(), markup(&text));
        prop_assert_eq!(scanner.scanned_to(), text.len());
        let mut at = 0;
        for found in scanner.found() {
            prop_assert!(found.bytes.start >= at && !found.bytes.is_empty()
                && text.get(found.bytes.clone()).is_some());
            at = found.bytes.end;
        }
    }

    #[test]
    fn words_lie_between_markup(text in marked_text()) {
        let found = markup(&text);
        let (_, words) = words([text.as_bytes()], &[1.0]);
        for word in &words {
            prop_assert!(found.iter().all(|m| m.kind == MarkupKind::Literal
                || m.bytes.end <= word.bytes.start || word.bytes.end <= m.bytes.start));
            prop_assert!(text[word.bytes.clone()].contains(char::is_alphanumeric));
        }
        for pair in words.windows(2) {
            let between = found.iter().any(|m| m.kind != MarkupKind::Literal
                && pair[0].bytes.end <= m.bytes.start && m.bytes.end <= pair[1].bytes.start);
            prop_assert_eq!(pair[1].after_markup, between);
        }
    }
}
