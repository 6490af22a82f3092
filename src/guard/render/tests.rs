//! Tests of rendering: recorded cases, and texts of any kind.

use super::*;
use crate::guard::Action;
use proptest::prelude::*;

/// Reads "a [frisbee] here" as a text with a span of reward 0.23.
pub(super) fn example(marked: &str) -> (String, Vec<Span>) {
    scored(marked, 0.23)
}

/// The same with another reward.
fn scored(marked: &str, score: f32) -> (String, Vec<Span>) {
    let (mut text, mut spans, mut start) = (String::new(), Vec::new(), 0);
    for c in marked.chars() {
        match c {
            '[' => start = text.chars().count(),
            ']' => {
                let inside: String = text.chars().skip(start).collect();
                spans.push(Span::new(
                    start..text.chars().count(),
                    &inside,
                    score,
                    Action::Flagged,
                ));
            }
            c => text.push(c),
        }
    }
    (text, spans)
}

#[test]
fn marks_and_colours() {
    let (text, spans) = example("A dog \x1b[catches] a [red frisbee].");
    assert_eq!(
        plain_marked(&text, &spans),
        "A dog [catches?0.23] a [red frisbee?0.23]."
    );
    assert_eq!(
        ansi(&text, &spans[1..]),
        "A dog catches a \x1b[1;31mred frisbee\x1b[0m\x1b[2m?0.23\x1b[0m."
    );
}

#[test]
fn what_was_taken_out_is_marked_where_it_stood() {
    let taken = |text: &str, at: usize, original: &str| {
        let span = Span {
            original: Some(original.into()),
            ..Span::new(at..at, "", 0.9, Action::Regenerated)
        };
        plain_marked(text, &[span])
    };
    assert_eq!(
        taken("A man is standing.", 17, "next to a dog"),
        "A man is standing [next to a dog → ]."
    );
    assert_eq!(
        taken("A man runs here.", 10, "fast"),
        "A man runs [fast → ] here."
    );
    assert_eq!(taken("Dogs run.", 0, "Two"), "[Two → ] Dogs run.");
    let still_low = Span {
        original: Some("frisbee".into()),
        ..Span::new(6..9, "cup", 0.2, Action::Flagged)
    };
    assert_eq!(
        plain_marked("Holds cup.", &[still_low]),
        "Holds [frisbee → cup?0.20]."
    );
}

#[test]
fn alt_text_reads_as_english() {
    let file = include_str!("../../../tests/fixtures/alt_text.tsv");
    let (mut cases, mut wrong) = (0, Vec::new());
    for line in file.lines().filter(|l| !l.starts_with('#')) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [marked, hedged, omitted] = columns[..] else {
            panic!("three columns: {line}")
        };
        // As likely as not, so that short answers are "probably".
        let (text, spans) = scored(marked, 0.5);
        cases += 1;
        assert_eq!(alt_text(&text, &spans, RenderStyle::Plain), text);
        for (style, expected) in [
            (RenderStyle::Hedged, hedged),
            (RenderStyle::Omitted, omitted),
        ] {
            let found = alt_text(&text, &spans, style);
            if found != expected {
                wrong.push(format!(
                    "{marked}\n  expected {expected}\n  found    {found}"
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {cases} captions, both ways\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(cases >= 200);
}

#[test]
fn what_is_likelier_wrong_is_not_said_to_be_probable() {
    for (marked, expected) in [
        ("[Yes].", "Possibly yes."),
        ("[no]", "possibly no"),
        (
            "[No], the man is standing.",
            "Possibly no, the man is standing.",
        ),
        ("[Red].", "Possibly red."),
        ("Two [dogs].", "Possibly two dogs."),
        (
            "A dog catches a [frisbee].",
            "A dog catches what may be a frisbee.",
        ),
    ] {
        let (text, spans) = scored(marked, 0.49);
        assert_eq!(alt_text(&text, &spans, RenderStyle::Hedged), expected);
    }
}

#[test]
fn spans_follow_their_words() {
    let places = |marked: &str, style| {
        let (text, spans) = example(marked);
        let new = render(&text, &spans, style);
        let cut = |r: &Range<usize>| {
            new.text
                .chars()
                .skip(r.start)
                .take(r.len())
                .collect::<String>()
        };
        new.spans.iter().map(cut).collect::<Vec<_>>()
    };
    let marked = "A [dog] in a [blue] coat é is [running] with a [stick].";
    assert_eq!(
        places(marked, RenderStyle::Plain),
        ["dog", "blue", "running", "stick"]
    );
    assert_eq!(
        places(marked, RenderStyle::Hedged),
        [
            "What may be a dog",
            "possibly blue",
            "possibly running",
            "what may be a stick"
        ]
    );
    assert_eq!(
        places(
            "A [dog] in a [blue] coat runs with a [stick].",
            RenderStyle::Omitted
        ),
        ["Something", "", ""]
    );
    assert_eq!(
        places("It is a [dog] [now].", RenderStyle::Hedged)[0],
        "may be a dog"
    );
    assert_eq!(
        places("A [dog runs on the beach].", RenderStyle::Hedged),
        ["Perhaps a dog runs on the beach"]
    );
}

fn text_with_words() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        "[ .,!?-]",
        "\\PC",
        Just("é".to_owned()),
        Just("\u{301}".to_owned()),
        "(A|a|an|the|dog|dogs|man|two|red|and|in|of|is|are|running|runs|with|front|not|to|catch|\
            yes|no|while|next|'s)",
    ];
    proptest::collection::vec((word, " ?"), 0..14)
        .prop_map(|w| w.into_iter().map(|(w, s)| w + &s).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn any_text_with_any_spans_renders(text in text_with_words(),
        cuts in proptest::collection::btree_set(0usize..60, 0..8)) {
        let len = text.chars().count();
        let cuts: Vec<usize> = cuts.into_iter().filter(|&c| c <= len).collect();
        let spans: Vec<Span> = cuts.chunks_exact(2)
            .map(|c| Span::new(c[0]..c[1], "", 0.5, Action::Flagged)).collect();
        prop_assert_eq!(&render(&text, &spans, RenderStyle::Plain).text, &text);
        for style in [RenderStyle::Plain, RenderStyle::Hedged, RenderStyle::Omitted] {
            prop_assert_eq!(alt_text(&text, &[], style), text.as_str());
            let new = render(&text, &spans, style);
            prop_assert_eq!(new.spans.len(), spans.len());
            let ends: Vec<usize> = new.spans.iter().flat_map(|r| [r.start, r.end]).collect();
            prop_assert!(ends.is_sorted()
                && ends.last().is_none_or(|&e| e <= new.text.chars().count()), "{:?}", new);
            prop_assert!(text.contains("  ") || !new.text.contains("  "), "{:?}", new);
        }
    }

    #[test]
    fn spans_that_do_not_fit_are_skipped(text in "\\PC{0,12}",
        ends in proptest::collection::vec((0usize..14, 0usize..14), 0..3)) {
        let spans: Vec<Span> = ends.iter()
            .map(|&(start, end)| Span::new(start..end, "", 0.5, Action::Flagged)).collect();
        for style in [RenderStyle::Plain, RenderStyle::Hedged, RenderStyle::Omitted] {
            let new = render(&text, &spans, style);
            let ends: Vec<usize> = new.spans.iter().flat_map(|r| [r.start, r.end]).collect();
            prop_assert!(ends.is_sorted()
                && ends.last().is_none_or(|&e| e <= new.text.chars().count()), "{:?}", new);
        }
        let unmarked = plain_marked(&text, &spans).replace("?0.50]", "");
        prop_assert_eq!(unmarked.replace('[', ""), text.replace('[', ""));
    }
}

#[test]
fn what_nobody_doubted_is_found_again_in_the_new_text() {
    let text = "A man in a red hat holds an apple near a dog.";
    let at = |word: &str| {
        text.find(word)
            .map(|start| start..start + word.len())
            .unwrap()
    };
    for doubted in ["hat", "red", "apple", "dog", "man", "holds"] {
        let range = at(doubted);
        let spans = [Span::new(range.clone(), doubted, 0.1, Action::Flagged)];
        for style in [RenderStyle::Hedged, RenderStyle::Omitted] {
            let rendered = render(text, &spans, style);
            for word in ["man", "red", "hat", "holds", "apple", "near", "dog"] {
                let place = rendered.place(at(word));
                let found: String = rendered
                    .text
                    .chars()
                    .skip(place.start)
                    .take(place.len())
                    .collect();
                let stays = rendered.text.contains(word);
                assert!(
                    found.eq_ignore_ascii_case(word) || (!stays && !found.contains(word)),
                    "{doubted} {style:?} {word} {found:?} {rendered:?}"
                );
            }
            assert_eq!(
                rendered.place(0..text.chars().count()).end,
                rendered.text.chars().count(),
                "{doubted} {style:?}"
            );
        }
    }
}

/// Reads "a ⟦frisbee⟧ here" as a text with a flagged span.
fn flagged(marked: &str) -> (String, Vec<Span>) {
    let (mut text, mut spans) = (String::new(), Vec::new());
    for (i, piece) in marked.split(['⟦', '⟧']).enumerate() {
        let start = text.chars().count();
        text.push_str(piece);
        if i % 2 == 1 {
            spans.push(Span::new(
                start..text.chars().count(),
                piece,
                0.5,
                Action::Flagged,
            ));
        }
    }
    (text, spans)
}

#[test]
fn markup_stays_and_the_words_around_it_read_on() {
    for (marked, hedged, omitted) in [
        (
            "A [⟦dog⟧](https://example.org/dog) catches a ⟦frisbee⟧.",
            "What may be a [dog](https://example.org/dog) catches what may be a frisbee.",
            "What may be a [dog](https://example.org/dog) catches what may be a frisbee.",
        ),
        (
            "![A ⟦dog⟧ runs](a_dog.jpg)",
            "![What may be a dog runs](a_dog.jpg)",
            "![Something runs](a_dog.jpg)",
        ),
        (
            "{\"objects\": [\"dog\", \"⟦frisbee⟧\"], \"n\": ⟦2⟧}",
            "{\"objects\": [\"dog\", \"probably frisbee\"], \"n\": 2}",
            "{\"objects\": [\"dog\", \"probably frisbee\"], \"n\": 2}",
        ),
        (
            "# A ⟦dog⟧\n\n- A man in a ⟦red⟧ hat.\n- ⟦Snow⟧.\n",
            "# Probably a dog\n\n- A man in a possibly red hat.\n- Probably snow.\n",
            "# Probably a dog\n\n- A man in a hat.\n- Probably snow.\n",
        ),
        (
            "caption: A dog catches a ⟦frisbee⟧.\nobjects:\n  - ⟦dog⟧\n",
            "caption: A dog catches what may be a frisbee.\nobjects:\n  - probably dog\n",
            "caption: A dog catches something.\nobjects:\n  - probably dog\n",
        ),
        (
            "<ul><li>A ⟦dog⟧ runs.</li><li>It is <b>⟦wet⟧</b>.</li></ul>",
            "<ul><li>What may be a dog runs.</li><li>It may be <b>wet</b>.</li></ul>",
            "<ul><li>Something runs.</li><li>It may be <b>wet</b>.</li></ul>",
        ),
        (
            "A <ref>⟦cat⟧</ref><box>(1,2),(3,4)</box> is sitting on a ⟦bench⟧.",
            "What may be a <ref>cat</ref><box>(1,2),(3,4)</box> is sitting on what may be a bench.",
            "What may be a <ref>cat</ref><box>(1,2),(3,4)</box> is sitting on what may be a bench.",
        ),
    ] {
        let (text, spans) = flagged(marked);
        assert_eq!(alt_text(&text, &spans, RenderStyle::Hedged), hedged);
        assert_eq!(alt_text(&text, &spans, RenderStyle::Omitted), omitted);
    }
}

#[test]
fn an_address_is_not_doubted_with_what_stands_behind_it() {
    for marked in [
        "https://x.org/a.png ⟦frisbees⟧",
        "https://x.org/dog ⟦shows a frisbee⟧.",
        "https://x.org/a ⟦red frisbees⟧ lie there.",
    ] {
        let (text, spans) = flagged(marked);
        let hedged = alt_text(&text, &spans, RenderStyle::Hedged);
        assert!(
            hedged.starts_with("https://x.org/") && hedged != text,
            "{hedged}"
        );
    }
}

#[test]
fn numbers_stay_with_their_units() {
    for (marked, hedged) in [
        ("A sign with ⟦20⟧% on it.", "A sign with perhaps 20% on it."),
        ("It costs $⟦5⟧.", "It costs perhaps $5."),
        ("A clock at 5:⟦30⟧ pm.", "A clock at perhaps 5:30 pm."),
        ("A road of 3.5 ⟦km⟧.", "A road of perhaps 3.5 km."),
        ("It is ⟦21⟧ °C.", "It may be 21 °C."),
    ] {
        let (text, spans) = flagged(marked);
        assert_eq!(alt_text(&text, &spans, RenderStyle::Hedged), hedged);
        let omitted = alt_text(&text, &spans, RenderStyle::Omitted);
        assert!(
            ["%", "$", ":", "km", "°C"]
                .iter()
                .all(|unit| !omitted.contains(unit) || hedged == omitted),
            "{omitted}"
        );
    }
}

/// Generates a sentence some of whose words have markup.
fn sentence() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "a",
        "the",
        "two",
        "dogs",
        "dog",
        "man",
        "red",
        "big",
        "frisbee",
        "in",
        "with",
        "of",
        "and",
        "is",
        "are",
        "running",
        "runs",
        "catches",
        "hat",
        "grass",
        "not",
        "it",
        "5",
        "yes",
        "snow-covered",
        "man's",
        "who",
    ]);
    let wrap = prop::sample::select(vec![
        ("", ""),
        ("", ""),
        ("", ""),
        ("", ""),
        ("**", "**"),
        ("_", "_"),
        ("<b>", "</b>"),
        ("<i class='x'>", "</i>"),
        ("[", "](https://x.org/a_b)"),
        ("`", "`"),
        ("~~", "~~"),
        ("<ref>", "</ref><box>(1,2),(3,4)</box>"),
        ("", "."),
        ("", ","),
        ("see https://example.org/q?a=1&b=2 ", ""),
        ("me@example.org ", ""),
        ("photo_1.jpg ", ""),
        ("#tag ", ""),
        ("&amp; ", ""),
        ("", "&nbsp;"),
        ("", " 🐕"),
        ("", "%"),
    ]);
    proptest::collection::vec((word, wrap), 1..14).prop_map(|words| {
        words
            .into_iter()
            .map(|(word, (before, after))| format!("{before}{word}{after}"))
            .collect::<Vec<_>>()
            .join(" ")
    })
}

/// Returns the text hedged and omitted, with some of its words flagged.
fn renderings(text: &str, flags: &[bool]) -> [String; 2] {
    let tokens: Vec<&[u8]> = text
        .split_inclusive(|c: char| !c.is_alphanumeric())
        .map(str::as_bytes)
        .collect();
    let rewards: Vec<f32> = tokens
        .iter()
        .zip(flags.iter().cycle())
        .map(|(_, &low)| if low { 0.1 } else { 0.9 })
        .collect();
    let (whole, words) = crate::guard::words::words(tokens, &rewards);
    let spans = crate::guard::spans::spans(
        &whole,
        &crate::guard::words::doubting(words.clone(), 0.5),
        Action::Flagged,
    );
    for span in &spans {
        let word = |end: fn(&Range<usize>) -> usize, at: usize| {
            words.iter().any(|word| end(&word.chars) == at)
        };
        assert!(
            word(|chars| chars.start, span.start) && word(|chars| chars.end, span.end),
            "{span:?} of {text}"
        );
        for found in markup(text)
            .iter()
            .filter(|found| found.kind != MarkupKind::Literal)
        {
            let start = text[..found.bytes.start].chars().count();
            let end = start + text[found.bytes.clone()].chars().count();
            assert!(
                end <= span.start || span.end <= start,
                "{span:?} and {found:?} of {text}"
            );
        }
    }
    [RenderStyle::Hedged, RenderStyle::Omitted].map(|style| {
        let new = render(&whole, &spans, style);
        let ends: Vec<usize> = new
            .spans
            .iter()
            .flat_map(|range| [range.start, range.end])
            .collect();
        assert!(
            new.spans.len() == spans.len()
                && ends.is_sorted()
                && ends
                    .last()
                    .is_none_or(|&end| end <= new.text.chars().count()),
            "{new:?}"
        );
        new.text
    })
}

/// Returns JSON with every string value reduced to `true` if it is blank.
fn shape(json: &serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match json {
        Value::String(text) => Value::Bool(text.trim().is_empty()),
        Value::Array(items) => items.iter().map(shape).collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (key.clone(), shape(value)))
            .collect(),
        other => other.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn rendered_json_has_the_same_shape(
        sentences in proptest::collection::vec(sentence(), 1..4),
        flags in proptest::collection::vec(any::<bool>(), 1..40), pretty in any::<bool>(),
    ) {
        let json = serde_json::json!({"caption": sentences[0], "big dog": sentences, "count": 2,
            "nested": {"is wet": true, "box": [1, 2.5, 3, 4], "none": null}});
        let text = if pretty { format!("```json\n{json:#}\n```\n") } else { json.to_string() };
        for new in renderings(&text, &flags) {
            let body = new.trim_start_matches("```json").trim_end().trim_end_matches("```");
            let parsed: serde_json::Value = serde_json::from_str(body)
                .map_err(|e| TestCaseError::fail(format!("{e}: {new}")))?;
            prop_assert_eq!(shape(&parsed), shape(&json), "{}", new);
        }
    }

    #[test]
    fn rendered_markup_is_what_it_was(
        sentences in proptest::collection::vec(sentence(), 1..4),
        flags in proptest::collection::vec(any::<bool>(), 1..40),
        frame in prop::sample::select(vec![("", "\n", ""), ("- ", "\n- ", "\n"),
            ("# ", "\n\n> ", "\n"), ("| ", " | ", " |\n"), ("caption: ", "\nmain_objects: ", "\n"),
            ("<ul><li>", "</li><li>", "</li></ul>")]),
    ) {
        let text = format!("{}{}{}", frame.0, sentences.join(frame.1), frame.2);
        for new in renderings(&text, &flags) {
            let kept = |text: &str| markup(text).into_iter()
                .map(|m| text[m.bytes].to_owned()).collect::<Vec<_>>();
            prop_assert_eq!(kept(&new), kept(&text), "{}", new);
            let empty = ["****", "~~~~", "[](", "<b></b>", "<i class='x'></i>", "<ref></ref>",
                "<li></li>"];
            prop_assert!(empty.iter().all(|empty| !new.contains(empty)), "{}", new);
        }
    }

    #[test]
    fn any_markup_with_any_spans_renders(text in crate::guard::markup::tests::marked_text(),
        flags in proptest::collection::vec(any::<bool>(), 1..20)) {
        for new in renderings(&text, &flags) {
            let kept = |text: &str| markup(text).into_iter()
                .map(|m| text[m.bytes].to_owned()).collect::<Vec<_>>();
            prop_assert!(kept(&text).is_empty() || kept(&new) == kept(&text), "{}", new);
        }
    }
}

#[test]
fn what_a_photograph_has_evidence_of_is_named_where_its_caption_is_mostly_low() {
    let (text, spans) = example("A man is [riding] a [wave] on a [surfboard].");
    let said = |likely: &[&str]| {
        unfamiliar(&text, &spans, RenderStyle::Omitted, likely)
            .unwrap()
            .text
    };
    let statement = "This photograph is unlike those I know. It may show a man.";
    assert_eq!(
        said(&["pizza", "dining table"]),
        format!("{statement} Likely things: pizza, dining table.")
    );
    // What is said already is not said again, by whatever name.
    assert_eq!(
        said(&["person", "pizza"]),
        format!("{statement} Likely things: pizza.")
    );
    assert_eq!(said(&["man"]), statement);
    let hedged = unfamiliar(&text, &spans, RenderStyle::Hedged, &["pizza"]).unwrap();
    assert!(
        hedged.text.ends_with(" Likely things: pizza."),
        "{}",
        hedged.text
    );
    assert_eq!(
        unfamiliar("A dog runs.", &[], RenderStyle::Omitted, &["pizza"]),
        None
    );
}

#[test]
fn a_caption_of_which_most_is_low_is_told_as_a_photograph_that_is_unfamiliar() {
    let file = include_str!("../../../tests/fixtures/unfamiliar.tsv");
    let (mut cases, mut wrong) = (0, Vec::new());
    for line in file
        .lines()
        .filter(|l| !l.starts_with('#') && !l.is_empty())
    {
        let columns: Vec<&str> = line.split('\t').collect();
        let [marked, hedged, omitted] = columns[..] else {
            panic!("three columns: {line}")
        };
        let (text, spans) = example(marked);
        cases += 1;
        for (style, expected) in [
            (RenderStyle::Hedged, hedged),
            (RenderStyle::Omitted, omitted),
            (RenderStyle::Plain, "-"),
        ] {
            let found = unfamiliar(&text, &spans, style, &[]);
            let whole = format!(
                "This photograph is unlike those I know. {}",
                alt_text(&text, &spans, style)
            );
            let expected = if expected == "*" { &whole } else { expected };
            if found.as_ref().map_or("-", |rendered| &rendered.text) != expected {
                wrong.push(format!(
                    "{marked}\n  expected {expected}\n  found    {found:?}"
                ));
            }
            let Some(Rendered {
                text: new,
                spans: places,
                ..
            }) = &found
            else {
                continue;
            };
            let ends: Vec<usize> = places
                .iter()
                .flat_map(|place| [place.start, place.end])
                .collect();
            assert!(
                places.len() == spans.len()
                    && ends.is_sorted()
                    && ends.last() <= Some(&new.chars().count()),
                "{found:?}"
            );
            assert!(
                places
                    .iter()
                    .all(|place| place.is_empty() == (style == RenderStyle::Omitted)),
                "{found:?}"
            );
        }
    }
    assert!(
        wrong.is_empty() && cases > 10,
        "{} of {cases}\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
