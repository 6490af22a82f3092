//! Omission of flagged spans, with the words that cannot stand without them. Nouns are in
//! `omit_noun`.

use std::ops::Range;

use super::{
    edit::Edits,
    english::{self, is_listed},
    hedge::hedge_verb,
    parse::{Document, PhraseKind, WordTag},
};
use crate::guard::words::is_function_word;

/// Omits every flagged span. Returns `true` if every sentence still says something.
pub(super) fn omit(doc: &Document<'_>, edits: &mut Edits) -> bool {
    let mut stand = Vec::new();
    for sentence in &doc.sentences {
        let mut omitter = Omitter {
            doc,
            edits,
            sentence: sentence.clone(),
            unsure: false,
        };
        for chunk in sentence.clone() {
            omitter.omit_chunk(chunk);
        }
        for chunk in sentence.clone() {
            omitter.omit_verb(chunk);
        }
        let unsure = omitter.unsure;
        stand.push(!unsure && says_something(doc, edits, sentence.clone()));
    }
    // A sentence that says nothing any more is deleted; if none is left, one says so.
    let any = stand.iter().any(|&s| s);
    for (i, sentence) in doc.sentences.iter().enumerate().filter(|&(i, _)| !stand[i]) {
        replace_sentence(doc, edits, sentence.clone(), any || i > 0);
    }
    stand.iter().all(|&stands| stands)
}

/// Returns `true` if a sentence keeps a content word that is not flagged, or has no flagged words.
fn says_something(doc: &Document<'_>, edits: &Edits, sentence: Range<usize>) -> bool {
    let states = doc.has_tag(sentence.clone(), &[WordTag::Be, WordTag::Verb]);
    let tokens = tokens(doc, sentence);
    let claims = |i: usize| {
        let token = &doc.tokens[i];
        let count = token.tag == WordTag::Count && states;
        let form = count
            || matches!(
                token.tag,
                WordTag::Mark
                    | WordTag::Be
                    | WordTag::Auxiliary
                    | WordTag::Preposition
                    | WordTag::Not
            );
        !form && !is_function_word(&token.lower) && token.span.is_none() && !edits.is_deleted(i)
    };
    tokens.clone().all(|i| doc.tokens[i].span.is_none()) || tokens.clone().any(claims)
}

/// Returns the tokens of a range of chunks.
pub(super) fn tokens(doc: &Document<'_>, chunks: Range<usize>) -> Range<usize> {
    doc.chunks[chunks.start].tokens.start..doc.chunks[chunks.end - 1].tokens.end
}

fn replace_sentence(doc: &Document<'_>, edits: &mut Edits, sentence: Range<usize>, silent: bool) {
    let all = tokens(doc, sentence.clone());
    if silent {
        return edits.delete(all);
    }
    let last = all
        .clone()
        .rev()
        .find(|&i| doc.tokens[i].tag != WordTag::Mark)
        .unwrap_or(all.start);
    let Some(span) = all.clone().find_map(|i| doc.tokens[i].span) else {
        return;
    };
    let noun_first = doc.is_noun(sentence.start)
        && !doc.has_tag(sentence.start..sentence.end, &[WordTag::Pronoun]);
    let predicate = doc.chunks[sentence.clone()].windows(2).any(|pair| {
        pair[0].kind == PhraseKind::Word(WordTag::Be)
            && matches!(pair[1].kind, PhraseKind::Noun | PhraseKind::Adjective)
    });
    let caption = noun_first && !predicate && doc.has_tag(sentence, &[WordTag::Verb, WordTag::Be]);
    edits.substitute(
        all.start..last + 1,
        if caption {
            "not sure what this shows"
        } else {
            "I am not sure"
        },
        span,
    );
}

/// Omission of the flagged spans of one sentence.
pub(super) struct Omitter<'a, 'd> {
    pub(super) doc: &'a Document<'d>,
    pub(super) edits: &'a mut Edits,
    pub(super) sentence: Range<usize>,
    /// `true` if the sentence does not make sense without its flagged spans.
    pub(super) unsure: bool,
}

impl Omitter<'_, '_> {
    pub(super) fn word_tag(&self, chunk: usize) -> Option<WordTag> {
        if self.sentence.contains(&chunk) {
            self.doc.word_tag(chunk)
        } else {
            None
        }
    }

    pub(super) fn tag_before(&self, chunk: usize) -> Option<WordTag> {
        chunk.checked_sub(1).and_then(|c| self.word_tag(c))
    }

    pub(super) fn is_noun(&self, chunk: usize) -> bool {
        self.sentence.contains(&chunk) && self.doc.is_noun(chunk)
    }

    fn is_deleted(&self, chunk: usize) -> bool {
        self.doc.chunks[chunk]
            .tokens
            .clone()
            .all(|i| self.edits.is_deleted(i))
    }

    fn omit_chunk(&mut self, chunk: usize) {
        if self.is_deleted(chunk) || self.doc.flagged_tokens(chunk).next().is_none() {
            return;
        }
        match self.doc.chunks[chunk].kind {
            PhraseKind::Noun if self.doc.head_span(chunk).is_some() => self.omit_noun(chunk),
            PhraseKind::Noun => self.omit_attributes(chunk),
            PhraseKind::Adjective => self.omit_adjective(chunk),
            PhraseKind::Word(WordTag::Preposition) => self.omit_preposition(chunk),
            PhraseKind::Word(WordTag::Not) => self.hedge_chunk(chunk),
            PhraseKind::Word(WordTag::Adverb | WordTag::Yes) => self.delete(chunk),
            PhraseKind::Word(_) => {}
        }
    }

    fn hedge_chunk(&mut self, chunk: usize) {
        let Some(span) = self.doc.head_span(chunk) else {
            return;
        };
        hedge_verb(self.doc, self.edits, chunk, span);
    }

    pub(super) fn delete(&mut self, chunk: usize) {
        self.edits.delete(self.doc.chunks[chunk].tokens.clone());
    }

    /// Omits flagged words before a noun, with the "and" or comma that joined them.
    fn omit_attributes(&mut self, chunk: usize) {
        let tokens = self.doc.chunks[chunk].tokens.clone();
        let flagged: Vec<usize> = self.doc.flagged_tokens(chunk).collect();
        let joint = |i: usize| matches!(self.doc.tokens[i].tag, WordTag::And | WordTag::Mark);
        for &i in &flagged {
            self.edits.delete(i..i + 1);
            let behind = (i + 1..tokens.end).take_while(|&j| joint(j)).count();
            let ahead = (tokens.start..i)
                .rev()
                .take_while(|&j| joint(j) && !self.edits.is_deleted(j))
                .count();
            if behind > 0 {
                self.edits.delete(i + 1..i + 1 + behind);
            } else {
                self.edits.delete(i - ahead..i);
            }
        }
        let head = &self.doc.tokens[self.doc.chunks[chunk].head];
        let count = self.doc.tokens[flagged[0]].tag == WordTag::Count && flagged[0] == tokens.start;
        let bare = (tokens.start..tokens.end).find(|&i| !self.edits.is_deleted(i));
        if let (true, false, Some(first), Some(span)) = (
            count,
            english::is_plural(&head.lower),
            bare,
            self.doc.tokens[flagged[0]].span,
        ) {
            // "one dog" → "a dog".
            let word = self.doc.tokens[first].text;
            self.edits.insert(first, english::article(word), span);
        }
    }

    fn omit_adjective(&mut self, chunk: usize) {
        let left = self.doc.chunks[chunk].tokens.clone().any(|i| {
            self.doc.tokens[i].tag == WordTag::Adjective && self.doc.tokens[i].span.is_none()
        });
        if left {
            return self.omit_attributes(chunk);
        }
        let be = self.tag_before(chunk) == Some(WordTag::Be);
        self.unsure |= be;
        self.delete(chunk);
    }

    /// Replaces a flagged preposition of position by "near"; omits one of direction.
    fn omit_preposition(&mut self, chunk: usize) {
        // A preposition that is a function word is in a span only because of the words around it.
        let says = |&i: &usize| !is_function_word(&self.doc.tokens[i].lower);
        let Some(span) = self
            .doc
            .flagged_tokens(chunk)
            .filter(says)
            .find_map(|i| self.doc.tokens[i].span)
        else {
            return;
        };
        let noun = self.is_noun(chunk + 1);
        if noun && self.doc.head_span(chunk + 1).is_some() {
            return;
        }
        let all = self.doc.chunks[chunk].tokens.clone();
        let near = english::longest_phrase("near phrases", |i, word| {
            i < all.len() && self.doc.tokens[all.start + i].lower == word
        });
        if noun && near == Some(all.len()) {
            return self.edits.substitute(all, "near", span);
        }
        if !noun {
            return self.edits.delete(all);
        }
        let last = self.group(chunk + 1).pop().unwrap_or(chunk + 1);
        self.edits.delete(tokens(self.doc, chunk..last + 1));
        self.delete_of_phrase(last);
    }

    /// Omits the verb of a chunk, if it is flagged and still there.
    fn omit_verb(&mut self, chunk: usize) {
        let span = self
            .doc
            .head_span(chunk)
            .filter(|_| self.doc.word_tag(chunk) == Some(WordTag::Verb));
        let Some(span) = span else { return };
        if self.edits.is_gone(self.doc.chunks[chunk].head) {
            return;
        }
        if !self.omit_verb_with_clause(chunk, span) {
            self.omit_single_verb(chunk, span);
        }
    }

    fn delete_chunks(&mut self, chunks: Range<usize>) {
        chunks.for_each(|chunk| self.delete(chunk));
    }

    /// Returns the chunk after the verb's object and its "of" phrase.
    fn object_end(&self, chunk: usize) -> usize {
        let mut end = chunk + 1;
        while self.sentence.contains(&end) && self.doc.is_noun(end) {
            end += 1;
            let joins = self.word_tag(end).is_some_and(|tag| {
                tag == WordTag::And
                    || tag == WordTag::Preposition && self.doc.lowercase(end) == "of"
            });
            if joins && self.doc.is_noun(end + 1) && self.sentence.contains(&(end + 1)) {
                end += 1;
            } else {
                break;
            }
        }
        end
    }

    /// Omits a verb that has a clause of its own or is one of several; returns `false` for other
    /// verbs.
    fn omit_verb_with_clause(&mut self, chunk: usize, span: usize) -> bool {
        let end = self.object_end(chunk);
        let earlier = self
            .doc
            .has_tag(self.sentence.start..chunk, &[WordTag::Verb]);
        let subordinate = (self.sentence.start + 1..chunk)
            .rev()
            .find(|&c| self.word_tag(c) == Some(WordTag::Subordinate));
        match self.tag_before(chunk) {
            Some(WordTag::To) => self.delete_chunks(chunk - 1..end),
            Some(WordTag::Not) => hedge_verb(self.doc, self.edits, chunk, span),
            Some(WordTag::Be) if self.doc.lowercase(chunk - 1) == "being" => {
                hedge_verb(self.doc, self.edits, chunk, span)
            }
            Some(WordTag::And) if earlier => self.delete_chunks(chunk - 1..end),
            _ if self.word_tag(chunk + 1) == Some(WordTag::And)
                && self.word_tag(chunk + 2) == Some(WordTag::Verb)
                && self.doc.head_span(chunk + 2).is_none() =>
            {
                self.delete_chunks(chunk..chunk + 2)
            }
            _ => match subordinate {
                Some(from) if !self.doc.has_tag(from..chunk, &[WordTag::Verb]) => {
                    let to = (chunk..self.sentence.end)
                        .find(|&c| self.word_tag(c) == Some(WordTag::Mark))
                        .unwrap_or(self.sentence.end);
                    self.delete_chunks(from..to);
                }
                _ => return false,
            },
        }
        true
    }

    /// Omits a verb that is the only one of its clause, or replaces it by a more general one.
    fn omit_single_verb(&mut self, chunk: usize, span: usize) {
        let end = self.object_end(chunk);
        let has_object = end > chunk + 1;
        let object_left =
            has_object && !self.edits.is_gone(self.doc.chunks[chunk + 1].tokens.start);
        let flagged = has_object && self.doc.head_span(chunk + 1).is_some();
        let following = (chunk + 1..self.sentence.end).find(|&c| !self.is_gone(c));
        let preposition = following
            .filter(|&c| self.word_tag(c) == Some(WordTag::Preposition))
            .map(|c| self.doc.lowercase(c));
        let bare = has_object
            && self.doc.tokens[self.doc.chunks[chunk + 1].tokens.start].tag != WordTag::Determiner;
        let abstract_ = has_object && (bare || is_listed("abstract", self.doc.head(chunk + 1)));
        if object_left && !flagged && !abstract_ {
            let word = self.verb_form(
                chunk,
                "doing something with",
                "does something with",
                "do something with",
            );
            return self.substitute(chunk, word, span);
        }
        if has_object {
            self.delete_chunks(chunk + 1..end);
        }
        match preposition.filter(|_| !has_object) {
            Some(p) if is_path(&p) => {
                let word = self.verb_form(chunk, "moving", "moves", "move");
                self.substitute(chunk, word, span);
            }
            Some(p) if p != "at" && (is_listed("place", &p) || is_place_phrase(&p)) => {
                self.reduce_to_be(chunk, span)
            }
            Some(_) => hedge_verb(self.doc, self.edits, chunk, span),
            None if self.tag_before(chunk) != Some(WordTag::Be) && self.is_participle(chunk) => {
                self.delete(chunk)
            }
            None => {
                let word =
                    self.verb_form(chunk, "doing something", "does something", "do something");
                self.substitute(chunk, word, span);
            }
        }
    }

    fn is_gone(&self, chunk: usize) -> bool {
        self.doc.chunks[chunk]
            .tokens
            .clone()
            .all(|i| self.edits.is_gone(i))
    }

    fn is_participle(&self, chunk: usize) -> bool {
        !english::is_finite_verb(self.doc.head(chunk))
    }

    fn substitute(&mut self, chunk: usize, word: &str, span: usize) {
        self.edits
            .substitute(self.doc.chunks[chunk].tokens.clone(), word, span);
    }

    /// Returns the word in the form that the verb has.
    fn verb_form(
        &self,
        chunk: usize,
        participle: &'static str,
        singular: &'static str,
        plural: &'static str,
    ) -> &'static str {
        let verb = self.doc.head(chunk);
        match self.is_participle(chunk) {
            true => participle,
            false if is_listed("verb", verb) => plural,
            false => singular,
        }
    }

    /// "is standing on a rock" → "is on a rock".
    fn reduce_to_be(&mut self, chunk: usize, span: usize) {
        match self.verb_form(chunk, "", "is", "are") {
            "" => self.delete(chunk),
            be => self.substitute(chunk, be, span),
        }
    }
}

fn is_path(preposition: &str) -> bool {
    is_listed("path", preposition) || matches!(preposition, "out of" | "off of" | "away from")
}

/// Returns `true` if a preposition of several words describes a position.
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
    fn place_phrases_exclude_reasons() {
        assert!(is_place_phrase("in front of") && !is_place_phrase("because of"));
    }
}
