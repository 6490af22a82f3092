use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use proptest::prelude::*;

use super::*;
use crate::eval::data::ReferenceSet;

type Images = Vec<(String, BTreeSet<String>)>;

fn set(images: &[(&str, &str)]) -> Images {
    images
        .iter()
        .map(|(name, objects)| {
            (
                name.to_string(),
                objects.split_terminator(' ').map(str::to_owned).collect(),
            )
        })
        .collect()
}

fn built(images: &Images, setting: Setting, per_image: usize, seed: u64) -> Vec<PopeQuestion> {
    build(
        &images
            .iter()
            .map(|(name, objects)| (name.as_str(), objects))
            .collect::<Vec<_>>(),
        setting,
        per_image,
        seed,
    )
}

/// Object of a question.
fn object(question: &PopeQuestion) -> &str {
    question.object.as_deref().unwrap()
}

fn texts(questions: &[PopeQuestion], present: bool) -> BTreeSet<(&str, &str)> {
    questions
        .iter()
        .filter(|q| q.present == present)
        .map(|q| (q.image.as_str(), q.text.as_str()))
        .collect()
}

/// `(file name, objects)` of the photographs with boxes, unless they are absent.
fn coco() -> Option<Images> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/coco-mini");
    if !dir.is_dir() {
        println!("skipped: {} is absent", dir.display());
        return None;
    }
    let set = ReferenceSet::open(&dir, None).unwrap();
    Some(
        set.images()
            .iter()
            .map(|image| (image.name().to_owned(), image.objects.clone().unwrap()))
            .collect(),
    )
}

/// Checks the properties that hold for any set.
fn check(images: &Images, questions: &[PopeQuestion], setting: Setting, per_image: usize) {
    let vocabulary: BTreeSet<&String> = images.iter().flat_map(|(_, objects)| objects).collect();
    let mut by_image: BTreeMap<&str, Vec<&PopeQuestion>> = BTreeMap::new();
    questions
        .iter()
        .for_each(|q| by_image.entry(&q.image).or_default().push(q));
    for (name, objects) in images {
        let asked = by_image.get(name.as_str()).map_or(&[][..], Vec::as_slice);
        let pairs = per_image
            .min(objects.len())
            .min(vocabulary.len() - objects.len());
        assert_eq!(asked.len(), 2 * pairs, "{name}");
        let different: BTreeSet<&str> = asked.iter().map(|q| object(q)).collect();
        assert_eq!(
            different.len(),
            asked.len(),
            "no object is asked about twice"
        );
        for (i, q) in asked.iter().enumerate() {
            assert_eq!(q.present, i % 2 == 0, "yes and no take turns");
            assert_eq!(q.present, objects.contains(object(q)));
            assert_eq!(
                (q.setting, q.text.as_str()),
                (Some(setting), question(object(q)).as_str())
            );
        }
    }
    assert!(
        questions
            .iter()
            .enumerate()
            .all(|(i, q)| q.id == i as u64 + 1)
    );
}

#[test]
fn question_has_the_article_of_the_first_letter() {
    assert_eq!(
        question("dining table"),
        "Is there a dining table in the image?"
    );
    assert_eq!(question("umbrella"), "Is there an umbrella in the image?");
}

#[test]
fn popular_setting_asks_about_the_most_frequent_objects() {
    let images = set(&[
        ("1", "cat dog person"),
        ("2", "dog person"),
        ("3", "bus person zebra"),
        ("4", "bus person"),
        ("5", "ant"),
    ]);
    let questions = built(&images, Setting::Popular, 3, 0);
    let absent = |image: &str| {
        questions
            .iter()
            .filter(|q| q.image == image && !q.present)
            .map(object)
            .collect::<Vec<_>>()
    };
    assert_eq!(absent("1"), ["bus", "ant", "zebra"]);
    assert_eq!(
        absent("2"),
        ["bus", "ant"],
        "equally popular ones by name, as many as there are present ones"
    );
    assert_eq!(absent("5"), ["person"]);
    check(&images, &questions, Setting::Popular, 3);
}

#[test]
fn adversarial_setting_asks_about_co_occurring_objects() {
    let images = set(&[
        ("1", "fork"),
        ("2", "fork knife"),
        ("3", "fork knife cup"),
        ("4", "fork cup table"),
        ("5", "person"),
        ("6", "person"),
        ("7", "sky"),
    ]);
    let questions = built(&images, Setting::Adversarial, 2, 0);
    let absent = |image: &str| {
        questions
            .iter()
            .filter(|q| q.image == image && !q.present)
            .map(object)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        absent("1"),
        ["cup"],
        "cup and knife are with a fork twice, the name decides"
    );
    assert!(["cup", "table"].contains(&absent("2")[0]));
    assert_eq!(
        absent("7").len(),
        1,
        "nothing goes with the sky: any absent object will do"
    );
    check(&images, &questions, Setting::Adversarial, 2);
}

#[test]
fn image_without_present_or_absent_objects_gets_no_questions() {
    let images = set(&[("none", ""), ("all", "cat dog"), ("one", "dog")]);
    for setting in Setting::ALL {
        let questions = built(&images, setting, 3, 1);
        assert_eq!(
            questions
                .iter()
                .map(|q| (q.image.as_str(), object(q)))
                .collect::<Vec<_>>(),
            [("one", "dog"), ("one", "cat")]
        );
    }
}

#[test]
fn questions_about_real_photographs_are_balanced() {
    let Some(images) = coco() else { return };
    let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
    images
        .iter()
        .flat_map(|(_, objects)| objects)
        .for_each(|object| *counts.entry(object).or_default() += 1);
    let sets = Setting::ALL.map(|setting| built(&images, setting, PER_IMAGE, 7));
    for (setting, questions) in Setting::ALL.into_iter().zip(&sets) {
        check(&images, questions, setting, PER_IMAGE);
        assert_eq!(*questions, built(&images, setting, PER_IMAGE, 7));
        assert_eq!(
            texts(questions, true),
            texts(&sets[0], true),
            "all settings ask about the same present objects"
        );
        assert!(questions.len() > 600);
    }
    let [random, popular, adversarial] = &sets;
    assert_ne!(*random, built(&images, Setting::Random, PER_IMAGE, 8));
    for (name, objects) in &images {
        let absent = |of: &[PopeQuestion]| {
            of.iter()
                .filter(|q| q.image == *name && !q.present)
                .map(|q| object(q).to_owned())
                .collect::<Vec<_>>()
        };
        let chosen = absent(popular);
        let least = chosen
            .iter()
            .map(|object| counts[object])
            .min()
            .unwrap_or(usize::MAX);
        let more = counts.iter().filter(|&(object, &count)| {
            !objects.contains(*object) && !chosen.contains(object) && count > least
        });
        assert_eq!(
            more.count(),
            0,
            "{name}: a more popular object was passed over"
        );
    }
    let together = |a: &str, b: &str| {
        images
            .iter()
            .filter(|(_, objects)| objects.contains(a) && objects.contains(b))
            .count()
    };
    let mean = |questions: &[PopeQuestion]| {
        questions
            .chunks(2)
            .map(|pair| together(object(&pair[0]), object(&pair[1])))
            .sum::<usize>() as f64
            / questions.len() as f64
    };
    let [random, popular, adversarial] =
        [random, popular, adversarial].map(|questions| mean(questions));
    println!(
        "mean co-occurrence: random {random:.2}, popular {popular:.2}, adversarial {adversarial:.2}"
    );
    assert!(adversarial > popular && popular > random);
}

#[test]
fn additional_image_changes_no_draw() {
    let Some(mut images) = coco() else { return };
    let before = built(&images, Setting::Random, PER_IMAGE, 3);
    images.insert(0, ("new.jpg".to_owned(), images[5].1.clone()));
    let after = built(&images, Setting::Random, PER_IMAGE, 3);
    let old: Vec<_> = after
        .iter()
        .filter(|q| q.image != "new.jpg")
        .map(|q| (&q.image, &q.text))
        .collect();
    assert_eq!(
        old,
        before
            .iter()
            .map(|q| (&q.image, &q.text))
            .collect::<Vec<_>>()
    );
}

proptest! {
    #[test]
    fn any_set_is_balanced(objects in prop::collection::vec(prop::collection::btree_set("[a-h]",
        0..6), 1..12), per_image in 0usize..5, seed: u64) {
        let images: Images = objects.into_iter().enumerate()
            .map(|(i, objects)| (format!("{i}.jpg"), objects)).collect();
        for setting in Setting::ALL {
            check(&images, &built(&images, setting, per_image, seed), setting, per_image);
        }
    }

    #[test]
    fn counts_of_answers_add_up(
        rounds in prop::collection::vec((any::<bool>(), any::<bool>()), 0..50),
    ) {
        let sum: PopeCounts = rounds
            .iter()
            .map(|&(present, yes)| PopeCounts::from_answer(present, yes))
            .sum();
        prop_assert_eq!(sum.total(), rounds.len());
        prop_assert_eq!(sum.yes_rate(),
            (!rounds.is_empty()).then(|| rounds.iter().filter(|r| r.1)
                .count() as f64 / rounds.len() as f64));
        if let (Some(precision), Some(recall), Some(f1)) = (sum.precision(), sum.recall(),
            sum.f1()) {
            prop_assert!((f1 * (precision + recall) - 2.0 * precision * recall).abs() < 1e-12);
        }
    }
}

/// The right column is what `evaluate.py` of the authors' repository computes from the left one.
#[test]
fn parse_equals_the_reference() {
    for (answer, yes) in [
        ("Yes", true),
        ("yes, there is.", true),
        ("No", false),
        ("no", false),
        ("No, there is no dog in the image.", false),
        ("There is not a dog", false),
        ("There is,no, dog", true),
        ("I see no,", false),
        ("No.", false),
        ("Yes. There is no cat.", true),
        (". no", true),
        ("NO", true),
        ("No!", true),
        ("no\nthere is none", true),
        ("Not at all", true),
        ("There isn't one", true),
        ("nothing", true),
        ("a notable dog", true),
        ("", true),
    ] {
        assert_eq!(parse(answer), yes, "{answer:?}");
    }
}

#[test]
fn rates_equal_hand_computed_ones() {
    let sum: PopeCounts = [
        (true, true),
        (true, true),
        (true, false),
        (false, true),
        (false, false),
    ]
    .into_iter()
    .map(|(p, y)| PopeCounts::from_answer(p, y))
    .sum();
    assert_eq!(
        sum,
        PopeCounts {
            true_positives: 2,
            false_positives: 1,
            true_negatives: 1,
            false_negatives: 1
        }
    );
    assert_eq!(
        (
            sum.accuracy(),
            sum.precision(),
            sum.recall(),
            sum.yes_rate()
        ),
        (Some(0.6), Some(2.0 / 3.0), Some(2.0 / 3.0), Some(0.6))
    );
    assert_eq!(sum.f1(), Some(2.0 / 3.0));
    let none = PopeCounts::default();
    assert_eq!(
        [
            none.accuracy(),
            none.precision(),
            none.recall(),
            none.f1(),
            none.yes_rate()
        ],
        [None; 5]
    );
    assert_eq!(
        PopeCounts::from_answer(false, false).precision(),
        None,
        "who never says yes has no precision"
    );
}

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.json");
    fs::write(&path, text).unwrap();
    (dir, path)
}

#[test]
fn questions_are_exchanged_in_the_reference_format() {
    let published = concat!(
        r#"{"question_id": 86, "image": "COCO_val2014_000000385103.jpg", "image_id": 385103, "#,
        r#""text": "Is there an oven in the image?", "label": "yes"}"#,
    );
    let (_dir, path) = file(published);
    let question = &read_questions(&path).unwrap()[0];
    assert_eq!(
        (
            question.id,
            question.present,
            &question.object,
            question.setting
        ),
        (86, true, &None, None)
    );
    assert_eq!(question.text, super::question("oven"));
    let without_id = r#"{"image": "a", "question": "Is there an oven?", "label": "Yes"}"#;
    fs::write(&path, format!("{without_id}\n{without_id}")).unwrap();
    let read: Vec<_> = read_questions(&path)
        .unwrap()
        .into_iter()
        .map(|q| (q.id, q.text, q.present))
        .collect();
    assert_eq!(
        read,
        [
            (1, "Is there an oven?".to_owned(), true),
            (2, "Is there an oven?".to_owned(), true)
        ]
    );
    let images = set(&[("a.jpg", "cat dog"), ("b.jpg", "owl")]);
    let questions = built(&images, Setting::Adversarial, 3, 0);
    fs::write(&path, "").unwrap();
    write_questions(&questions, fs::File::create(&path).unwrap()).unwrap();
    assert_eq!(read_questions(&path).unwrap(), questions);
    let first = fs::read_to_string(&path)
        .unwrap()
        .lines()
        .next()
        .unwrap()
        .to_owned();
    let fields: serde_json::Value = serde_json::from_str(&first).unwrap();
    assert_eq!(
        (&fields["question_id"], &fields["label"], &fields["image"]),
        (&1.into(), &"yes".into(), &"a.jpg".into())
    );
    assert_eq!(
        first
            .parse::<Setting>()
            .map_err(|e| e.contains("expected random")),
        Err(true)
    );
}

#[test]
fn invalid_question_is_named() {
    let good = r#"{"question_id": 1, "image": "a", "text": "Is there?", "label": "no"}"#;
    for (from, to, want) in [
        (
            "1",
            "\"x\"",
            "p.json:2: 'question_id' is 'x', expected an integer",
        ),
        (
            "1",
            "-1",
            "p.json:2: 'question_id' is -1, expected an integer of 0 or more",
        ),
        (
            "1",
            "1.5",
            "p.json:2: 'question_id' is a number with a fraction, expected an integer",
        ),
        (
            "\"no\"",
            "\"maybe\"",
            "p.json:2: 'label' is 'maybe', expected yes or no",
        ),
        ("\"Is there?\"", "\"\"", "p.json:2: 'text' is empty"),
        (
            "\"label\"",
            "\"setting\": \"hard\", \"label\"",
            "p.json:2: 'hard' is not a POPE setting",
        ),
        ("image", "picture", "p.json:2: 'image' is missing"),
        ("", "", "p.json:2: question 1 is repeated in line 1"),
    ] {
        let (_dir, path) = file(&format!("{good}\n{}", good.replacen(from, to, 1)));
        let error = read_questions(&path).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
}

#[test]
fn answers_are_matched_with_their_questions() {
    let images = set(&[("a.jpg", "cat"), ("b.jpg", "dog")]);
    let questions = built(&images, Setting::Random, 1, 0);
    let answers = |text: &str| {
        let (_dir, path) = file(text);
        read_answers(&path, &questions).map_err(|e| e.to_string())
    };
    let want = ["yes", "no", "Yes, a dog", "no"].map(str::to_owned);
    let by_id = "{\"question_id\": 3, \"answer\": \"Yes, a dog\"}\n{\"question_id\": 1, \"text\": \
                 \"yes\"}\n{\"question_id\": 4, \"answer\": \"no\"}\n{\"question_id\": 2, \
                 \"answer\": \"no\"}";
    assert_eq!(answers(by_id).unwrap(), want);
    let in_order = "{\"question\": \"is there a cat in the image?\", \"answer\": \
                    \"yes\"}\n{\"question\": \"Is there a dog in the image? Say yes or no.\", \
                    \"answer\": \"no\"}\n{\"answer\": \"Yes, a dog\"}\n{\"answer\": \"no\"}";
    assert_eq!(answers(in_order).unwrap(), want);
    let scores: PopeCounts = questions
        .iter()
        .zip(answers(by_id).unwrap())
        .map(|(q, answer)| PopeCounts::from_answer(q.present, parse(&answer)))
        .sum();
    assert_eq!((scores.accuracy(), scores.total()), (Some(1.0), 4));
    for (from, to, want) in [
        (
            "\"question_id\": 3",
            "\"question_id\": 9",
            "p.json:1: no question 9",
        ),
        (
            "\"question_id\": 3",
            "\"question_id\": 1",
            "p.json:2: question 1 is already answered in line 1",
        ),
        (
            "\"question_id\": 3",
            "\"question_id\": 1",
            "p.json: question 3 has no answer",
        ),
        (
            "\"Yes, a dog\"",
            "true",
            "p.json:1: 'answer' is a boolean, expected a string",
        ),
        (
            "\"question_id\": 3",
            "\"question_id\": 3, \"question\": \"Is there a cat\"",
            "p.json:1: answers 'Is there a cat', but question 3 is",
        ),
    ] {
        let error = answers(&by_id.replacen(from, to, 1)).unwrap_err();
        assert!(error.contains(want), "{error}");
    }
    assert!(
        answers(&format!("{in_order}\n{{\"answer\": \"no\"}}"))
            .unwrap_err()
            .contains("p.json:5: there are only 4 questions")
    );
    let other_types = by_id
        .replace("\"question_id\": 3", "\"question_id\": \"3\"")
        .replace("\"question_id\": 1", "\"question_id\": 1.0");
    assert_eq!(answers(&other_types).unwrap(), want);
    assert!(
        answers("{\"answer\": \"yes\"}\n{")
            .unwrap_err()
            .contains("p.json:2: broken JSON")
    );
}
