//! Spans: runs of low-reward words.
//!
//! A span begins and ends with a flagged content word; flagged words join if only function words
//! stand between them. A function word is never flagged: its reward measures how the sentence
//! continues, not what the image shows. No span crosses markup.

use std::ops::Range;

use super::{Action, Span, words::Word};

/// Incremental joiner of words into spans.
#[derive(Debug, Clone)]
pub struct Joiner {
    action: Action,
    open: Option<Open>,
}

#[derive(Debug, Clone)]
struct Open {
    bytes: Range<usize>,
    chars: Range<usize>,
    score: f32,
}

impl Joiner {
    /// Creates a joiner whose spans have `action`.
    pub fn new(action: Action) -> Self {
        Self { action, open: None }
    }

    /// Adds the next word of `text` and returns the span that it closes, if any.
    pub fn push(&mut self, text: &str, word: &Word) -> Option<Span> {
        let closed = if word.after_markup {
            self.finish(text)
        } else {
            None
        };
        if word.function {
            return closed;
        }
        let Some(score) = word.score.filter(|_| word.is_flagged()) else {
            return closed.or_else(|| self.finish(text));
        };
        match &mut self.open {
            Some(open) => {
                open.bytes.end = word.bytes.end;
                open.chars.end = word.chars.end;
                open.score = open.score.min(score);
            }
            None => {
                self.open = Some(Open {
                    bytes: word.bytes.clone(),
                    chars: word.chars.clone(),
                    score,
                })
            }
        }
        closed
    }

    /// Closes the open span at the end of the text.
    pub fn finish(&mut self, text: &str) -> Option<Span> {
        let Open {
            bytes,
            chars,
            score,
        } = self.open.take()?;
        Some(Span::new(chars, &text[bytes], score, self.action))
    }

    /// Returns the start of the open span, in bytes.
    pub fn open_start(&self) -> Option<usize> {
        self.open.as_ref().map(|open| open.bytes.start)
    }
}

/// Returns the spans of a complete answer.
pub fn spans(text: &str, words: &[Word], action: Action) -> Vec<Span> {
    let mut joiner = Joiner::new(action);
    let mut spans: Vec<Span> = words.iter().filter_map(|w| joiner.push(text, w)).collect();
    spans.extend(joiner.finish(text));
    spans
}

/// Cuts `text` at its spans and returns every piece in order, with its span if it is one. Spans
/// that are empty, overlap or lie outside the text are skipped.
pub fn pieces<'a>(text: &'a str, spans: &'a [Span]) -> Vec<(&'a str, Option<&'a Span>)> {
    let mut pieces = Vec::with_capacity(2 * spans.len() + 1);
    let (mut rest, mut at) = (text, 0);
    for span in spans {
        let Some((before, inside, after)) = split(
            rest,
            span.start.checked_sub(at),
            span.end.saturating_sub(span.start),
        ) else {
            continue;
        };
        if !before.is_empty() {
            pieces.push((before, None));
        }
        pieces.push((inside, Some(span)));
        (rest, at) = (after, span.end);
    }
    if !rest.is_empty() {
        pieces.push((rest, None));
    }
    pieces
}

/// Returns `text` before, inside and after the `len` code points that follow the first `skip`.
fn split(text: &str, skip: Option<usize>, len: usize) -> Option<(&str, &str, &str)> {
    let offset = |text: &str, chars: usize| {
        text.char_indices()
            .map(|(i, _)| i)
            .chain([text.len()])
            .nth(chars)
    };
    let (before, rest) = text.split_at(offset(text, skip?)?);
    let (inside, after) = rest.split_at(offset(rest, len)?);
    (len > 0).then_some((before, inside, after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::{
        testing::{check_cases, flagged_notation, scored_words},
        words::{Transcript, with_threshold, words},
    };
    use proptest::prelude::*;

    #[test]
    fn spans_of_cases_are_as_marked() {
        let file = include_str!("cases/spans.txt");
        check_cases("src/guard/cases/spans.txt", file, 6, |case| {
            let (text, words) = scored_words(&case.input());
            let spans = spans(&text, &words, Action::Flagged);
            for span in &spans {
                let chars = text.chars().skip(span.start).take(span.end - span.start);
                assert_eq!(span.text, chars.collect::<String>());
            }
            flagged_notation(&text, &spans)
        });
    }

    #[test]
    fn pieces_of_spans_that_do_not_fit_are_skipped() {
        let span = |start, end| Span::new(start..end, "", 0.0, Action::Flagged);
        let spans = [span(1, 2), span(0, 3), span(2, 2), span(3, 9), span(3, 4)];
        let cut: Vec<_> = pieces("añbc", &spans)
            .into_iter()
            .map(|(t, s)| (t, s.is_some()))
            .collect();
        assert_eq!(cut, [("a", false), ("ñ", true), ("b", false), ("c", true)]);
    }

    proptest! {
        #[test]
        fn spans_of_any_text_are_maximal_and_cut_it_exactly(
            tokens in proptest::collection::vec(
                ("[ ,.]?(the|of|in|a|dog|ñu|🐕|犬|x-y|it's|[abd]{1,3})?", 0u8..=10), 0..16),
            threshold in 0u8..=10,
        ) {
            let rewards: Vec<f32> = tokens.iter().map(|t| f32::from(t.1) / 10.0).collect();
            let threshold = f32::from(threshold) / 10.0;
            let (text, words) = words(tokens.iter().map(|t| t.0.as_bytes()), &rewards);
            let words = with_threshold(words, threshold);
            let spans = spans(&text, &words, Action::Flagged);

            let cut = pieces(&text, &spans);
            prop_assert_eq!(cut.iter().map(|p| p.0).collect::<String>(), text.as_str());
            let marked: Vec<&Span> = cut.iter().filter_map(|p| p.1).collect();
            prop_assert_eq!(marked, spans.iter().collect::<Vec<_>>());
            prop_assert!(cut.iter().all(|(piece, span)| span.is_none_or(|s| s.text == *piece)));

            // Content words decide: each is inside a span exactly if it is flagged, and two spans
            // are separated by a content word that is not.
            let content: Vec<&Word> = words.iter().filter(|w| !w.function).collect();
            let span_at = |w: &Word| spans.iter().position(|s| s.start <= w.chars.start
                && w.chars.end <= s.end);
            for w in &content {
                prop_assert_eq!(span_at(w).is_some(), w.score.is_some_and(|r| r < threshold));
            }
            for pair in content.windows(2) {
                if let (Some(a), Some(b)) = (span_at(pair[0]), span_at(pair[1])) {
                    prop_assert_eq!(a, b);
                }
            }
            for s in &spans {
                let inside: Vec<&&Word> = content.iter().filter(|w| span_at(w)
                    .is_some_and(|i| &spans[i] == s)).collect();
                prop_assert_eq!(inside.first().map(|w| w.chars.start), Some(s.start));
                prop_assert_eq!(inside.last().map(|w| w.chars.end), Some(s.end));
                prop_assert_eq!(inside.iter().filter_map(|w| w.score).fold(1.0, f32::min),
                    s.score);
            }

            let mut stream = (Transcript::default(), Joiner::new(Action::Flagged), Vec::new());
            for (i, (token, _)) in tokens.iter().enumerate() {
                stream.0.push(token.as_bytes());
                while let Some(word) = stream.0.next_word(&rewards[..i], Some(usize::MAX)) {
                    let word = Word { threshold, ..word };
                    stream.2.extend(stream.1.push(stream.0.text(), &word));
                }
            }
            stream.0.close(None);
            while let Some(word) = stream.0.next_word(&rewards, None) {
                let word = Word { threshold, ..word };
                stream.2.extend(stream.1.push(stream.0.text(), &word));
            }
            stream.2.extend(stream.1.finish(stream.0.text()));
            prop_assert_eq!(stream.2, spans);
        }
    }
}
