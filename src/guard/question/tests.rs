use super::*;

/// Questions of all sorts with what is to be said of each.
fn examples() -> impl Iterator<Item = (&'static str, &'static str)> {
    sections(include_str!("examples.txt"))
        .flat_map(|(name, body)| body.lines().filter(|line| !line.is_empty()).map(move |line| (name, line)))
}

fn reason(name: &str) -> Option<Unanswerable> {
    serde_json::from_value(name.into()).ok()
}

#[test]
fn every_section_of_the_rules_is_read() {
    let known = |name: &str| match name.split_once(' ') {
        Some(("kind", kind)) => QuestionKind::ALL.iter().any(|of| of.name() == kind),
        Some(("scope", scope)) => Unanswerable::IN_TEXT.iter().any(|(of, _)| *of == scope),
        _ => matches!(name, "lead" | "greeting" | "english" | "foreign"),
    };
    let names: Vec<&str> = sections(include_str!("patterns.txt")).map(|(name, _)| name).collect();
    assert!(names.iter().all(|name| known(name)), "{names:?}");
    assert_eq!(names.len(), 4 + QuestionKind::ALL.len() - 1 + Unanswerable::IN_TEXT.len());
    assert!(RULES.scope.iter().all(|(_, section)| !section.patterns.is_empty()));
}

#[test]
fn questions_out_of_scope_are_told_from_others_and_from_each_other() {
    let wrong: Vec<String> = examples()
        .filter_map(|(name, question)| {
            let (found, wanted) = (out_of_scope(question), reason(name));
            (found != wanted).then(|| format!("{question}: {found:?}, not {wanted:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(examples().count() > 350);
}

#[test]
fn questions_are_told_by_what_they_ask_for() {
    let of_kind = |name: &str| QuestionKind::ALL.into_iter().find(|kind| kind.name() == name);
    for (kind, question) in examples().filter_map(|(name, question)| Some((of_kind(name)?, question))) {
        assert_eq!(super::kind(question), kind, "{question}");
    }
    for nothing in ["", "  \n", "?"] {
        assert_eq!((super::kind(nothing), out_of_scope(nothing)), (QuestionKind::Caption, None));
    }
}

#[test]
fn case_spaces_and_courtesy_change_nothing() {
    for (name, question) in examples().filter(|(name, _)| !matches!(*name, "language" | "beyond")) {
        let forms = [
            question.to_uppercase(),
            format!("  {question} "),
            format!("Please, {question}"),
            format!("Hi! {question}"),
            format!("{question} Thanks!"),
        ];
        for form in forms {
            assert_eq!(out_of_scope(&form), reason(name), "{form}");
        }
    }
}

#[test]
fn templates_of_questions_that_captions_answer_are_in_scope() {
    let templates = include_str!("../../train/qa/templates.txt").lines().filter(|line| line.contains('{') || line.ends_with('?'));
    for template in templates {
        for thing in ["a dog", "the traffic light", "the police officer", "two men", "the stop sign"] {
            let question = template.replace("{x}", thing).replace("{c}", "red");
            assert_eq!(out_of_scope(&question), None, "{question}");
        }
    }
}

#[test]
fn negations_that_turn_the_answer_round_are_told_from_those_that_do_not() {
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

#[test]
fn words_without_grammar_are_english_where_the_lexicon_has_them() {
    for text in ["dogs cats birds", "red cars, wooden houses", "cat", "zebramarker", "X1"] {
        assert_eq!(out_of_scope(text), None, "{text}");
    }
    for text in ["ile osób jest", "missä koira on nyt", "hol van a kutya"] {
        assert_eq!(out_of_scope(text), Some(Unanswerable::Language), "{text}");
    }
}

#[test]
fn long_texts_are_read_in_bounds() {
    let long = "is there a dog and what ".repeat(200_000);
    assert_eq!(out_of_scope(&long), None);
    assert_eq!(out_of_scope(&"? ".repeat(1_000_000)), None);
}
