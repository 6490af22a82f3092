//! Reports of `candor eval`: JSON, and the HTML pages.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    eval::{figure, measured, small_coco},
    server_clients::said,
    server_ui::browser,
    support::shared_data,
};

/// Photographs of the small set.
const PHOTOGRAPHS: usize = 8;

/// A report as JSON and as a page.
struct Reported {
    json: Value,
    page: PathBuf,
    dir: tempfile::TempDir,
}

impl Reported {
    /// Runs an evaluation on a few of COCO's photographs; `None` if they are absent.
    fn of_coco(what: &str, more: &[&str]) -> Option<Self> {
        let source = shared_data("coco-mini")?;
        let dir = tempfile::tempdir().unwrap();
        small_coco(&source, dir.path(), PHOTOGRAPHS);
        let data = dir.path().to_str().unwrap().to_owned();
        Some(Self::run(
            &[&["eval", what, "--data", &data], more].concat(),
            dir,
        ))
    }

    fn run(args: &[&str], dir: tempfile::TempDir) -> Self {
        let page = dir.path().join("report.html");
        let json = measured(
            &[args, &["--html", page.to_str().unwrap()]].concat(),
            dir.path(),
        );
        Self { json, page, dir }
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.page).unwrap()
    }

    /// Checks the page in a browser: axe, both color schemes, a phone's width, print.
    fn looks_right(&self) {
        let Some(mut python) = browser() else { return };
        python.arg("tests/e2e/reports.py").arg(&self.page);
        said(python, "");
    }
}

/// Every report states its run under the same names.
fn says_what_was_run(json: &Value, data: &Path, photographs: usize) {
    let facts = &json["facts"];
    assert_eq!(
        (facts["model"].as_str(), facts["data"].as_str()),
        (Some("candor-mini"), data.to_str()),
        "{facts}"
    );
    assert_eq!(
        (facts["photographs"].as_str(), facts["seed"].as_str()),
        (Some(photographs.to_string().as_str()), Some("1")),
        "{facts}"
    );
    assert!(
        facts["model version"]
            .as_str()
            .is_some_and(|version| version.split('.').count() == 3),
        "{facts}"
    );
    assert!(
        json["command"]
            .as_str()
            .unwrap()
            .starts_with("candor eval "),
        "{json}"
    );
    let summary = json["sections"]["Summary"]["text"][0].as_str().unwrap();
    assert!(summary.contains('%'), "{summary}");
}

/// Every figure has a unit, and its value is within its interval.
fn figures_have_units(json: &Value) {
    let mut seen = 0;
    for (name, section) in json["sections"].as_object().unwrap() {
        for (title, table) in section["tables"].as_object().unwrap() {
            for (row, cells) in table["rows"].as_object().unwrap() {
                for (column, cell) in cells
                    .as_object()
                    .unwrap()
                    .iter()
                    .filter(|(_, cell)| cell.is_object())
                {
                    let place = format!("{name} / {title} / {row} / {column}: {cell}");
                    assert!(
                        matches!(cell["unit"].as_str(), Some("share" | "count" | "number")),
                        "{place}"
                    );
                    let value = cell["value"].as_f64().unwrap_or_else(|| panic!("{place}"));
                    assert!(
                        cell["unit"] != "share" || (0.0..=1.0).contains(&value),
                        "{place}"
                    );
                    assert_eq!(cell["low"].is_null(), cell["high"].is_null(), "{place}");
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 4, "{json:#}");
}

#[test]
fn guard_report_has_flags_trade_off_and_repairs() {
    let settings = [
        "--half",
        "all",
        "--thresholds",
        "0.3,0.6",
        "--windows",
        "0",
        "--best-of",
        "3",
        "--temperatures",
        "0.5",
        "--resamples",
        "100",
    ];
    let Some(reported) = Reported::of_coco("guard", &settings) else {
        return;
    };
    let json = &reported.json;
    says_what_was_run(json, reported.dir.path(), PHOTOGRAPHS);
    figures_have_units(json);
    let open = |row: &str, column: &str| figure(json, "Figures", "Open vocabulary", row, column);
    assert_eq!(
        open("flag", "CHAIR_i"),
        open("off", "CHAIR_i"),
        "flags leave the text as it is"
    );
    // Flags add up with the mentions that they cover.
    let flags = |column: &str| figure(json, "Flags", "What flags find", "open vocabulary", column);
    let (wrong, right) = (flags("hallucinated mentions"), flags("right mentions"));
    assert!(
        ((wrong / (wrong + right)) - open("off", "CHAIR_i")).abs() < 1e-9,
        "{json:#}"
    );
    let unflagged = wrong * (1.0 - flags("hallucinated mentions flagged")) / (wrong + right);
    assert!(
        (flags("hallucinated, unflagged") - unflagged).abs() < 1e-9,
        "{json:#}"
    );
    // The trade-off has every setting, and mode flag at every threshold.
    let rows = json["sections"]["Trade-off in numbers"]["tables"]["Every setting"]["rows"]
        .as_object()
        .unwrap();
    for row in [
        "off",
        "flag",
        "regenerate",
        "regenerate below 0.3",
        "flag below 0.6",
        "best of 3",
        "off, temperature 0.5",
        "regenerate, window 0",
    ] {
        assert!(rows.contains_key(row), "{row} in {rows:?}");
    }
    let trade_off = |row: &str, column: &str| {
        figure(json, "Trade-off in numbers", "Every setting", row, column)
    };
    assert_eq!(
        trade_off("regenerate", "CHAIR_i, open vocabulary"),
        open("regenerate", "CHAIR_i")
    );
    assert_eq!(
        (
            trade_off("off", "decoded, ratio"),
            trade_off("flag", "decoded, ratio")
        ),
        (1.0, 1.0)
    );
    assert!(trade_off("best of 3", "decoded, ratio") > 2.0);
    let recall = |row: &str| trade_off(row, "recall, open vocabulary");
    assert!(
        recall("flag below 0.6") <= recall("flag below 0.3")
            && recall("flag below 0.3") <= recall("off"),
        "leaving out recalls no more"
    );
    let plots = json["sections"]["Trade-off"]["plots"].as_array().unwrap();
    assert_eq!(
        plots.len(),
        4,
        "open and closed vocabulary against recall and tokens"
    );
    let series: Vec<&str> = plots[0]["series"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["name"].as_str().unwrap())
        .collect();
    assert_eq!(series.len(), 5, "{series:?}");
    // Only one comparison is tested.
    let tables = json["sections"]["Differences"]["tables"]
        .as_object()
        .unwrap();
    assert_eq!(tables.len(), 2, "{tables:?}");
    let planned = &tables["regenerate against off, the same images"]["rows"];
    assert!(
        planned["CHAIR_i (open vocabulary)"]["p"]["value"]
            .as_f64()
            .is_some_and(|p| p <= 1.0),
        "{planned}"
    );
    assert!(
        planned["words (open vocabulary)"]["p"].is_null()
            && planned["words (open vocabulary)"]["difference"].is_object(),
        "{planned}"
    );
    let others = &tables["Others against off, the same images"];
    assert!(
        others["columns"]
            .as_array()
            .unwrap()
            .iter()
            .all(|column| column["name"] != "p"),
        "{others}"
    );
    assert!(
        others["rows"]["flag"].is_null() && others["rows"]["best of 3"].is_object(),
        "{others}"
    );
    // The examples match the counts.
    let changed = figure(
        json,
        "What repairs change",
        "What became of the captions",
        "caption changed",
        "photographs",
    );
    let sections = json["sections"].as_object().unwrap();
    let cards: Vec<&Value> = sections
        .iter()
        .filter(|(name, _)| name.starts_with("Repairs: "))
        .flat_map(|(_, s)| s["captions"].as_array().unwrap())
        .collect();
    assert_eq!(cards.len(), changed as usize);
    let text = |words: &Value| {
        words
            .as_array()
            .unwrap()
            .iter()
            .map(|w| w["text"].as_str().unwrap())
            .collect::<String>()
    };
    for card in cards {
        assert_ne!(text(&card["before"]), text(&card["words"]));
        let marked = card["before"]
            .as_array()
            .unwrap()
            .iter()
            .chain(card["words"].as_array().unwrap())
            .any(|w| w["change"].is_string());
        assert!(marked, "{card}");
    }
    assert!(
        figure(
            json,
            "Fragments and loops",
            "Fragments and loops",
            "people",
            "loops"
        ) < 0.2
    );
    let page = reported.text();
    assert_eq!(page.matches("<img ").count(), changed as usize);
    assert!(
        page.len() < 400_000 && !page.contains("<script"),
        "{}",
        page.len()
    );
    reported.looks_right();
}

#[test]
fn photographs_without_references_are_judged_by_their_objects() {
    let Some(source) = shared_data("coco-mini") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    small_coco(&source, dir.path(), 4);
    let file = dir.path().join("captions.json");
    let mut captions: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    captions["annotations"]
        .as_array_mut()
        .unwrap()
        .retain(|_| false);
    fs::write(&file, captions.to_string()).unwrap();
    let data = dir.path().to_str().unwrap().to_owned();
    let few = [
        "--half",
        "all",
        "--thresholds",
        "0.5",
        "--windows",
        "0",
        "--best-of",
        "2",
        "--temperatures",
        "0.5",
        "--resamples",
        "50",
    ];
    let reported = Reported::run(
        &[&["eval", "guard", "--data", &data], &few[..]].concat(),
        dir,
    );
    assert!(
        reported.json["notes"][0]
            .as_str()
            .unwrap()
            .starts_with("4 photographs have no reference captions"),
        "{}",
        reported.json["notes"]
    );
    let flags = &reported.json["sections"]["Flags"]["tables"]["What flags find"]["rows"];
    assert!(flags["closed vocabulary"].is_object());
    assert!(
        reported.json["sections"]["Summary"]["text"][0]
            .as_str()
            .unwrap()
            .contains("objects that captions name are not in the photograph")
    );
}

#[test]
fn pope_report_shows_wrong_answers_with_photographs() {
    let Some(reported) = Reported::of_coco("pope", &[]) else {
        return;
    };
    let json = &reported.json;
    says_what_was_run(json, reported.dir.path(), PHOTOGRAPHS);
    figures_have_units(json);
    let questions = figure(json, "Answers", "POPE", "all", "questions");
    let wrong = (questions * (1.0 - figure(json, "Answers", "POPE", "all", "accuracy"))).round();
    let confusion = |row: &str, column: &str| {
        figure(
            json,
            "Yes and no",
            "What was answered to questions of yes or no",
            row,
            column,
        )
    };
    assert_eq!(
        confusion("yes is right", "answered no") + confusion("no is right", "answered yes"),
        wrong
    );
    let risk = |column: &str| {
        figure(
            json,
            "Risk",
            "Whether the guard's score tells wrong answers from right ones",
            "all",
            column,
        )
    };
    assert!((0.0..=1.0).contains(&risk("AUROC")));
    let sections = json["sections"].as_object().unwrap();
    let cards: Vec<&Value> = sections
        .iter()
        .filter(|(name, _)| name.starts_with("Wrong answers: "))
        .flat_map(|(_, s)| s["captions"].as_array().unwrap())
        .collect();
    assert!(!cards.is_empty() && cards.len() <= 36);
    for card in &cards {
        let names: Vec<&str> = card["facts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|fact| fact[0].as_str().unwrap())
            .collect();
        assert_eq!(names, ["Right answer", "Score", "Verdict"], "{card}");
        assert!(card["title"].as_str().unwrap().ends_with('?'), "{card}");
    }
    assert_eq!(reported.text().matches("<img ").count(), cards.len());
    reported.looks_right();
}

#[test]
fn report_of_answers_without_a_guard_has_no_risk() {
    let Some(reported) = Reported::of_coco("pope", &["--guard", "off"]) else {
        return;
    };
    assert!(reported.json["sections"]["Risk"].is_null());
    let card = &reported.json["sections"]["Wrong answers: random"]["captions"][0];
    assert_eq!(card["facts"].as_array().map(Vec::len), Some(1), "{card}");
}

#[test]
fn report_of_derived_questions_is_grouped_by_kind() {
    let Some(data) = shared_data("flickr8k") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let reported = Reported::run(
        &[
            "eval",
            "vqa",
            "--data",
            data.to_str().unwrap(),
            "--limit",
            "40",
        ],
        dir,
    );
    let json = &reported.json;
    assert_eq!(
        figure(
            json,
            "Answers",
            "Questions derived from the captions",
            "all",
            "questions"
        ),
        40.0
    );
    figures_have_units(json);
    let kinds =
        json["sections"]["Answers"]["tables"]["Questions derived from the captions"]["rows"]
            .as_object()
            .unwrap();
    for kind in kinds.keys().filter(|kind| *kind != "all") {
        let shown = &json["sections"][format!("Wrong answers: {kind}")];
        assert!(
            shown["text"][0]
                .as_str()
                .is_some_and(|text| text.contains("answers")),
            "{kind}: {shown}"
        );
    }
    reported.looks_right();
}

#[test]
fn caption_page_is_readable_on_a_phone() {
    let Some(source) = shared_data("coco-mini") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    small_coco(&source, dir.path(), PHOTOGRAPHS);
    let (data, file) = (
        dir.path().to_str().unwrap().to_owned(),
        dir.path().join("mine.jsonl"),
    );
    let reported = Reported::run(
        &[
            "eval",
            "captions",
            "--hypotheses",
            file.to_str().unwrap(),
            "--references",
            &data,
            "--generate",
            "--resamples",
            "100",
        ],
        dir,
    );
    figures_have_units(&reported.json);
    assert!(
        reported.json["sections"]["Summary"]["text"][0]
            .as_str()
            .unwrap()
            .starts_with("mine: ")
    );
    assert_eq!(
        reported.json["facts"]["photographs"],
        PHOTOGRAPHS.to_string()
    );
    reported.looks_right();
}
