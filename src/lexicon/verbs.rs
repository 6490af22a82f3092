//! Verbs of action and their regular inflection.

use super::tables::{Map, Set};

/// Inflected form of a verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VerbForm {
    /// `run`
    Base,
    /// `runs`
    ThirdPerson,
    /// `running`
    Ing,
}

/// Every form of every verb of `words.txt`.
#[derive(Debug)]
pub struct VerbTable {
    forms: Map<String, (&'static str, VerbForm)>,
    doubling: Set<&'static str>,
}

impl VerbTable {
    /// Builds the table from base forms; a final `*` doubles the last consonant before `-ing`.
    pub(super) fn new(verbs: impl Iterator<Item = &'static str>) -> Self {
        let mut table = Self {
            forms: Map::default(),
            doubling: Set::default(),
        };
        for entry in verbs {
            let base = entry.trim_end_matches('*');
            if base.len() < entry.len() {
                table.doubling.insert(base);
            }
            for form in [VerbForm::Base, VerbForm::ThirdPerson, VerbForm::Ing] {
                let inflected = table.inflect(base, form);
                table.forms.entry(inflected).or_insert((base, form));
            }
        }
        table
    }

    /// Returns the verb of which a word is a form, and the form.
    pub fn analyze(&self, word: &str) -> Option<(&'static str, VerbForm)> {
        self.forms.get(word).copied()
    }

    /// Returns a form of a verb of the table.
    pub fn inflect(&self, base: &str, form: VerbForm) -> String {
        let stem = |cut: usize| &base[..base.len() - cut];
        let vowel_before_y = base.ends_with("ay") || base.ends_with("ey") || base.ends_with("oy");
        match form {
            VerbForm::Base => base.to_owned(),
            VerbForm::ThirdPerson if base == "go" || base == "do" => format!("{base}es"),
            VerbForm::ThirdPerson
                if ["s", "x", "z", "ch", "sh"]
                    .iter()
                    .any(|end| base.ends_with(end)) =>
            {
                format!("{base}es")
            }
            VerbForm::ThirdPerson if base.ends_with('y') && !vowel_before_y => {
                format!("{}ies", stem(1))
            }
            VerbForm::ThirdPerson => format!("{base}s"),
            VerbForm::Ing if base.ends_with("ie") => format!("{}ying", stem(2)),
            VerbForm::Ing
                if base.ends_with('e')
                    && !base.ends_with("ee")
                    && !base.ends_with("oe")
                    && !base.ends_with("ye") =>
            {
                format!("{}ing", stem(1))
            }
            VerbForm::Ing if self.doubling.contains(base) => {
                format!("{base}{}ing", &base[base.len() - 1..])
            }
            VerbForm::Ing => format!("{base}ing"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_inflect_by_rule() {
        let table = VerbTable::new(
            ["run*", "lie", "ride", "catch", "carry", "play", "eye", "go"].into_iter(),
        );
        for (base, third, ing) in [
            ("run", "runs", "running"),
            ("lie", "lies", "lying"),
            ("ride", "rides", "riding"),
            ("catch", "catches", "catching"),
            ("carry", "carries", "carrying"),
            ("play", "plays", "playing"),
            ("eye", "eyes", "eyeing"),
            ("go", "goes", "going"),
        ] {
            assert_eq!(table.inflect(base, VerbForm::ThirdPerson), third);
            assert_eq!(table.analyze(ing), Some((base, VerbForm::Ing)));
        }
        assert_eq!(table.analyze("dog"), None);
    }
}
