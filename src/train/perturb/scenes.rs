//! Wrong actions and spatial relations.

use std::ops::Range;

use rand::{
    Rng,
    seq::{IndexedRandom, SliceRandom},
};

use super::{Edit, Perturber, Source};
use crate::lexicon::{self, Phrase, VerbForm};

/// Groups of similar actions, which do not replace each other.
const ALIKE: [&[&str]; 14] = [
    &[
        "run", "race", "jog", "sprint", "chase", "play", "dash", "rush", "walk",
    ],
    &["jump", "leap", "hop", "fly", "skip"],
    &["hold", "carry", "have", "grab", "grip", "clutch"],
    &[
        "look", "stare", "watch", "gaze", "peer", "view", "smile", "face",
    ],
    &["sit", "rest", "relax", "perch"],
    &["stand", "pose", "wait", "walk"],
    &["lie", "lay", "sleep", "rest"],
    &["walk", "stroll", "hike", "wander", "cross"],
    &["talk", "chat", "speak", "sing", "yell", "shout"],
    &["eat", "chew", "bite", "lick", "drink"],
    &["throw", "toss", "pitch"],
    &["catch", "fetch", "retrieve", "reach"],
    &["splash", "swim", "wade", "play"],
    &["wear", "dress"],
];

/// Relations with contradicting ones.
const RELATIONS: [(&str, &[&str]); 20] = [
    ("in front of", &["behind", "under", "on top of", "inside"]),
    ("behind", &["in front of", "under", "on"]),
    ("next to", &["under", "on top of", "behind", "inside"]),
    ("beside", &["under", "on top of", "inside"]),
    ("near", &["under", "inside", "on top of"]),
    ("on top of", &["under", "behind", "beside", "in front of"]),
    ("on", &["under", "behind", "in front of", "over", "above"]),
    ("in", &["under", "behind", "above", "outside", "over"]),
    ("under", &["on", "over", "on top of", "above"]),
    ("over", &["under", "behind", "beside"]),
    ("above", &["under", "below", "beneath"]),
    ("below", &["above", "over"]),
    ("inside", &["outside", "behind", "under"]),
    ("outside", &["inside", "in"]),
    ("into", &["out of", "over", "under"]),
    ("out of", &["into", "under"]),
    ("through", &["over", "around", "under", "above"]),
    ("across", &["under", "around", "behind"]),
    ("up", &["down"]),
    ("down", &["up"]),
];

impl Perturber {
    pub(super) fn action(&self, source: &Source<'_>, rng: &mut impl Rng) -> Option<Vec<Edit>> {
        let (words, references) = (lexicon::words(source.text), &source.references);
        let mut positions: Vec<usize> = (1..words.len().saturating_sub(1)).collect();
        positions.shuffle(rng);
        positions.into_iter().find_map(|i| {
            let (base, form) = self
                .lexicon
                .verbs()
                .analyze(&words[i].text)
                .filter(|(_, form)| *form != VerbForm::Base)?;
            let are_similar = |a: &str, b: &str| {
                ALIKE
                    .iter()
                    .any(|group| group.contains(&a) && group.contains(&b))
            };
            let is_named = |verb: &str| {
                references.has_word(verb)
                    || ALIKE
                        .iter()
                        .filter(|g| g.contains(&verb))
                        .any(|g| g.iter().any(|v| references.has_word(v)))
            };
            let seen = self.verbs.get(&(form, words[i + 1].text.clone()))?;
            let others: Vec<(&&str, &usize)> = seen
                .iter()
                .filter(|(verb, _)| **verb != base && !are_similar(verb, base) && !is_named(verb))
                .collect();
            let verb = others.choose_weighted(rng, |o| *o.1 as f64).ok()?.0;
            // Only words that the captions use as a verb here, judged by their count.
            (seen.get(base).copied().unwrap_or(0) > 1).then(|| {
                vec![Edit::wrong(
                    words[i].range.clone(),
                    self.lexicon.verbs().inflect(verb, form),
                )]
            })
        })
    }

    pub(super) fn relation(&self, source: &Source<'_>, rng: &mut impl Rng) -> Option<Vec<Edit>> {
        let mut phrases: Vec<&Phrase> = source.phrases.iter().collect();
        phrases.shuffle(rng);
        phrases.into_iter().find_map(|phrase| {
            let (relation, range) = relation_before(source.text, phrase.start)?;
            let opposites = RELATIONS.iter().find(|(r, _)| *r == relation)?.1;
            let is_named = |relation: &str| {
                source.texts.iter().any(|t| {
                    self.phrases_about(t, phrase)
                        .any(|p| relation_before(t, p.start).is_some_and(|(r, _)| r == relation))
                })
            };
            let fits =
                |r: &&&str| self.relations.contains(&(**r, phrase.mention.lemma)) && !is_named(r);
            let seen: Vec<&&str> = opposites.iter().filter(fits).collect();
            seen.choose(rng)
                .map(|word| vec![Edit::wrong(range, **word)])
        })
    }
}

/// Relation directly before byte `at`; the longest if one ends in another.
pub(super) fn relation_before(text: &str, at: usize) -> Option<(&'static str, Range<usize>)> {
    let before = text[..at].trim_end();
    let ends = |relation: &str| {
        before
            .strip_suffix(relation)
            .filter(|rest| rest.ends_with(' '))
            .map(|rest| rest.len()..before.len())
    };
    RELATIONS
        .iter()
        .filter_map(|(relation, _)| ends(relation).map(|range| (*relation, range)))
        .max_by_key(|(relation, _)| relation.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relation_before_takes_the_longest() {
        let text = "A dog sits in front of the house.";
        let at = text.find("the house").unwrap();
        assert_eq!(relation_before(text, at).unwrap().0, "in front of");
        assert_eq!(relation_before("A dog on the bed.", 9).unwrap().0, "on");
        assert_eq!(relation_before("A dog and the bed.", 10), None);
    }
}
