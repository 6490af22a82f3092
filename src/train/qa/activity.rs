//! Parsing of a caption's first clause into subject, activity, place and clothing.

use crate::lexicon::{ConceptId, ConceptKind, Lexicon, Phrase, TextWord, VerbForm, words};

/// Maximum words of an answer.
const MAX_ANSWER: usize = 12;
/// Maximum words between a subject and its verb.
const MAX_ATTACHED: usize = 6;
/// Prepositions of location, not of direction.
const PLACES: [&str; 12] = [
    "in", "on", "at", "near", "by", "beside", "under", "inside", "outside", "behind", "against",
    "among",
];
/// Verbs that do not answer "What is he doing?".
const STATES: [&str; 5] = ["wear", "show", "get", "start", "try"];

/// First clause of a caption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Clause {
    /// `the black dog`
    pub(super) subject: String,
    pub(super) plural: bool,
    /// Concept of the subject.
    pub(super) concept: ConceptId,
    /// `running through the grass`
    pub(super) doing: Option<String>,
    /// `in the snow`
    pub(super) place: Option<String>,
    /// `a red shirt and a hat`
    pub(super) wearing: Option<String>,
}

/// Parses the first clause of a normalized caption.
pub(super) fn clause(lexicon: &Lexicon, caption: &str) -> Option<Clause> {
    let caption = caption.trim_end_matches('.').to_lowercase();
    let reader = Reader {
        lexicon,
        caption: &caption,
        words: words(&caption),
        phrases: lexicon.phrases(&caption),
    };
    let subject = reader
        .phrases
        .first()
        .filter(|p| p.start == reader.words[0].range.start && reader.is_alive(p))?;
    let after = reader.word_at(subject.mention.range.end)?;
    let (from, verb) = reader.verb_after(after, subject.mention.plural)?;
    let attached = &caption[subject.mention.range.end..reader.words[from - 1].range.end];
    Some(Clause {
        subject: format!("{}{attached}", reader.definite(subject)?),
        plural: subject.mention.plural,
        concept: subject.mention.concept,
        doing: reader.doing(verb),
        place: reader.place(from),
        wearing: reader.wearing(from),
    })
}

struct Reader<'a> {
    lexicon: &'a Lexicon,
    caption: &'a str,
    words: Vec<TextWord>,
    phrases: Vec<Phrase>,
}

impl Reader<'_> {
    fn is_alive(&self, phrase: &Phrase) -> bool {
        matches!(
            self.lexicon.kind(phrase.mention.concept),
            ConceptKind::Person | ConceptKind::Animal
        )
    }

    /// Index of the first word that begins at or after `byte`.
    fn word_at(&self, byte: usize) -> Option<usize> {
        let at = self.words.partition_point(|w| w.range.start < byte);
        (at < self.words.len()).then_some(at)
    }

    fn text(&self, at: usize) -> &str {
        self.words.get(at).map_or("", |w| w.text.as_str())
    }

    fn verb(&self, at: usize) -> Option<(&'static str, VerbForm)> {
        self.lexicon.verbs().analyze(self.text(at))
    }

    /// Index where the predicate begins (`is running` or `running`) and index of its verb,
    /// searching from the word after the subject.
    fn verb_after(&self, after: usize, plural: bool) -> Option<(usize, usize)> {
        let be = if plural { "are" } else { "is" };
        let agreeing = if plural {
            VerbForm::Base
        } else {
            VerbForm::ThirdPerson
        };
        if !self.words[after].joined {
            return None;
        }
        if self
            .verb(after)
            .is_some_and(|(_, form)| form == VerbForm::Ing || form == agreeing)
        {
            return Some((after, after));
        }
        // In "a man in a red jacket is standing" no other being and no other clause may intervene.
        let attached = ["in", "with", "on"].contains(&self.text(after));
        let reach = if attached {
            after + MAX_ATTACHED
        } else {
            after
        };
        let from = (after..=reach).find(|&i| self.text(i) == be)?;
        let between = &self.words[after..from];
        let others = self
            .phrases
            .iter()
            .skip(1)
            .any(|p| self.is_alive(p) && p.start < self.words[from].range.start);
        let plain = between.iter().all(|w| {
            w.joined && !["and", "that", "who", "while", "is", "are"].contains(&w.text.as_str())
        });
        let ing = self
            .verb(from + 1)
            .is_some_and(|(_, form)| form == VerbForm::Ing)
            && self.words[from + 1].joined;
        (!others && plain && ing).then_some((from, from + 1))
    }

    /// Definite form of a phrase: `the black dog` for `a black dog`.
    fn definite(&self, phrase: &Phrase) -> Option<String> {
        let noun = &self.caption[phrase.start..phrase.mention.range.end];
        match phrase.determiner.as_deref() {
            None if phrase.count.as_ref().is_some_and(|c| c.group == 1) => None,
            None => Some(format!("the {noun}")),
            Some(word @ ("a" | "an" | "the" | "some" | "several" | "many")) => {
                Some(format!("the{}", &noun[word.len()..]))
            }
            Some(_) => None,
        }
    }

    /// Index after the last word of the clause whose verb is at `verb`.
    fn clause_end(&self, verb: usize) -> usize {
        let finite = |i: usize| match self.text(i) {
            "is" | "are" | "has" | "have" => true,
            _ => {
                self.verb(i)
                    .is_some_and(|(_, form)| form == VerbForm::ThirdPerson)
                    && !self.in_phrase(i)
                    && self.words[i].joined
            }
        };
        let ends = |i: usize| {
            let word = &self.words[i];
            let conjunction = [
                "while", "as", "who", "which", "that", "but", "so", "one", "when", "where", "than",
            ]
            .contains(&word.text.as_str());
            let base_verb = self
                .verb(i + 1)
                .is_some_and(|(_, form)| form == VerbForm::Base)
                && !self.in_phrase(i + 1);
            let second_clause =
                word.text == "and" && (base_verb || (i + 1..self.words.len()).any(finite));
            !word.joined || conjunction || second_clause || finite(i)
        };
        (verb + 1..self.words.len())
            .find(|&i| ends(i))
            .unwrap_or(self.words.len())
    }

    fn in_phrase(&self, at: usize) -> bool {
        self.words.get(at).is_some_and(|w| {
            self.phrases
                .iter()
                .any(|p| p.start <= w.range.start && w.range.end <= p.mention.range.end)
        })
    }

    /// Predicate as an answer to "What is he doing?".
    fn doing(&self, verb: usize) -> Option<String> {
        let (base, _) = self.verb(verb)?;
        let end = self.clause_end(verb);
        if STATES.contains(&base) || end - verb > MAX_ANSWER || self.is_dangling(end - 1) {
            return None;
        }
        let ing = self.lexicon.verbs().inflect(base, VerbForm::Ing);
        Some(format!(
            "{ing}{}",
            &self.caption[self.words[verb].range.end..self.words[end - 1].range.end]
        ))
    }

    /// Returns `true` if a phrase cannot end with this word.
    fn is_dangling(&self, at: usize) -> bool {
        let word = self.text(at);
        [
            "the", "a", "an", "and", "of", "to", "with", "from", "for", "his", "her", "its",
            "their", "being", "is", "are", "'s",
        ]
        .contains(&word)
            || word == "at"
    }

    /// Place at the end of the clause: `in the snow`.
    fn place(&self, from: usize) -> Option<String> {
        let end = self.clause_end(from + 1);
        let last = self.words.get(end.checked_sub(1)?)?.range.end;
        let phrase = self.phrases.iter().find(|p| p.mention.range.end == last)?;
        let first = self
            .words
            .iter()
            .position(|w| w.range.start == phrase.start)?;
        let relation = first
            .checked_sub(1)
            .filter(|&i| i > from && PLACES.contains(&self.text(i)) && self.words[first].joined)?;
        let lexicon = self.lexicon;
        // Scenery may precede the place, and beings may precede scenery; "plays a game on a screen"
        // gives no place.
        let is_scenery = |p: &Phrase| {
            matches!(
                lexicon.kind(p.mention.concept),
                ConceptKind::Object | ConceptKind::Substance | ConceptKind::Plant
            )
        };
        let mut between = self
            .phrases
            .iter()
            .filter(|p| p.start > self.words[from].range.start && p.start < phrase.start);
        let watches = (from..from + 2).any(|i| {
            self.verb(i)
                .is_some_and(|(base, _)| ["watch", "look", "stare", "point"].contains(&base))
        });
        if !between.all(|p| is_scenery(p) || is_scenery(phrase) && self.is_alive(p) && !watches) {
            return None;
        }
        let worn = lexicon
            .concept("clothing")
            .is_some_and(|c| lexicon.is_a(phrase.mention.concept, c))
            || ["suit", "glasses"].contains(&phrase.mention.lemma);
        let fits = match lexicon.kind(phrase.mention.concept) {
            ConceptKind::Object | ConceptKind::Substance | ConceptKind::Plant => {
                phrase.determiner.is_some()
                    || lexicon.kind(phrase.mention.concept) == ConceptKind::Substance
            }
            ConceptKind::Artifact => !worn && phrase.determiner.is_some(),
            _ => false,
        };
        // As in "surrounded by the trees".
        let passive = self.text(relation) == "by" && self.text(relation - 1).ends_with("ed");
        // "Looks at the water" gives the target of the look.
        let goal = ["at", "on"].contains(&self.text(relation))
            && self.verb(relation - 1).is_some_and(|(base, _)| {
                ["look", "stare", "point", "work", "gaze"].contains(&base)
            });
        (fits && !goal && !passive)
            .then(|| self.caption[self.words[relation].range.start..last].to_owned())
    }

    /// Clothing after `wearing`: nouns joined by `and` or commas.
    fn wearing(&self, from: usize) -> Option<String> {
        let at =
            (from..from + 2).find(|&i| self.verb(i).is_some_and(|(base, _)| base == "wear"))?;
        let is_part = |i: usize| {
            let next_in_phrase = self.in_phrase(i + 1);
            self.in_phrase(i) || (["and", "a", "an"].contains(&self.text(i)) && next_in_phrase)
        };
        let end = (at + 1..self.words.len())
            .find(|&i| !is_part(i))
            .unwrap_or(self.words.len());
        if self.text(at + 1) == "the" {
            return None;
        }
        let clothing = self
            .caption
            .get(self.words.get(at + 1)?.range.start..self.words[end - 1].range.end)?;
        let worn = |p: &Phrase| {
            matches!(
                self.lexicon.kind(p.mention.concept),
                ConceptKind::Artifact | ConceptKind::Substance
            )
        };
        let inside = |p: &&Phrase| {
            (self.words[at].range.end..self.words[end - 1].range.end).contains(&p.start)
        };
        let complete = end == self.words.len()
            || !self.lexicon.classes().is_adjective(self.text(end))
                && self.text(end) != "'s"
                && self.text(end) != "of";
        (end > at + 1 && complete && self.phrases.iter().filter(inside).all(worn))
            .then(|| clothing.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(caption: &str) -> Clause {
        clause(Lexicon::shared(), caption).unwrap_or_else(|| panic!("no clause in {caption}"))
    }

    #[test]
    fn clause_examples_are_parsed() {
        for (caption, subject, doing, place) in [
            (
                "A black dog is running after a white dog in the snow.",
                "the black dog",
                Some("running after a white dog in the snow"),
                Some("in the snow"),
            ),
            (
                "Two dogs play together in the snow.",
                "the two dogs",
                Some("playing together in the snow"),
                Some("in the snow"),
            ),
            (
                "A man in a red jacket is standing on a hill.",
                "the man in a red jacket",
                Some("standing on a hill"),
                Some("on a hill"),
            ),
            (
                "A boy runs and jumps into the water.",
                "the boy",
                Some("running"),
                None,
            ),
            (
                "A girl swings while a boy watches.",
                "the girl",
                Some("swinging"),
                None,
            ),
            (
                "Dogs race on a track.",
                "the dogs",
                Some("racing on a track"),
                Some("on a track"),
            ),
        ] {
            let clause = read(caption);
            assert_eq!(
                (
                    clause.subject.as_str(),
                    clause.doing.as_deref(),
                    clause.place.as_deref()
                ),
                (subject, doing, place),
                "{caption}"
            );
        }
        assert_eq!(
            read("A man wearing a red hat and blue jeans sits.")
                .wearing
                .as_deref(),
            Some("a red hat and blue jeans")
        );
        assert_eq!(clause(Lexicon::shared(), "The ball rolls."), None);
        assert_eq!(clause(Lexicon::shared(), ""), None);
    }
}
