//! Tests of rendering: recorded cases, and texts of any kind.

use super::*;
use crate::guard::{
    Action,
    testing::{Case, bracketed, cases, check_cases, flagged_text},
};
use proptest::prelude::*;

/// Cases of rendering.
const RENDERING: &str = include_str!("../cases/rendering.txt");

#[test]
fn marked_text_has_scores_and_no_control_characters() {
    let (text, spans) = flagged_text("A dog \x1b[catches:0.23] a [red frisbee:0.23].");
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
fn omitted_text_is_marked_where_it_stood() {
    let marked = |text: &str, at: usize, original: &str| {
        let span = Span {
            original: Some(original.into()),
            ..Span::new(at..at, "", 0.9, Action::Regenerated)
        };
        plain_marked(text, &[span])
    };
    assert_eq!(
        marked("A man is standing.", 17, "next to a dog"),
        "A man is standing [next to a dog → ]."
    );
    assert_eq!(
        marked("A man runs here.", 10, "fast"),
        "A man runs [fast → ] here."
    );
    assert_eq!(marked("Dogs run.", 0, "Two"), "[Two → ] Dogs run.");
    let still_low = Span {
        original: Some("frisbee".into()),
        ..Span::new(6..9, "cup", 0.2, Action::Flagged)
    };
    assert_eq!(
        plain_marked("Holds cup.", &[still_low]),
        "Holds [frisbee → cup?0.20]."
    );
}

/// Returns the view of a text that a case asks for.
fn view(case: &Case) -> String {
    let (text, spans) = flagged_text(&case.input());
    let (view, likely) = case.view.split_once(" + ").unwrap_or((case.view, ""));
    let likely: Vec<&str> = likely.split(", ").filter(|name| !name.is_empty()).collect();
    let style = match view {
        "plain marked" => RenderStyle::Plain,
        _ if view.contains("hedged") => RenderStyle::Hedged,
        _ => RenderStyle::Omitted,
    };
    assert_eq!(alt_text(&text, &spans, RenderStyle::Plain), text);
    match view {
        "hedged" | "omitted" => alt_text(&text, &spans, style),
        "plain marked" | "hedged marked" | "omitted marked" => {
            let rendered = render(&text, &spans, style);
            let ranges = rendered.spans.iter().filter(|range| !range.is_empty());
            bracketed(
                &rendered.text,
                ranges.map(|range| (range.clone(), String::new())),
            )
        }
        "unfamiliar hedged" | "unfamiliar omitted" => {
            let found = unfamiliar_statement(&text, &spans, style, &likely);
            assert_eq!(
                unfamiliar_statement(&text, &spans, RenderStyle::Plain, &likely),
                None
            );
            if let Some(rendered) = &found {
                check_statement_spans(rendered, spans.len(), style);
            }
            let hedged = format!(
                "This photograph is unlike those I know. {}",
                alt_text(&text, &spans, style)
            );
            let found = found.map_or("-".to_owned(), |rendered| rendered.text);
            match found.strip_prefix(&hedged) {
                Some(rest) if case.expected.starts_with('*') => format!("*{rest}"),
                _ => found,
            }
        }
        "statement" => {
            let found = statement(&text, &spans, &likely);
            assert!(found.as_deref().is_none_or(is_whole), "{found:?}");
            found.unwrap_or("-".to_owned())
        }
        unknown => panic!("no view '{unknown}'"),
    }
}

/// Asserts that a statement has a range for every span, in order, which is empty if and only if the
/// spans are left out.
fn check_statement_spans(rendered: &Rendered, spans: usize, style: RenderStyle) {
    let ends: Vec<usize> = rendered
        .spans
        .iter()
        .flat_map(|range| [range.start, range.end])
        .collect();
    assert!(
        rendered.spans.len() == spans
            && ends.is_sorted()
            && ends.last() <= Some(&rendered.text.chars().count()),
        "{rendered:?}"
    );
    assert!(
        rendered
            .spans
            .iter()
            .all(|range| range.is_empty() == (style == RenderStyle::Omitted)),
        "{rendered:?}"
    );
}

#[test]
fn views_of_cases_read_as_noted() {
    check_cases("src/guard/cases/rendering.txt", RENDERING, 800, view);
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
    fn rendering_of_any_text_keeps_span_order_and_spacing(text in text_with_words(),
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
    fn rendering_skips_spans_that_do_not_fit(text in "\\PC{0,12}",
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
fn new_range_of_words_not_flagged_contains_them() {
    let text = "A man in a red hat holds an apple near a dog.";
    let at = |word: &str| {
        text.find(word)
            .map(|start| start..start + word.len())
            .unwrap()
    };
    for flagged in ["hat", "red", "apple", "dog", "man", "holds"] {
        let range = at(flagged);
        let spans = [Span::new(range.clone(), flagged, 0.1, Action::Flagged)];
        for style in [RenderStyle::Hedged, RenderStyle::Omitted] {
            let rendered = render(text, &spans, style);
            for word in ["man", "red", "hat", "holds", "apple", "near", "dog"] {
                let range = rendered.new_range(at(word));
                let found: String = rendered
                    .text
                    .chars()
                    .skip(range.start)
                    .take(range.len())
                    .collect();
                let stays = rendered.text.contains(word);
                assert!(
                    found.eq_ignore_ascii_case(word) || (!stays && !found.contains(word)),
                    "{flagged} {style:?} {word} {found:?} {rendered:?}"
                );
            }
            assert_eq!(
                rendered.new_range(0..text.chars().count()).end,
                rendered.text.chars().count(),
                "{flagged} {style:?}"
            );
        }
    }
}

#[test]
fn hedge_of_words_after_an_address_follows_the_address() {
    for marked in [
        "https://x.org/a.png ⟦frisbees⟧",
        "https://x.org/dog ⟦shows a frisbee⟧.",
        "https://x.org/a ⟦red frisbees⟧ lie there.",
    ] {
        let (text, spans) = flagged_text(marked);
        let hedged = alt_text(&text, &spans, RenderStyle::Hedged);
        assert!(
            hedged.starts_with("https://x.org/") && hedged != text,
            "{hedged}"
        );
    }
}

#[test]
fn omitted_number_takes_its_unit_with_it() {
    let numbers = cases(RENDERING)
        .into_iter()
        .filter(|case| case.section == "numbers with units");
    assert_eq!(numbers.clone().count(), 5);
    for case in numbers {
        let (text, spans) = flagged_text(&case.input());
        let omitted = alt_text(&text, &spans, RenderStyle::Omitted);
        assert!(
            ["%", "$", ":", "km", "°C"]
                .iter()
                .all(|unit| !omitted.contains(unit) || omitted == case.expected),
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
        &crate::guard::words::with_threshold(words.clone(), 0.5),
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
    fn rendered_json_keeps_its_shape(
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
    fn rendered_text_keeps_its_markup(
        sentences in proptest::collection::vec(sentence(), 1..4),
        flags in proptest::collection::vec(any::<bool>(), 1..40),
        frame in prop::sample::select(vec![("", "\n", ""), ("- ", "\n- ", "\n"),
            ("# ", "\n\n> ", "\n"), ("| ", " | ", " |\n"), ("caption: ", "\nmain_objects: ", "\n"),
            ("<ul><li>", "</li><li>", "</li></ul>")]),
    ) {
        let text = format!("{}{}{}", frame.0, sentences.join(frame.1), frame.2);
        for new in renderings(&text, &flags) {
            let pieces = |text: &str| markup(text).into_iter()
                .map(|m| text[m.bytes].to_owned()).collect::<Vec<_>>();
            prop_assert_eq!(pieces(&new), pieces(&text), "{}", new);
            let empty = ["****", "~~~~", "[](", "<b></b>", "<i class='x'></i>", "<ref></ref>",
                "<li></li>"];
            prop_assert!(empty.iter().all(|empty| !new.contains(empty)), "{}", new);
        }
    }

    #[test]
    fn rendering_of_any_markup_keeps_it(text in crate::guard::markup::tests::marked_text(),
        flags in proptest::collection::vec(any::<bool>(), 1..20)) {
        for new in renderings(&text, &flags) {
            let pieces = |text: &str| markup(text).into_iter()
                .map(|m| text[m.bytes].to_owned()).collect::<Vec<_>>();
            prop_assert!(pieces(&text).is_empty() || pieces(&new) == pieces(&text), "{}", new);
        }
    }
}
