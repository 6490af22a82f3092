use super::*;

/// Returns the examples: questions with the section that each belongs to.
fn examples() -> impl Iterator<Item = (&'static str, &'static str)> {
    sections(include_str!("examples.txt")).flat_map(|(name, body)| {
        body.lines()
            .filter(|line| !line.is_empty())
            .map(move |line| (name, line))
    })
}

fn reason(name: &str) -> Option<Unanswerable> {
    serde_json::from_value(name.into()).ok()
}

#[test]
fn rules_have_only_sections_that_are_parsed() {
    let known = |name: &str| match name.split_once(' ') {
        Some(("kind", kind)) => QuestionKind::ALL.iter().any(|of| of.name() == kind),
        Some(("scope", scope)) => Unanswerable::IN_TEXT.iter().any(|(of, _)| *of == scope),
        _ => matches!(name, "lead" | "greeting" | "english" | "foreign"),
    };
    let names: Vec<&str> = sections(include_str!("patterns.txt"))
        .map(|(name, _)| name)
        .collect();
    assert!(names.iter().all(|name| known(name)), "{names:?}");
    assert_eq!(
        names.len(),
        4 + QuestionKind::ALL.len() - 1 + Unanswerable::IN_TEXT.len()
    );
    assert!(
        RULES
            .scope
            .iter()
            .all(|(_, section)| !section.patterns.is_empty())
    );
}

#[test]
fn unanswerable_reason_of_examples_is_that_of_their_section() {
    let wrong: Vec<String> = examples()
        .filter_map(|(name, question)| {
            let (found, wanted) = (unanswerable_reason(question), reason(name));
            (found != wanted).then(|| format!("{question}: {found:?}, not {wanted:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(examples().count() > 350);
}

#[test]
fn kind_of_examples_is_that_of_their_section() {
    let of_kind = |name: &str| {
        QuestionKind::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
    };
    for (kind, question) in
        examples().filter_map(|(name, question)| Some((of_kind(name)?, question)))
    {
        assert_eq!(super::kind(question), kind, "{question}");
    }
    for nothing in ["", "  \n", "?"] {
        assert_eq!(
            (super::kind(nothing), unanswerable_reason(nothing)),
            (QuestionKind::Caption, None)
        );
    }
}

#[test]
fn unanswerable_reason_ignores_case_spaces_and_courtesy() {
    for (name, question) in examples().filter(|(name, _)| !matches!(*name, "language" | "beyond")) {
        let forms = [
            question.to_uppercase(),
            format!("  {question} "),
            format!("Please, {question}"),
            format!("Hi! {question}"),
            format!("{question} Thanks!"),
        ];
        for form in forms {
            assert_eq!(unanswerable_reason(&form), reason(name), "{form}");
        }
    }
}

#[test]
fn unanswerable_reason_of_training_questions_is_none() {
    let templates = include_str!("../../train/qa/templates.txt")
        .lines()
        .filter(|line| line.contains('{') || line.ends_with('?'));
    for template in templates {
        for thing in [
            "a dog",
            "the traffic light",
            "the police officer",
            "two men",
            "the stop sign",
        ] {
            let question = template.replace("{x}", thing).replace("{c}", "red");
            assert_eq!(unanswerable_reason(&question), None, "{question}");
        }
    }
}

#[test]
fn negation_that_reverses_the_answer_is_detected() {
    for (question, negated) in [
        ("Is there no cat?", true),
        ("Is there no cat in the image?", true),
        ("Are there no people?", true),
        ("Is the cat not black?", true),
        ("Is nobody there?", true),
        ("Is the man without a hat?", true),
        ("Does the picture show no dog?", true),
        ("Is there a cat?", false),
        ("Isn't there a cat?", false),
        ("Is there not a cat?", false),
        ("Can't you see a cat?", false),
        ("Is there a cat or not?", false),
        ("Is there a cat? Answer yes or no.", false),
        ("", false),
    ] {
        assert_eq!(is_negated(question), negated, "{question}");
    }
}

/// Ways to ask for the presence of `{a}`; `{s}` is its plural.
const IS_THERE: [&str; 32] = [
    "Is there {a}?",
    "Is there {a} anywhere in this photo?",
    "Are there {s}?",
    "Are there any {s} in the picture?",
    "Do you see {a}?",
    "Don't you see {a}?",
    "Can you see any {s}?",
    "Can you spot {a} in the image?",
    "Can we find {a} here?",
    "Can {a} be seen in the photograph?",
    "Are you able to see {a}?",
    "Does the photo show {a}?",
    "Does this picture contain any {s}?",
    "Does it show {a}?",
    "Does the image have {a} in it?",
    "Doesn’t the photo show {a}?",
    "Does {a} appear in the photo?",
    "Do any {s} appear?",
    "Is {a} visible?",
    "Isn't {a} visible?",
    "Is {a} in the picture?",
    "Are {s} visible in the photo?",
    "Is this a photo of {a}?",
    "Was there {a}?",
    "Isn't there {a}?",
    "Is there not {a}?",
    "There is {a}, right?",
    "Do you think there is {a}?",
    "Is it true that there is {a}?",
    "Tell me whether there is {a}.",
    "Can you tell me if there is {a}?",
    "Hi! Is there {a}? Answer yes or no.",
];

/// Ways to ask for its absence.
const IS_THERE_NO: [&str; 24] = [
    "Is there no {n}?",
    "Is there no {n} in the image?",
    "Are there no {s}?",
    "Are there no {s} in the photo?",
    "Do you see no {n}?",
    "Can you see no {s} here?",
    "Can no {n} be seen?",
    "Does the photo show no {n}?",
    "Does the picture not show {a}?",
    "Does the photo not contain any {s}?",
    "Does the image lack {a}?",
    "Is no {n} visible?",
    "Are no {s} in the picture?",
    "Is {a} not visible?",
    "Is {a} missing?",
    "Does no {n} appear in the photo?",
    "Is the picture without {a}?",
    "Is the photo free of {s}?",
    "Is it true that there is no {n}?",
    "Do you think there are no {s}?",
    "Tell me whether there is no {n}.",
    "There is no {n}, right?",
    "Are there zero {s}?",
    "IS THERE NO {n}?",
];

#[test]
fn paraphrases_of_presence_questions_keep_kind_and_negation() {
    for (n, a, s) in [
        ("dog", "a dog", "dogs"),
        ("umbrella", "an umbrella", "umbrellas"),
        ("traffic light", "a traffic light", "traffic lights"),
    ] {
        for (forms, negated) in [(&IS_THERE[..], false), (&IS_THERE_NO[..], true)] {
            for form in forms {
                let question = form.replace("{n}", n).replace("{a}", a).replace("{s}", s);
                let found = (
                    super::kind(&question),
                    is_negated(&question),
                    unanswerable_reason(&question),
                );
                assert_eq!(found, (QuestionKind::Presence, negated, None), "{question}");
            }
        }
    }
}

#[test]
fn question_about_a_present_object_is_yes_no_and_not_presence() {
    for (question, negated) in [
        ("Is the dog black?", false),
        ("Is the dog not black?", true),
        ("Is the dog on the couch?", false),
        ("Is the man wearing a hat?", false),
        ("Is the man without a hat?", true),
        ("Does the man have a hat?", false),
        ("Does the man have no hat?", true),
        ("Is the dog black in the picture?", false),
        ("Are the people outdoors?", false),
        ("Are they children?", false),
        ("Is it sunny?", false),
        ("Isn't it sunny?", false),
        ("Do the dogs run?", false),
    ] {
        assert_eq!(
            (super::kind(question), is_negated(question)),
            (QuestionKind::YesNo, negated),
            "{question}"
        );
    }
    for question in [
        "Is there a dog without a leash?",
        "Do you see a man with no hat?",
        "Is there nothing but a dog?",
        "Is there a dog or not?",
    ] {
        assert!(!is_negated(question), "{question}");
    }
}

#[test]
fn wording_of_every_reason_is_recognized_and_unique() {
    let reasons: std::collections::BTreeSet<&str> = Unanswerable::ALL
        .iter()
        .map(|reason| reason.wording())
        .collect();
    assert_eq!(
        reasons.len(),
        Unanswerable::ALL.len(),
        "no two reasons read alike"
    );
    assert!(
        reasons
            .iter()
            .all(|wording| Unanswerable::is_wording(wording)
                && Unanswerable::is_wording(&format!(" {wording}\n")))
    );
    for other in [
        "",
        "A dog.",
        "I cannot read text",
        "I cannot tell from this photograph. It is a dog.",
    ] {
        assert!(!Unanswerable::is_wording(other), "{other}");
    }
}

#[test]
fn words_of_the_lexicon_without_grammar_are_english() {
    for text in [
        "dogs cats birds",
        "red cars, wooden houses",
        "cat",
        "zebramarker",
        "X1",
    ] {
        assert_eq!(unanswerable_reason(text), None, "{text}");
    }
    for text in ["ile osób jest", "missä koira on nyt", "hol van a kutya"] {
        assert_eq!(
            unanswerable_reason(text),
            Some(Unanswerable::Language),
            "{text}"
        );
    }
}

#[test]
fn long_text_is_read_in_bounded_time() {
    let long = "is there a dog and what ".repeat(200_000);
    assert_eq!(unanswerable_reason(&long), None);
    assert_eq!(unanswerable_reason(&"? ".repeat(1_000_000)), None);
}
