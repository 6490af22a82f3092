//! Stop strings in a growing text.

/// Stop strings and the length of text already searched.
#[derive(Debug, Clone)]
pub(crate) struct StopStrings {
    strings: Vec<String>,
    longest: usize,
    searched: usize,
}

impl StopStrings {
    /// Creates a search for `strings`; empty strings are ignored.
    pub(crate) fn new(mut strings: Vec<String>) -> Self {
        strings.retain(|s| !s.is_empty());
        Self {
            longest: strings.iter().map(String::len).max().unwrap_or(0),
            strings,
            searched: 0,
        }
    }

    /// Returns a copy for a text that starts over.
    pub(crate) fn restarted(&self) -> Self {
        Self {
            searched: 0,
            ..self.clone()
        }
    }

    /// Returns the byte offset of the first stop string in `text`, which may only have grown since
    /// the last call.
    pub(crate) fn find(&mut self, text: &str) -> Option<usize> {
        let mut from = (self.searched + 1).saturating_sub(self.longest);
        while !text.is_char_boundary(from) {
            from -= 1;
        }
        self.searched = text.len();
        self.strings
            .iter()
            .filter_map(|s| text[from..].find(s.as_str()))
            .min()
            .map(|at| from + at)
    }

    /// Returns the length in bytes of the longest suffix of `text` that could begin a stop string.
    pub(crate) fn pending_len(&self, text: &str) -> usize {
        let begun = |s: &String| {
            (1..s.len())
                .rev()
                .find(|&k| s.is_char_boundary(k) && text.ends_with(&s[..k]))
        };
        self.strings.iter().filter_map(begun).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_stop_string_wins_and_its_prefix_is_held_back() {
        let mut stop = StopStrings::new(vec!["END".into(), String::new(), "\n\n".into()]);
        assert_eq!((stop.find("a EN"), stop.pending_len("a EN")), (None, 2));
        assert_eq!(
            (stop.find("a ENd\n"), stop.pending_len("a ENd\n")),
            (None, 1)
        );
        assert_eq!(stop.find("a ENd\n\nEND"), Some(5));
    }

    proptest! {
        #[test]
        fn a_growing_text_stops_like_the_whole_text(
            text in "[abé]{0,24}", strings in proptest::collection::vec("[abé]{0,4}", 0..3),
            step in 1usize..4,
        ) {
            let chars: Vec<char> = text.chars().collect();
            let mut stop = StopStrings::new(strings.clone());
            let (mut grown, mut shown, mut found) = (String::new(), 0, None);
            for piece in chars.chunks(step) {
                grown.extend(piece);
                found = stop.find(&grown);
                if found.is_some() {
                    break;
                }
                shown = grown.len() - stop.pending_len(&grown);
                prop_assert!(grown.is_char_boundary(shown));
            }
            let whole = strings.iter().filter(|s| !s.is_empty())
                .filter_map(|s| grown.find(s.as_str())).min();
            prop_assert_eq!(found, whole);
            prop_assert!(found.is_none_or(|at| shown <= at), "text of the stop string was shown");
            prop_assert!(found.is_some() || strings.iter().all(|s| s.is_empty()
                || !text.contains(s.as_str())));
        }
    }
}
