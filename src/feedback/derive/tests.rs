use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::{
    bundle::Bundle,
    feedback::{
        fold::words,
        submission::{ErrorSpan, Judgment},
        tokens::tokenize,
    },
    vlm::{
        processor::casing::Casing, processor::tokenizer::TextTokenizer,
        processor::vocabulary::PolicyVocabulary,
    },
};

/// Vocabulary of the embedded bundle, with letters of any case.
fn vocabulary() -> &'static PolicyVocabulary {
    static VOCABULARY: LazyLock<PolicyVocabulary> = LazyLock::new(|| PolicyVocabulary {
        casing: Casing::Mixed,
        ..Bundle::vocabulary_of("candor-mini").unwrap()
    });
    &VOCABULARY
}

fn tokenizer() -> &'static TextTokenizer {
    &vocabulary().tokenizer
}

fn subject(response: &str) -> JudgedAnswer {
    JudgedAnswer {
        owner: "shop".to_owned(),
        completion: None,
        image: ImageHash::digest(b"image"),
        prompt: String::new(),
        response: response.to_owned(),
        tokens: tokenize(vocabulary(), response).unwrap(),
        versions: Versions::default(),
        unassisted: false,
        flagged: None,
        queued: None,
        user: None,
    }
}

fn derived(response: &str, submission: &Submission) -> Result<Feedback, SubmissionRefusal> {
    let stamp = RecordStamp {
        id: "fb_1".to_owned(),
        created: 1,
        annotator_owner: "studio".to_owned(),
    };
    derive(subject(response), submission, stamp, |text, begins| {
        vocabulary().encode(text, begins)
    })
}

fn wrong(start: usize, end: usize, correction: &str) -> ErrorSpan {
    ErrorSpan {
        start,
        end,
        correction: Some(correction.to_owned()),
        ..ErrorSpan::default()
    }
}

fn labels(feedback: &Feedback) -> String {
    let letter = |label| match label {
        TokenLabel::Good => 'g',
        TokenLabel::Bad => 'b',
        TokenLabel::None => '-',
    };
    feedback
        .tokens
        .iter()
        .map(|token| letter(token.label))
        .collect()
}

const DOG: &str = "A dog is chewing on a blue collar.";

#[test]
fn tokens_after_first_error_are_unlabeled() {
    let first = Submission {
        error: Some(wrong(2, 5, "cat")),
        ..Submission::default()
    };
    let record = derived(DOG, &first).unwrap();
    assert_eq!(
        (record.kind, record.scope, labels(&record).as_str()),
        (JudgmentKind::Bad, Some(JudgedPart::FirstError), "gb-------")
    );
    let error = &record.errors[0];
    assert_eq!(
        (
            error.text.as_str(),
            error.partial_caption.as_str(),
            error.token_start..error.token_end
        ),
        ("dog", "A ", 1..2)
    );
    assert_eq!(error.error_tokens, [record.tokens[1].id]);
    assert_eq!(
        tokenizer().decode(error.corrected_tokens.as_ref().unwrap()),
        " cat"
    );
    assert_eq!(
        record.corrected().unwrap(),
        "A cat is chewing on a blue collar."
    );
}

#[test]
fn tokens_beside_all_errors_are_good() {
    let errors = vec![
        ErrorSpan {
            start: 27,
            end: 33,
            remove: true,
            ..ErrorSpan::default()
        },
        ErrorSpan {
            start: 2,
            end: 5,
            ..ErrorSpan::default()
        },
    ];
    let record = derived(
        DOG,
        &Submission {
            errors: Some(errors),
            ..Submission::default()
        },
    )
    .unwrap();
    assert_eq!(
        (record.scope, labels(&record).as_str()),
        (Some(JudgedPart::AllErrors), "gbgggggbg")
    );
    let [dog, collar] = &record.errors[..] else {
        panic!("{:?}", record.errors)
    };
    assert_eq!((&dog.correction, &dog.corrected_tokens), (&None, &None));
    assert_eq!(
        (
            collar.correction.as_deref(),
            collar.partial_caption.as_str()
        ),
        (Some(""), "A dog is chewing on a blue ")
    );
    assert_eq!(collar.corrected_tokens.as_deref(), Some(&[][..]));
    assert_eq!(record.corrected(), None);
}

/// Response, selected text, correction; then the expected text of the record's span, its
/// correction, and its labels where given.
type Selection = (
    &'static str,
    &'static str,
    Option<&'static str>,
    &'static str,
    Option<&'static str>,
    &'static str,
);

const SELECTIONS: [Selection; 14] = [
    (
        "A dog runs.",
        "dog",
        Some("cat"),
        "dog",
        Some("cat"),
        "gbgg",
    ),
    (
        "A dog runs.",
        "dog ",
        Some("cat "),
        "dog",
        Some("cat"),
        "gbgg",
    ),
    (
        "A dog runs.",
        " dog ",
        Some(" cat"),
        "dog",
        Some("cat"),
        "gbgg",
    ),
    ("A dog runs.", " dog ", None, "dog", None, "gbgg"),
    (
        "A dog\u{A0}runs.",
        "dog\u{A0}",
        Some("cat"),
        "dog",
        Some("cat"),
        "",
    ),
    (
        "A \u{200B}dog\u{2060} runs.",
        "\u{200B}dog\u{2060} ",
        Some("cat"),
        "dog",
        Some("cat"),
        "",
    ),
    (
        "A cat, a dog.",
        "dog.",
        Some("cat."),
        "dog",
        Some("cat"),
        "ggggbg",
    ),
    (
        "A cat, a dog.",
        "dog.",
        Some("cat"),
        "dog",
        Some("cat"),
        "ggggbg",
    ),
    (
        "A cat, a dog.",
        "dog",
        Some("cat."),
        "dog",
        Some("cat"),
        "ggggbg",
    ),
    (
        "A cat, a dog.",
        " cat,",
        Some("bird,"),
        "cat",
        Some("bird"),
        "gbgggg",
    ),
    (
        "A cat, a dog.",
        "cat, a dog",
        Some("bird"),
        "cat, a dog",
        Some("bird"),
        "gb-bbg",
    ),
    (
        "A dog runs.",
        "dog",
        Some("cat, who"),
        "dog",
        Some("cat, who"),
        "gbgg",
    ),
    ("A dog, runs.", ", ", Some("and"), ",", Some("and"), "ggbgg"),
    (
        "A sign says \"stop\".",
        "\"stop\".",
        Some("“go”"),
        "stop",
        Some("go"),
        "",
    ),
];

#[test]
fn selection_is_trimmed_to_its_words() {
    for (response, selected, correction, text, corrected, expected) in SELECTIONS {
        let at = response.find(selected).unwrap();
        let start = response[..at].chars().count();
        let place = ErrorSpan {
            start,
            end: start + selected.chars().count(),
            text: Some(format!(" {selected}\u{A0}")),
            correction: correction.map(str::to_owned),
            remove: false,
        };
        let record = derived(
            response,
            &Submission {
                errors: Some(vec![place]),
                ..Submission::default()
            },
        )
        .unwrap();
        let error = &record.errors[0];
        assert_eq!(
            (error.text.as_str(), error.correction.as_deref()),
            (text, corrected),
            "{response} {selected}"
        );
        let stands: String = response.chars().take(error.end).skip(error.start).collect();
        assert_eq!(
            (stands, expected.is_empty() || labels(&record) == expected),
            (error.text.clone(), true),
            "{selected} {}",
            labels(&record)
        );
    }
}

#[test]
fn removal_leaves_no_gap_and_labels_no_neighbor() {
    let cases = [
        ("A red dog runs.", "A dog runs.", "gbgggg"),
        ("Red dogs run.", "dogs run.", "bggg"),
        ("A dog runs away.", "A dog runs.", "gggbg"),
        ("A dog. A cat.", "A dog.", ""),
        ("A dog, a cat, a bird.", "A dog, a bird.", ""),
    ];
    for (response, edit, expected) in cases {
        let record = derived(
            response,
            &Submission {
                edit: Some(edit.to_owned()),
                ..Submission::default()
            },
        )
        .unwrap();
        assert_eq!(record.corrected().as_deref(), Some(edit));
        for error in &record.errors {
            assert!(
                error.text.trim() == error.text && !error.text.is_empty(),
                "{error:?}"
            );
        }
        let bad: String = record
            .tokens
            .iter()
            .filter(|t| t.label == TokenLabel::Bad)
            .map(|t| t.text.as_str())
            .collect();
        let gone: String = record.errors.iter().map(|e| e.text.as_str()).collect();
        assert!(
            expected.is_empty() || bad.trim() == gone,
            "{response}: {bad:?} {gone:?}"
        );
    }
}

/// Pairs of a response and the same text in other typography.
const TYPOGRAPHY: [(&str, &str); 10] = [
    ("A man's dog is here.", "A man’s dog is here."),
    ("A man's dog is here.", "A man&#39;s dog is here."),
    ("A café.", "A cafe\u{301}."),
    ("A dog... asleep.", "A dog… asleep."),
    ("A dog - asleep.", "A dog — asleep."),
    ("A dog.", "A dog"),
    ("A dog.", "a dog."),
    ("A dog.", "A\u{200B} do\u{AD}g."),
    ("A dog.", "  A  dog .\n"),
    ("A field.", "A ﬁeld."),
];

#[test]
fn edit_of_typography_alone_is_good() {
    for (response, other) in TYPOGRAPHY
        .into_iter()
        .chain(TYPOGRAPHY.map(|(one, other)| (other, one)))
    {
        let record = derived(
            response,
            &Submission {
                edit: Some(other.to_owned()),
                ..Submission::default()
            },
        )
        .unwrap();
        assert_eq!(
            (record.kind, record.errors.len()),
            (JudgmentKind::Good, 0),
            "{response} {other}"
        );
        assert!(labels(&record).chars().all(|l| l == 'g'));
        // The same holds beside a change of a word.
        let (response, other) = (
            format!("One red ball. {response}"),
            format!("One blue ball. {other}"),
        );
        let record = derived(
            &response,
            &Submission {
                edit: Some(other),
                ..Submission::default()
            },
        )
        .unwrap();
        let bad: Vec<&str> = record
            .tokens
            .iter()
            .filter(|t| t.label == TokenLabel::Bad)
            .map(|t| t.text.trim())
            .collect();
        assert_eq!(bad, ["red"], "{response}");
    }
}

#[test]
fn good_labels_all_tokens_and_missing_none() {
    let good = derived(
        DOG,
        &Submission {
            label: Some(Judgment::Good),
            ..Submission::default()
        },
    )
    .unwrap();
    assert!(good.kind == JudgmentKind::Good && labels(&good).chars().all(|l| l == 'g'));
    let missing = Submission {
        label: Some(Judgment::Bad),
        missing: vec!["the child".to_owned()],
        ..Submission::default()
    };
    let missing = derived(DOG, &missing).unwrap();
    assert_eq!((missing.kind, missing.scope), (JudgmentKind::Missing, None));
    assert!(labels(&missing).chars().all(|l| l == '-'));
}

#[test]
fn edit_is_split_into_errors() {
    let edit = |text: &str| {
        derived(
            DOG,
            &Submission {
                edit: Some(text.to_owned()),
                ..Submission::default()
            },
        )
    };
    let record = edit("A cat is asleep on a collar.").unwrap();
    let spans: Vec<_> = record
        .errors
        .iter()
        .map(|e| (e.text.as_str(), e.correction.as_deref().unwrap()))
        .collect();
    assert_eq!(spans, [("dog", "cat"), ("chewing", "asleep"), ("blue", "")]);
    assert_eq!(
        (record.kind, record.corrected().unwrap().as_str()),
        (JudgmentKind::Bad, "A cat is asleep on a collar.")
    );
    let added = edit("A brown dog is chewing on a blue collar.").unwrap();
    assert_eq!(
        (
            added.kind,
            added.errors[0].text.as_str(),
            added.errors[0].correction.as_deref()
        ),
        (JudgmentKind::Missing, "", Some(" brown"))
    );
    assert_eq!(
        (added.errors[0].token_start, added.errors[0].token_end),
        (1, 1)
    );
    assert!(labels(&added).chars().all(|l| l == 'g'));
    assert_eq!(edit(DOG).unwrap_err().field, "edit");
}

#[test]
fn error_in_shared_code_point_makes_both_tokens_bad() {
    let record = derived(
        "A 🐶.",
        &Submission {
            error: Some(wrong(2, 3, "🐱")),
            ..Submission::default()
        },
    )
    .unwrap();
    let error = &record.errors[0];
    assert!(
        error.token_end - error.token_start > 1,
        "{:?}",
        record.tokens
    );
    assert_eq!(
        tokenizer()
            .decode(error.corrected_tokens.as_ref().unwrap())
            .trim(),
        "🐱"
    );
}

#[test]
fn invalid_submission_is_refused_with_its_field() {
    let place = |start, end| ErrorSpan {
        start,
        end,
        ..ErrorSpan::default()
    };
    let error = |place| Submission {
        error: Some(place),
        ..Submission::default()
    };
    let errors = |places: &[ErrorSpan]| Submission {
        errors: Some(places.to_vec()),
        ..Submission::default()
    };
    let cases = [
        (Submission::default(), "label"),
        (
            Submission {
                label: Some(Judgment::Bad),
                ..Submission::default()
            },
            "label",
        ),
        (error(place(2, 99)), "error.end"),
        (error(place(usize::MAX, usize::MAX)), "error.end"),
        (error(place(5, 2)), "error.end"),
        (error(place(2, 2)), "error.end"),
        (error(place(1, 2)), "error.start"),
        (error(wrong(2, 5, "DOG ")), "error.correction"),
        (error(wrong(2, 6, "“dog”")), "error.correction"),
        (
            error(ErrorSpan {
                text: Some("cat".to_owned()),
                ..place(2, 5)
            }),
            "error.text",
        ),
        (error(wrong(2, 5, " ")), "error.correction"),
        (error(wrong(2, 5, "dog")), "error.correction"),
        (
            error(ErrorSpan {
                remove: true,
                ..wrong(2, 5, "cat")
            }),
            "error.correction",
        ),
        (
            Submission {
                correction: Some("x".to_owned()),
                ..error(wrong(2, 5, "cat"))
            },
            "correction",
        ),
        (
            Submission {
                correction: Some("x".to_owned()),
                ..errors(&[place(2, 5)])
            },
            "correction",
        ),
        (
            Submission {
                label: Some(Judgment::Good),
                ..error(place(2, 5))
            },
            "error",
        ),
        (
            Submission {
                edit: Some("x".to_owned()),
                ..error(place(2, 5))
            },
            "edit",
        ),
        (
            Submission {
                scope: Some(JudgedPart::FirstError),
                ..errors(&[place(2, 5), place(6, 8)])
            },
            "scope",
        ),
        (
            Submission {
                scope: Some(JudgedPart::FirstError),
                label: Some(Judgment::Good),
                ..Submission::default()
            },
            "scope",
        ),
        (errors(&[]), "errors"),
        (errors(&[place(2, 5), place(4, 8)]), "errors[1].start"),
        (errors(&[place(4, 8), place(2, 5)]), "errors[0].start"),
        (errors(&[place(2, 5), place(6, 99)]), "errors[1].end"),
        (
            Submission {
                edit: Some(" ".to_owned()),
                ..Submission::default()
            },
            "edit",
        ),
        (
            Submission {
                missing: vec!["a".to_owned(), " ".to_owned()],
                ..Submission::default()
            },
            "missing[1]",
        ),
        (
            Submission {
                annotator: Some("a\0".to_owned()),
                ..error(place(2, 5))
            },
            "annotator",
        ),
        (
            Submission {
                user: Some("u".repeat(257)),
                ..error(place(2, 5))
            },
            "user",
        ),
        (
            Submission {
                comment: Some("u".repeat(5000)),
                ..error(place(2, 5))
            },
            "comment",
        ),
    ];
    for (submission, field) in cases {
        let refused = derived(DOG, &submission).unwrap_err();
        assert_eq!(refused.field, field, "{refused}");
        assert!(
            refused.message.starts_with(&format!("'{field}' ")),
            "{refused}"
        );
    }
    let astronaut = derived("An 👩‍🚀 floats.", &error(place(3, 4))).unwrap_err();
    assert_eq!(
        (
            astronaut.field.as_str(),
            astronaut.message.contains("inside a character")
        ),
        ("error.end", true)
    );
    assert_eq!(
        derived(
            "",
            &Submission {
                label: Some(Judgment::Good),
                ..Submission::default()
            }
        )
        .unwrap_err()
        .field,
        "label"
    );
    assert!(
        derived(
            "",
            &Submission {
                missing: vec!["all".to_owned()],
                ..Submission::default()
            }
        )
        .is_ok()
    );
}

#[test]
fn special_tokens_in_text_are_spelled() {
    let tokens = tokenize(vocabulary(), "A dog <|user|> here").unwrap();
    assert_eq!(
        tokens.iter().map(|t| t.text.as_str()).collect::<String>(),
        "A dog <|user|> here"
    );
    assert!(tokenize(vocabulary(), "").unwrap().is_empty());
}

#[test]
fn text_is_tokenized_in_policy_casing_and_stored_as_written() {
    let vocabulary = PolicyVocabulary {
        casing: Casing::Sentence,
        ..vocabulary().clone()
    };
    let tokens = tokenize(&vocabulary, "two Dogs.").unwrap();
    assert_eq!(
        tokens.iter().map(|t| t.text.as_str()).collect::<String>(),
        "two Dogs."
    );
    let ids: Vec<u32> = tokens.iter().map(|t| t.id).collect();
    assert_eq!(vocabulary.tokenizer.decode(&ids), "Two dogs.");
    assert_eq!(
        vocabulary
            .tokenizer
            .decode(&vocabulary.encode(" Cat", false).unwrap()),
        " cat"
    );
}

const TEXTS: &str = "([a-z]{1,5}|[ .,]|é|🐶|👩‍🚀|日本){1,20}";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn tokens_of_any_text_cover_it_in_order(text in TEXTS) {
        let tokens = tokenize(vocabulary(), &text).unwrap();
        let chars: Vec<char> = text.chars().collect();
        prop_assert_eq!(tokens.first().map(|t| t.start), Some(0));
        prop_assert_eq!(tokens.last().map(|t| t.end), Some(chars.len()));
        for token in &tokens {
            prop_assert_eq!(&token.text, &chars[token.start..token.end].iter().collect::<String>());
        }
        for pair in tokens.windows(2) {
            // Neighbors meet, or share the code point that both write bytes of.
            prop_assert!(pair[1].start == pair[0].end || pair[1].start + 1 == pair[0].end, "{:?}",
                pair);
        }
    }

    #[test]
    fn any_span_is_refused_or_labels_its_tokens(text in TEXTS, start in 0usize..30,
        length in 0usize..8, first in any::<bool>()) {
        let scope = if first { JudgedPart::FirstError } else { JudgedPart::AllErrors };
        let place = wrong(start, start + length, "xyz");
        let submission = Submission { errors: Some(vec![place]), scope: Some(scope),
            ..Submission::default() };
        let Ok(record) = derived(&text, &submission) else { return Ok(()) };
        let chars: Vec<char> = text.chars().collect();
        let error = &record.errors[0];
        prop_assert!(start <= error.start && error.end <= start + length);
        let (start, end) = (error.start, error.end);
        prop_assert_eq!(&error.text, &chars[start..end].iter().collect::<String>());
        prop_assert_eq!(error.text.trim(), &error.text);
        let signs = |text: &str| !text.chars().any(is_spoken);
        for token in &record.tokens {
            let touched = token.start < end && token.end > start;
            let expected = match touched {
                true if signs(&token.text) && !signs(&error.text) => TokenLabel::None,
                true => TokenLabel::Bad,
                false if first && token.start >= end => TokenLabel::None,
                false => TokenLabel::Good,
            };
            prop_assert_eq!(token.label, expected, "{:?}", token);
        }
        // Replacing the wrong tokens by the corrected ones spells the corrected text.
        let mut ids: Vec<u32> = record.tokens.iter().map(|t| t.id).collect();
        let corrected = error.corrected_tokens.clone().unwrap();
        let shared = |a: usize, b: usize| record.tokens.get(a).zip(record.tokens.get(b))
            .is_some_and(|(a, b)| a.end > b.start);
        let torn = (error.token_start > 0 && shared(error.token_start - 1, error.token_start))
            || shared(error.token_end - 1, error.token_end);
        if !torn {
            ids.splice(error.token_start..error.token_end, corrected);
            prop_assert_eq!(tokenizer().decode(&ids), record.corrected().unwrap());
        }
        let text = serde_json::to_string(&record).unwrap();
        prop_assert_eq!(serde_json::from_str::<Feedback>(&text).unwrap(), record);
    }

    #[test]
    fn span_with_surrounding_white_space_makes_same_record(
        words in prop::collection::vec("[a-z]{1,5}|é|🐶|👩‍🚀|日本|-|\\.", 1..8),
        gaps in prop::collection::vec("( |\u{A0}|\u{200B}|\r\n|\u{2060}|\u{3000}){1,3}", 9),
        which in 0usize..8,
        first in any::<bool>(),
    ) {
        let which = which % words.len();
        let count = |text: &str| text.chars().count();
        let (mut text, mut narrow, mut wide) = (String::new(), 0..0, 0..0);
        for (i, (gap, word)) in gaps.iter().zip(&words).enumerate() {
            let before = count(&text);
            text += gap;
            let start = count(&text);
            text += word;
            if i == which {
                narrow = start..count(&text);
                wide = before..narrow.end + count(&gaps[i + 1]);
            }
        }
        text += &gaps[words.len()];
        let scope = if first { JudgedPart::FirstError } else { JudgedPart::AllErrors };
        let of = |span: std::ops::Range<usize>| {
            derived(&text, &Submission { errors: Some(vec![wrong(span.start, span.end, "xyz")]),
                scope: Some(scope), ..Submission::default() })
        };
        let record = of(narrow.clone()).unwrap();
        prop_assert_eq!(&of(narrow.start..wide.end).unwrap(), &record);
        prop_assert_eq!(&of(wide.start..narrow.end).unwrap(), &record);
        prop_assert_eq!(&of(wide).unwrap(), &record);
    }

    #[test]
    fn edit_corrects_to_the_typed_text(old in TEXTS, new in TEXTS) {
        let Ok(record) =
            derived(&old, &Submission { edit: Some(new.clone()),
                ..Submission::default() }) else { return Ok(()) };
        let words = |t: &str| words(t).into_iter().map(|word| word.key).collect::<String>();
        prop_assert_eq!(words(&record.corrected().unwrap()), words(&new));
        prop_assert_eq!(record.kind == JudgmentKind::Good, record.errors.is_empty());
        prop_assert_eq!(record.kind == JudgmentKind::Missing, !record.errors.is_empty()
            && record.errors.iter().all(|e| e.text.is_empty()));
        for pair in record.errors.windows(2) {
            prop_assert!(pair[0].end <= pair[1].start);
        }
    }
}

#[test]
fn record_belongs_to_owner_of_its_answer() {
    let good = Submission {
        label: Some(Judgment::Good),
        ..Submission::default()
    };
    let unnamed = derived(DOG, &good).unwrap();
    assert_eq!(
        (unnamed.owner.as_str(), unnamed.annotator_owner.as_str()),
        ("shop", "")
    );
    let named = derived(
        DOG,
        &Submission {
            annotator: Some("ann".to_owned()),
            ..good
        },
    )
    .unwrap();
    assert_eq!(
        (named.owner.as_str(), named.annotator_owner.as_str()),
        ("shop", "studio")
    );
}

#[test]
fn abstention_is_refused() {
    let answer = |response: &str, verdict| RecordedChoice {
        response: response.to_owned(),
        tokens: tokenize(vocabulary(), response).unwrap(),
        verdict,
        threshold: 0.5,
        spans: Vec::new(),
        familiarity: None,
    };
    let receipt = Receipt {
        id: "chatcmpl-1".to_owned(),
        created: 1,
        owner: "shop".to_owned(),
        versions: Versions::default(),
        image: ImageHash::digest(b"image"),
        image_bytes: 5,
        prompt: "What is it?".to_owned(),
        user: None,
        unassisted: false,
        choices: vec![
            answer("A dog.", Verdict::Clean),
            answer("I would rather not say.", Verdict::Abstained),
        ],
    };
    assert_eq!(
        JudgedAnswer::from_receipt(receipt.clone(), 0)
            .unwrap()
            .response,
        "A dog."
    );
    let refused = JudgedAnswer::from_receipt(receipt, 1).unwrap_err();
    assert_eq!(
        (refused.field.as_str(), refused.code),
        ("completion_id", "answer_abstained")
    );
}
