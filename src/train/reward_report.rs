//! Report of `candor eval reward`: detection of ungrounded words by scorers on the reporting half
//! of the development split.

use std::{collections::BTreeMap, path::Path};

use super::{
    calibrate::object_mentions,
    compared_scorers::ComparedScorer,
    labels::LabeledText,
    perturb::PerturbationKind,
    scored_split::{ComparedText, DevelopmentHalf, ScoredSplit},
};
use crate::{
    eval::{
        bootstrap::{Difference, Estimate, REPEATS, differences, estimates},
        data::flickr8k::Image,
        objects::{self, ObjectScores},
        report::{
            Axis, CaptionCard, CardWord, Column, EvaluationReport, GoodDirection, NumberFormat,
            Photo, Plot, PlotBar, ReliabilityBin, ReportTable, Section, Series, TableCell,
            TableRow,
        },
        tokens::{Ranking, ScoredToken, TokenMetrics},
        tradeoff::{self, Rewarded},
    },
    lexicon::{Lexicon, Reading, WordClass, words},
    reward::calibration::Calibration,
};

/// Points per curve.
const POINTS: usize = 120;

/// Number of captions shown.
const SHOWN: usize = 12;

/// Number of nouns shown.
const NOUNS: usize = 15;

/// Inputs of a report.
pub struct RewardReportInputs<'a> {
    /// Images of the development split.
    pub images: &'a [Image],
    /// Scored and calibrated texts of the split.
    pub split: &'a ScoredSplit,
    /// Compared scorers.
    pub scorers: &'a [ComparedScorer],
    /// Calibration of each scorer.
    pub calibrations: &'a [Calibration],
    /// Milliseconds that each scorer adds to a token.
    pub costs: &'a [f64],
    /// Index of the scorer shown in detail.
    pub chosen: usize,
    /// Seed of the bootstrap.
    pub seed: u64,
}

/// Pieces of text with the scores of a scorer, given by index.
type Pieces<'a> = Box<dyn Fn(usize) -> Vec<ScoredToken> + 'a>;

impl<'a> RewardReportInputs<'a> {
    /// Builds the report without title, command and facts, which the caller adds.
    pub fn report(&self) -> EvaluationReport {
        let sets = self.sets();
        let mut scorers = Section {
            title: "Scorers".into(),
            text: vec![
                "A bad piece is what a scorer is there to find. Things are nouns that no reference \
                 of the image supports; a piece's score is that of its \
                 worst token. Every scorer is calibrated on the tuning half; all figures are of \
                 the reporting half. Brackets hold 95 % intervals \
                 (bootstrap over images)."
                    .into(),
            ],
            ..Section::default()
        };
        scorers
            .tables
            .extend(sets.iter().map(|(title, pieces)| self.table(title, pieces)));
        scorers
            .tables
            .extend([self.cost_table(), self.against_baseline(&sets[1].1)]);
        scorers.plots.extend(self.curves(&sets[1].1));
        let sections = vec![
            scorers,
            self.chosen_closely(),
            hallucinations(self),
            captions(self),
        ];
        EvaluationReport {
            sections,
            ..EvaluationReport::default()
        }
    }

    /// Facts about the data behind the report.
    pub fn facts(&self, data: &Path, policy: &str) -> Vec<(String, String)> {
        let fact = |name: &str, value: String| (name.to_owned(), value);
        vec![
            fact("policy", policy.to_owned()),
            fact("data", data.display().to_string()),
            fact(
                "tuning half",
                format!(
                    "{} images: the 1st, 3rd, ... of dev",
                    self.images.len().div_ceil(2)
                ),
            ),
            fact(
                "reporting half",
                format!("{} images: the 2nd, 4th, ... of dev", self.images.len() / 2),
            ),
            fact("scorer looked at", self.scorers[self.chosen].name.clone()),
            fact(
                "bootstrap",
                format!("{REPEATS} resamples of images, seed {}", self.seed),
            ),
        ]
    }

    fn sets(&self) -> [(&'static str, Pieces<'_>); 4] {
        let reported = |text: &&ComparedText| {
            DevelopmentHalf::for_image(text.image) == DevelopmentHalf::Report
        };
        let tokens = move |i: usize| {
            self.split
                .perturbed
                .iter()
                .filter(reported)
                .flat_map(|t| t.pieces(i))
                .map(|(_, s)| s)
                .collect()
        };
        let answers = move |i: usize| {
            self.split
                .answers
                .iter()
                .filter(reported)
                .flat_map(|t| t.ranges(i))
                .map(|(_, s)| s)
                .collect()
        };
        let yes_or_no = move |i: usize| {
            let yes_no = self
                .split
                .answers
                .iter()
                .filter(reported)
                .filter(|text| text.is_yes_or_no(0));
            yes_no.flat_map(|t| t.ranges(i)).map(|(_, s)| s).collect()
        };
        [
            (
                "Every token of true and perturbed captions",
                Box::new(tokens),
            ),
            (
                "Things named in the policy's own captions",
                Box::new(move |i| {
                    object_mentions(&self.split.captions, i, DevelopmentHalf::Report)
                }),
            ),
            ("The policy's own answers to questions", Box::new(answers)),
            ("Those of them that are yes or no", Box::new(yes_or_no)),
        ]
    }

    fn estimates(&self, scorer: usize, ranking: &Ranking) -> Vec<Estimate> {
        let threshold = self.calibrations[scorer].default_threshold;
        estimates(self.images.len(), REPEATS, self.seed, |weights| {
            figures(&ranking.weighted(threshold, weights))
        })
    }

    fn table(&self, title: &str, pieces: &Pieces<'_>) -> ReportTable {
        let row = |(i, scorer): (usize, &ComparedScorer)| {
            let cells = self
                .estimates(i, &Ranking::new(pieces(i)))
                .into_iter()
                .map(TableCell::from)
                .collect();
            TableRow {
                name: scorer.name.clone(),
                cells,
                emphasis: i == self.chosen,
            }
        };
        let (good, bad) = pieces(0).iter().fold((0, 0), |(g, b), s| {
            (g + usize::from(s.good), b + usize::from(!s.good))
        });
        let note = format!("{good} good and {bad} bad pieces.");
        ReportTable {
            title: title.into(),
            note,
            columns: columns(),
            rows: self.scorers.iter().enumerate().map(row).collect(),
        }
    }

    /// Table of the scorers' cost in serving.
    fn cost_table(&self) -> ReportTable {
        let row = |(i, scorer): (usize, &ComparedScorer)| {
            let cells = vec![self.costs[i].into(), scorer.bytes.into()];
            TableRow {
                name: scorer.name.clone(),
                cells,
                emphasis: i == self.chosen,
            }
        };
        ReportTable {
            title: "Cost".into(),
            note: "Milliseconds that a scorer adds to a decoded token, one sequence at a time; \
                   weights as a bundle stores them."
                .into(),
            columns: vec![
                Column::new("ms/token", NumberFormat::Decimal(3)).better(GoodDirection::Lower),
                Column::new("bytes", NumberFormat::Count).better(GoodDirection::Lower),
            ],
            rows: self.scorers.iter().enumerate().map(row).collect(),
        }
    }

    /// Table of paired differences between the chosen scorer and the policy's log-probability.
    fn against_baseline(&self, pieces: &Pieces<'_>) -> ReportTable {
        let Some(baseline) = self
            .scorers
            .iter()
            .position(|c| c.name == "log-probability")
        else {
            return ReportTable::default();
        };
        let metrics_of = |i: usize| {
            let (ranking, threshold) = (
                Ranking::new(pieces(i)),
                self.calibrations[i].default_threshold,
            );
            move |weights: &[u32]| figures(&ranking.weighted(threshold, weights))
        };
        let paired = differences(
            self.images.len(),
            REPEATS,
            self.seed,
            metrics_of(baseline),
            metrics_of(self.chosen),
        );
        let row = |(name, difference): (&str, &Difference)| {
            let verdict = if difference.is_significant() {
                "significant"
            } else {
                "not significant"
            };
            TableRow::new(
                name,
                vec![
                    difference.estimate.into(),
                    difference.p.into(),
                    verdict.into(),
                ],
            )
        };
        let columns = columns();
        let rows = columns.iter().zip(&paired).filter(|(c, _)| {
            ["AUROC", "mAP(neg)", "recall at 10 % FPR"].contains(&c.name.as_str())
        });
        ReportTable {
            title: format!(
                "{} against log-probability, the same images",
                self.scorers[self.chosen].name
            ),
            note: "Things of the policy's own captions.".into(),
            columns: vec![
                Column::new("difference", NumberFormat::Decimal(3)),
                Column::new("p", NumberFormat::Decimal(3)),
                Column::new("at 5 %", NumberFormat::Text),
            ],
            rows: rows.map(|(c, d)| row((c.name.as_str(), d))).collect(),
        }
    }

    fn curves(&self, pieces: &Pieces<'_>) -> Vec<Plot> {
        let mut shown: Vec<usize> = (0..self.scorers.len())
            .filter(|&i| {
                i == self.chosen
                    || !matches!(
                        self.scorers[i].name.as_str(),
                        "entropy" | "second" | "linear"
                    )
            })
            .collect();
        shown.sort_by_key(|&i| i != self.chosen);
        let series = |curve: &dyn Fn(&Ranking) -> Vec<(f64, f64)>| -> Vec<Series> {
            let one = |&i: &usize| Series {
                name: self.scorers[i].name.clone(),
                points: curve(&Ranking::new(pieces(i))),
                ..Series::default()
            };
            shown.iter().take(6).map(one).collect()
        };
        let share = |label: &str| Axis {
            label: label.into(),
            range: Some((0.0, 1.0)),
        };
        let bins = Ranking::new(pieces(self.chosen)).reliability();
        vec![
            Plot::Lines {
                title: "ROC of finding bad things".into(),
                x: share("false-positive rate"),
                y: share("true-positive rate"),
                series: series(&|r| r.roc(POINTS)),
                diagonal: true,
            },
            Plot::Lines {
                title: "Precision and recall of finding bad things".into(),
                x: share("recall"),
                y: share("precision"),
                series: series(&|r| r.precision_recall(POINTS)),
                diagonal: false,
            },
            Plot::Reliability {
                title: format!("Reliability of {}", self.scorers[self.chosen].name),
                bins: bins
                    .into_iter()
                    .map(|(mean_reward, share_good, count)| ReliabilityBin {
                        mean_reward,
                        share_good,
                        count,
                    })
                    .collect(),
            },
        ]
    }

    /// Section on the chosen scorer: by kind of error, by class of word, and TLDR's accuracies.
    fn chosen_closely(&self) -> Section {
        let texts: Vec<&ComparedText> = self
            .split
            .perturbed
            .iter()
            .filter(|t| DevelopmentHalf::for_image(t.image) == DevelopmentHalf::Report)
            .collect();
        let row = |name: String, pieces: Vec<ScoredToken>| {
            let bad = pieces.iter().filter(|s| !s.good).count();
            let ranking = Ranking::new(pieces);
            let mut cells: Vec<TableCell> = self
                .estimates(self.chosen, &ranking)
                .into_iter()
                .map(TableCell::from)
                .collect();
            cells.push(bad.into());
            TableRow::new(name, cells)
        };
        let pieces_of_kind = |kind: PerturbationKind| {
            texts
                .iter()
                .filter(|t| t.kind == Some(kind))
                .flat_map(|t| t.pieces(self.chosen))
                .map(|(_, s)| s)
                .collect()
        };
        let mut classes: BTreeMap<WordClass, Vec<ScoredToken>> = BTreeMap::new();
        for text in &texts {
            let words = Lexicon::shared().word_classes(&text.text.text);
            for (range, scored) in text.pieces(self.chosen) {
                let class = words
                    .iter()
                    .find(|(w, _)| w.start < range.end && range.start < w.end)
                    .map_or(WordClass::Other, |(_, class)| *class);
                classes.entry(class).or_default().push(scored);
            }
        }
        let columns = || {
            let mut columns = columns();
            columns.push(Column::new("bad", NumberFormat::Count).help("ungrounded tokens"));
            columns
        };
        let kinds = PerturbationKind::ALL
            .iter()
            .map(|&kind| row(kind.name().into(), pieces_of_kind(kind)))
            .collect();
        let by_class = WordClass::ALL
            .iter()
            .filter_map(|class| Some(row(class.to_string(), classes.remove(class)?)))
            .collect();
        let note =
            "Tokens of perturbed captions of the kind, their untouched tokens as the good ones."
                .into();
        Section {
            title: format!("{} closely", self.scorers[self.chosen].name),
            tables: vec![
                ReportTable {
                    title: "By kind of error".into(),
                    note,
                    columns: columns(),
                    rows: kinds,
                },
                ReportTable {
                    title: "By class of word".into(),
                    note: "Tokens of true and perturbed captions.".into(),
                    columns: columns(),
                    rows: by_class,
                },
                self.accuracies(&texts),
            ],
            ..Section::default()
        }
    }

    /// Token, sentence and response accuracy as defined by TLDR (ICLR 2025), at the served
    /// threshold.
    fn accuracies(&self, texts: &[&ComparedText]) -> ReportTable {
        let row = |(i, scorer): (usize, &ComparedScorer)| {
            let threshold = self.calibrations[i].default_threshold;
            let judge = |s: &ScoredToken| (s.reward < threshold, !s.good);
            let mut sums = vec![[0.0f64; 6]; self.images.len()];
            for text in texts {
                let sums = &mut sums[text.image];
                let pieces: Vec<(usize, (bool, bool))> = text
                    .pieces(i)
                    .map(|(range, s)| (range.start, judge(&s)))
                    .collect();
                let mut add = |at: usize, flags: &mut dyn Iterator<Item = (bool, bool)>| {
                    let (flagged, bad) = flags.fold((false, false), |a, b| (a.0 | b.0, a.1 | b.1));
                    sums[at] += f64::from(u8::from(flagged == bad));
                    sums[at + 1] += 1.0;
                };
                pieces
                    .iter()
                    .for_each(|(_, piece)| add(0, &mut std::iter::once(*piece)));
                for sentence in sentences(&text.text.text) {
                    add(
                        2,
                        &mut pieces
                            .iter()
                            .filter(|(start, _)| sentence.contains(start))
                            .map(|(_, piece)| *piece),
                    );
                }
                add(4, &mut pieces.iter().map(|(_, piece)| *piece));
            }
            let found = estimates(sums.len(), REPEATS, self.seed, |weights| {
                let mut total = [0.0; 6];
                sums.iter().zip(weights).for_each(|(s, w)| {
                    total
                        .iter_mut()
                        .zip(s)
                        .for_each(|(t, s)| *t += s * f64::from(*w))
                });
                [0, 2, 4].map(|at| total[at] / total[at + 1]).to_vec()
            });
            TableRow {
                emphasis: i == self.chosen,
                ..TableRow::new(
                    scorer.name.clone(),
                    found.into_iter().map(TableCell::from).collect(),
                )
            }
        };
        ReportTable {
            title: "Accuracy at the served threshold".into(),
            note: "A sentence or response is bad when one of its tokens is; the threshold is that \
                   of 5 % false positives among things."
                .into(),
            columns: ["token", "sentence", "response"]
                .map(|name| Column::new(name, NumberFormat::Percent).better(GoodDirection::Higher))
                .into(),
            rows: self.scorers.iter().enumerate().map(row).collect(),
        }
    }
}

/// Byte ranges of the sentences of a text.
fn sentences(text: &str) -> Vec<std::ops::Range<usize>> {
    let mut ends: Vec<usize> = text
        .match_indices(['.', '!', '?'])
        .map(|(at, mark)| at + mark.len())
        .collect();
    if text[ends.last().copied().unwrap_or(0)..].trim().len() > 1 {
        ends.push(text.len());
    }
    let starts = std::iter::once(0).chain(ends.iter().copied());
    starts
        .zip(ends.iter().copied())
        .map(|(start, end)| start..end)
        .collect()
}

fn columns() -> Vec<Column> {
    let share = |name: &str, help: &str| {
        Column::new(name, NumberFormat::Decimal(3))
            .better(GoodDirection::Higher)
            .help(help)
    };
    vec![
        share(
            "AUROC",
            "probability that a good piece has a higher reward than a bad one",
        ),
        share("mAP(neg)", "average precision of finding bad pieces"),
        share("mAP(pos)", "average precision of finding good pieces"),
        share(
            "recall at 5 % FPR",
            "share of the bad pieces found when 5 % of the good ones are flagged",
        ),
        share("recall at 10 % FPR", "the same at 10 %"),
        share(
            "best F1",
            "F1 of finding bad pieces at the threshold where it is highest",
        ),
        share("served F1", "F1 at the threshold that is served by default"),
        Column::new("ECE", NumberFormat::Decimal(3))
            .better(GoodDirection::Lower)
            .help("expected calibration error, 15 equal bins"),
    ]
}

/// Metrics in the order of [`columns`].
fn figures(m: &TokenMetrics) -> Vec<f64> {
    vec![
        m.auroc,
        m.map_neg,
        m.map_pos,
        m.recall_at_5_fpr,
        m.recall_at_10_fpr,
        m.f1_best,
        m.f1,
        m.ece,
    ]
}

/// Section on hallucination in the policy's captions, and on its answers to questions.
fn hallucinations(inputs: &RewardReportInputs<'_>) -> Section {
    let lexicon = Lexicon::shared();
    let reported: Vec<&ComparedText> = inputs
        .split
        .captions
        .iter()
        .filter(|t| DevelopmentHalf::for_image(t.image) == DevelopmentHalf::Report)
        .collect();
    let read: Vec<(Reading, Vec<Reading>)> = reported
        .iter()
        .map(|t| {
            let references = inputs.images[t.image]
                .captions
                .iter()
                .map(|c| Reading::new(lexicon, c))
                .collect();
            (Reading::new(lexicon, &t.text.text), references)
        })
        .collect();
    let (mut policy, mut people) = (ObjectScores::default(), ObjectScores::default());
    let mut nouns: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (caption, references) in &read {
        let judgment =
            objects::judge_read(lexicon, caption, &references.iter().collect::<Vec<_>>());
        policy.add(&judgment);
        objects::judge_people(lexicon, references)
            .iter()
            .for_each(|j| people.add(j));
        for (phrase, (_, supported)) in caption.phrases.iter().zip(&judgment.mentions) {
            let noun = nouns.entry(phrase.mention.lemma).or_default();
            noun.0 += usize::from(!supported);
            noun.1 += 1;
        }
    }
    Section {
        title: "The policy's captions".into(),
        text: vec![
            "Hallucinated: no reference names the thing, a synonym, something more general or more \
             special. People never agree wholly either: their row is \
             the floor of the measure."
                .into(),
        ],
        tables: vec![
            object_table(&[
                ("policy", &policy),
                (
                    "people, each judged by the \
            others",
                    &people,
                ),
            ]),
            question_table(inputs),
        ],
        plots: vec![threshold_plot(inputs, &reported, &read), noun_plot(nouns)],
        cards: Vec::new(),
    }
}

/// Table of CHAIR, recall and length.
fn object_table(rows: &[(&str, &ObjectScores)]) -> ReportTable {
    let lower = |name: &str, help: &str| {
        Column::new(name, NumberFormat::Percent)
            .better(GoodDirection::Lower)
            .help(help)
    };
    let row = |&(name, s): &(&str, &ObjectScores)| {
        let cells = vec![
            s.chair_i().into(),
            s.chair_s().into(),
            s.recall().into(),
            s.wrong_colors().into(),
            s.wrong_counts().into(),
            s.mean_words().into(),
            s.captions.into(),
        ];
        TableRow::new(name, cells)
    };
    ReportTable {
        title: "Open-vocabulary CHAIR, the reporting half".into(),
        note: String::new(),
        columns: vec![
            lower(
                "CHAIR_i",
                "share of the mentions of things that no reference supports",
            ),
            lower("CHAIR_s", "share of the captions with such a mention"),
            Column::new("recall", NumberFormat::Percent)
                .better(GoodDirection::Higher)
                .help("share of the nouns named by two references that the caption supports"),
            lower(
                "wrong colours",
                "share of the colours that all references contradict",
            ),
            lower(
                "wrong counts",
                "share of the numbers that all references contradict",
            ),
            Column::new("words", NumberFormat::Decimal(1))
                .help("mean length: a model that says less hallucinates less"),
            Column::new("captions", NumberFormat::Count),
        ],
        rows: rows.iter().map(row).collect(),
    }
}

fn question_table(inputs: &RewardReportInputs<'_>) -> ReportTable {
    let mut kinds: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    for (qa, answer, right) in &inputs.split.questions {
        let counts = kinds
            .entry(format!("{:?}", qa.kind).to_lowercase())
            .or_default();
        counts[0] += 1;
        counts[1] += usize::from(*right);
        counts[2] += usize::from(answer.eq_ignore_ascii_case("yes."));
    }
    let share = |part: usize, whole: usize| TableCell::from(part as f64 / whole.max(1) as f64);
    let row = |(kind, [asked, right, yes]): (String, [usize; 3])| {
        TableRow::new(
            kind,
            vec![asked.into(), share(right, asked), share(yes, asked)],
        )
    };
    ReportTable {
        title: "Questions derived from the captions".into(),
        note: "Right: the captions' own answer, word for word. Both halves.".into(),
        columns: vec![
            Column::new("asked", NumberFormat::Count),
            Column::new("right", NumberFormat::Percent).better(GoodDirection::Higher),
            Column::new("answered yes", NumberFormat::Percent),
        ],
        rows: kinds.into_iter().map(row).collect(),
    }
}

/// Plot of CHAIR against recall as object mentions below a rising threshold are removed.
fn threshold_plot(
    inputs: &RewardReportInputs<'_>,
    reported: &[&ComparedText],
    read: &[(Reading, Vec<Reading>)],
) -> Plot {
    let curve = |i: usize| {
        let rewarded: Vec<Rewarded> = reported
            .iter()
            .zip(read)
            .map(|(text, (caption, references))| {
                let references: Vec<&Reading> = references.iter().collect();
                Rewarded::new(Lexicon::shared(), caption, &references, |range| {
                    text.worst(i, range).unwrap_or(f32::INFINITY)
                })
            })
            .collect();
        // Thresholds at equal shares of the mentions give every scorer's curve the same number of
        // points.
        let mut rewards: Vec<f32> = rewarded
            .iter()
            .flat_map(|c| &c.mentions)
            .map(|m| m.0)
            .collect();
        rewards.sort_by(f32::total_cmp);
        let thresholds: Vec<f32> = (0..15)
            .filter_map(|n| rewards.get(n * rewards.len() / 20).copied())
            .collect();
        tradeoff::curve(&rewarded, &thresholds)
            .into_iter()
            .map(|p| (p.recall, p.chair_i))
            .collect()
    };
    let shown = |i: usize| {
        i == inputs.chosen
            || ["log-probability", "probe"].contains(&inputs.scorers[i].name.as_str())
    };
    let one = |i: usize| Series {
        name: inputs.scorers[i].name.clone(),
        points: curve(i),
        marks: true,
        ..Series::default()
    };
    Plot::Lines {
        title: "CHAIR_i against recall as the threshold moves".into(),
        x: Axis {
            label: "recall".into(),
            range: None,
        },
        y: Axis {
            label: "CHAIR_i".into(),
            range: None,
        },
        series: (0..inputs.scorers.len())
            .filter(|&i| shown(i))
            .map(one)
            .collect(),
        diagonal: false,
    }
}

fn noun_plot(nouns: BTreeMap<&str, (usize, usize)>) -> Plot {
    let mut nouns: Vec<(&str, (usize, usize))> = nouns.into_iter().collect();
    nouns.sort_by_key(|(noun, (wrong, _))| (usize::MAX - wrong, *noun));
    let bar = |(noun, (wrong, all)): (&str, (usize, usize))| PlotBar {
        name: noun.into(),
        value: wrong as f64,
        text: Some(format!("{wrong} of {all}")),
    };
    Plot::Bars {
        title: "Most hallucinated things".into(),
        label: "mentions without support".into(),
        bars: nouns
            .into_iter()
            .take(NOUNS)
            .filter(|n| n.1.0 > 0)
            .map(bar)
            .collect(),
    }
}

/// Captions with the most hallucinated mentions, least noticed by the scorer first.
fn captions(inputs: &RewardReportInputs<'_>) -> Section {
    let (chosen, calibration) = (inputs.chosen, &inputs.calibrations[inputs.chosen]);
    let mut worst: Vec<(usize, f32, &ComparedText)> = inputs
        .split
        .captions
        .iter()
        .filter(|t| DevelopmentHalf::for_image(t.image) == DevelopmentHalf::Report)
        .map(|text| {
            let bad = || text.ranges(chosen).filter(|(_, s)| !s.good);
            (
                bad().count(),
                bad()
                    .map(|(_, s)| s.reward)
                    .fold(f32::NEG_INFINITY, f32::max),
                text,
            )
        })
        .collect();
    worst.sort_by(|a, b| b.0.cmp(&a.0).then(b.1.total_cmp(&a.1)));
    let card = |(_, _, text): &(usize, f32, &ComparedText)| {
        let image = &inputs.images[text.image];
        CaptionCard {
            id: image.name.clone(),
            photo: Photo::thumbnail(&image.path),
            words: card_words(text, chosen, calibration.default_threshold),
            references: image.captions.clone(),
            ..CaptionCard::default()
        }
    };
    Section {
        title: "Worst captions".into(),
        text: vec![format!(
            "Those that name most things without support; underlined words are below the threshold \
             of {:.2} that is served by default.",
            calibration.default_threshold
        )],
        cards: worst.iter().take(SHOWN).map(card).collect(),
        ..Section::default()
    }
}

/// Words of a text with their rewards.
fn card_words(text: &ComparedText, scorer: usize, threshold: f32) -> Vec<CardWord> {
    let mut words = label_words(&text.text);
    let mut from = 0;
    for word in &mut words {
        let range = from..from + word.text.len();
        from = range.end;
        word.reward = text.worst(scorer, &range);
        word.flagged = word.reward.is_some_and(|r| r < threshold);
    }
    words
}

/// Words of a text with their labels, each with the separator before it.
pub(super) fn label_words(text: &LabeledText) -> Vec<CardWord> {
    let line = text.text.as_str();
    let (mut from, mut out) = (0, Vec::new());
    for range in words(line).into_iter().map(|w| w.range) {
        let labels = || {
            text.ranges
                .iter()
                .filter(|(r, _)| r.start < range.end && range.start < r.end)
                .filter_map(|(_, good)| *good)
        };
        let hallucinated = labels()
            .next()
            .is_some()
            .then(|| labels().any(|good| !good));
        out.push(CardWord {
            text: line[from..range.end].to_owned(),
            hallucinated,
            ..CardWord::default()
        });
        from = range.end;
    }
    if from < line.len() {
        out.push(CardWord {
            text: line[from..].to_owned(),
            ..CardWord::default()
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_split_at_terminal_punctuation() {
        for (text, want) in [
            ("A dog. A cat.", &["A dog.", " A cat."][..]),
            ("A dog", &["A dog"]),
            ("", &[]),
        ] {
            let found: Vec<&str> = sentences(text)
                .into_iter()
                .map(|range| &text[range])
                .collect();
            assert_eq!(found, want);
        }
    }
}
