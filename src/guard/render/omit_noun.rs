//! Omission of flagged nouns: the words around a noun decide whether it is left out or replaced by
//! "something", "someone else" or "two animals".

use super::{
    english::{self, is_listed},
    omit::{Omitter, tokens},
    parse::WordTag,
};

/// Returns the most general plural for a plural noun: "people", "animals" or "things".
fn general_plural(noun: &str) -> &'static str {
    match noun {
        noun if english::is_person(noun) || noun == "people" => "people",
        noun if english::is_animal(noun) => "animals",
        _ => "things",
    }
}

impl Omitter<'_, '_> {
    pub(super) fn omit_noun(&mut self, chunk: usize) {
        // The sentence is nothing but this noun: a short answer.
        self.unsure |= self
            .sentence
            .clone()
            .all(|c| c == chunk || self.doc.word_tag(c) == Some(WordTag::Mark));
        let first = self.group_start(chunk);
        match self.tag_before(first) {
            Some(WordTag::Preposition) => self.omit_after_preposition(first),
            Some(WordTag::Be) => self.omit_predicate(chunk),
            Some(WordTag::Verb) => self.omit_object(first),
            Some(WordTag::And) => self.omit_joined_noun(chunk),
            _ => self.omit_subject(first),
        }
    }

    /// Returns the nouns that "and" joins from `first` on.
    pub(super) fn group(&self, first: usize) -> Vec<usize> {
        let mut group = vec![first];
        let mut at = first;
        while self.word_tag(at + 1) == Some(WordTag::And)
            && self.is_noun(at + 2)
            && self.is_alike(at, at + 2)
        {
            at += 2;
            group.push(at);
        }
        group
    }

    fn group_start(&self, chunk: usize) -> usize {
        let mut first = chunk;
        while first >= self.sentence.start + 2
            && self.tag_before(first) == Some(WordTag::And)
            && self.is_noun(first - 2)
            && self.is_alike(first - 2, first)
        {
            first -= 2;
        }
        first
    }

    /// Returns `false` for nouns that "and" does not join: "in a shirt and a man".
    fn is_alike(&self, a: usize, b: usize) -> bool {
        english::is_person(self.doc.head(a)) == english::is_person(self.doc.head(b))
    }

    /// Omits the flagged nouns of a group of which others stay.
    fn omit_some(&mut self, group: &[usize]) {
        let flagged = |c: usize| self.doc.head_span(c).is_some();
        let gone: Vec<usize> = group.iter().copied().filter(|&c| flagged(c)).collect();
        for &c in &gone {
            self.delete(c);
            self.delete_of_phrase(c);
            let and = if c == group[0] { c + 1 } else { c - 1 };
            self.delete(and);
        }
        self.keep_article(group);
    }

    /// Omits "of people" after an omitted noun.
    pub(super) fn delete_of_phrase(&mut self, chunk: usize) {
        if self.word_tag(chunk + 1) == Some(WordTag::Preposition)
            && self.doc.lowercase(chunk + 1) == "of"
            && self.is_noun(chunk + 2)
        {
            self.delete(chunk + 1);
            self.delete(chunk + 2);
        }
    }

    fn is_all_flagged(&self, group: &[usize]) -> bool {
        group.iter().all(|&c| self.doc.head_span(c).is_some())
    }

    fn omit_after_preposition(&mut self, first: usize) {
        let group = self.group(first);
        if !self.is_all_flagged(&group) {
            return self.omit_some(&group);
        }
        let preposition = first - 1;
        let last = group[group.len() - 1];
        if self.is_partitive(first) {
            return self.delete_partitive(first);
        }
        if self.doc.lowercase(preposition) == "of"
            && !(first >= 2
                && self.is_noun(first - 2)
                && is_listed("complete", self.doc.head(first - 2)))
        {
            return self.replace_in_partitive(first, last);
        }
        let named = self.doc.lowercase(preposition);
        // The jacket of "a woman in a black jacket" is hers: the noun is replaced.
        let dressed = self.word_tag(last + 1) == Some(WordTag::Preposition)
            && matches!(self.doc.lowercase(last + 1).as_str(), "in" | "with");
        if dressed && group.len() == 1 && english::is_person(self.doc.head(first)) {
            return self.replace_with_pronoun(first, last, false);
        }
        let be = self.tag_before(preposition) == Some(WordTag::Be);
        let stays = !self.is_noun(last + 2) || self.doc.head_span(last + 2).is_none();
        let goes_on = matches!(
            self.word_tag(last + 1),
            Some(WordTag::Preposition | WordTag::Verb)
        ) && stays;
        if be && !goes_on {
            if is_listed("place", &named) && named != "with" && named != "by" {
                let span = self.doc.head_span(first).unwrap_or(usize::MAX);
                return self.edits.substitute(
                    tokens(self.doc, preposition..last + 1),
                    "somewhere",
                    span,
                );
            }
            return self.replace_with_pronoun(first, last, false);
        }
        self.edits.delete(tokens(self.doc, preposition..last + 1));
        self.delete_of_phrase(last);
        if named == "with" {
            self.delete_absolute(last + 1);
        }
    }

    /// Omits the position of an omitted noun: "with a mountain in the background".
    fn delete_absolute(&mut self, preposition: usize) {
        if !matches!(self.doc.chunks.get(preposition),
            Some(c) if self.doc.tokens[c.head].lower == "in")
            || !self.sentence.contains(&preposition)
        {
            return;
        }
        let next = preposition + 1;
        let pronoun = self.word_tag(next) == Some(WordTag::Pronoun);
        let is_position = self.is_noun(next) && {
            let head = self.doc.head(next);
            let owner = matches!(
                self.doc.tokens[self.doc.chunks[next].tokens.start]
                    .lower
                    .as_str(),
                "his" | "her" | "its" | "their"
            );
            matches!(head, "background" | "foreground" | "distance")
                || owner && is_listed("part", head)
        };
        if pronoun || is_position {
            self.edits.delete(tokens(self.doc, preposition..next + 1));
        }
    }

    fn omit_object(&mut self, first: usize) {
        let group = self.group(first);
        if !self.is_all_flagged(&group) {
            return self.omit_some(&group);
        }
        if self.is_partitive(first) {
            return self.delete_partitive(first);
        }
        let bare = self.doc.chunks[first].tokens.len() == 1 && group.len() == 1;
        let played = matches!(
            self.doc.head(first - 1),
            "playing" | "play" | "plays" | "played"
        );
        if bare && played {
            return self.delete(first);
        }
        self.replace_with_pronoun(first, group[group.len() - 1], false);
    }

    /// Replaces a predicate noun: "It is a dog" says nothing without the dog.
    fn omit_predicate(&mut self, chunk: usize) {
        let there = chunk >= self.sentence.start + 2 && self.doc.lowercase(chunk - 2) == "there"
            || self.doc.lowercase(chunk - 1) == "there's";
        if !there {
            self.unsure = true;
        }
        let group = self.group(chunk);
        if self.is_all_flagged(&group) {
            self.replace_with_pronoun(chunk, group[group.len() - 1], true)
        } else {
            self.omit_some(&group)
        }
    }

    fn omit_subject(&mut self, first: usize) {
        let group = self.group(first);
        if self.is_partitive(first) {
            return self.delete_partitive(first);
        }
        if group.len() == 1 && self.replace_partitive(first) {
            return;
        }
        let all = self.is_all_flagged(&group);
        if group.len() > 1 && !all && !self.verb_follows(group[group.len() - 1]) {
            return self.omit_some(&group);
        }
        let one_span = group
            .iter()
            .all(|&c| self.doc.head_span(c) == self.doc.head_span(first));
        if group.len() > 1 && all && one_span {
            let people = group.iter().all(|&c| english::is_person(self.doc.head(c)));
            let span = self.doc.head_span(first).unwrap_or(usize::MAX);
            let text = if people { "some people" } else { "some things" };
            return self.edits.substitute(
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
                self.replace_with_pronoun(c, c, true)
            } else {
                self.replace_with_else(c)
            }
        }
        self.keep_article(&group);
        // "a woman and a dog": joined, but not of the same kind.
        let last = group[group.len() - 1];
        let unlike = self.word_tag(last + 1) == Some(WordTag::And) && self.is_noun(last + 2);
        if unlike && group.len() == 1 && !self.verb_follows(last) {
            self.edits.delete(tokens(self.doc, first..first + 2));
        }
    }

    /// Omits or replaces a noun that "and" joins to a noun of another kind.
    fn omit_joined_noun(&mut self, chunk: usize) {
        let follows =
            self.verb_follows(chunk) || self.word_tag(chunk + 1) == Some(WordTag::Preposition);
        if follows && self.subject_before(chunk) {
            return self.replace_with_else(chunk);
        }
        self.delete(chunk - 1);
        self.delete(chunk);
        self.delete_of_phrase(chunk);
    }

    /// Returns `true` if the chunk is part of the subject (no verb precedes it), or names a person.
    fn subject_before(&self, chunk: usize) -> bool {
        !self
            .doc
            .has_tag(self.sentence.start..chunk, &[WordTag::Be, WordTag::Verb])
            || english::is_person(self.doc.head(chunk))
    }

    fn verb_follows(&self, chunk: usize) -> bool {
        self.doc
            .has_tag(chunk..self.sentence.end, &[WordTag::Be, WordTag::Verb])
    }

    /// Replaces nouns by "something" or "someone". With `keep_number`, a plural stays plural, since
    /// a verb agrees with it.
    fn replace_with_pronoun(&mut self, first: usize, last: usize, keep_number: bool) {
        let doc = self.doc;
        let head = doc.head(first);
        let start = doc.chunks[first].tokens.start;
        let span = doc.head_span(first).unwrap_or(usize::MAX);
        let (person, plural) = (english::is_person(head), english::is_plural(head));
        self.delete_of_phrase(last);
        if plural && first == last && (keep_number || person) {
            return self.replace_with_general_plural(first, span, keep_number);
        }
        let word = match (person, doc.tokens[start].lower.as_str()) {
            (true, "another") => "someone else",
            (true, _) => "someone",
            (false, "another") => "something else",
            (false, _) => "something",
        };
        let all = tokens(doc, first..last + 1);
        let described = (start..doc.chunks[first].head).filter(|&i| {
            doc.tokens[i].tag != WordTag::Determiner && doc.tokens[i].tag != WordTag::Count
        });
        let adjectives: Vec<usize> = described.collect();
        let plain = |i: usize| {
            matches!(
                doc.tokens[i].tag,
                WordTag::Adjective | WordTag::And | WordTag::Mark
            ) && !doc.tokens[i].text.ends_with("ing")
        };
        let keeps_adjectives = adjectives
            .iter()
            .all(|&i| plain(i) && doc.tokens[i].span.is_none());
        let free: Vec<usize> = adjectives
            .iter()
            .copied()
            .filter(|&i| doc.tokens[i].tag == WordTag::Adjective && doc.tokens[i].span.is_none())
            .collect();
        if first == last
            && keeps_adjectives
            && let (Some(&from), Some(&to)) = (adjectives.first(), adjectives.last())
        {
            self.edits.delete(start..from);
            self.edits.delete(to + 1..all.end);
            self.edits.insert(from, word, span);
            for i in (from + 1..=to).filter(|&i| {
                doc.tokens[i].tag == WordTag::Adjective
                    && doc.tokens[i - 1].tag == WordTag::Adjective
            }) {
                self.edits.insert(i, "and", span);
            }
        } else if first == last
            && adjectives.iter().all(|&i| plain(i))
            && let [only] = free[..]
        {
            self.edits.delete(start..only);
            self.edits.delete(only + 1..all.end);
            self.edits.insert(only, word, span);
        } else {
            self.edits.substitute(all, word, span);
        }
    }

    /// Replaces a plural noun by the most general one: "two white dogs" → "two white animals".
    fn replace_with_general_plural(&mut self, chunk: usize, span: usize, opens: bool) {
        let doc = self.doc;
        let tokens = doc.chunks[chunk].tokens.clone();
        let head = doc.chunks[chunk].head;
        let word = general_plural(doc.head(chunk));
        let plain = |i: usize| {
            matches!(
                doc.tokens[i].tag,
                WordTag::Adjective
                    | WordTag::Count
                    | WordTag::And
                    | WordTag::Mark
                    | WordTag::Determiner
            )
        };
        for i in (tokens.start..head).filter(|&i| !plain(i) || doc.tokens[i].span.is_some()) {
            self.edits.delete(i..i + 1);
        }
        self.edits.delete(head..tokens.end);
        if opens && (tokens.start..head).all(|i| self.edits.is_deleted(i)) {
            self.edits.insert(head, "some", span);
        }
        self.edits.insert(head, word, span);
    }

    fn replace_with_else(&mut self, chunk: usize) {
        let person = english::is_person(self.doc.head(chunk));
        let span = self.doc.head_span(chunk).unwrap_or(usize::MAX);
        self.delete_of_phrase(chunk);
        self.edits.substitute(
            self.doc.chunks[chunk].tokens.clone(),
            if person {
                "someone else"
            } else {
                "something else"
            },
            span,
        );
    }

    /// Replaces a flagged partitive phrase: "a group of people" → "some people". Returns `false`
    /// for other nouns.
    fn replace_partitive(&mut self, chunk: usize) -> bool {
        let of = self.word_tag(chunk + 1) == Some(WordTag::Preposition)
            && self.doc.lowercase(chunk + 1) == "of"
            && self.is_noun(chunk + 2);
        if !of
            || !english::is_plural(self.doc.head(chunk + 2))
            || !is_listed("partitive", self.doc.head(chunk))
        {
            return false;
        }
        let span = self.doc.head_span(chunk).unwrap_or(usize::MAX);
        let text = format!("some {}", general_plural(self.doc.head(chunk + 2)));
        self.edits
            .substitute(tokens(self.doc, chunk..chunk + 3), &text, span);
        true
    }

    /// Replaces the noun of a partitive phrase: "a group of children" → "a group of people".
    /// "people" itself is hedged, since no noun is more general.
    fn replace_in_partitive(&mut self, first: usize, last: usize) {
        let counted = english::is_plural(self.doc.head(first))
            && first == last
            && first >= 2
            && self.is_noun(first - 2);
        let Some(span) = self
            .doc
            .head_span(first)
            .filter(|_| counted && is_listed("partitive", self.doc.head(first - 2)))
        else {
            return self.replace_with_pronoun(first, last, false);
        };
        if self.doc.head(first) == "people" {
            return self
                .edits
                .insert(self.doc.chunks[first].tokens.start, "what may be", span);
        }
        self.replace_with_general_plural(first, span, false);
    }

    /// Returns `true` if a noun measures another that is not flagged: "a group of people".
    fn is_partitive(&self, chunk: usize) -> bool {
        let of = self.word_tag(chunk + 1) == Some(WordTag::Preposition)
            && self.doc.lowercase(chunk + 1) == "of";
        of && self.is_noun(chunk + 2)
            && is_listed("partitive", self.doc.head(chunk))
            && self.doc.head_span(chunk + 2).is_none()
    }

    /// Omits a noun that measures another: "a group of people" → "people".
    fn delete_partitive(&mut self, chunk: usize) {
        self.edits.delete(tokens(self.doc, chunk..chunk + 2));
        let verb = chunk + 3;
        if self.word_tag(verb) == Some(WordTag::Be)
            && self.doc.head(verb) == "is"
            && english::is_plural(self.doc.head(chunk + 2))
        {
            let span = self.doc.head_span(chunk).unwrap_or(usize::MAX);
            self.edits.replace(self.doc.chunks[verb].head, "are", span);
        }
    }

    /// Moves the article to the first noun of a group that stays: "a shirt and hat" → "a hat".
    fn keep_article(&mut self, group: &[usize]) {
        let flagged = |c: usize| self.doc.head_span(c).is_some();
        let Some(&left) = group.iter().find(|&&c| !flagged(c)) else {
            return;
        };
        let tokens = self.doc.chunks[left].tokens.clone();
        let article = &self.doc.tokens[self.doc.chunks[group[0]].tokens.start];
        let opens = matches!(
            self.doc.tokens[tokens.start].tag,
            WordTag::Determiner | WordTag::Count | WordTag::Owner
        );
        let single = matches!(article.lower.as_str(), "a" | "an")
            && !english::is_plural(self.doc.head(left));
        if left != group[0]
            && !opens
            && single
            && let Some(span) = self.doc.head_span(group[0])
        {
            self.edits.insert(
                tokens.start,
                english::article(self.doc.tokens[tokens.start].text),
                span,
            );
        }
    }
}
