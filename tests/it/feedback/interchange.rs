//! Formats of other tools: exported, imported again, and opened by the tools themselves.

use std::{fs::File, io::Write, path::Path, process::Command, sync::Arc};

use candor::{
    bundle::Bundle,
    feedback::{
        Corrections,
        corrections::Submitter,
        export::{InterchangeFormat, export},
        images::ImageStore,
        import::{ImportSummary, import},
        queue::QueueSettings,
        record::{Feedback, ShownNames},
        store::{RecordFilter, RecordPage, sql::SqlStore},
        submission::{ErrorSpan, Judgment, Submission},
    },
};
use futures_util::TryStreamExt;
use image::ImageFormat;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{
    served::picture,
    server_clients::{python, said},
};

const RESPONSE: &str = "A 🐶 dog on two red sofas.";

pub(super) async fn corrections(folder: &Path) -> Corrections {
    let store = SqlStore::open(&format!("sqlite:{}/feedback.db", folder.display()))
        .await
        .unwrap();
    let images = ImageStore::open(
        folder.join("images").to_str().unwrap(),
        std::iter::empty::<(String, String)>(),
    )
    .unwrap();
    Corrections::start(
        Arc::new(store),
        images,
        Bundle::vocabulary_of("candor-mini").unwrap(),
        QueueSettings::default(),
    )
}

/// Submits two errors, a first error, an insertion, a good answer, and missing content.
async fn some(corrections: &Corrections) {
    let about = || Submission {
        prompt: Some("What is it?".to_owned()),
        response: Some(RESPONSE.to_owned()),
        annotator: Some("ann@example.org".to_owned()),
        ..Submission::default()
    };
    let wrong = |start, end, correction: &str| ErrorSpan {
        start,
        end,
        correction: Some(correction.to_owned()),
        ..ErrorSpan::default()
    };
    let all = [
        Submission {
            errors: Some(vec![wrong(4, 7, "cat"), wrong(15, 18, "blue")]),
            ..about()
        },
        Submission {
            error: Some(wrong(4, 7, "cat")),
            ..about()
        },
        Submission {
            edit: Some("A 🐶 dog on two red sofas outside.".to_owned()),
            ..about()
        },
        Submission {
            label: Some(Judgment::Good),
            ..about()
        },
        Submission {
            missing: vec!["a child".to_owned()],
            ..about()
        },
    ];
    for (n, submission) in all.into_iter().enumerate() {
        corrections
            .submit(
                submission,
                Some(picture(n as u32, ImageFormat::Png)),
                None,
                &Submitter::default(),
            )
            .await
            .unwrap();
    }
}

async fn written(corrections: &Corrections, format: InterchangeFormat) -> Vec<u8> {
    let (store, images) = (
        Arc::clone(corrections.store()),
        Arc::clone(corrections.images()),
    );
    let pieces: Vec<Vec<u8>> = export(
        store,
        images,
        RecordFilter::default(),
        format,
        ShownNames {
            annotators: true,
            owners: true,
        },
    )
    .try_collect()
    .await
    .unwrap();
    pieces.concat()
}

pub(super) async fn taken(
    corrections: &Corrections,
    file: &[u8],
    format: InterchangeFormat,
    images: Option<&Path>,
) -> ImportSummary {
    let mut named = tempfile::NamedTempFile::new().unwrap();
    named.write_all(file).unwrap();
    import(
        corrections,
        File::open(named.path()).unwrap(),
        format,
        images,
        None,
    )
    .await
    .unwrap()
}

pub(super) async fn all(corrections: &Corrections) -> Vec<Feedback> {
    corrections
        .store()
        .page(&RecordPage {
            limit: 99,
            ..RecordPage::default()
        })
        .await
        .unwrap()
}

/// Response, labels, and errors with their corrections.
fn told(record: &Feedback) -> String {
    let errors: Vec<_> = record
        .errors
        .iter()
        .map(|e| (e.start, e.end, e.correction.clone()))
        .collect();
    let labels: Vec<_> = record.tokens.iter().map(|t| t.label).collect();
    format!(
        "{:?} {:?} {} {labels:?} {errors:?} {:?}",
        record.image, record.kind, record.response, record.missing
    )
}

#[test]
fn export_in_every_format_can_be_imported() {
    Runtime::new().unwrap().block_on(async {
        let from_folder = TempDir::new().unwrap();
        let from = corrections(from_folder.path()).await;
        some(&from).await;
        let before = all(&from).await;
        let photos = TempDir::new().unwrap();
        for record in &before {
            let image = from.images().get(record.image).await.unwrap().unwrap();
            std::fs::write(photos.path().join(record.image.to_string()), image).unwrap();
        }
        // Number of records that the format can represent.
        let rows = [
            ("jsonl", 5),
            ("parquet", 5),
            ("rlhf-v", 3),
            ("trl-dpo", 3),
            ("trl-prm", 4),
            ("label-studio", 5),
        ];
        for (name, rows) in rows {
            let format: InterchangeFormat = name.parse().unwrap();
            let file = written(&from, format).await;
            let folder = TempDir::new().unwrap();
            let to = corrections(folder.path()).await;
            let summary = taken(&to, &file, format, Some(photos.path())).await;
            assert_eq!(
                (summary.taken, summary.known, &summary.refused),
                (rows, 0, &vec![]),
                "{name}"
            );
            let again = taken(&to, &file, format, Some(photos.path())).await;
            assert_eq!(
                (again.taken, again.known, &again.refused),
                (0, rows, &vec![]),
                "{name}"
            );
            let after = all(&to).await;
            match name {
                "jsonl" | "parquet" => assert_eq!(after, before, "{name}"),
                "label-studio" => {
                    assert_eq!(
                        after.iter().map(told).collect::<Vec<_>>(),
                        before.iter().map(told).collect::<Vec<_>>()
                    );
                    assert_eq!(after[0].annotator.as_deref(), Some("ann@example.org"));
                    assert_eq!(
                        (after[1].scope, &after[1].tokens),
                        (before[1].scope, &before[1].tokens)
                    );
                }
                "trl-prm" => {
                    let labels =
                        |r: &Feedback| r.tokens.iter().map(|t| t.label).collect::<Vec<_>>();
                    assert_eq!(labels(&after[0]), labels(&before[0]));
                    // Text after a first error was not judged and is left out.
                    assert_eq!(after[1].response, "A 🐶 dog");
                }
                _ => {
                    assert_eq!(
                        (told(&after[0]), told(&after[2])),
                        (told(&before[0]), told(&before[2])),
                        "{name}"
                    );
                    assert_eq!(
                        (
                            after[1].response.as_str(),
                            after[1].corrected().unwrap().as_str()
                        ),
                        ("A 🐶 dog", "A 🐶 cat"),
                        "{name}"
                    );
                }
            }
        }
    });
}

#[test]
fn invalid_rows_are_reported_and_skipped() {
    Runtime::new().unwrap().block_on(async {
        let folder = TempDir::new().unwrap();
        let from = corrections(folder.path()).await;
        some(&from).await;
        let to_folder = TempDir::new().unwrap();
        let to = corrections(to_folder.path()).await;
        let mut tasks: serde_json::Value =
            serde_json::from_slice(&written(&from, InterchangeFormat::LabelStudio).await).unwrap();
        tasks[0]["annotations"][0]["result"][1]["value"]["text"] = "zebra".into();
        tasks[1]["data"]["image"] = "https://example.org/x.jpg".into();
        tasks[2]["annotations"][0]["was_cancelled"] = true.into();
        tasks[3]["annotations"][0]["result"] = serde_json::json!([]);
        let summary = taken(
            &to,
            tasks.to_string().as_bytes(),
            InterchangeFormat::LabelStudio,
            None,
        )
        .await;
        assert_eq!(summary.taken, 1);
        let refused: Vec<usize> = summary.refused.iter().map(|(row, _)| *row).collect();
        assert_eq!(
            (refused, summary.skipped),
            (vec![1, 2, 4], 1),
            "{:?}",
            summary.refused
        );
        let lines = "\n{\"prompt\": \"\", \"completions\": [\"A\"], \"labels\": []}\nno JSON\n";
        let summary = taken(&to, lines.as_bytes(), InterchangeFormat::TrlPrm, None).await;
        assert_eq!(
            summary
                .refused
                .iter()
                .map(|(row, _)| *row)
                .collect::<Vec<_>>(),
            [2, 3]
        );
        let mut named = tempfile::NamedTempFile::new().unwrap();
        named.write_all(b"no table").unwrap();
        assert!(
            import(
                &to,
                File::open(named.path()).unwrap(),
                InterchangeFormat::Parquet,
                None,
                None
            )
            .await
            .is_err()
        );
    });
}

#[test]
fn label_studio_utf16_offsets_are_understood() {
    Runtime::new().unwrap().block_on(async {
        let folder = TempDir::new().unwrap();
        let from = corrections(folder.path()).await;
        some(&from).await;
        let mut tasks: serde_json::Value =
            serde_json::from_slice(&written(&from, InterchangeFormat::LabelStudio).await).unwrap();
        let value = &mut tasks[1]["annotations"][0]["result"][1]["value"];
        (value["start"], value["end"]) = (5.into(), 8.into());
        let one = serde_json::json!([tasks[1]]);
        let to_folder = TempDir::new().unwrap();
        let to = corrections(to_folder.path()).await;
        assert_eq!(
            taken(
                &to,
                one.to_string().as_bytes(),
                InterchangeFormat::LabelStudio,
                None
            )
            .await
            .taken,
            1
        );
        assert_eq!(all(&to).await[0].errors[0].text, "dog");
    });
}

/// Exports every format and opens the files with their tools.
#[test]
fn exported_files_open_in_their_tools() {
    let Some(python) = python("datasets") else {
        return;
    };
    let folder = TempDir::new().unwrap();
    Runtime::new().unwrap().block_on(async {
        let kept = TempDir::new().unwrap();
        let from = corrections(kept.path()).await;
        some(&from).await;
        for format in InterchangeFormat::ALL {
            std::fs::write(
                folder.path().join(format.name()),
                written(&from, format).await,
            )
            .unwrap();
        }
    });
    let mut command: Command = python;
    command
        .args(["tests/interchange/open.py"])
        .arg(folder.path())
        .env("HF_HOME", folder.path())
        .env("HF_HUB_OFFLINE", "1");
    let printed = said(command, "");
    assert_eq!(
        printed.trim(),
        "3 rlhf-v, 3 trl-dpo, 4 trl-prm, 5 parquet, 5 label-studio"
    );
    // A file in RLHF-V's format written by pyarrow is imported.
    Runtime::new().unwrap().block_on(async {
        let kept = TempDir::new().unwrap();
        let to = corrections(kept.path()).await;
        let file = std::fs::read(folder.path().join("theirs.parquet")).unwrap();
        let summary = taken(&to, &file, InterchangeFormat::RlhfV, None).await;
        assert_eq!(
            (summary.taken, summary.refused.len()),
            (1, 1),
            "{:?}",
            summary.refused
        );
        assert_eq!(summary.refused[0].0, 2);
        assert_eq!(all(&to).await[0].corrected().unwrap(), "Two cats.");
    });
}
