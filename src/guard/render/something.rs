//! Replacements of a flagged noun: "something", "someone else", "two animals".

use super::{
    english::{self, is},
    omit::{Omitter, tokens},
    parse::WordTag,
};

/// Returns a loose name of what a plural noun names.
fn kind_of(noun: &str) -> &'static str {
    match noun {
        noun if english::is_person(noun) || noun == "people" => "people",
        noun if english::is_animal(noun) => "animals",
        _ => "things",
    }
}

impl Omitter<'_, '_> {
    /// A word of no content in the place of nouns. A subject keeps its number, for its verb's sake.
    pub(super) fn something(&mut self, first: usize, last: usize, keep_number: bool) {
        let doc = self.doc;
        let head = doc.head(first);
        let start = doc.chunks[first].tokens.start;
        let span = doc.head_span(first).unwrap_or(usize::MAX);
        let (person, plural) = (english::is_person(head), english::is_plural(head));
        self.delete_of(last);
        if plural && first == last && (keep_number || person) {
            return self.kind_of_things(first, span, keep_number);
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
        let kept = adjectives
            .iter()
            .all(|&i| plain(i) && doc.tokens[i].span.is_none());
        let free: Vec<usize> = adjectives
            .iter()
            .copied()
            .filter(|&i| doc.tokens[i].tag == WordTag::Adjective && doc.tokens[i].span.is_none())
            .collect();
        if first == last
            && kept
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
            self.edits.put(all, word, span);
        }
    }

    /// "two white dogs": "two white animals".
    pub(super) fn kind_of_things(&mut self, chunk: usize, span: usize, opens: bool) {
        let doc = self.doc;
        let tokens = doc.chunks[chunk].tokens.clone();
        let head = doc.chunks[chunk].head;
        let word = kind_of(doc.head(chunk));
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

    pub(super) fn else_(&mut self, chunk: usize) {
        let person = english::is_person(self.doc.head(chunk));
        let span = self.doc.head_span(chunk).unwrap_or(usize::MAX);
        self.delete_of(chunk);
        self.edits.put(
            self.doc.chunks[chunk].tokens.clone(),
            if person {
                "someone else"
            } else {
                "something else"
            },
            span,
        );
    }

    /// "a group of people", wholly doubted: "some people". Says whether it was one.
    pub(super) fn whole_measure(&mut self, chunk: usize) -> bool {
        let of = self.word(chunk + 1) == Some(WordTag::Preposition)
            && self.doc.lower(chunk + 1) == "of"
            && self.is_noun(chunk + 2);
        if !of
            || !english::is_plural(self.doc.head(chunk + 2))
            || !is("partitive", self.doc.head(chunk))
        {
            return false;
        }
        let span = self.doc.head_span(chunk).unwrap_or(usize::MAX);
        let text = format!("some {}", kind_of(self.doc.head(chunk + 2)));
        self.edits
            .put(tokens(self.doc, chunk..chunk + 3), &text, span);
        true
    }

    /// "a group of children": "a group of people". Nothing is looser than "people".
    pub(super) fn measure_of(&mut self, first: usize, last: usize) {
        let counted = english::is_plural(self.doc.head(first))
            && first == last
            && first >= 2
            && self.is_noun(first - 2);
        let Some(span) = self
            .doc
            .head_span(first)
            .filter(|_| counted && is("partitive", self.doc.head(first - 2)))
        else {
            return self.something(first, last, false);
        };
        if self.doc.head(first) == "people" {
            return self
                .edits
                .insert(self.doc.chunks[first].tokens.start, "what may be", span);
        }
        self.kind_of_things(first, span, false);
    }

    /// Returns `true` if a noun measures another: "a group of people".
    pub(super) fn measured(&self, chunk: usize) -> bool {
        let of =
            self.word(chunk + 1) == Some(WordTag::Preposition) && self.doc.lower(chunk + 1) == "of";
        of && self.is_noun(chunk + 2)
            && is("partitive", self.doc.head(chunk))
            && self.doc.head_span(chunk + 2).is_none()
    }

    /// "a group of people": "people".
    pub(super) fn unmeasured(&mut self, chunk: usize) {
        self.edits.delete(tokens(self.doc, chunk..chunk + 2));
        let verb = chunk + 3;
        if self.word(verb) == Some(WordTag::Be)
            && self.doc.head(verb) == "is"
            && english::is_plural(self.doc.head(chunk + 2))
        {
            let span = self.doc.head_span(chunk).unwrap_or(usize::MAX);
            self.edits.replace(self.doc.chunks[verb].head, "are", span);
        }
    }

    /// "a shirt and hat" without the shirt: the hat needs the article.
    pub(super) fn keep_article(&mut self, group: &[usize]) {
        let doubted = |c: usize| self.doc.head_span(c).is_some();
        let Some(&left) = group.iter().find(|&&c| !doubted(c)) else {
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
