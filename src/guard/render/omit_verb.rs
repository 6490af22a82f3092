//! A doubted verb left out: what is done becomes "doing something", or only where it is done
//! remains.

use std::ops::Range;

use super::{
    edit::Edits,
    english::{self, is},
    hedge::hedge_verb,
    parse::{Document, WordTag},
};

/// Leaves a chunk's verb out, if it is a doubted one.
pub(super) fn verb(doc: &Document<'_>, edits: &mut Edits, sentence: Range<usize>, chunk: usize) {
    let Some(span) = doc
        .head_span(chunk)
        .filter(|_| doc.word(chunk) == Some(WordTag::Verb))
    else {
        return;
    };
    if edits.is_gone(doc.chunks[chunk].head) {
        return;
    }
    let mut verb = Verb {
        doc,
        edits,
        sentence,
        chunk,
        span,
    };
    if !verb.with_its_clause() {
        verb.alone();
    }
}

struct Verb<'a, 'd> {
    doc: &'a Document<'d>,
    edits: &'a mut Edits,
    sentence: Range<usize>,
    chunk: usize,
    span: usize,
}

impl Verb<'_, '_> {
    fn word(&self, chunk: usize) -> Option<WordTag> {
        if self.sentence.contains(&chunk) {
            self.doc.word(chunk)
        } else {
            None
        }
    }

    fn before(&self) -> Option<WordTag> {
        self.chunk.checked_sub(1).and_then(|c| self.word(c))
    }

    fn delete(&mut self, chunks: Range<usize>) {
        for chunk in chunks {
            self.edits.delete(self.doc.chunks[chunk].tokens.clone());
        }
    }

    /// One past the verb's object, with what it is of.
    fn object_end(&self) -> usize {
        let mut end = self.chunk + 1;
        while self.sentence.contains(&end) && self.doc.is_noun(end) {
            end += 1;
            let joins = self.word(end).is_some_and(|tag| {
                tag == WordTag::And || tag == WordTag::Preposition && self.doc.lower(end) == "of"
            });
            if joins && self.doc.is_noun(end + 1) && self.sentence.contains(&(end + 1)) {
                end += 1;
            } else {
                break;
            }
        }
        end
    }

    /// Takes a verb out that stands in a clause of its own, or one of several.
    fn with_its_clause(&mut self) -> bool {
        let (chunk, end) = (self.chunk, self.object_end());
        let earlier = self.doc.has(self.sentence.start..chunk, &[WordTag::Verb]);
        let subordinate = (self.sentence.start + 1..chunk)
            .rev()
            .find(|&c| self.word(c) == Some(WordTag::Subordinate));
        match self.before() {
            Some(WordTag::To) => self.delete(chunk - 1..end),
            Some(WordTag::Not) => hedge_verb(self.doc, self.edits, chunk, self.span),
            Some(WordTag::Be) if self.doc.lower(chunk - 1) == "being" => {
                hedge_verb(self.doc, self.edits, chunk, self.span)
            }
            Some(WordTag::And) if earlier => self.delete(chunk - 1..end),
            _ if self.word(chunk + 1) == Some(WordTag::And)
                && self.word(chunk + 2) == Some(WordTag::Verb)
                && self.doc.head_span(chunk + 2).is_none() =>
            {
                self.delete(chunk..chunk + 2)
            }
            _ => match subordinate {
                Some(from) if !self.doc.has(from..chunk, &[WordTag::Verb]) => {
                    let to = (chunk..self.sentence.end)
                        .find(|&c| self.word(c) == Some(WordTag::Mark))
                        .unwrap_or(self.sentence.end);
                    self.delete(from..to);
                }
                _ => return false,
            },
        }
        true
    }

    fn alone(&mut self) {
        let (chunk, end) = (self.chunk, self.object_end());
        let has_object = end > chunk + 1;
        let object_left =
            has_object && !self.edits.is_gone(self.doc.chunks[chunk + 1].tokens.start);
        let doubted = has_object && self.doc.head_span(chunk + 1).is_some();
        let following = (chunk + 1..self.sentence.end).find(|&c| !self.is_gone(c));
        let preposition = following
            .filter(|&c| self.word(c) == Some(WordTag::Preposition))
            .map(|c| self.doc.lower(c));
        let bare = has_object
            && self.doc.tokens[self.doc.chunks[chunk + 1].tokens.start].tag != WordTag::Determiner;
        let abstract_ = has_object && (bare || is("abstract", self.doc.head(chunk + 1)));
        if object_left && !doubted && !abstract_ {
            let word = self.form(
                "doing something with",
                "does something with",
                "do something with",
            );
            return self.put(word);
        }
        if has_object {
            self.delete(chunk + 1..end);
        }
        match preposition.filter(|_| !has_object) {
            Some(p) if self.is_path(&p) => {
                let word = self.form("moving", "moves", "move");
                self.put(word);
            }
            Some(p) if p != "at" && (is("place", &p) || is_place_phrase(&p)) => self.stay(),
            Some(_) => hedge_verb(self.doc, self.edits, chunk, self.span),
            None if self.before() != Some(WordTag::Be) && self.is_participle() => {
                self.delete(chunk..chunk + 1)
            }
            None => {
                let word = self.form("doing something", "does something", "do something");
                self.put(word);
            }
        }
    }

    fn is_gone(&self, chunk: usize) -> bool {
        self.doc.chunks[chunk]
            .tokens
            .clone()
            .all(|i| self.edits.is_gone(i))
    }

    fn is_path(&self, preposition: &str) -> bool {
        is("path", preposition) || matches!(preposition, "out of" | "off of" | "away from")
    }

    fn is_participle(&self) -> bool {
        !english::is_finite_verb(self.doc.head(self.chunk))
    }

    fn put(&mut self, word: &str) {
        self.edits
            .put(self.doc.chunks[self.chunk].tokens.clone(), word, self.span);
    }

    /// The form that the verb has.
    fn form(
        &self,
        participle: &'static str,
        singular: &'static str,
        plural: &'static str,
    ) -> &'static str {
        let verb = self.doc.head(self.chunk);
        match self.is_participle() {
            true => participle,
            false if is("verb", verb) => plural,
            false => singular,
        }
    }

    /// "is standing on a rock": "is on a rock".
    fn stay(&mut self) {
        match self.form("", "is", "are") {
            "" => self.delete(self.chunk..self.chunk + 1),
            be => self.put(be),
        }
    }
}

/// Returns `true` if a preposition of several words says where something is.
fn is_place_phrase(preposition: &str) -> bool {
    preposition.contains(' ')
        && !preposition.starts_with("because")
        && !preposition.starts_with("instead")
        && !preposition.starts_with("along")
        || preposition == "next"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_from_reasons() {
        assert!(is_place_phrase("in front of") && !is_place_phrase("because of"));
    }
}
