//! Captions and answers as they should be heard, and texts of any sort.

use super::*;
use crate::guard::Action;
use proptest::prelude::*;

/// Reads "a [frisbee] here" as a text with a span of reward 0.23.
fn example(marked: &str) -> (String, Vec<Span>) {
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
                spans.push(Span::new(start..text.chars().count(), &inside, score, Action::Flagged));
            }
            c => text.push(c),
        }
    }
    (text, spans)
}

#[test]
fn marks_and_colours() {
    let (text, spans) = example("A dog \x1b[catches] a [red frisbee].");
    assert_eq!(plain_marked(&text, &spans), "A dog [catches?0.23] a [red frisbee?0.23].");
    assert_eq!(ansi(&text, &spans[1..]), "A dog catches a \x1b[1;31mred frisbee\x1b[0m\x1b[2m?0.23\x1b[0m.");
}

#[test]
fn alt_text_reads_as_english() {
    let file = include_str!("../../../tests/fixtures/alt_text.tsv");
    let (mut cases, mut wrong) = (0, Vec::new());
    for line in file.lines().filter(|l| !l.starts_with('#')) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [marked, hedged, omitted] = columns[..] else { panic!("three columns: {line}") };
        // As likely as not, so that short answers are "probably".
        let (text, spans) = scored(marked, 0.5);
        cases += 1;
        assert_eq!(alt_text(&text, &spans, Style::Plain), text);
        for (style, expected) in [(Style::Hedged, hedged), (Style::Omitted, omitted)] {
            let found = alt_text(&text, &spans, style);
            if found != expected {
                wrong.push(format!("{marked}\n  expected {expected}\n  found    {found}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {cases} captions, both ways\n{}", wrong.len(), wrong.join("\n"));
    assert!(cases >= 200);
}

#[test]
fn what_is_likelier_wrong_is_not_said_to_be_probable() {
    for (marked, expected) in [
        ("[Yes].", "Possibly yes."),
        ("[no]", "possibly no"),
        ("[No], the man is standing.", "Possibly no, the man is standing."),
        ("[Red].", "Possibly red."),
        ("Two [dogs].", "Possibly two dogs."),
        ("A dog catches a [frisbee].", "A dog catches what may be a frisbee."),
    ] {
        let (text, spans) = scored(marked, 0.49);
        assert_eq!(alt_text(&text, &spans, Style::Hedged), expected);
    }
}

#[test]
fn spans_follow_their_words() {
    let places = |marked: &str, style| {
        let (text, spans) = example(marked);
        let new = render(&text, &spans, style);
        let cut = |r: &Range<usize>| new.text.chars().skip(r.start).take(r.len()).collect::<String>();
        new.spans.iter().map(cut).collect::<Vec<_>>()
    };
    let marked = "A [dog] in a [blue] coat é is [running] with a [stick].";
    assert_eq!(places(marked, Style::Plain), ["dog", "blue", "running", "stick"]);
    assert_eq!(places(marked, Style::Hedged), ["What may be a dog", "possibly blue", "possibly running", "what may be a stick"]);
    assert_eq!(places("A [dog] in a [blue] coat runs with a [stick].", Style::Omitted), ["Something", "", ""]);
    assert_eq!(places("It is a [dog] [now].", Style::Hedged)[0], "may be a dog");
    assert_eq!(places("A [dog runs on the beach].", Style::Hedged), ["Perhaps a dog runs on the beach"]);
}

fn text_with_words() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        "[ .,!?-]",
        "\\PC",
        Just("é".to_owned()),
        Just("\u{301}".to_owned()),
        "(A|a|an|the|dog|dogs|man|two|red|and|in|of|is|are|running|runs|with|front|not|to|catch|yes|no|while|next|'s)",
    ];
    proptest::collection::vec((word, " ?"), 0..14).prop_map(|w| w.into_iter().map(|(w, s)| w + &s).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn any_text_with_any_spans_renders(text in text_with_words(), cuts in proptest::collection::btree_set(0usize..60, 0..8)) {
        let len = text.chars().count();
        let cuts: Vec<usize> = cuts.into_iter().filter(|&c| c <= len).collect();
        let spans: Vec<Span> = cuts.chunks_exact(2)
            .map(|c| Span::new(c[0]..c[1], "", 0.5, Action::Flagged)).collect();
        prop_assert_eq!(&render(&text, &spans, Style::Plain).text, &text);
        for style in [Style::Plain, Style::Hedged, Style::Omitted] {
            prop_assert_eq!(alt_text(&text, &[], style), text.as_str());
            let new = render(&text, &spans, style);
            prop_assert_eq!(new.spans.len(), spans.len());
            let ends: Vec<usize> = new.spans.iter().flat_map(|r| [r.start, r.end]).collect();
            prop_assert!(ends.is_sorted() && ends.last().is_none_or(|&e| e <= new.text.chars().count()), "{:?}", new);
            prop_assert!(text.contains("  ") || !new.text.contains("  "), "{:?}", new);
        }
    }

    #[test]
    fn spans_that_do_not_fit_are_skipped(text in "\\PC{0,12}", ends in proptest::collection::vec((0usize..14, 0usize..14), 0..3)) {
        let spans: Vec<Span> = ends.iter()
            .map(|&(start, end)| Span::new(start..end, "", 0.5, Action::Flagged)).collect();
        for style in [Style::Plain, Style::Hedged, Style::Omitted] {
            let new = render(&text, &spans, style);
            let ends: Vec<usize> = new.spans.iter().flat_map(|r| [r.start, r.end]).collect();
            prop_assert!(ends.is_sorted() && ends.last().is_none_or(|&e| e <= new.text.chars().count()), "{:?}", new);
        }
        let unmarked = plain_marked(&text, &spans).replace("?0.50]", "");
        prop_assert_eq!(unmarked.replace('[', ""), text.replace('[', ""));
    }
}

#[test]
fn what_nobody_doubted_is_found_again_in_the_new_text() {
    let text = "A man in a red hat holds an apple near a dog.";
    let at = |word: &str| text.find(word).map(|start| start..start + word.len()).unwrap();
    for doubted in ["hat", "red", "apple", "dog", "man", "holds"] {
        let range = at(doubted);
        let spans = [Span::new(range.clone(), doubted, 0.1, Action::Flagged)];
        for style in [Style::Hedged, Style::Omitted] {
            let rendered = render(text, &spans, style);
            for word in ["man", "red", "hat", "holds", "apple", "near", "dog"] {
                let place = rendered.place(at(word));
                let found: String = rendered.text.chars().skip(place.start).take(place.len()).collect();
                let stays = rendered.text.contains(word);
                assert!(
                    found.eq_ignore_ascii_case(word) || (!stays && !found.contains(word)),
                    "{doubted} {style:?} {word} {found:?} {rendered:?}"
                );
            }
            assert_eq!(rendered.place(0..text.chars().count()).end, rendered.text.chars().count(), "{doubted} {style:?}");
        }
    }
}
