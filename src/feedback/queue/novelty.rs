//! Novelty of a thing by how often an owner's feedback has been about it: an order that others'
//! feedback changed would tell of it.

use std::collections::HashMap;

use crate::{
    feedback::record::Feedback,
    lexicon::{ConceptId, Lexicon},
};

/// Records of each owner that mention each thing of the lexicon, which bounds their number.
#[derive(Debug, Default)]
pub struct Novelty(HashMap<String, HashMap<ConceptId, u32>>);

impl Novelty {
    /// Counts the things that the record's answer and its corrections name.
    pub fn learn(&mut self, record: &Feedback) {
        let corrections = record
            .errors
            .iter()
            .filter_map(|error| error.correction.as_deref());
        let texts = corrections
            .chain(record.missing.iter().map(String::as_str))
            .chain([record.response.as_str()]);
        let mut things: Vec<ConceptId> = texts
            .flat_map(|text| Lexicon::shared().mentions(text))
            .map(|mention| mention.concept)
            .collect();
        things.sort_unstable();
        things.dedup();
        let counts = self.0.entry(record.owner.clone()).or_default();
        for thing in things {
            let seen = counts.entry(thing).or_default();
            *seen = seen.saturating_add(1);
        }
    }

    /// Returns how new a thing is to an owner, 0 to 1: the bonus of count-based exploration,
    /// `1/√(1 + n)` (Strehl and Littman, 2008).
    pub fn of(&self, owner: &str, thing: ConceptId) -> f64 {
        let seen = self
            .0
            .get(owner)
            .and_then(|counts| counts.get(&thing))
            .copied()
            .unwrap_or_default();
        1.0 / (1.0 + f64::from(seen)).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn what_one_owner_has_corrected_is_new_to_others() {
        let record: Feedback = from_value(json!({
            "id": "fb_1", "created": 1, "owner": "a", "image": "0".repeat(64), "prompt": "",
            "response": "A dog.", "tokens": [], "kind": "good",
            "versions": {}
        }))
        .unwrap();
        let dog = Lexicon::shared()
            .mentions("A dog.")
            .into_iter()
            .next()
            .unwrap()
            .concept;
        let mut novelty = Novelty::default();
        novelty.learn(&record);
        assert!(novelty.of("a", dog) < 1.0);
        assert_eq!((novelty.of("b", dog), novelty.of("", dog)), (1.0, 1.0));
    }
}
