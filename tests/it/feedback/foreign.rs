//! Files of other tools: a row is imported whole, or refused with the reason.

use std::{collections::BTreeMap, fs, path::Path};

use base64::{Engine, prelude::BASE64_STANDARD};
use candor::feedback::{
    import::ImportSummary,
    interchange::InterchangeFormat,
    record::{Feedback, JudgmentKind, TokenLabel},
};
use image::ImageFormat;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::interchange::{all, corrections, taken};
use crate::{
    served::picture,
    server_clients::{python, said},
};

/// Imports a file into an empty store.
fn read(
    file: &[u8],
    format: InterchangeFormat,
    images: Option<&Path>,
) -> (ImportSummary, Vec<Feedback>) {
    let folder = TempDir::new().unwrap();
    Runtime::new().unwrap().block_on(async {
        let to = corrections(folder.path()).await;
        let summary = taken(&to, file, format, images).await;
        (summary, all(&to).await)
    })
}

/// Words labeled bad.
fn bad(record: &Feedback) -> String {
    record
        .tokens
        .iter()
        .filter(|token| token.label == TokenLabel::Bad)
        .map(|token| token.text.as_str())
        .collect::<String>()
        .trim()
        .to_owned()
}

fn left_out(names: &[(&str, usize)]) -> BTreeMap<String, usize> {
    names
        .iter()
        .map(|(name, count)| ((*name).to_owned(), *count))
        .collect()
}

/// Files written by `tests/interchange/make.py`; `None` if it cannot run.
fn made() -> Option<TempDir> {
    let mut python = python("pyarrow")?;
    let folder = TempDir::new().unwrap();
    python.arg("tests/interchange/make.py").arg(folder.path());
    said(python, "");
    Some(folder)
}

#[test]
fn parquet_of_every_codec_is_read() {
    let Some(folder) = made() else { return };
    for codec in ["none", "snappy", "gzip", "brotli", "zstd", "lz4"] {
        let file = fs::read(folder.path().join(format!("codec-{codec}.parquet"))).unwrap();
        let (summary, records) = read(&file, InterchangeFormat::RlhfV, None);
        assert_eq!(
            (summary.taken, summary.known, summary.refused.len()),
            (1, 2, 0),
            "{codec}: {:?}",
            summary.refused
        );
        assert_eq!(records[0].corrected().as_deref(), Some("A cat."));
    }
}

#[test]
fn pair_that_differs_in_typography_is_good() {
    let Some(folder) = made() else { return };
    let (summary, records) = read(
        &fs::read(folder.path().join("typography.parquet")).unwrap(),
        InterchangeFormat::RlhfV,
        None,
    );
    assert_eq!(
        (summary.taken, records.len(), &summary.refused),
        (4, 4, &vec![])
    );
    assert!(
        records
            .iter()
            .all(|record| record.kind == JudgmentKind::Good && bad(record).is_empty()),
        "{records:?}"
    );
    let (_, records) = read(
        &fs::read(folder.path().join("mixed.parquet")).unwrap(),
        InterchangeFormat::RlhfV,
        None,
    );
    assert_eq!(
        (
            bad(&records[0]).as_str(),
            records[0].errors[0].correction.as_deref()
        ),
        ("dog", Some("cat"))
    );
}

#[test]
fn preference_rows_are_imported_whole_or_refused() {
    let Some(folder) = made() else { return };
    fs::write(
        folder.path().join("photo.jpg"),
        fs::read("tests/fixtures/photos/cat.jpg").unwrap(),
    )
    .unwrap();
    let (mut good, mut refused) = (0, BTreeMap::new());
    for entry in fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let Some((kind @ ("taken" | "refused"), form)) = name.split_once('-') else {
            continue;
        };
        let (summary, records) = read(
            &fs::read(&path).unwrap(),
            InterchangeFormat::TrlDpo,
            Some(folder.path()),
        );
        if kind == "taken" {
            good += 1;
            assert_eq!((summary.taken, &summary.refused), (1, &vec![]), "{form}");
            let record = &records[0];
            assert_eq!(
                (record.prompt.as_str(), record.response.as_str()),
                ("Describe.", "A dog."),
                "{form}"
            );
            assert_eq!(
                (bad(record).as_str(), record.corrected().as_deref()),
                ("dog", Some("A cat.")),
                "{form}"
            );
            let expected = if form == "system" {
                left_out(&[("column 'score_chosen'", 1), ("system messages", 1)])
            } else {
                left_out(&[])
            };
            assert_eq!(summary.left_out, expected, "{form}");
        } else {
            assert_eq!(
                (summary.taken, summary.refused.len()),
                (0, 2),
                "{form}: {summary:?}"
            );
            assert_eq!(
                summary
                    .refused
                    .iter()
                    .map(|(row, _)| *row)
                    .collect::<Vec<_>>(),
                [1, 2]
            );
            refused.insert(form.to_owned(), summary.refused[0].1.clone());
        }
    }
    assert_eq!((good, refused.len()), (12, 11));
    let says = [
        ("two-images", "'images' has 2 images"),
        ("same-image-twice", "'images' has 2 images"),
        ("two-columns", "'images' has 2 images"),
        ("no-image", "no image"),
        ("nowhere", "`../gone.jpg`"),
        ("turns", "'prompt' has 3 turns"),
        ("implicit-turns", "'prompt' has 3 turns"),
        ("answers", "'chosen' has 3 turns"),
        ("role", "`user`"),
        ("other-prompt", "'prompt' differs"),
        ("tool", "`tool`"),
    ];
    for (form, part) in says {
        assert!(refused[form].contains(part), "{form}: {}", refused[form]);
    }
}

const TEXT: &str = "A brown and black dog is laying in the air.";

/// Label Studio task with these annotations.
fn task(annotations: Value) -> Value {
    let image = format!(
        "data:image/png;base64,{}",
        BASE64_STANDARD.encode(picture(1, ImageFormat::Png))
    );
    json!({ "id": 1, "data": { "image": image, "prompt": "Describe", "text": TEXT },
        "annotations": annotations, "predictions": [{ "result": [{ "x": 1 }] }],
        "drafts": [] })
}

/// Annotation that marks `dog` with these values, corrects it, and adds further results.
fn marked(value: Value, also: &[Value]) -> Value {
    let mut result = vec![
        json!({ "id": "a", "from_name": "error", "to_name": "text", "type": "labels",
            "value": value }),
    ];
    let correction = json!({ "start": value["start"], "end": value["end"], "text": ["cat "] });
    result.push(
        json!({ "id": "a", "from_name": "correction", "to_name": "text", "type": "textarea",
        "value": correction }),
    );
    result.extend_from_slice(also);
    json!({ "id": 1, "completed_by": 1, "was_cancelled": false, "result": result })
}

fn dog() -> Value {
    json!({ "start": 18, "end": 21, "text": "dog", "labels": ["error"] })
}

fn tasks(tasks: &Value, before: &str) -> (ImportSummary, Vec<Feedback>) {
    read(
        format!("{before}{tasks}").as_bytes(),
        InterchangeFormat::LabelStudio,
        None,
    )
}

#[track_caller]
fn one_cat((summary, records): &(ImportSummary, Vec<Feedback>)) {
    assert_eq!((summary.taken, &summary.refused), (1, &vec![]));
    assert_eq!(
        (bad(&records[0]).as_str(), records[0].corrected()),
        ("dog", Some(TEXT.replace("dog", "cat")))
    );
}

#[test]
fn label_studio_exports_are_imported() {
    let relation =
        json!({ "from_id": "a", "to_id": "b", "type": "relation", "direction": "right" });
    let boxed = json!({ "id": "b", "from_name": "box", "to_name": "photo",
        "type": "rectanglelabels", "value": { "x": 1.5, "y": 2, "width": 3, "height": 4,
        "rectanglelabels": ["dog"] } });
    let taxonomy = json!({ "id": "t", "from_name": "kinds", "to_name": "text", "type": "taxonomy",
            "value": { "taxonomy": [["a", "b"]] } });
    let rating = json!({ "id": "r", "from_name": "stars", "to_name": "text", "type": "rating",
        "value": { "rating": 4 } });
    let chosen = json!({ "id": "c", "from_name": "quality", "to_name": "text", "type": "choices",
        "value": { "choices": ["poor"] } });
    let with_others = tasks(
        &json!([task(json!([marked(
            dog(),
            &[relation, boxed, taxonomy, rating, chosen]
        )]))]),
        "",
    );
    one_cat(&with_others);
    let kinds = [
        "choices",
        "rating",
        "rectanglelabels",
        "relation",
        "taxonomy",
    ];
    assert_eq!(
        with_others.0.left_out,
        kinds
            .map(|kind| (format!("results of the type '{kind}'"), 1))
            .into()
    );
    one_cat(&tasks(
        &json!([task(json!([marked(dog(), &[])]))]),
        "\u{FEFF}",
    ));
    for value in [
        json!({ "start": 18, "end": 22, "text": "dog ", "labels": ["error"] }),
        json!({ "start": 17, "end": 22, "text": "dog", "labels": ["error"] }),
        json!({ "start": 18, "end": 21, "text": ["dog"], "labels": ["error"] }),
        json!({ "start": 18, "end": 21, "labels": ["error"] }),
        json!({ "start": 18.0, "end": 21.0, "text": "dog", "labels": ["error"] }),
        json!({ "start": "/div[1]/text()[1]", "end": "/div[1]/text()[1]", "startOffset": 2,
            "endOffset": 5, "globalOffsets": { "start": 18, "end": 21 },
            "text": "dog", "hypertextlabels": ["error"] }),
    ] {
        one_cat(&tasks(&json!([task(json!([marked(value, &[])]))]), ""));
    }
    let mut listed = task(json!([marked(dog(), &[])]));
    listed["data"]["text"] = json!([TEXT]);
    one_cat(&tasks(&json!([listed]), ""));
}

#[test]
fn skipped_label_studio_tasks_are_counted_apart() {
    let cancelled = json!({ "id": 2, "completed_by": 2, "result": [], "was_cancelled": true });
    let all = json!([
        task(json!([marked(dog(), &[])])),
        task(json!([cancelled])),
        task(json!([]))
    ]);
    let (summary, records) = tasks(&all, "");
    assert_eq!(
        (
            summary.taken,
            summary.skipped,
            summary.refused.len(),
            records.len()
        ),
        (1, 2, 0, 1)
    );
    let mut second = marked(dog(), &[]);
    second["completed_by"] = json!({ "id": 7, "email": "bob@example.org" });
    let (summary, records) = tasks(
        &json!([task(json!([marked(dog(), &[]), second, cancelled]))]),
        "",
    );
    assert_eq!(
        (summary.taken, summary.skipped, summary.left_out.len()),
        (2, 0, 1)
    );
    assert_eq!(
        records
            .iter()
            .map(|r| r.annotator.as_deref())
            .collect::<Vec<_>>(),
        [Some("1"), Some("bob@example.org")]
    );
}

#[test]
fn label_studio_json_min_is_imported() {
    let full = task(json!([]));
    let min = |more: Value| {
        let mut min = full["data"].clone();
        min["id"] = json!(1);
        min["annotator"] = json!(3);
        min["annotation_id"] = json!(5);
        min.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        tasks(&json!([min]), "")
    };
    let read = min(
        json!({ "error": [dog()], "correction": [{ "start": 18, "end": 21, "text": ["cat"] }] }),
    );
    one_cat(&read);
    assert_eq!(read.1[0].annotator.as_deref(), Some("3"));
    assert_eq!(
        min(json!({ "verdict": "good" })).1[0].kind,
        JudgmentKind::Good
    );
    assert_eq!(
        min(json!({ "missing": "a child", "verdict": "missing" })).1[0].missing,
        ["a child"]
    );
}

#[test]
fn invalid_label_studio_tasks_are_refused() {
    let stray = json!({ "id": "z", "from_name": "correction", "to_name": "text", "type": "textarea",
        "value": { "text": ["cat"] } });
    let unplaced = json!({ "labels": ["error"] });
    let elsewhere = json!({ "start": 0, "end": 3, "text": "dog", "labels": ["error"] });
    let mut two = marked(dog(), &[]);
    two["result"][1]["value"]["text"] = json!(["cat", "kitten"]);
    let cases = [
        (marked(dog(), &[stray]), "belongs to no 'error'"),
        (marked(unplaced, &[]), "no offsets"),
        (marked(elsewhere, &[]), "is not in the response there"),
        (two, "2 texts"),
        (json!({ "result": [] }), "has neither"),
    ];
    for (annotation, part) in cases {
        let (summary, records) = tasks(&json!([task(json!([annotation]))]), "");
        assert_eq!((summary.refused.len(), records.len()), (1, 0));
        assert!(summary.refused[0].1.contains(part), "{:?}", summary.refused);
    }
}
