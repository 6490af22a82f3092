//! Omission of flagged spans, with the words that cannot stand without them.

use std::ops::Range;

use super::{
    edit::Edits,
    english::{self, is},
    hedge::hedge_verb,
    omit_verb,
    parse::{Document, PhraseKind, WordTag},
};
use crate::guard::words::is_function_word;

/// Leaves every doubted span out. Returns whether every sentence still says something.
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
            omitter.chunk(chunk);
        }
        for chunk in sentence.clone() {
            omit_verb::verb(doc, omitter.edits, sentence.clone(), chunk);
        }
        let unsure = omitter.unsure;
        stand.push(!unsure && says_something(doc, edits, sentence.clone()));
    }
    // A sentence that says nothing any more goes, and if none is left one says so.
    let any = stand.iter().any(|&s| s);
    for (i, sentence) in doc.sentences.iter().enumerate().filter(|&(i, _)| !stand[i]) {
        nothing_left(doc, edits, sentence.clone(), any || i > 0);
    }
    stand.iter().all(|&stands| stands)
}

/// Returns `true` if a word is left in a sentence that claims something and is not doubted; a
/// sentence without doubt stands as it is.
fn says_something(doc: &Document<'_>, edits: &Edits, sentence: Range<usize>) -> bool {
    let states = doc.has(sentence.clone(), &[WordTag::Be, WordTag::Verb]);
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

/// The tokens of chunks.
pub(super) fn tokens(doc: &Document<'_>, chunks: Range<usize>) -> Range<usize> {
    doc.chunks[chunks.start].tokens.start..doc.chunks[chunks.end - 1].tokens.end
}

fn nothing_left(doc: &Document<'_>, edits: &mut Edits, sentence: Range<usize>, silent: bool) {
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
    let noun_first =
        doc.is_noun(sentence.start) && !doc.has(sentence.start..sentence.end, &[WordTag::Pronoun]);
    let predicate = doc.chunks[sentence.clone()].windows(2).any(|pair| {
        pair[0].kind == PhraseKind::Word(WordTag::Be)
            && matches!(pair[1].kind, PhraseKind::Noun | PhraseKind::Adjective)
    });
    let caption = noun_first && !predicate && doc.has(sentence, &[WordTag::Verb, WordTag::Be]);
    edits.put(
        all.start..last + 1,
        if caption {
            "not sure what this shows"
        } else {
            "I am not sure"
        },
        span,
    );
}

/// Leaves the doubted spans of one sentence out.
pub(super) struct Omitter<'a, 'd> {
    pub(super) doc: &'a Document<'d>,
    pub(super) edits: &'a mut Edits,
    sentence: Range<usize>,
    /// `true` if the sentence does not stand without the flagged spans.
    unsure: bool,
}

impl Omitter<'_, '_> {
    pub(super) fn word(&self, chunk: usize) -> Option<WordTag> {
        if self.sentence.contains(&chunk) {
            self.doc.word(chunk)
        } else {
            None
        }
    }

    fn before(&self, chunk: usize) -> Option<WordTag> {
        chunk.checked_sub(1).and_then(|c| self.word(c))
    }

    pub(super) fn is_noun(&self, chunk: usize) -> bool {
        self.sentence.contains(&chunk) && self.doc.is_noun(chunk)
    }

    fn is_gone(&self, chunk: usize) -> bool {
        self.doc.chunks[chunk]
            .tokens
            .clone()
            .all(|i| self.edits.is_deleted(i))
    }

    fn chunk(&mut self, chunk: usize) {
        if self.is_gone(chunk) || self.doc.doubted(chunk).next().is_none() {
            return;
        }
        match self.doc.chunks[chunk].kind {
            PhraseKind::Noun if self.doc.head_span(chunk).is_some() => self.noun(chunk),
            PhraseKind::Noun => self.attributes(chunk),
            PhraseKind::Adjective => self.adjective(chunk),
            PhraseKind::Word(WordTag::Preposition) => self.preposition(chunk),
            PhraseKind::Word(WordTag::Not) => self.hedge(chunk),
            PhraseKind::Word(WordTag::Adverb | WordTag::Yes) => self.delete(chunk),
            PhraseKind::Word(_) => {}
        }
    }

    fn hedge(&mut self, chunk: usize) {
        let Some(span) = self.doc.head_span(chunk) else {
            return;
        };
        hedge_verb(self.doc, self.edits, chunk, span);
    }

    fn delete(&mut self, chunk: usize) {
        self.edits.delete(self.doc.chunks[chunk].tokens.clone());
    }

    /// Words before a noun go, with the "and" or the comma that joined them.
    fn attributes(&mut self, chunk: usize) {
        let tokens = self.doc.chunks[chunk].tokens.clone();
        let doubted: Vec<usize> = self.doc.doubted(chunk).collect();
        let joint = |i: usize| matches!(self.doc.tokens[i].tag, WordTag::And | WordTag::Mark);
        for &i in &doubted {
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
        let count = self.doc.tokens[doubted[0]].tag == WordTag::Count && doubted[0] == tokens.start;
        let bare = (tokens.start..tokens.end).find(|&i| !self.edits.is_deleted(i));
        if let (true, false, Some(first), Some(span)) = (
            count,
            english::is_plural(&head.lower),
            bare,
            self.doc.tokens[doubted[0]].span,
        ) {
            // "one dog": "a dog".
            let word = self.doc.tokens[first].text;
            self.edits.insert(first, english::article(word), span);
        }
    }

    fn adjective(&mut self, chunk: usize) {
        let left = self.doc.chunks[chunk].tokens.clone().any(|i| {
            self.doc.tokens[i].tag == WordTag::Adjective && self.doc.tokens[i].span.is_none()
        });
        if left {
            return self.attributes(chunk);
        }
        let be = self.before(chunk) == Some(WordTag::Be);
        self.unsure |= be;
        self.delete(chunk);
    }

    fn noun(&mut self, chunk: usize) {
        // Nothing but this: an answer.
        self.unsure |= self
            .sentence
            .clone()
            .all(|c| c == chunk || self.doc.word(c) == Some(WordTag::Mark));
        let first = self.group_start(chunk);
        match self.before(first) {
            Some(WordTag::Preposition) => self.after_preposition(first),
            Some(WordTag::Be) => self.predicate(chunk),
            Some(WordTag::Verb) => self.object(first),
            Some(WordTag::And) => self.other(chunk),
            _ => self.subject(first),
        }
    }

    /// The nouns that "and" joins from `first` on.
    fn group(&self, first: usize) -> Vec<usize> {
        let mut group = vec![first];
        let mut at = first;
        while self.word(at + 1) == Some(WordTag::And)
            && self.is_noun(at + 2)
            && self.alike(at, at + 2)
        {
            at += 2;
            group.push(at);
        }
        group
    }

    fn group_start(&self, chunk: usize) -> usize {
        let mut first = chunk;
        while first >= self.sentence.start + 2
            && self.before(first) == Some(WordTag::And)
            && self.is_noun(first - 2)
            && self.alike(first - 2, first)
        {
            first -= 2;
        }
        first
    }

    /// "in a shirt and a man": two nouns that are not joined by their "and".
    fn alike(&self, a: usize, b: usize) -> bool {
        english::is_person(self.doc.head(a)) == english::is_person(self.doc.head(b))
    }

    /// Deletes the doubted nouns of a group of which some are left.
    fn thin(&mut self, group: &[usize]) {
        let doubted = |c: usize| self.doc.head_span(c).is_some();
        let gone: Vec<usize> = group.iter().copied().filter(|&c| doubted(c)).collect();
        for &c in &gone {
            self.delete(c);
            self.delete_of(c);
            let and = if c == group[0] { c + 1 } else { c - 1 };
            self.delete(and);
        }
        self.keep_article(group);
    }

    /// "of people" behind a noun that goes.
    pub(super) fn delete_of(&mut self, chunk: usize) {
        if self.word(chunk + 1) == Some(WordTag::Preposition)
            && self.doc.lower(chunk + 1) == "of"
            && self.is_noun(chunk + 2)
        {
            self.delete(chunk + 1);
            self.delete(chunk + 2);
        }
    }

    fn is_all_doubted(&self, group: &[usize]) -> bool {
        group.iter().all(|&c| self.doc.head_span(c).is_some())
    }

    fn after_preposition(&mut self, first: usize) {
        let group = self.group(first);
        if !self.is_all_doubted(&group) {
            return self.thin(&group);
        }
        let preposition = first - 1;
        let last = group[group.len() - 1];
        if self.measured(first) {
            return self.unmeasured(first);
        }
        if self.doc.lower(preposition) == "of"
            && !(first >= 2 && self.is_noun(first - 2) && is("complete", self.doc.head(first - 2)))
        {
            return self.measure_of(first, last);
        }
        let named = self.doc.lower(preposition);
        // "a woman in a black jacket": the jacket is hers.
        let dressed = self.word(last + 1) == Some(WordTag::Preposition)
            && matches!(self.doc.lower(last + 1).as_str(), "in" | "with");
        if dressed && group.len() == 1 && english::is_person(self.doc.head(first)) {
            return self.something(first, last, false);
        }
        let be = self.before(preposition) == Some(WordTag::Be);
        let stays = !self.is_noun(last + 2) || self.doc.head_span(last + 2).is_none();
        let goes_on = matches!(
            self.word(last + 1),
            Some(WordTag::Preposition | WordTag::Verb)
        ) && stays;
        if be && !goes_on {
            if is("place", &named) && named != "with" && named != "by" {
                let span = self.doc.head_span(first).unwrap_or(usize::MAX);
                return self
                    .edits
                    .put(tokens(self.doc, preposition..last + 1), "somewhere", span);
            }
            return self.something(first, last, false);
        }
        self.edits.delete(tokens(self.doc, preposition..last + 1));
        self.delete_of(last);
        if named == "with" {
            self.delete_absolute(last + 1);
        }
    }

    /// "with a mountain in the background": what says where the thing was goes with it.
    fn delete_absolute(&mut self, preposition: usize) {
        if !matches!(self.doc.chunks.get(preposition),
            Some(c) if self.doc.tokens[c.head].lower == "in")
            || !self.sentence.contains(&preposition)
        {
            return;
        }
        let next = preposition + 1;
        let pronoun = self.word(next) == Some(WordTag::Pronoun);
        let place = self.is_noun(next) && {
            let head = self.doc.head(next);
            let owner = matches!(
                self.doc.tokens[self.doc.chunks[next].tokens.start]
                    .lower
                    .as_str(),
                "his" | "her" | "its" | "their"
            );
            matches!(head, "background" | "foreground" | "distance") || owner && is("part", head)
        };
        if pronoun || place {
            self.edits.delete(tokens(self.doc, preposition..next + 1));
        }
    }

    fn object(&mut self, first: usize) {
        let group = self.group(first);
        if !self.is_all_doubted(&group) {
            return self.thin(&group);
        }
        if self.measured(first) {
            return self.unmeasured(first);
        }
        let bare = self.doc.chunks[first].tokens.len() == 1 && group.len() == 1;
        let played = matches!(
            self.doc.head(first - 1),
            "playing" | "play" | "plays" | "played"
        );
        if bare && played {
            return self.delete(first);
        }
        self.something(first, group[group.len() - 1], false);
    }

    /// "It is a dog" says nothing without the dog.
    fn predicate(&mut self, chunk: usize) {
        let there = chunk >= self.sentence.start + 2 && self.doc.lower(chunk - 2) == "there"
            || self.doc.lower(chunk - 1) == "there's";
        if !there {
            self.unsure = true;
        }
        let group = self.group(chunk);
        if self.is_all_doubted(&group) {
            self.something(chunk, group[group.len() - 1], true)
        } else {
            self.thin(&group)
        }
    }

    fn subject(&mut self, first: usize) {
        let group = self.group(first);
        if self.measured(first) {
            return self.unmeasured(first);
        }
        if group.len() == 1 && self.whole_measure(first) {
            return;
        }
        let all = self.is_all_doubted(&group);
        if group.len() > 1 && !all && !self.verb_follows(group[group.len() - 1]) {
            return self.thin(&group);
        }
        let one_span = group
            .iter()
            .all(|&c| self.doc.head_span(c) == self.doc.head_span(first));
        if group.len() > 1 && all && one_span {
            let people = group.iter().all(|&c| english::is_person(self.doc.head(c)));
            let span = self.doc.head_span(first).unwrap_or(usize::MAX);
            let text = if people { "some people" } else { "some things" };
            return self.edits.put(
                tokens(self.doc, first..group[group.len() - 1] + 1),
                text,
                span,
            );
        }
        for (i, &c) in group
            .iter()
            .enumerate()
            .filter(|&(_, &c)| self.doc.head_span(c).is_some())
        {
            if i == 0 {
                self.something(c, c, true)
            } else {
                self.else_(c)
            }
        }
        self.keep_article(&group);
        // "a woman and a dog": joined, but not alike.
        let last = group[group.len() - 1];
        let unlike = self.word(last + 1) == Some(WordTag::And) && self.is_noun(last + 2);
        if unlike && group.len() == 1 && !self.verb_follows(last) {
            self.edits.delete(tokens(self.doc, first..first + 2));
        }
    }

    /// A noun behind an "and" that joins it to something of another sort.
    fn other(&mut self, chunk: usize) {
        let follows =
            self.verb_follows(chunk) || self.word(chunk + 1) == Some(WordTag::Preposition);
        if follows && self.subject_before(chunk) {
            return self.else_(chunk);
        }
        self.delete(chunk - 1);
        self.delete(chunk);
        self.delete_of(chunk);
    }

    /// Returns `true` if no verb stands before a chunk: it is part of the subject, or the sentence
    /// has no verb.
    fn subject_before(&self, chunk: usize) -> bool {
        !self
            .doc
            .has(self.sentence.start..chunk, &[WordTag::Be, WordTag::Verb])
            || english::is_person(self.doc.head(chunk))
    }

    fn verb_follows(&self, chunk: usize) -> bool {
        self.doc
            .has(chunk..self.sentence.end, &[WordTag::Be, WordTag::Verb])
    }

    /// Says a flagged preposition more loosely where it tells where something is, as "near"; leaves
    /// it out where it tells where something goes.
    fn preposition(&mut self, chunk: usize) {
        // A preposition that says little is in a span for the words around it.
        let says = |&i: &usize| !is_function_word(&self.doc.tokens[i].lower);
        let Some(span) = self
            .doc
            .doubted(chunk)
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
        let near = english::phrase("near phrases", |i, word| {
            i < all.len() && self.doc.tokens[all.start + i].lower == word
        });
        if noun && near == Some(all.len()) {
            return self.edits.put(all, "near", span);
        }
        if !noun {
            return self.edits.delete(all);
        }
        let last = self.group(chunk + 1).pop().unwrap_or(chunk + 1);
        self.edits.delete(tokens(self.doc, chunk..last + 1));
        self.delete_of(last);
    }
}
