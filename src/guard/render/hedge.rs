//! Hedges of flagged spans: "what may be a frisbee".

use super::{
    edit::Edits,
    english::{self, is_listed},
    parse::{Document, PhraseKind, WordTag},
};

/// Inserts a hedge before every flagged span.
pub(super) fn hedge(doc: &Document<'_>, edits: &mut Edits, spans: usize) {
    let mut hedger = Hedger {
        doc,
        edits,
        hedged: vec![None; spans],
    };
    for sentence in &doc.sentences {
        if let Some((first, span)) = single_statement(doc, sentence.clone()) {
            hedger.edits.insert(first, "perhaps", span);
            continue;
        }
        for chunk in sentence.clone() {
            hedger.chunk(chunk, sentence.clone());
        }
    }
}

/// Hedges a verb that cannot be left out.
pub(super) fn hedge_verb(doc: &Document<'_>, edits: &mut Edits, chunk: usize, span: usize) {
    Hedger {
        doc,
        edits,
        hedged: Vec::new(),
    }
    .verb(chunk, span);
}

/// Returns the first token and the span of a sentence all of whose words are in one span.
fn single_statement(doc: &Document<'_>, chunks: std::ops::Range<usize>) -> Option<(usize, usize)> {
    let states =
        doc.is_noun(chunks.start) && doc.has_tag(chunks.clone(), &[WordTag::Verb, WordTag::Be]);
    let tokens = doc.chunks[chunks.start].tokens.start..doc.chunks[chunks.end - 1].tokens.end;
    let mut words = tokens
        .clone()
        .filter(|&i| doc.tokens[i].tag != WordTag::Mark)
        .skip_while(|&i| doc.tokens[i].tag == WordTag::Determiner);
    let span = doc.tokens[words.next()?].span?;
    (states && words.all(|i| doc.tokens[i].span == Some(span))).then_some((tokens.start, span))
}

struct Hedger<'a, 'd> {
    doc: &'a Document<'d>,
    edits: &'a mut Edits,
    /// Kind of the phrase in which each span was hedged.
    hedged: Vec<Option<PhraseKind>>,
}

impl Hedger<'_, '_> {
    fn chunk(&mut self, chunk: usize, sentence: std::ops::Range<usize>) {
        let kind = self.doc.chunks[chunk].kind;
        let spans: Vec<usize> = self
            .doc
            .flagged_tokens(chunk)
            .filter_map(|i| self.doc.tokens[i].span)
            .collect();
        // A span from a noun to a verb is hedged at both.
        let verb = kind == PhraseKind::Word(WordTag::Verb);
        let open = |earlier: Option<PhraseKind>| {
            earlier.is_none() || verb && earlier == Some(PhraseKind::Noun)
        };
        let Some(&span) = spans.iter().find(|&&s| open(self.hedged[s])) else {
            return;
        };
        spans.iter().for_each(|&s| self.hedged[s] = Some(kind));
        match kind {
            PhraseKind::Noun => self.noun(chunk, span, sentence),
            PhraseKind::Adjective => self.adjective(chunk, span, sentence),
            PhraseKind::Word(WordTag::Verb) => self.verb(chunk, span),
            PhraseKind::Word(WordTag::Preposition) => self.preposition(chunk, span, sentence),
            // Function words are skipped: the hedge goes before what follows them.
            PhraseKind::Word(
                WordTag::Be | WordTag::Auxiliary | WordTag::Subordinate | WordTag::To,
            ) => spans.iter().for_each(|&s| self.hedged[s] = None),
            PhraseKind::Word(_) => {
                let alone = self.starts(chunk, &sentence);
                self.insert(
                    chunk,
                    if alone {
                        self.doc.probability_word(span)
                    } else {
                        "possibly"
                    },
                    span,
                );
            }
        }
    }

    fn insert(&mut self, chunk: usize, text: &str, span: usize) {
        self.edits
            .insert(self.doc.chunks[chunk].tokens.start, text, span);
    }

    fn starts(&self, chunk: usize, sentence: &std::ops::Range<usize>) -> bool {
        sentence
            .clone()
            .take_while(|&c| c < chunk)
            .all(|c| self.doc.word_tag(c) == Some(WordTag::Mark))
    }

    /// Returns `true` if the sentence consists of chunks `from..=chunk`, as a short answer does.
    fn is_answer(&self, from: usize, chunk: usize, sentence: &std::ops::Range<usize>) -> bool {
        sentence
            .clone()
            .filter(|c| !(from..=chunk).contains(c))
            .all(|c| self.doc.word_tag(c) == Some(WordTag::Mark))
    }

    fn noun(&mut self, chunk: usize, span: usize, sentence: std::ops::Range<usize>) {
        let tokens = self.doc.chunks[chunk].tokens.clone();
        let flagged: Vec<usize> = self.doc.flagged_tokens(chunk).collect();
        let first = flagged[0];
        let tag = |i: usize| self.doc.tokens[i].tag;
        let lower = |i: usize| self.doc.tokens[i].lower.as_str();
        if tag(first) == WordTag::Count && first == tokens.start {
            return self.edits.insert(first, "perhaps", span);
        }
        // In "a bathing suit", "bathing" is part of the name.
        let describes = |i: usize| {
            tag(i) == WordTag::Adjective
                && (is_listed("adjective", lower(i)) || !lower(i).ends_with("ing"))
        };
        let attributes = flagged
            .iter()
            .all(|&i| describes(i) && i != self.doc.chunks[chunk].head);
        if attributes {
            if first > tokens.start
                && tag(first - 1) == WordTag::Adjective
                && self.doc.tokens[first - 1].span.is_none()
            {
                self.edits.insert_comma(first);
            }
            return self.edits.insert(first, "possibly", span);
        }
        let head_flagged = self.doc.head_span(chunk).is_some();
        let prepositional =
            chunk > sentence.start && self.doc.word_tag(chunk - 1) == Some(WordTag::Preposition);
        let from = if prepositional { chunk - 1 } else { chunk };
        if head_flagged && self.is_answer(from, chunk, &sentence) {
            return self.insert(from, self.doc.probability_word(span), span);
        }
        if chunk > sentence.start && self.doc.word_tag(chunk - 1) == Some(WordTag::Be) {
            return self.after_be(chunk, span);
        }
        if chunk > sentence.start && self.doc.word_tag(chunk - 1) == Some(WordTag::Not) {
            return self.insert(chunk - 1, "possibly", span);
        }
        if prepositional && head_flagged && self.is_setting(chunk) {
            return self.insert(chunk - 1, "possibly", span);
        }
        let (at, text) = self.noun_hedge(chunk);
        self.edits.insert(at, text, span);
        if self.lacks_article(chunk) {
            self.edits.insert(
                tokens.start,
                english::article(&self.doc.tokens[tokens.start].lower),
                span,
            );
        }
    }

    /// "a man and woman": the hedge separates the second noun from the article.
    fn lacks_article(&self, chunk: usize) -> bool {
        let doc = self.doc;
        let tag = |c: usize| doc.tokens[doc.chunks[c].tokens.start].tag;
        let joined =
            chunk >= 2 && doc.word_tag(chunk - 1) == Some(WordTag::And) && doc.is_noun(chunk - 2);
        let noun = doc.head(chunk);
        joined
            && !matches!(
                tag(chunk),
                WordTag::Determiner | WordTag::Count | WordTag::Owner
            )
            && matches!(
                doc.tokens[doc.chunks[chunk - 2].tokens.start]
                    .lower
                    .as_str(),
                "a" | "an" | "another" | "the" | "one"
            )
            && !english::is_plural(noun)
            && !is_listed("mass", noun)
    }

    /// "in the air", "in its mouth": a setting, not an object of its own.
    fn is_setting(&self, chunk: usize) -> bool {
        let head = self.doc.head(chunk);
        let owned = matches!(
            self.doc.tokens[self.doc.chunks[chunk].tokens.start]
                .lower
                .as_str(),
            "his" | "her" | "its" | "their" | "the"
        );
        let in_or_on = matches!(self.doc.lowercase(chunk - 1).as_str(), "in" | "on" | "at");
        in_or_on && owned && (is_listed("setting", head) || is_listed("part", head))
    }

    /// Returns the token before which a noun is hedged, and the hedge.
    fn noun_hedge(&self, chunk: usize) -> (usize, &'static str) {
        let doc = self.doc;
        let start = doc.chunks[chunk].tokens.start;
        let head = doc.head(chunk);
        let joined = doc.word_tag(chunk + 1) == Some(WordTag::And) && doc.is_noun(chunk + 2);
        if !english::is_person(head) || joined {
            return (start, "what may be");
        }
        match (english::is_plural(head), doc.tokens[start].tag) {
            (true, WordTag::Count) => (start + 1, "people who may be"),
            (true, _) => (start, "people who may be"),
            (false, _) => (start, "someone who may be"),
        }
    }

    /// "It is a dog": "It may be a dog".
    fn after_be(&mut self, chunk: usize, span: usize) {
        let be = self.doc.chunks[chunk - 1].head;
        match self.doc.tokens[be].lower.as_str() {
            "is" | "are" | "am" => self.edits.replace(be, "may be", span),
            "was" | "were" => self.edits.replace(be, "may have been", span),
            _ => self.insert(chunk, "possibly", span),
        }
    }

    fn adjective(&mut self, chunk: usize, span: usize, sentence: std::ops::Range<usize>) {
        let tokens = self.doc.chunks[chunk].tokens.clone();
        let first = self
            .doc
            .flagged_tokens(chunk)
            .next()
            .unwrap_or(tokens.start);
        let all = self.doc.flagged_tokens(chunk).count()
            == tokens
                .clone()
                .filter(|&i| self.doc.tokens[i].tag == WordTag::Adjective)
                .count();
        if first == tokens.start && all && self.is_answer(chunk, chunk, &sentence) {
            self.edits
                .insert(first, self.doc.probability_word(span), span);
        } else if first == tokens.start
            && chunk > sentence.start
            && self.doc.word_tag(chunk - 1) == Some(WordTag::Be)
        {
            self.after_be(chunk, span);
        } else {
            let not = chunk > sentence.start && self.doc.word_tag(chunk - 1) == Some(WordTag::Not);
            self.edits
                .insert(if not { first - 1 } else { first }, "possibly", span);
        }
    }

    /// Inserts the hedge before the infinitive's "to", "not" and "being".
    fn verb(&mut self, chunk: usize, span: usize) {
        let before = |c: usize| {
            matches!(self.doc.word_tag(c), Some(WordTag::To | WordTag::Not))
                || self.doc.lowercase(c) == "being"
        };
        let mut at = chunk;
        while at > 0 && before(at - 1) {
            at -= 1;
        }
        let starts = at == 0
            || self.doc.word_tag(at - 1) == Some(WordTag::Mark)
                && matches!(self.doc.head(at - 1), "." | "!" | "?");
        self.insert(
            at,
            if starts {
                self.doc.probability_word(span)
            } else {
                "possibly"
            },
            span,
        );
    }

    fn preposition(&mut self, chunk: usize, span: usize, sentence: std::ops::Range<usize>) {
        // In "jumping up to catch", "up" belongs to the verb.
        let particle =
            chunk > sentence.start && self.doc.word_tag(chunk - 1) == Some(WordTag::Verb);
        let alone = self
            .doc
            .word_tag(chunk + 1)
            .is_some_and(|tag| tag != WordTag::Pronoun);
        if particle && alone && self.doc.word_tag(chunk + 1) != Some(WordTag::Mark) {
            return self.verb(chunk - 1, span);
        }
        let starts = self.starts(chunk, &sentence);
        self.insert(
            chunk,
            if starts {
                self.doc.probability_word(span)
            } else {
                "possibly"
            },
            span,
        );
    }
}
