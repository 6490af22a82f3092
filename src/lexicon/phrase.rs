//! Noun phrases: a mention with its determiner, number, colors, size and material.

use std::ops::Range;

use super::{
    Lexicon, Mention,
    words::{TextWord, words},
};

/// Attribute of an object, comparable within its class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// Group of synonyms in the class.
    pub group: usize,
    /// Byte range in the text.
    pub range: Range<usize>,
}

/// Mention with the words of its noun phrase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phrase {
    /// Mention.
    pub mention: Mention,
    /// First byte of the phrase, its determiner included.
    pub start: usize,
    /// Determiner, in lower case.
    pub determiner: Option<String>,
    /// Number word; the group is the number.
    pub count: Option<Attribute>,
    /// `true` if a vague count such as `several` precedes the noun.
    pub vague: bool,
    /// Colors, in order.
    pub colors: Vec<Attribute>,
    /// Sizes.
    pub sizes: Vec<Attribute>,
    /// Materials.
    pub materials: Vec<Attribute>,
}

impl Phrase {
    /// Returns the distinct color groups, sorted.
    pub fn color_groups(&self) -> Vec<usize> {
        let mut groups: Vec<usize> = self.colors.iter().map(|c| c.group).collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// Returns the number of objects that the phrase states: its number, or 1 for `a dog`.
    pub fn number(&self) -> Option<usize> {
        match (&self.count, self.determiner.as_deref()) {
            (Some(count), _) => Some(count.group),
            (None, Some("a" | "an" | "the" | "another" | "his" | "her" | "its"))
                if !self.mention.plural && !self.vague =>
            {
                Some(1)
            }
            _ => None,
        }
    }
}

impl Lexicon {
    /// Returns the mentions in a text, each with its phrase.
    pub fn phrases(&self, text: &str) -> Vec<Phrase> {
        let words = words(text);
        self.phrases_in(&words, &self.mentions_in(&words))
    }

    /// Returns [`Self::phrases`] of a text whose words and mentions are known.
    pub(super) fn phrases_in(&self, words: &[TextWord], mentions: &[Mention]) -> Vec<Phrase> {
        let is_modifier = |word: &TextWord| {
            mentions.iter().any(|m| {
                m.modifier && m.range.start <= word.range.start && word.range.end <= m.range.end
            })
        };
        mentions
            .iter()
            .filter(|m| !m.modifier)
            .filter_map(|mention| {
                let at = words
                    .iter()
                    .position(|w| w.range.start == mention.range.start)?;
                Some(self.phrase_before(words, at, mention.clone(), is_modifier))
            })
            .collect()
    }

    /// Extends a phrase backward from its noun.
    fn phrase_before(
        &self,
        words: &[TextWord],
        at: usize,
        mention: Mention,
        is_modifier: impl Fn(&TextWord) -> bool,
    ) -> Phrase {
        let start = mention.range.start;
        let mut phrase = Phrase {
            mention,
            start,
            determiner: None,
            count: None,
            vague: false,
            colors: vec![],
            sizes: vec![],
            materials: vec![],
        };
        let mut i = at;
        while i > 0 {
            let word = &words[i - 1];
            // "black, white and brown dog": commas and "and" join colors only.
            let color_before = |i: usize| i > 0 && self.colors_in(&words[i - 1]).is_some();
            let list = color_before(i) && self.colors_in(&words[i]).is_some();
            if !words[i].joined && !list {
                break;
            }
            let joins = word.text == "and"
                && !phrase.colors.is_empty()
                && color_before(i - 1)
                && self.colors_in(&words[i]).is_some();
            if !(joins || is_modifier(word) || self.add_word(word, &mut phrase)) {
                break;
            }
            phrase.start = word.range.start;
            i -= 1;
            if phrase.determiner.is_some() {
                break;
            }
        }
        phrase.colors.reverse();
        phrase
    }

    /// Returns the colors of a word: `blue`, `black-and-white`.
    fn colors_in(&self, word: &TextWord) -> Option<Vec<usize>> {
        word.text
            .split('-')
            .filter(|&part| part != "and")
            .map(|part| self.classes.color(part))
            .collect()
    }

    /// Adds a word to the phrase; returns `false` if it is not part of it.
    fn add_word(&self, word: &TextWord, phrase: &mut Phrase) -> bool {
        let classes = &self.classes;
        let attribute = |group| Attribute {
            group,
            range: word.range.clone(),
        };
        if let Some(count) = classes.count(&word.text).filter(|_| phrase.count.is_none()) {
            phrase.count = Some(attribute(count));
        } else if classes.is_determiner(&word.text) || word.text == "'s" {
            phrase.vague |= classes.is_vague_count(&word.text);
            phrase.determiner = Some(word.text.clone());
        } else if let Some(groups) = self.colors_in(word) {
            phrase
                .colors
                .extend(groups.into_iter().rev().map(attribute));
        } else if let Some(group) = classes.size(&word.text) {
            phrase.sizes.push(attribute(group));
        } else if let Some(group) = classes.material(&word.text) {
            phrase.materials.push(attribute(group));
        } else {
            let looks_like_adjective =
                word.text.contains('-') || word.text.len() > 4 && word.text.ends_with("ed");
            return classes.is_adjective(&word.text) || looks_like_adjective;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrase_has_all_words_of_its_noun() {
        let text = "Two small black and white dogs, a brown-and-white cat, and a wooden table with \
                    the light blue cup.";
        let phrases = Lexicon::shared().phrases(text);
        let starts: Vec<&str> = phrases
            .iter()
            .map(|p| &text[p.start..p.mention.range.end])
            .collect();
        assert_eq!(
            starts,
            [
                "Two small black and white dogs",
                "a brown-and-white cat",
                "a wooden table",
                "the light blue cup"
            ]
        );
        assert_eq!(phrases[0].number(), Some(2));
        assert_eq!(
            phrases[0]
                .colors
                .iter()
                .map(|c| &text[c.range.clone()])
                .collect::<Vec<_>>(),
            ["black", "white"]
        );
        assert_eq!(phrases[0].sizes.len(), 1);
        assert_eq!(phrases[1].color_groups().len(), 2);
        assert_eq!(
            (phrases[2].materials.len(), phrases[2].number()),
            (1, Some(1))
        );
    }

    #[test]
    fn phrase_ends_where_another_begins() {
        let text = "A man wearing red and a dog chase several balls.";
        let phrases = Lexicon::shared().phrases(text);
        assert_eq!(
            &text[phrases[1].start..phrases[1].mention.range.end],
            "a dog"
        );
        assert!(phrases.iter().all(|p| p.colors.is_empty()));
        assert!(phrases[2].vague && phrases[2].number().is_none());
    }
}
