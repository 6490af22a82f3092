//! `candor eval honesty` on the photographs in the repository.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::{
    eval::{figure, small_coco},
    support::shared_data,
};

/// Photographs with annotated objects and captions.
const PHOTOGRAPHS: [(&str, &str, [&str; 5]); 4] = [
    (
        "astronaut.jpg",
        "person",
        [
            "A woman in an orange suit smiles.",
            "An astronaut stands in front of a flag.",
            "A smiling woman poses.",
            "A woman wears a space suit.",
            "A portrait of an astronaut.",
        ],
    ),
    (
        "cat.jpg",
        "cat",
        [
            "A cat looks at the camera.",
            "A brown cat lies down.",
            "A close look at a cat.",
            "A cat with green eyes.",
            "The face of a tabby cat.",
        ],
    ),
    (
        "coffee.jpg",
        "cup",
        [
            "A cup of coffee stands on a table.",
            "A white cup on a saucer.",
            "A spoon lies beside a cup.",
            "Coffee in a small cup.",
            "A cup with a spoon on a wooden table.",
        ],
    ),
    (
        "photographer.jpg",
        "person",
        [
            "A man takes a photograph.",
            "A man with a camera on a tripod.",
            "A photographer stands on grass.",
            "A man in a coat looks into a camera.",
            "A man films a field.",
        ],
    ),
];

/// A folder of origins: these photographs in COCO's layout, and two of them with questions.
fn origins(dir: &Path) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/photos");
    for origin in ["coco-mini", "daquar"] {
        fs::create_dir_all(dir.join(origin).join("images")).unwrap();
        for (name, ..) in PHOTOGRAPHS {
            fs::copy(
                fixtures.join(name),
                dir.join(origin).join("images").join(name),
            )
            .unwrap();
        }
    }
    let categories = [(1, "person"), (2, "cat"), (3, "cup")];
    let images: Vec<Value> = (1..)
        .zip(PHOTOGRAPHS)
        .map(|(id, (name, ..))| json!({ "id": id, "file_name": name }))
        .collect();
    let object = |(id, (_, object, _)): (i32, (&str, &str, [&str; 5]))| {
        let category = categories
            .iter()
            .find(|(_, name)| *name == object)
            .map(|c| c.0);
        json!({ "id": id, "image_id": id, "category_id": category, "bbox": [1, 1, 50, 50] })
    };
    let annotations: Vec<Value> = (1..).zip(PHOTOGRAPHS).map(object).collect();
    let categories: Vec<Value> = categories
        .iter()
        .map(|(id, name)| json!({ "id": id, "name": name }))
        .collect();
    let instances =
        json!({ "images": images, "annotations": annotations, "categories": categories });
    fs::write(dir.join("coco-mini/instances.json"), instances.to_string()).unwrap();
    let captions = (1..)
        .zip(PHOTOGRAPHS)
        .flat_map(|(id, (.., texts))| texts.map(|text| (id, text)));
    let captions: Vec<Value> = (1..)
        .zip(captions)
        .map(|(number, (image, text))| json!({ "id": number, "image_id": image, "caption": text }))
        .collect();
    fs::write(
        dir.join("coco-mini/captions.json"),
        json!({ "images": images, "annotations": captions }).to_string(),
    )
    .unwrap();
    let questions = [
        ("coffee.jpg", "what is on the table?", "cup"),
        ("cat.jpg", "what color is the cat?", "brown"),
    ];
    let row = |(image, question, answer)| {
        json!({ "image": image, "question": question, "answers": [answer] }).to_string() + "\n"
    };
    fs::write(
        dir.join("daquar/questions.jsonl"),
        questions.map(row).concat(),
    )
    .unwrap();
    dir.to_owned()
}

/// Runs the evaluation into `report` and returns its figures.
fn run(data: &Path, report: &Path, more: &[&str]) -> Value {
    let paths = [data, report].map(|path| path.to_str().unwrap());
    let args = [
        "eval",
        "honesty",
        "--data",
        paths[0],
        "--report",
        paths[1],
        "--resamples",
        "100",
        "--made",
        "2",
    ];
    let output = Command::new(env!("CARGO_BIN_EXE_candor"))
        .args(args)
        .args(more)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&fs::read(report.join("report.json")).unwrap()).unwrap()
}

#[test]
fn honesty_measures_every_origin_and_resumes_from_its_answers() {
    let dir = tempfile::tempdir().unwrap();
    let (data, report) = (origins(dir.path()), dir.path().join("report"));
    let json = run(&data, &report, &[]);
    let facts = &json["facts"];
    assert_eq!(
        (&facts["model"], &facts["photographs"]),
        (&json!("candor-mini"), &json!("12")),
        "four, two with questions, four made, two re-encoded: {facts}"
    );
    assert_eq!(
        (
            &facts["coco-mini"],
            &facts["daquar"],
            &facts["drawings"],
            &facts["vqa-rad"]
        ),
        (&json!("4"), &json!("2"), &json!("2"), &json!("0"))
    );
    assert!(
        json["notes"]
            .as_array()
            .unwrap()
            .iter()
            .any(|note| note.as_str().unwrap().starts_with("flickr8k: no folder")),
        "{json:#}"
    );
    let row =
        |table: &str, name: &str| json["sections"]["Bars"]["tables"][table]["rows"][name].clone();
    // Measures without data say so and do not pass.
    for name in [
        "AUROC of short answers, flickr8k",
        "answers abstained or flagged, vqa-rad",
        "familiarity: flickr8k against daquar, AUROC",
    ] {
        let found = row("Bars", name);
        assert!(
            found["figure"].is_null() && found["verdict"] == "not measured",
            "{name}: {found}"
        );
    }
    let risk = row("Bars", "wrong among clean answers, daquar");
    assert!(
        risk["figure"].is_null() && risk["verdict"] == "not shown",
        "two answers show nothing: {risk}"
    );
    let kept = row(
        "Together with",
        "object words a caption in off, ratio to the version compared with, coco-mini",
    );
    assert_eq!(
        (&kept["verdict"], &kept["of"]),
        (
            &json!("not measured"),
            &json!("needs an earlier run: --against")
        ),
        "{kept}"
    );
    // Measures with data count their observations.
    let figure_of = |table: &str, name: &str| figure(&json, "Bars", table, name, "figure");
    assert_eq!(
        figure(
            &json,
            "Bars",
            "Beside them",
            "photographs without people that get some, coco-mini",
            "photographs"
        ),
        2.0,
        "cat and coffee"
    );
    assert_eq!(
        figure(
            &json,
            "Bars",
            "Beside them",
            "photographs without people that get some, daquar",
            "photographs"
        ),
        2.0
    );
    let documents = row("Bars", "answers abstained or flagged, documents");
    assert_eq!(
        (&documents["photographs"]["value"], &documents["of"]),
        (&json!(2.0), &json!("8 answers")),
        "{documents}"
    );
    assert_eq!(
        row("Beside them", "is there no X: answers that are right")["of"],
        json!("8 questions")
    );
    assert_eq!(
        row(
            "Beside them",
            "questions out of scope: abstained or flagged"
        )["of"],
        json!("4 answers")
    );
    assert_eq!(
        row(
            "Bars",
            "score: people's captions against another photograph's, AUROC, coco-mini"
        )["of"],
        json!("16 captions, half of them another photograph's")
    );
    assert!((0.0..=1.0).contains(&figure_of(
        "Bars",
        "score: people's captions against another photograph's, AUROC, coco-mini"
    )));
    let mentions = figure_of("Beside them", "object words a caption in off, coco-mini");
    assert!(mentions > 0.0, "captions name something");
    // The page shows photographs and loads nothing.
    let page = fs::read_to_string(report.join("index.html")).unwrap();
    assert!(
        page.contains("data:image/jpeg;base64,")
            && !page.contains("src=\"http")
            && !page.contains("<script")
    );
    // The same command asks nothing again and reports the same; an earlier run is shown beside it.
    let answers = fs::read_to_string(report.join("answers.jsonl")).unwrap();
    let whole: Vec<&str> = answers.lines().collect();
    assert!(
        whole
            .iter()
            .all(|line| serde_json::from_str::<Value>(line).unwrap()["answer"]["text"].is_string())
    );
    let earlier = dir.path().join("earlier.json");
    fs::copy(report.join("report.json"), &earlier).unwrap();
    // As after a kill.
    fs::write(
        report.join("answers.jsonl"),
        &answers[..answers.len() * 2 / 3],
    )
    .unwrap();
    let again = run(&data, &report, &["--against", earlier.to_str().unwrap()]);
    let answered = fs::read_to_string(report.join("answers.jsonl")).unwrap();
    assert_eq!(answered.lines().count(), whole.len());
    let bars = |json: &Value| json["sections"]["Bars"]["tables"]["Bars"]["rows"].clone();
    for (name, found) in bars(&json).as_object().unwrap() {
        let now = &bars(&again)[name];
        for column in ["figure", "before"] {
            let [now, then] = [&now[column]["value"], &found["figure"]["value"]].map(Value::as_f64);
            assert!(
                now.zip(then)
                    .map_or(now == then, |(now, then)| (now - then).abs() < 1e-4),
                "{name}, {column}: {now:?} {then:?}"
            );
        }
    }
    let kept = "object words a caption in off, ratio to the version compared with, coco-mini";
    assert_eq!(
        figure(&again, "Bars", "Together with", kept, "figure"),
        1.0,
        "{mentions} before"
    );
}

#[test]
fn honesty_on_coco_equals_the_figures_of_other_commands() {
    let Some(source) = shared_data("coco-mini") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    small_coco(&source, &dir.path().join("coco-mini"), 8);
    let json = run(
        dir.path(),
        &dir.path().join("report"),
        &["--origins", "coco-mini"],
    );
    let data = dir.path().join("coco-mini");
    let args = [
        "eval",
        "guard",
        "--data",
        data.to_str().unwrap(),
        "--half",
        "all",
        "--thresholds",
        "0.3",
        "--windows",
        "0",
        "--best-of",
        "2",
    ];
    let guard = crate::eval::measured(
        &[&args[..], &["--temperatures", "0.5", "--resamples", "100"]].concat(),
        dir.path(),
    );
    let flags = |column: &str| {
        figure(
            &guard,
            "Flags",
            "What flags find",
            "closed vocabulary",
            column,
        )
    };
    let mine = |table: &str, row: &str| figure(&json, "Bars", table, row, "figure");
    let chair = |row: &str| figure(&guard, "Figures", "Closed vocabulary", row, "CHAIR_i");
    for (table, name, wanted) in [
        ("Bars", "AUROC of object words, coco-mini", flags("AUROC")),
        (
            "Bars",
            "wrong object words left unflagged, of all object words, coco-mini",
            flags("hallucinated, unflagged"),
        ),
        (
            "Bars",
            "regenerate against off: CHAIR_i, relative, coco-mini",
            chair("regenerate") / chair("off") - 1.0,
        ),
        (
            "Together with",
            "right object words flagged, coco-mini",
            flags("right mentions flagged"),
        ),
    ] {
        let found = mine(table, name);
        assert!((found - wanted).abs() < 1e-6, "{name}: {found}, {wanted}");
    }
}
