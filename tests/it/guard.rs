//! The guard on a text and rewards, from tokens to what people read.

use candor::guard::{
    Action, Mode, Verdict, policy,
    render::{RenderStyle, alt_text, ansi, plain_marked},
    spans::spans,
    words::{with_threshold, words},
};

use crate::support::byte_tokenizer;

#[test]
fn low_reward_word_is_flagged_marked_and_hedged() {
    let text = "A dog – wet – catches a frisbee.";
    let tokenizer = byte_tokenizer();
    let ids = tokenizer.encode(text).unwrap();
    let low = text.find("frisbee").unwrap() + 3;
    let rewards: Vec<f32> = (0..ids.len())
        .map(|i| if i == low { 0.23 } else { 0.9 })
        .collect();
    let (whole, words) = words(ids.iter().map(|&id| tokenizer.bytes(id)), &rewards);
    assert_eq!(whole, text);

    let spans = spans(&whole, &with_threshold(words.clone(), 0.5), Action::Flagged);
    assert_eq!(
        policy::judge(Mode::Flag, &with_threshold(words.clone(), 0.5), true),
        (Verdict::Flagged, Some(0.23))
    );
    assert_eq!(
        policy::judge(Mode::Flag, &with_threshold(words.clone(), 0.2), true),
        (Verdict::Clean, Some(0.23))
    );
    assert_eq!(
        spans
            .iter()
            .map(|s| (s.start, s.end, s.text.as_str()))
            .collect::<Vec<_>>(),
        [(24, 31, "frisbee")]
    );
    assert_eq!(
        plain_marked(&whole, &spans),
        "A dog – wet – catches a [frisbee?0.23]."
    );
    assert_eq!(
        ansi(&whole, &spans),
        "A dog – wet – catches a \x1b[1;31mfrisbee\x1b[0m\x1b[2m?0.23\x1b[0m."
    );
    assert_eq!(
        alt_text(&whole, &spans, RenderStyle::Hedged),
        "A dog – wet – catches what may be a frisbee."
    );
    assert_eq!(
        alt_text(&whole, &spans, RenderStyle::Omitted),
        "A dog – wet – catches something."
    );
    let json = serde_json::to_value(&spans[0]).unwrap();
    assert_eq!(json["action"], "flagged");
    assert_eq!(
        (json["start"].as_u64(), json["end"].as_u64()),
        (Some(24), Some(31))
    );
}

/// Captions, and texts of two or three of them: the inputs of the first cases of rendering without
/// their brackets.
fn prose() -> Vec<String> {
    let file = include_str!("../../src/guard/cases/rendering.txt");
    let (ordinary, _) = file.split_once("== markup").unwrap_or((file, ""));
    let captions: Vec<String> = ordinary
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with(['#', '=', ' ']))
        .map(|line| line.replace(['[', ']'], ""))
        .take(280)
        .collect();
    let glued = captions
        .chunks(7)
        .map(|captions| captions[..captions.len().min(2 + captions[0].len() % 2)].join(" "));
    captions.iter().cloned().chain(glued).collect()
}

/// Numbers in 0 to 1 that follow from the one before.
fn next(state: &mut u64) -> f32 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*state >> 40) as f32 / (1 << 24) as f32
}

#[test]
fn prose_without_markup_is_rendered_as_recorded() {
    let mut state = 7;
    let mut lines = Vec::new();
    for text in prose() {
        let tokens: Vec<&[u8]> = text.split_inclusive(' ').map(str::as_bytes).collect();
        let rewards: Vec<f32> = tokens.iter().map(|_| next(&mut state)).collect();
        let (whole, words) = words(tokens, &rewards);
        let spans = spans(&whole, &with_threshold(words, 0.2), Action::Flagged);
        let styles = [RenderStyle::Hedged, RenderStyle::Omitted]
            .map(|style| alt_text(&whole, &spans, style));
        lines.push(format!(
            "{}\t{}",
            plain_marked(&whole, &spans),
            styles.join("\t")
        ));
    }
    let recorded: Vec<&str> = include_str!("../fixtures/prose.tsv")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    assert!(lines.len() >= 300);
    for (line, recorded) in lines.iter().zip(&recorded) {
        assert_eq!(line, recorded);
    }
    assert_eq!(lines.len(), recorded.len());
}
