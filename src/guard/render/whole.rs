//! Test for complete sentences: each has a subject and a predicate.

use std::ops::Range;

use super::parse::{Document, PhraseKind, WordTag};

/// Returns `true` if every sentence of a text has a subject and a predicate, and the text ends with
/// a sentence mark.
///
/// A participle suffices as a predicate, as in captions: "A dog running on grass." is complete, "A
/// dog on grass." is not. A form of "be", an auxiliary, a preposition or a conjunction needs
/// something after it: "Two dogs are." and "A man in front of a." are not complete.
pub fn is_whole(text: &str) -> bool {
    let doc = Document::new(text, &[], &[]);
    let ends = doc
        .tokens
        .iter()
        .rev()
        .find(|token| !matches!(token.text, "\"" | "'" | "”" | "’" | ")"));
    let has_words = |sentence: &&Range<usize>| {
        (*sentence)
            .clone()
            .any(|chunk| doc.word_tag(chunk) != Some(WordTag::Mark))
    };
    let mut sentences = doc.sentences.iter().filter(has_words).peekable();
    let is_ended = ends.is_some_and(|token| matches!(token.text, "." | "!" | "?"));
    is_ended
        && sentences.peek().is_some()
        && sentences.all(|sentence| is_clause(&doc, sentence.clone()))
}

/// Returns `true` if the chunks of a sentence have a subject, a predicate after it, and an end that
/// requires nothing more.
fn is_clause(doc: &Document<'_>, sentence: Range<usize>) -> bool {
    let words: Vec<usize> = sentence
        .filter(|&chunk| doc.word_tag(chunk) != Some(WordTag::Mark))
        .collect();
    let is_subject =
        |chunk: usize| doc.is_noun(chunk) || doc.word_tag(chunk) == Some(WordTag::Pronoun);
    let Some(subject) = words.iter().position(|&chunk| is_subject(chunk)) else {
        return false;
    };
    let after = &words[subject + 1..];
    let says = |(at, &chunk): (usize, &usize)| match doc.word_tag(chunk) {
        Some(WordTag::Verb) => true,
        Some(WordTag::Be | WordTag::Auxiliary) => {
            after[at + 1..].iter().any(|&rest| completes(doc, rest))
        }
        _ => false,
    };
    // In "There is a dog." the subject follows the verb; "There's" is both.
    let starts = words.first().is_some_and(|&chunk| {
        doc.word_tag(chunk) == Some(WordTag::Be) && doc.head(chunk).contains('\'')
    });
    let hidden = words.iter().any(|&chunk| ends_in_verb(doc, chunk));
    let has_predicate = after.iter().enumerate().any(says) || starts && words.len() > 1 || hidden;
    has_predicate
        && words
            .last()
            .is_some_and(|&chunk| !asks_for_more(doc, chunk))
}

/// Returns `true` if a chunk completes a form of "be" or an auxiliary.
fn completes(doc: &Document<'_>, chunk: usize) -> bool {
    doc.is_noun(chunk)
        || doc
            .chunks
            .get(chunk)
            .is_some_and(|chunk| chunk.kind == PhraseKind::Adjective)
        || doc.word_tag(chunk).is_some_and(|tag| {
            matches!(
                tag,
                WordTag::Verb | WordTag::Adverb | WordTag::Pronoun | WordTag::Preposition
            )
        })
}

/// Returns `true` if a noun phrase directly before another ends in a verb that the parser does not
/// know: "The photograph shows a dog."
fn ends_in_verb(doc: &Document<'_>, chunk: usize) -> bool {
    let found = &doc.chunks[chunk];
    let mut nouns = doc.tokens[found.tokens.clone()]
        .iter()
        .filter(|token| token.tag == WordTag::Noun);
    let last = nouns
        .next_back()
        .is_some_and(|token| token.lower.ends_with('s'));
    doc.is_noun(chunk) && doc.is_noun(chunk + 1) && last && nouns.next_back().is_some()
}

/// Returns `true` if a chunk cannot end a sentence.
fn asks_for_more(doc: &Document<'_>, chunk: usize) -> bool {
    // Prepositions that are adverbs as well may end a sentence: "A dog looks up."
    const ADVERBS: [&str; 16] = [
        "above", "across", "along", "around", "behind", "below", "by", "down", "in", "inside",
        "off", "on", "out", "outside", "over", "up",
    ];
    let head = doc.head(chunk);
    const OPEN: [&str; 11] = [
        "a", "an", "every", "his", "its", "my", "no", "our", "the", "their", "your",
    ];
    let last = &doc.tokens[doc.chunks[chunk].tokens.end - 1];
    match doc.word_tag(chunk) {
        Some(WordTag::Preposition) => !ADVERBS.contains(&head),
        Some(
            WordTag::And
            | WordTag::Subordinate
            | WordTag::Be
            | WordTag::Auxiliary
            | WordTag::To
            | WordTag::Not,
        ) => true,
        _ => {
            OPEN.contains(&last.lower.as_str()) || last.tag == WordTag::Owner || is_bare(doc, chunk)
        }
    }
}

/// Returns `true` if a noun phrase has an article and an adjective but no noun: "A brown."
fn is_bare(doc: &Document<'_>, chunk: usize) -> bool {
    let found = &doc.chunks[chunk];
    let (first, last) = (
        &doc.tokens[found.tokens.start],
        &doc.tokens[found.tokens.end - 1],
    );
    found.kind == PhraseKind::Noun
        && matches!(first.lower.as_str(), "a" | "an" | "the")
        && last.tag == WordTag::Adjective
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentence_is_whole_with_subject_and_predicate() {
        for whole in [
            "A dog runs through the grass.",
            "Dogs run.",
            "Two men are sitting on a bench!",
            "A man in a hat looks at it.",
            "A little girl wearing a red hat (she smiles).",
            "A dog and a cat play with each other.",
            "There is a dog on the grass.",
            "It's a dog.",
            "A dog is brown.",
            "The photograph shows a dog.",
            "A dog looks up.",
            "A man is riding a bike. A dog runs after him.",
            "A man says \"no smoking is allowed.\"",
        ] {
            assert!(is_whole(whole), "{whole}");
        }
        for broken in [
            "",
            ".",
            "A person.",
            "One black.",
            "A brown.",
            "Two brown women are.",
            "A man and a helmet.",
            "A woman with long hair on a red bench.",
            "A man in front of a building.",
            "A dog runs through the grass",
            "A man is standing in front of the.",
            "A man with a hat is sitting next to a.",
            "Two children are playing and.",
            "A boy is standing near.",
            "A man is riding a bike. A dog.",
            "Running.",
        ] {
            assert!(!is_whole(broken), "{broken}");
        }
    }
}
