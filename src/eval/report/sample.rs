//! Small report with one of everything, for tests.

use super::*;

/// Text that must not become markup.
pub(super) const EVIL: &str = " <script>alert('\" onerror=\"')</script>";

pub(super) fn report() -> EvaluationReport {
    let estimate = |value, low, high| {
        TableCell::Value(Estimate {
            value,
            interval: Some((low, high)),
        })
    };
    let columns = vec![
        Column::new("CHAIR_i", NumberFormat::Percent)
            .better(GoodDirection::Lower)
            .help("Share <of> mentions"),
        Column::new("recall", NumberFormat::Percent).better(GoodDirection::Higher),
        Column::new("CIDEr-D", NumberFormat::Decimal(3)).better(GoodDirection::Higher),
        Column::new("captions", NumberFormat::Count),
    ];
    let row = |name: &str, cells, emphasis| TableRow {
        name: name.to_owned(),
        cells,
        emphasis,
    };
    let candor = vec![
        estimate(0.306, 0.281, 0.33),
        estimate(0.61, 0.58, 0.64),
        estimate(0.7012, 0.66, 0.74),
        1000usize.into(),
    ];
    let greedy = vec![
        estimate(0.098, 0.091, 0.104),
        0.6.into(),
        None::<f64>.into(),
        64usize.into(),
    ];
    let people = vec![
        TableCell::Absent,
        None::<usize>.into(),
        Some(0.9).into(),
        "five each".into(),
    ];
    let table = ReportTable {
        title: "CHAIR".to_owned(),
        note: "References leave things out.".to_owned(),
        columns,
        rows: vec![
            row("candor", candor, false),
            row("greedy", greedy, true),
            row("people", people, false),
        ],
    };
    EvaluationReport {
        title: "Captions".to_owned(),
        command: "candor eval captions --seed 7".to_owned(),
        facts: [("model", "candor-mini"), ("seed", "7")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
        notes: vec!["A note.".to_owned()],
        sections: vec![Section {
            title: "Objects".to_owned(),
            text: vec!["What it says.".to_owned()],
            tables: vec![table],
            plots: plots(),
            cards: vec![card()],
        }],
    }
}

fn plots() -> Vec<Plot> {
    let axis = |label: &str, range| Axis {
        label: label.to_owned(),
        range,
    };
    let series = |name: &str, points| Series {
        name: name.to_owned(),
        points,
        marks: true,
        ..Series::default()
    };
    let bin = |mean_reward, share_good, count| ReliabilityBin {
        mean_reward,
        share_good,
        count,
    };
    let bar = |name: &str, value, text: Option<&str>| PlotBar {
        name: name.to_owned(),
        value,
        text: text.map(str::to_owned),
    };
    vec![
        Plot::Lines {
            title: "ROC".to_owned(),
            x: axis("false positives", Some((0.0, 1.0))),
            y: axis("true positives", Some((0.0, 1.0))),
            series: vec![
                series("probe", vec![(0.0, 0.0), (0.3, 0.8), (1.0, 1.0)]),
                series(EVIL, vec![(0.0, 0.0), (1.0, 1.0)]),
            ],
            diagonal: true,
        },
        Plot::Reliability {
            title: "Reliability".to_owned(),
            bins: vec![bin(0.2, 0.3, 40), bin(0.0, 0.0, 0), bin(0.9, 0.8, 900)],
        },
        Plot::Bars {
            title: "Hallucinated".to_owned(),
            label: "mentions".to_owned(),
            bars: vec![bar("man", 12.0, Some("12 of 30")), bar("a & b", -3.0, None)],
        },
    ]
}

fn card() -> CaptionCard {
    let word = |text: &str, reward, hallucinated| CardWord {
        text: text.to_owned(),
        reward,
        flagged: reward.is_some_and(|r: f32| r < 0.5),
        hallucinated,
        change: None,
    };
    CaptionCard {
        id: "1.jpg".to_owned(),
        photo: Some(Photo {
            media_type: "image/png".to_owned(),
            bytes: vec![0xff, 0xef, 0xff],
        }),
        words: vec![
            word("dog", Some(0.91), Some(false)),
            word(EVIL, Some(0.12), Some(true)),
            word(".", None, None),
        ],
        note: "A <b>note</b>".to_owned(),
        references: vec!["A dog & a <ball>.".to_owned()],
        ..CaptionCard::default()
    }
}
