//! Edits of a parsed text, token by token, and the text that results.

use std::ops::Range;

use super::{
    english,
    parse::{Document, ParseToken, WordTag},
};

/// Piece of inserted text.
#[derive(Debug, Clone)]
struct Piece {
    text: String,
    /// Span for which it stands.
    span: Option<usize>,
    /// `true` if no space precedes it.
    glued: bool,
}

/// Insertions, replacements and deletions, by token.
#[derive(Debug)]
pub(super) struct Edits {
    before: Vec<Vec<Piece>>,
    deleted: Vec<bool>,
    new: Vec<Option<(String, usize)>>,
}

impl Edits {
    pub(super) fn new(tokens: usize) -> Self {
        Self {
            before: vec![Vec::new(); tokens],
            deleted: vec![false; tokens],
            new: vec![None; tokens],
        }
    }

    /// Inserts text before a token, on behalf of a span.
    pub(super) fn insert(&mut self, token: usize, text: &str, span: usize) {
        self.before[token].push(Piece {
            text: text.to_owned(),
            span: Some(span),
            glued: false,
        });
    }

    /// Inserts a comma before a token.
    pub(super) fn insert_comma(&mut self, token: usize) {
        self.before[token].push(Piece {
            text: ",".to_owned(),
            span: None,
            glued: true,
        });
    }

    /// Replaces the word of a token, on behalf of a span.
    pub(super) fn replace(&mut self, token: usize, text: &str, span: usize) {
        self.new[token] = Some((text.to_owned(), span));
    }

    /// Deletes tokens, with the insertions before them.
    pub(super) fn delete(&mut self, tokens: Range<usize>) {
        for i in tokens {
            self.deleted[i] = true;
            self.before[i].clear();
        }
    }

    /// Replaces tokens by text, on behalf of a span.
    pub(super) fn substitute(&mut self, tokens: Range<usize>, text: &str, span: usize) {
        self.delete(tokens.clone());
        self.insert(tokens.start, text, span);
    }

    pub(super) fn is_deleted(&self, token: usize) -> bool {
        self.deleted[token]
    }

    /// Returns `true` if a token is deleted and nothing was inserted in its place.
    pub(super) fn is_gone(&self, token: usize) -> bool {
        self.deleted[token] && self.before[token].is_empty()
    }

    /// Applies the edits, and returns the new text with the ranges of the spans; `None` if markup
    /// would be deleted or left empty.
    pub(super) fn finish(mut self, doc: &Document<'_>, spans: usize) -> Option<Rendered> {
        for sentence in &doc.sentences {
            let tokens =
                doc.chunks[sentence.start].tokens.start..doc.chunks[sentence.end - 1].tokens.end;
            self.tidy(doc, tokens.clone());
            self.recapitalize(doc, tokens);
        }
        self.fix_articles(doc);
        self.keeps_markup(doc).then(|| self.write(doc, spans))
    }

    /// Returns `true` if all markup stays and none is left empty.
    fn keeps_markup(&self, doc: &Document<'_>) -> bool {
        let is_kept = |(i, token): (usize, &ParseToken<'_>)| {
            let changed = token.atom && (self.deleted[i] || self.new[i].is_some());
            !changed && (token.gap.trim().is_empty() || !self.is_gone(i))
        };
        doc.tokens.iter().enumerate().all(is_kept)
    }

    /// Deletes commas and "and" that no longer join anything.
    fn tidy(&mut self, doc: &Document<'_>, tokens: Range<usize>) {
        let changed = tokens.clone().any(|i| self.deleted[i]);
        let joint = |i: usize| doc.tokens[i].tag == WordTag::And || doc.tokens[i].text == ",";
        for i in tokens.clone().filter(|_| changed) {
            if !joint(i) || self.deleted[i] {
                continue;
            }
            let first = (tokens.start..i).all(|j| self.is_gone(j));
            let next = (i + 1..tokens.end).find(|&j| !self.is_gone(j));
            let orphan = next.is_none_or(|j| {
                self.before[j].is_empty()
                    && doc.tokens[j].tag == WordTag::Mark
                    && doc.tokens[i].text != "\""
            });
            let was_orphan = doc.tokens.get(i + 1).is_none_or(|t| t.tag == WordTag::Mark);
            let was_first = i == tokens.start;
            if first && !was_first || orphan && !was_orphan {
                self.delete(i..i + 1);
            }
        }
    }

    /// Moves the capital letter to the word that is first now.
    fn recapitalize(&mut self, doc: &Document<'_>, tokens: Range<usize>) {
        let Some(was) = tokens.clone().find(|&i| doc.tokens[i].tag != WordTag::Mark) else {
            return;
        };
        if doc.tokens[was].text.starts_with(char::is_lowercase) {
            return;
        }
        let Some(now) = (was..tokens.end).find(|&i| {
            !self.is_gone(i) && (doc.tokens[i].tag != WordTag::Mark || !self.before[i].is_empty())
        }) else {
            return;
        };
        match self.before[now].iter_mut().find(|p| !p.glued) {
            Some(piece) => piece.text = english::capitalized(&piece.text),
            None if now == was => return,
            None => self.change_word(doc, now, english::capitalized),
        }
        if !self.deleted[was] {
            self.change_word(doc, was, english::uncapitalized);
        }
    }

    fn change_word(&mut self, doc: &Document<'_>, token: usize, change: impl Fn(&str) -> String) {
        if doc.tokens[token].atom {
            return;
        }
        let (text, span) = match &self.new[token] {
            Some((text, span)) => (change(text), *span),
            None => (
                change(doc.tokens[token].text),
                doc.tokens[token].span.unwrap_or(usize::MAX),
            ),
        };
        self.new[token] = Some((text, span));
    }

    /// Adapts "a" and "an" to the word that follows now.
    fn fix_articles(&mut self, doc: &Document<'_>) {
        for i in 0..doc.tokens.len() {
            let text = self.new[i]
                .as_ref()
                .map_or(doc.tokens[i].text, |n| n.0.as_str());
            if self.deleted[i] || !matches!(text, "a" | "an" | "A" | "An") {
                continue;
            }
            let capital = text.starts_with('A');
            let Some(next) = (i + 1..doc.tokens.len()).find(|&j| !self.is_gone(j)) else {
                continue;
            };
            let word = self.before[next]
                .first()
                .map_or(doc.tokens[next].text, |p| p.text.as_str());
            let same = next == i + 1 && self.before[next].is_empty() && self.new[i].is_none();
            if !same && word.starts_with(char::is_alphanumeric) {
                let article = english::article(word);
                let article = if capital {
                    english::capitalized(article)
                } else {
                    article.to_owned()
                };
                let span = self.new[i]
                    .as_ref()
                    .map_or(doc.tokens[i].span.unwrap_or(usize::MAX), |n| n.1);
                self.new[i] = Some((article, span));
            }
        }
    }

    fn write(&self, doc: &Document<'_>, spans: usize) -> Rendered {
        let mut out = Writer {
            text: String::new(),
            chars: 0,
            spans: vec![None; spans],
            moved: Vec::with_capacity(doc.tokens.len()),
        };
        for (i, token) in doc.tokens.iter().enumerate() {
            let mut gap = if out.text.is_empty() {
                doc.tokens[0].gap
            } else {
                token.gap
            };
            for piece in &self.before[i] {
                out.push(if piece.glued { "" } else { gap }, &piece.text, piece.span);
                gap = if piece.glued { gap } else { " " };
            }
            // A span whose words are all deleted has an empty range where it was.
            if let Some(span) = token.span.and_then(|s| out.spans.get_mut(s)) {
                span.get_or_insert(out.chars..out.chars);
            }
            let old = token.start..token.start + token.text.chars().count();
            let new = match &self.new[i] {
                _ if self.deleted[i] => out.chars..out.chars,
                Some((text, span)) => out.push(gap, text, Some(*span)),
                None => out.push(gap, token.text, token.span),
            };
            out.moved.push((old, new));
        }
        out.push(doc.tail, "", None);
        out.finish()
    }
}

struct Writer {
    text: String,
    chars: usize,
    spans: Vec<Option<Range<usize>>>,
    moved: Vec<(Range<usize>, Range<usize>)>,
}

impl Writer {
    /// Appends text and returns its range.
    fn push(&mut self, gap: &str, text: &str, span: Option<usize>) -> Range<usize> {
        let run_on = gap.is_empty()
            && self.text.ends_with(char::is_alphanumeric)
            && text.starts_with(char::is_alphanumeric);
        let gap = if run_on { " " } else { gap };
        self.text.push_str(gap);
        self.text.push_str(text);
        let start = self.chars + gap.chars().count();
        self.chars = start + text.chars().count();
        if let Some(range) = span.and_then(|s| self.spans.get_mut(s)) {
            let from = range
                .as_ref()
                .filter(|p| !p.is_empty())
                .map_or(start, |p| p.start);
            *range = Some(from..self.chars);
        }
        start..self.chars
    }

    /// Orders the ranges: one that lies within an earlier one becomes empty at its end.
    fn finish(self) -> Rendered {
        let mut at = 0;
        let mut spans = Vec::with_capacity(self.spans.len());
        for range in self.spans {
            let range = range.unwrap_or(at..at);
            let start = range.start.clamp(at, self.chars);
            let range = start..range.end.clamp(start, self.chars);
            at = range.end;
            spans.push(range);
        }
        Rendered {
            text: self.text,
            spans,
            moved: self.moved,
        }
    }
}

/// Rendered text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The rendered text.
    pub text: String,
    /// Range of each input span in the rendered text, in Unicode code points, its hedge included;
    /// empty if it was left out.
    pub spans: Vec<Range<usize>>,
    /// Old and new range of each word, in order; empty if nothing changed.
    pub(super) moved: Vec<(Range<usize>, Range<usize>)>,
}

impl Rendered {
    /// Returns the range in the rendered text of what had these code points; empty if it was left
    /// out.
    pub fn new_range(&self, range: Range<usize>) -> Range<usize> {
        let moved = |at: usize, is_end: bool| {
            let before = self.moved.partition_point(|(old, _)| {
                if is_end {
                    old.start < at
                } else {
                    old.start <= at
                }
            });
            match before.checked_sub(1).map(|i| &self.moved[i]) {
                Some((old, new)) if at >= old.end && is_end => new.end,
                Some((old, new)) => (new.start + at - old.start).min(new.end),
                None => at,
            }
        };
        let start = moved(range.start, false);
        start..moved(range.end, true).max(start)
    }
}
