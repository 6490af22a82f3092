//! `candor eval` as its users run it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

use crate::support::shared_data;

fn candor(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_candor"))
        .args(args)
        .output()
        .unwrap()
}

/// Runs an evaluation and returns its JSON.
pub fn measured(args: &[&str], dir: &Path) -> Value {
    let json = dir.join("report.json");
    let output = candor(&[args, &["--json", json.to_str().unwrap()]].concat());
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&fs::read(json).unwrap()).unwrap()
}

pub fn figure(report: &Value, section: &str, table: &str, row: &str, column: &str) -> f64 {
    let found = &report["sections"][section]["tables"][table]["rows"][row][column]["value"];
    found
        .as_f64()
        .unwrap_or_else(|| panic!("{section} / {table} / {row} / {column}: {found} in {report:#}"))
}

#[test]
fn eval_captions_reproduces_published_chair_and_contrasts_lists() {
    let (Some(published), Some(list)) = (
        shared_data("chair/published.json"),
        shared_data("chair/synonyms.txt"),
    ) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let published: Value = serde_json::from_slice(&fs::read(published).unwrap()).unwrap();
    for (file, wanted) in published.as_object().unwrap() {
        let captions = shared_data(&format!("chair/{file}")).unwrap();
        let args = [
            "eval",
            "captions",
            "--hypotheses",
            captions.to_str().unwrap(),
            "--vocabulary",
            list.to_str().unwrap(),
        ];
        let report = measured(&args, dir.path());
        let row = file.trim_end_matches(".jsonl");
        for (column, key) in [("CHAIR_i", "chair_i"), ("CHAIR_s", "chair_s")] {
            let found = 100.0 * figure(&report, "Figures", "Closed vocabulary", row, column);
            assert!(
                (found - wanted[key].as_f64().unwrap()).abs() <= 0.0501,
                "{file} {column}: {found}, published {}",
                wanted[key]
            );
        }
        assert_eq!(
            figure(&report, "Figures", "Closed vocabulary", row, "captions"),
            wanted["captions"].as_f64().unwrap()
        );
        let both = &report["sections"]["How the vocabularies differ"]["tables"]["The same captions \
            under both"]["rows"];
        assert!(
            both["coco80"]["mentions"]["value"].as_f64().unwrap() > 1000.0,
            "{both:#}"
        );
    }
}

/// A caption of each development image by a person, and the same captions shifted to the next
/// image.
fn hypotheses(data: &Path, dir: &Path) -> (PathBuf, PathBuf) {
    let table = fs::read_to_string(data.join("captions.tsv")).unwrap();
    let dev = fs::read_to_string(data.join("dev.txt")).unwrap();
    let names: Vec<&str> = dev.lines().take(200).collect();
    let first: std::collections::HashMap<&str, &str> = table
        .lines()
        .filter_map(|line| {
            let columns: Vec<&str> = line.split('\t').collect();
            (columns[1] == "0").then_some((columns[0], columns[2]))
        })
        .collect();
    let write = |name: &str, shift: usize| {
        let line = |(i, image): (usize, &&str)| {
            serde_json::json!({ "image": image,
                "caption": first[names[(i + shift) % names.len()]] })
            .to_string()
                + "\n"
        };
        let file = dir.join(name);
        fs::write(
            &file,
            names.iter().enumerate().map(line).collect::<String>(),
        )
        .unwrap();
        file
    };
    (write("right.jsonl", 0), write("wrong.jsonl", 1))
}

#[test]
fn captions_of_other_images_are_measured_as_worse() {
    let Some(data) = shared_data("flickr8k") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (right, wrong) = hypotheses(&data, dir.path());
    let html = dir.path().join("report.html");
    let paths = [&wrong, &right, &data, &html].map(|p| p.to_str().unwrap());
    let args = [
        "eval",
        "captions",
        "--hypotheses",
        paths[0],
        "--against",
        paths[1],
        "--references",
        paths[2],
        "--partial",
        "--html",
        paths[3],
    ];
    let report = measured(&args, dir.path());
    let open = |row: &str, column: &str| figure(&report, "Figures", "Open vocabulary", row, column);
    assert_eq!(
        open("right", "CHAIR_i"),
        0.0,
        "a caption is one of its own references"
    );
    assert!(
        open("wrong", "CHAIR_i") > 0.4 && open("wrong", "recall") < 0.5,
        "{report:#}"
    );
    let people = open("people, each judged by the others", "CHAIR_i");
    assert!((0.08..0.25).contains(&people), "{people}");
    assert!(figure(&report, "Figures", "Description", "right", "BLEU-4") > 0.999);
    let difference = &report["sections"]["Differences"]["tables"]["wrong against right, the same \
        images"]["rows"]["CIDEr-D"];
    assert_eq!(difference["at 5 %"], "significant");
    assert!(
        difference["difference"]["high"].as_f64().unwrap() < 0.0,
        "{difference}"
    );
    let page = fs::read_to_string(html).unwrap();
    assert!(page.contains("<svg") && page.contains("data:image/jpeg;base64,"));
    assert!(
        !page.contains("src=\"http") && !page.contains("<script"),
        "the page must be self-contained"
    );
}

#[test]
fn invalid_row_is_named_by_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.jsonl");
    let file_name = file.to_str().unwrap();
    for (text, wanted) in [
        (
            "{\"image_id\": 1, \"caption\": \"A dog.\", \"objects\": [\"dog\"]}\n{\"image_id\": \
             2}\n",
            "bad.jsonl:2",
        ),
        (
            "{\"image_id\": 1, \"caption\": \"A dog.\", \"objects\": [\"dog\"]}\nnot json\n",
            "bad.jsonl:2",
        ),
        (
            "{\"image_id\": 1, \"caption\": \"A dog.\", \"objects\": [\"dog\"]}\n{\"image_id\": 1, \
             \"caption\": \"A cat.\", \"objects\": []}\n",
            "bad.jsonl:2",
        ),
        ("{\"image_id\": 1, \"caption\": \"A dog.\"}\n", "objects"),
        ("", "bad.jsonl"),
    ] {
        fs::write(&file, text).unwrap();
        let output = candor(&["eval", "captions", "--hypotheses", file_name]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}: {said}");
        assert!(said.contains(wanted), "{text}: {said}");
    }
    let Some(data) = shared_data("flickr8k") else {
        return;
    };
    fs::write(
        &file,
        "{\"image\": \"nobody.jpg\", \"caption\": \"A dog.\"}\n",
    )
    .unwrap();
    let output = candor(&[
        "eval",
        "captions",
        "--hypotheses",
        file_name,
        "--references",
        data.to_str().unwrap(),
        "--partial",
    ]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(2)
            && said.contains("nobody.jpg")
            && said.contains("bad.jsonl:1"),
        "{said}"
    );
}

/// A folder in COCO's layout with `n` of the real photographs.
pub fn small_coco(source: &Path, dir: &Path, n: usize) {
    let read = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(source.join(name)).unwrap()).unwrap()
    };
    let (mut captions, mut instances) = (read("captions.json"), read("instances.json"));
    let kept: Vec<Value> = captions["images"]
        .as_array()
        .unwrap()
        .iter()
        .take(n)
        .cloned()
        .collect();
    let ids: Vec<Value> = kept.iter().map(|image| image["id"].clone()).collect();
    fs::create_dir_all(dir.join("images")).unwrap();
    for image in &kept {
        let name = image["file_name"].as_str().unwrap();
        fs::copy(
            source.join("images").join(name),
            dir.join("images").join(name),
        )
        .unwrap();
    }
    for (name, table) in [
        ("captions.json", &mut captions),
        ("instances.json", &mut instances),
    ] {
        table["images"]
            .as_array_mut()
            .unwrap()
            .retain(|image| ids.contains(&image["id"]));
        table["annotations"]
            .as_array_mut()
            .unwrap()
            .retain(|annotation| ids.contains(&annotation["image_id"]));
        fs::write(dir.join(name), table.to_string()).unwrap();
    }
}

#[test]
fn generate_captions_only_missing_photographs() {
    let Some(source) = shared_data("coco-mini") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    small_coco(&source, dir.path(), 6);
    let (file, data) = (dir.path().join("said.jsonl"), dir.path().to_str().unwrap());
    let args = [
        "eval",
        "captions",
        "--hypotheses",
        file.to_str().unwrap(),
        "--references",
        data,
        "--generate",
    ];
    let whole = measured(&args, dir.path());
    let written = fs::read_to_string(&file).unwrap();
    assert_eq!(written.lines().count(), 6);
    assert_eq!(
        figure(&whole, "Figures", "Closed vocabulary", "said", "captions"),
        6.0
    );
    // As after a kill within the third caption: it continues with that one.
    let begun: Vec<&str> = written.lines().take(2).collect();
    fs::write(&file, begun.join("\n") + "\n{\"image_id\": \"0000").unwrap();
    let resumed = measured(&args, dir.path());
    assert_eq!(fs::read_to_string(&file).unwrap(), written);
    assert_eq!(resumed["sections"], whole["sections"]);
    // Captions made with another guard mode are refused, complete or not.
    for lines in [2, 6] {
        let text: String = written
            .lines()
            .take(lines)
            .map(|line| format!("{line}\n"))
            .collect();
        fs::write(&file, &text).unwrap();
        let output = candor(&[&args[..], &["--guard", "flag"]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains("guard.mode is off there and flag here") && said.contains("--overwrite"),
            "{said}"
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
    }
    // Captions of another model have no settings and are refused too.
    fs::write(&file, "{\"image\": \"a.jpg\", \"caption\": \"A dog.\"}\n").unwrap();
    let output = candor(&args);
    assert!(
        output.status.code() == Some(2)
            && String::from_utf8_lossy(&output.stderr).contains("does not record its settings")
    );
    measured(&[&args[..], &["--overwrite"]].concat(), dir.path());
    assert_eq!(fs::read_to_string(&file).unwrap(), written);
}

#[test]
fn pope_asks_equally_about_present_and_absent_objects() {
    let Some(source) = shared_data("coco-mini") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    small_coco(&source, dir.path(), 5);
    let (data, questions, answers) = (
        dir.path().to_str().unwrap(),
        dir.path().join("pope.jsonl"),
        dir.path().join("answers.jsonl"),
    );
    let args = [
        "eval",
        "pope",
        "--data",
        data,
        "--questions",
        questions.to_str().unwrap(),
    ];
    let own = measured(&args, dir.path());
    assert!((0.0..=1.0).contains(&figure(&own, "Answers", "POPE", "all", "accuracy")));
    let asked: Vec<Value> = fs::read_to_string(&questions)
        .unwrap()
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let yes = asked.iter().filter(|q| q["label"] == "yes").count();
    assert_eq!(2 * yes, asked.len());
    let forms = measured(&[&args[..], &["--forms"]].concat(), dir.path());
    assert_eq!(
        figure(&forms, "Answers", "POPE", "all", "accuracy"),
        figure(&own, "Answers", "POPE", "all", "accuracy")
    );
    for row in [
        "is there no X: the opposite of is there X",
        "the same question in other words: the same answer",
    ] {
        assert!(
            (0.0..=1.0).contains(&figure(&forms, "Answers", "Consistency", row, "share")),
            "{row}"
        );
    }
    assert!(own["sections"]["Answers"]["tables"]["Consistency"].is_null());
    // A model that always agrees is right half of the time, and POPE's yes rate shows why. Only its
    // questions and answers are needed.
    let agree = |q: &Value| {
        serde_json::json!({ "question_id": q["question_id"], "answer": "Yes, there is. No doubt." })
            .to_string()
            + "\n"
    };
    fs::write(&answers, asked.iter().map(agree).collect::<String>()).unwrap();
    let of_others = [
        "eval",
        "pope",
        "--questions",
        questions.to_str().unwrap(),
        "--answers",
        answers.to_str().unwrap(),
    ];
    for args in [
        of_others.to_vec(),
        [&of_others[..], &["--data", data]].concat(),
    ] {
        let report = measured(&args, dir.path());
        for (column, wanted) in [("accuracy", 0.5), ("recall", 1.0), ("yes", 1.0)] {
            assert_eq!(figure(&report, "Answers", "POPE", "all", column), wanted);
        }
        assert!(
            report["facts"].get("data").is_none()
                && report["facts"]["answers"] == answers.to_str().unwrap(),
            "{report:#}"
        );
    }
}

/// A test file in a format of the field.
fn case(name: &str) -> Option<PathBuf> {
    shared_data(&format!("../field/cases/{name}"))
}

#[test]
fn files_in_the_formats_of_other_tools_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let (Some(references), Some(floats), Some(whole)) = (
        case("coco_refs_without_file_name.json"),
        case("coco_results_float_id.json"),
        case("coco_results.json"),
    ) else {
        return;
    };
    for results in [&floats, &whole] {
        let args = [
            "eval",
            "captions",
            "--hypotheses",
            results.to_str().unwrap(),
            "--references",
            references.to_str().unwrap(),
        ];
        let report = measured(&args, dir.path());
        let name = results.file_stem().unwrap().to_str().unwrap();
        assert_eq!(
            figure(&report, "Figures", "Description", name, "captions"),
            1.0
        );
    }
    let (Some(questions), Some(answers)) = (case("pope_q.jsonl"), case("pope_answers.jsonl"))
    else {
        return;
    };
    let args = [
        "eval",
        "pope",
        "--questions",
        questions.to_str().unwrap(),
        "--answers",
        answers.to_str().unwrap(),
    ];
    assert_eq!(
        figure(
            &measured(&args, dir.path()),
            "Answers",
            "POPE",
            "all",
            "accuracy"
        ),
        1.0
    );
    // Empty captions are left out, with a note.
    let text = fs::read_to_string(&references).unwrap().replacen(
        "[{",
        "[{\"image_id\": 1, \"id\": 9, \"caption\": \"\"}, {",
        1,
    );
    let with_empty = dir.path().join("refs.json");
    fs::write(&with_empty, text).unwrap();
    let args = [
        "eval",
        "captions",
        "--hypotheses",
        whole.to_str().unwrap(),
        "--references",
        with_empty.to_str().unwrap(),
    ];
    let report = measured(&args, dir.path());
    assert!(
        report["notes"]
            .as_array()
            .unwrap()
            .iter()
            .any(|note| note == "Empty reference captions, left out: 1."),
        "{report:#}"
    );
}

#[test]
fn split_is_evaluated_with_only_its_photographs() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write(
        "captions.tsv",
        "a.jpg\t0\tA dog runs .\na.jpg\t1\tA brown dog .\n",
    );
    write("test.txt", "a.jpg\n");
    write("train.txt", "nowhere.jpg\n");
    write(
        "h.jsonl",
        "{\"image\": \"a.jpg\", \"caption\": \"A dog.\"}\n",
    );
    let (file, data) = (dir.path().join("h.jsonl"), dir.path().to_str().unwrap());
    let args = [
        "eval",
        "captions",
        "--hypotheses",
        file.to_str().unwrap(),
        "--references",
        data,
        "--split",
    ];
    let report = measured(&[&args[..], &["test"]].concat(), dir.path());
    assert_eq!(
        figure(&report, "Figures", "Open vocabulary", "h", "captions"),
        1.0
    );
    let output = candor(&[&args[..], &["dev"]].concat());
    assert!(String::from_utf8_lossy(&output.stderr).contains("no split 'dev', found: test, train"));
}

#[test]
fn vqa_on_a_file_of_questions_measures_exact_match() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("images")).unwrap();
    let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/photos/cat.jpg");
    fs::copy(photo, dir.path().join("images/cat.jpg")).unwrap();
    // One of these two is right for any answer.
    let row = |answer: &str, kind: &str| {
        serde_json::json!({ "image": "cat.jpg", "question": "Is there a cat in the \
            picture?", "answers": [answer, "neither"], "kind": kind, "type": "CLOSED" })
        .to_string()
            + "\n"
    };
    let file = dir.path().join("questions.jsonl");
    fs::write(&file, row("yes", "agreeing") + &row("NO!", "denying")).unwrap();
    for data in [dir.path(), &file] {
        let report = measured(
            &["eval", "vqa", "--data", data.to_str().unwrap()],
            dir.path(),
        );
        assert_eq!(
            figure(&report, "Answers", "All questions", "all", "exact match"),
            0.5
        );
        let kinds = ["agreeing", "denying"]
            .map(|kind| figure(&report, "Answers", "By kind", kind, "exact match"));
        assert_eq!(kinds[0] + kinds[1], 1.0);
        assert_eq!(
            figure(&report, "Answers", "By type", "CLOSED", "questions"),
            2.0
        );
        assert!(
            report["notes"][0].as_str().unwrap().contains("articles"),
            "the rule is said: {report:#}"
        );
    }
    let report = measured(
        &[
            "eval",
            "vqa",
            "--data",
            file.to_str().unwrap(),
            "--limit",
            "1",
        ],
        dir.path(),
    );
    assert_eq!(
        figure(&report, "Answers", "All questions", "all", "questions"),
        1.0
    );
    assert_eq!(report["facts"]["questions"], "1 of 2");
    let output = candor(&[
        "eval",
        "vqa",
        "--data",
        dir.path().join("images").to_str().unwrap(),
    ]);
    assert!(
        output.status.code() == Some(2)
            && String::from_utf8_lossy(&output.stderr).contains("expected questions.jsonl")
    );
    for data in ["daquar", "vqa-rad"] {
        let Some(data) = shared_data(data) else {
            return;
        };
        let report = measured(
            &[
                "eval",
                "vqa",
                "--data",
                data.to_str().unwrap(),
                "--limit",
                "20",
            ],
            dir.path(),
        );
        assert_eq!(
            figure(&report, "Answers", "All questions", "all", "questions"),
            20.0
        );
    }
}
