//! Things that words let one expect: `entails.txt`.

use super::{ConceptId, Lexicon, Map};

/// Word to the concepts that it lets one expect.
pub(super) fn parse(text: &'static str, lexicon: &Lexicon) -> Map<&'static str, Vec<ConceptId>> {
    let mut table: Map<&str, Vec<ConceptId>> = Map::default();
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let Some((words, things)) = line.split_once(':') else {
            continue;
        };
        let things: Vec<ConceptId> = things
            .split_whitespace()
            .filter_map(|thing| lexicon.concept(thing))
            .collect();
        for word in words.split_whitespace() {
            table.entry(word).or_default().extend(&things);
        }
    }
    table
}
