//! Penn Treebank tokens as captioning metrics use them.
//!
//! The reference is `pycocoevalcap` 1.2: `PTBTokenizer -preserveLines -lowerCase` of Stanford
//! CoreNLP 3.4.1, followed by the removal of punctuation. Its lexer is a list of regular
//! expressions of which the longest match wins, and so is this one ([`super::rules`]).
//!
//! One difference is intended. The reference joins all captions of a run with line breaks, and a
//! few abbreviations look at what follows, so a caption's last word can depend on the next caption.
//! Here every text is tokenized alone.

use std::sync::LazyLock;

use regex_automata::{
    Anchored, Input, MatchKind, PatternID,
    hybrid::{
        BuildError,
        dfa::{Cache, DFA},
    },
};

use super::rules::{PARTS, RULES};

/// Tokens that `pycocoevalcap` removes. It compares after lowercasing, so its `-LRB-` never matches
/// and brackets stay, as here.
const PUNCTUATION: [&str; 13] = [
    "''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";",
];

/// Rule that matches a token.
pub(super) struct Rule {
    /// Expression of the token itself.
    pub(super) token: &'static str,
    /// Expression that must follow. It counts for the length of the match but stays for the next
    /// token.
    pub(super) before: &'static str,
    /// Edit that turns the matched text into the token.
    pub(super) edit: TextEdit,
}

/// Edit of a match, in lower case.
#[derive(Clone, Copy)]
pub(super) enum TextEdit {
    /// The match is the token.
    Keep,
    /// Another text is the token; an empty one removes it.
    As(&'static str),
    /// All occurrences are replaced.
    Replace(&'static [(&'static str, &'static str)]),
}

/// The rules as lazy automata, whose states are built when texts need them.
struct Lexer {
    /// Matches a rule's token and what must follow.
    whole: DFA,
    /// Matches the token alone.
    token: DFA,
}

static LEXER: LazyLock<Lexer> = LazyLock::new(|| {
    Lexer::build().unwrap_or_else(|error| unreachable!("the rules are constants: {error}"))
});

impl Lexer {
    fn build() -> Result<Self, Box<BuildError>> {
        let mut parts: Vec<(String, String)> = Vec::new();
        for (name, body) in PARTS {
            parts.push((format!("{{{name}}}"), fill(body, &parts)));
        }
        let tokens: Vec<String> = RULES.iter().map(|rule| fill(rule.token, &parts)).collect();
        let whole = RULES
            .iter()
            .zip(&tokens)
            .map(|(rule, token)| format!("(?:{token})(?:{})", fill(rule.before, &parts)));
        // `All` makes a search continue to the longest match.
        let config = DFA::config()
            .match_kind(MatchKind::All)
            .starts_for_each_pattern(true)
            .skip_cache_capacity_check(true);
        let mut builder = DFA::builder();
        builder.configure(config);
        Ok(Self {
            whole: builder.build_many(&whole.collect::<Vec<_>>())?,
            token: builder.build_many(&tokens)?,
        })
    }
}

/// Replaces the names of parts by their expressions.
fn fill(text: &str, parts: &[(String, String)]) -> String {
    parts.iter().fold(text.to_owned(), |text, (name, body)| {
        text.replace(name, body)
    })
}

/// Tokenizer of many texts, which caches the automata's states.
pub(super) struct Tokenizer {
    whole: Cache,
    token: Cache,
    line: String,
    buffer: String,
}

impl Tokenizer {
    pub(super) fn new() -> Self {
        Self {
            whole: LEXER.whole.create_cache(),
            token: LEXER.token.create_cache(),
            line: String::new(),
            buffer: String::new(),
        }
    }

    /// Calls `word` for every word of a text. A token with a space inside, such as `1 1/2`, is
    /// several words.
    pub(super) fn each_word(&mut self, text: &str, mut word: impl FnMut(&str)) {
        // The reference reads each text as one line.
        self.line.clear();
        self.line.push_str(&text.replace('\n', " "));
        self.line.push('\n');
        let mut at = 0;
        while let Some(first) = self.line[at..].chars().next() {
            let Some((end, edit)) = self.longest(at) else {
                at += first.len_utf8();
                continue;
            };
            self.edit(at..end, edit);
            self.buffer
                .split_whitespace()
                .filter(|w| !PUNCTUATION.contains(w))
                .for_each(&mut word);
            at = end;
        }
    }

    /// End and edit of the longest token at byte `at`.
    fn longest(&mut self, at: usize) -> Option<(usize, TextEdit)> {
        let input = Input::new(&self.line).range(at..).anchored(Anchored::Yes);
        let found = LEXER.whole.try_search_fwd(&mut self.whole, &input).ok()??;
        let rule = &RULES[found.pattern()];
        if rule.before.is_empty() {
            return Some((found.offset(), rule.edit));
        }
        Some((
            self.token_end(at, found.offset(), found.pattern())?,
            rule.edit,
        ))
    }

    /// Returns the end of the token at byte `at` by a rule that also matched what follows, up to
    /// `end`.
    fn token_end(&mut self, at: usize, end: usize, rule: PatternID) -> Option<usize> {
        let last = self.line[at..end].chars().next_back()?;
        let input = Input::new(&self.line)
            .range(at..end - last.len_utf8())
            .anchored(Anchored::Pattern(rule));
        Some(
            LEXER
                .token
                .try_search_fwd(&mut self.token, &input)
                .ok()??
                .offset(),
        )
    }

    /// Writes the edited token to the buffer.
    fn edit(&mut self, range: std::ops::Range<usize>, edit: TextEdit) {
        self.buffer.clear();
        let text = &self.line[range];
        match edit {
            TextEdit::As(token) => return self.buffer.push_str(token),
            _ if text.is_ascii() => {
                self.buffer.push_str(text);
                self.buffer.make_ascii_lowercase();
            }
            _ => self.buffer.push_str(&text.to_lowercase()),
        }
        if let TextEdit::Replace(pairs) = edit {
            for (from, to) in pairs {
                if self.buffer.contains(from) {
                    self.buffer = self.buffer.replace(from, to);
                }
            }
        }
    }
}

/// Words of a text as BLEU, ROUGE and CIDEr count them: Penn Treebank tokens in lower case without
/// punctuation.
pub fn words(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    Tokenizer::new().each_word(text, |word| found.push(word.to_owned()));
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Expected words are the Java program's output.
    const CASES: &[(&str, &str)] = &[
        ("A man , a plan ; and : a dog ...", "a man a plan and a dog"),
        (
            "The man's dogs' bowls aren't the boys' . I'll say they've won't",
            "the man 's dogs bowls are n't the boys i 'll say they 've wo n't",
        ),
        (
            "He cannot , gonna , gimme , 'tis , dont , CAN'T",
            "he can not gon na gim me 't is dont ca n't",
        ),
        (
            "\"A quoted\" ``dog'' 'so' it's ‘said’ “again”",
            "a quoted dog so it 's said again",
        ),
        (
            "(a) [b] {c} <d >",
            "-lrb- a -rrb- -lsb- b -rsb- -lcb- c -rcb- <d\u{A0}>",
        ),
        (
            "Mr. Lee of St. Ives vs. the U.S. team etc.",
            "mr. lee of st. ives vs. the u.s. team etc.",
        ),
        (
            "It was ill. Ill. is a state. A car wash. No. 5, no. He sits",
            "it was ill ill. is a state a car wash no. 5 no he sits",
        ),
        (
            "Letter A. The man, letter B. man",
            "letter a the man letter b. man",
        ),
        (
            "well-dressed -- and/or black-and-white – a T-shirt--red",
            "well-dressed and/or black-and-white a t-shirt red",
        ),
        (
            "$5 US$5 50% 1,000 3.5 1/2 ½ 1st '90s 10:30 12/25/2010",
            "$ 5 us$ 5 50 % 1,000 3.5 1/2 1/2 1st '90s 10:30 12/25/2010",
        ),
        (
            "black&white AT&T R&B a & b &amp; c",
            "black & white at&t r&b a & b & c",
        ),
        (
            "a café in Ávila , 3 € , 2 £ , 日本 😀",
            "a café in ávila 3 $ 2 # 日本",
        ),
        (
            "What?! No!! wow! a? dog.The dog",
            "what ?! no !! wow a dog.the dog",
        ),
        (
            "mail a@b.com, see www.foo.com. @home #tag :) foo.jpg",
            "mail a@b.com, see www.foo.com @home #tag :-rrb- foo.jpg",
        ),
        (
            "o'clock rock'n'roll y'all O'Neil ma'am c'mon",
            "o'clock rock 'n' roll y' all o'neil ma'am c'mon",
        ),
        (
            "two\nlines and\ttabs\u{A0}here 555-1234",
            "two lines and tabs here 555-1234",
        ),
        (" . ", ""),
    ];

    #[test]
    fn words_equal_those_of_the_java_tokenizer() {
        for (text, want) in CASES {
            assert_eq!(
                words(text),
                want.split_whitespace().collect::<Vec<_>>(),
                "{text}"
            );
        }
    }

    #[test]
    fn tokenizer_keeps_nothing_between_texts() {
        let mut tokenizer = Tokenizer::new();
        for (text, want) in CASES.iter().chain(CASES) {
            let mut found = Vec::new();
            tokenizer.each_word(text, |word| found.push(word.to_owned()));
            assert_eq!(found, want.split_whitespace().collect::<Vec<_>>(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn words_of_any_text_do_not_panic(text in "(\\PC|[a-zA-Z'&;.\\-\n ]){0,40}") {
            for word in words(&text) {
                prop_assert!(!word.is_empty() && !PUNCTUATION.contains(&word.as_str())
                    && !word.contains(char::is_whitespace));
            }
        }

        #[test]
        fn words_between_spaces_are_independent(plain in prop::collection::vec("[b-z][a-z]{2,8}",
            0..12)) {
            prop_assume!(plain.iter()
                .all(|w| !["cannot", "gonna", "wanna", "gotta", "lemme",
                    "gimme"].contains(&w.as_str())));
            prop_assert_eq!(words(&plain.join(" ")), plain);
        }
    }
}
