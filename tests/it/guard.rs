//! The guard on a text and rewards, from tokens to what people read.

use candor::guard::{
    Action, Mode, Verdict, policy,
    render::{Style, alt_text, ansi, plain_marked},
    spans::spans,
    words::{doubting, words},
};

use crate::support::byte_tokenizer;

#[test]
fn a_doubted_word_is_found_marked_and_hedged() {
    let text = "A dog – wet – catches a frisbee.";
    let tokenizer = byte_tokenizer();
    let ids = tokenizer.encode(text).unwrap();
    let doubted = text.find("frisbee").unwrap() + 3;
    let rewards: Vec<f32> = (0..ids.len()).map(|i| if i == doubted { 0.23 } else { 0.9 }).collect();
    let (whole, words) = words(ids.iter().map(|&id| tokenizer.bytes(id)), &rewards);
    assert_eq!(whole, text);

    let spans = spans(&whole, &doubting(words.clone(), 0.5), Action::Flagged);
    assert_eq!(policy::judge(Mode::Flag, &doubting(words.clone(), 0.5), true), (Verdict::Flagged, Some(0.23)));
    assert_eq!(policy::judge(Mode::Flag, &doubting(words.clone(), 0.2), true), (Verdict::Clean, Some(0.23)));
    assert_eq!(spans.iter().map(|s| (s.start, s.end, s.text.as_str())).collect::<Vec<_>>(), [(24, 31, "frisbee")]);
    assert_eq!(plain_marked(&whole, &spans), "A dog – wet – catches a [frisbee?0.23].");
    assert_eq!(ansi(&whole, &spans), "A dog – wet – catches a \x1b[1;31mfrisbee\x1b[0m\x1b[2m?0.23\x1b[0m.");
    assert_eq!(alt_text(&whole, &spans, Style::Hedged), "A dog – wet – catches what may be a frisbee.");
    assert_eq!(alt_text(&whole, &spans, Style::Omitted), "A dog – wet – catches something.");
    let json = serde_json::to_value(&spans[0]).unwrap();
    assert_eq!(json["action"], "flagged");
    assert_eq!((json["start"].as_u64(), json["end"].as_u64()), (Some(24), Some(31)));
}
