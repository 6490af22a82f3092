//! `candor eval captions`

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum, builder::RangedU64ValueParser};
use serde_json::json;

use super::{
    CANDIDATES, Output, Part, RunFacts, answering::AnswerSession, command, refuse_shared_stdin,
};
use crate::{
    cli::{
        Failure,
        caption::interruption,
        common::ModelArgs,
        lines::{LineFile, settings},
        output::{is_stdio, note},
    },
    eval::{
        bootstrap::REPEATS,
        captions::{Evaluation, ImageCaption, Measures, report},
        chair::{ChairVocabulary, ContrastCaption, MatchStyle, contrast},
        data::{AnnotatedImage, Hypotheses, Pairs, ReferenceSet, pair},
        report::{Column, NumberFormat, ReportTable, Section, TableRow},
    },
};

/// Measure captions: hallucination (CHAIR), recall, and description quality (BLEU, ROUGE-L,
/// CIDEr-D)
///
/// Captions come from a file of any model's captions, or from a bundle that writes the file first
/// (--generate). References are a folder in Flickr8k's or COCO's layout, a COCO file, or JSONL rows
/// with captions or objects; without references every row of the hypotheses must list its objects.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  candor eval captions --hypotheses captions.jsonl --references \
                  ../shared/data/flickr8k --html report.html\n  \
                  candor eval captions --hypotheses mine.jsonl --model candor-mini --references \
                  ../shared/data/coco-mini --partial\n  \
                  candor eval captions --hypotheses new.jsonl --against old.jsonl --references \
                  ../shared/data/flickr8k\n  \
                  candor eval captions --hypotheses ../shared/data/chair/minigpt-4_i1.jsonl \
                  --vocabulary ../shared/data/chair/synonyms.txt"
)]
pub(super) struct EvalCaptionsArgs {
    /// Captions to measure: JSONL rows with image_id or image, and caption; or COCO's results
    /// format. `-` reads standard input
    #[arg(long, value_name = "FILE")]
    hypotheses: PathBuf,

    /// Second file of captions of the same images, to compare with
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,

    /// Reference captions and annotated objects of the images
    #[arg(long, value_name = "DIR|FILE")]
    references: Option<PathBuf>,

    /// Split of a folder: test is the list test.txt, or captions_test.json [default: dev in
    /// Flickr8k's layout]
    #[arg(long, value_name = "NAME", requires = "references")]
    split: Option<String>,

    /// Part of the images: one half of dev was used for calibration and choices, the other is for
    /// reporting
    #[arg(long, value_name = "HALF", default_value = "all")]
    half: Part,

    /// Leave out references without a hypothesis, and count them, instead of failing
    #[arg(long)]
    partial: bool,

    /// Measures to compute
    #[arg(long, value_delimiter = ',', default_value = "chair,bleu,rouge,cider")]
    metrics: Vec<Metric>,

    /// Object vocabulary: open (nouns of WordNet), coco80, or a file with one object per line, its
    /// synonyms separated by commas, as CHAIR's own code reads it [default: open and coco80]
    #[arg(long, value_name = "coco80|open|FILE")]
    vocabulary: Option<String>,

    /// Number of bootstrap resamples
    #[arg(long, default_value_t = REPEATS)]
    resamples: usize,

    /// Seed of the bootstrap
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Let a bundle caption the references' photographs into the hypotheses' file first; a file
    /// that an earlier run with the same settings left is continued
    #[arg(long, requires = "references")]
    generate: bool,

    /// Replace the hypotheses' file, whatever it contains
    #[arg(long, requires = "generate")]
    overwrite: bool,

    /// Guard mode while captioning
    #[arg(
        long,
        value_name = "MODE",
        requires = "generate",
        default_value = "off"
    )]
    guard: String,

    /// Control: caption with the best of this many candidates by reward
    #[arg(long, value_name = "N", requires = "generate", conflicts_with = "guard",
        value_parser = RangedU64ValueParser::<usize>::new().range(CANDIDATES))]
    best_of: Option<usize>,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Metric {
    Chair,
    Bleu,
    Rouge,
    Cider,
}

/// Vocabularies that `--vocabulary` selects.
struct Vocabularies {
    open: bool,
    closed: Option<&'static ChairVocabulary>,
    /// A user's vocabulary, which is compared with the default one.
    own: Option<ChairVocabulary>,
}

impl Vocabularies {
    fn select(choice: Option<&str>, has_captions: bool) -> Result<Self, Failure> {
        Ok(match choice {
            None => Self {
                open: has_captions,
                closed: Some(ChairVocabulary::coco80()),
                own: None,
            },
            Some("open") if !has_captions => {
                return Err(Failure::Misused(
                    "--vocabulary open needs reference captions; the references have none".into(),
                ));
            }
            Some("open") => Self {
                open: true,
                closed: None,
                own: None,
            },
            Some("coco80") => Self {
                open: false,
                closed: Some(ChairVocabulary::coco80()),
                own: None,
            },
            Some(file) => {
                let own = ChairVocabulary::load(MatchStyle::Original, Path::new(file))
                    .map_err(|e| Failure::Misused(e.to_string()))?;
                Self {
                    open: false,
                    closed: None,
                    own: Some(own),
                }
            }
        })
    }

    fn closed(&self) -> Option<&ChairVocabulary> {
        self.own.as_ref().or(self.closed)
    }
}

pub(super) fn run(args: EvalCaptionsArgs) -> Result<(), Failure> {
    let inputs = [
        ("--hypotheses", Some(&args.hypotheses)),
        ("--against", args.against.as_ref()),
        ("--references", args.references.as_ref()),
    ];
    refuse_shared_stdin(&inputs)?;
    if args.generate && is_stdio(&args.hypotheses) {
        return Err(Failure::Misused(
            "--generate writes a file: --hypotheses cannot be standard input".into(),
        ));
    }
    // Opening the model may re-execute the process, so standard input is read later.
    let answering = if args.generate {
        Some(AnswerSession::open(&args.model)?)
    } else {
        None
    };
    let written_by = answering.as_ref().map(AnswerSession::model);
    let read =
        |path: &PathBuf| ReferenceSet::open(path, args.split.as_deref()).map_err(Failure::misused);
    let given = args.references.as_ref().map(read).transpose()?;
    if let (Some(answering), Some(references)) = (answering, &given) {
        generate(&args, answering, references)?;
    }
    let hypotheses = Hypotheses::open(&args.hypotheses).map_err(Failure::misused)?;
    let against = args
        .against
        .as_ref()
        .map(|path| Hypotheses::open(path).map_err(Failure::misused))
        .transpose()?;
    let references = match given {
        Some(references) => references,
        None => ReferenceSet::from_rows(&hypotheses).map_err(Failure::misused)?,
    };
    let has_captions = references
        .images()
        .iter()
        .any(|image| !image.captions.is_empty());
    let vocabularies = Vocabularies::select(args.vocabulary.as_deref(), has_captions)?;
    let chair = args.metrics.contains(&Metric::Chair);
    let described = args.metrics.iter().any(|m| *m != Metric::Chair) && has_captions;
    let measures = Measures {
        open: chair && vocabularies.open,
        closed: vocabularies.closed().filter(|_| chair),
        description: described,
    };
    let mut pairs = pair(&references, &hypotheses, args.partial).map_err(Failure::misused)?;
    retain_half(&mut pairs, &references, args.half);
    let evaluation = Evaluation::new(&pairs.pairs, measures);
    let name = |path: &Path| {
        path.file_stem().map_or_else(
            || path.display().to_string(),
            |stem| stem.to_string_lossy().into_owned(),
        )
    };
    let mut report = match (&against, &args.against) {
        (Some(against), Some(path)) => {
            let baseline = baseline_pairs(&args, &references, &pairs.pairs, (path, against))?;
            let baseline = Evaluation::new(&baseline, measures);
            report(
                &[
                    (&name(path), &baseline),
                    (&name(&args.hypotheses), &evaluation),
                ],
                args.resamples,
                args.seed,
            )
        }
        _ => report(
            &[(&name(&args.hypotheses), &evaluation)],
            args.resamples,
            args.seed,
        ),
    };
    if let (Some(own), true) = (&vocabularies.own, chair) {
        report.sections.push(contrast_section(own, &pairs.pairs));
    }
    let fact = |name: &str, value: String| (name.to_owned(), value);
    report.title = format!("Captions of {}", args.hypotheses.display());
    report.command = command();
    let run = RunFacts {
        model: written_by,
        data: args.references.as_deref(),
        photographs: pairs.pairs.len(),
        seed: args.seed,
        resamples: args.resamples,
    };
    report.facts = run.facts();
    report.facts.push(fact(
        "references without a caption",
        pairs.missing.to_string(),
    ));
    report.notes.extend(references.notes().iter().cloned());
    report
        .notes
        .extend(notes(&references, &pairs.pairs, chair, has_captions));
    args.output.show(&report)
}

/// Drops the pairs whose image is not in a part of the references.
fn retain_half(pairs: &mut Pairs<'_>, references: &ReferenceSet, half: Part) {
    let chosen: HashSet<*const AnnotatedImage> = references
        .images()
        .iter()
        .enumerate()
        .filter(|(i, _)| half.has(*i))
        .map(|(_, image)| std::ptr::from_ref(image))
        .collect();
    pairs
        .pairs
        .retain(|(image, _)| chosen.contains(&std::ptr::from_ref(*image)));
}

/// Captions of `--against` in the order of the hypotheses' pairs.
fn baseline_pairs<'a>(
    args: &EvalCaptionsArgs,
    references: &'a ReferenceSet,
    pairs: &[ImageCaption<'_>],
    (path, against): (&Path, &'a Hypotheses),
) -> Result<Vec<ImageCaption<'a>>, Failure> {
    let order = pair(references, against, args.partial).map_err(Failure::misused)?;
    let find = |(image, hypothesis): &ImageCaption<'_>| {
        order
            .pairs
            .iter()
            .find(|(other, _)| std::ptr::eq(*other, *image))
            .copied()
            .ok_or_else(|| {
                Failure::Misused(format!(
                    "{}: no caption for '{}', which {} has",
                    path.display(),
                    hypothesis.image,
                    args.hypotheses.display()
                ))
            })
    };
    pairs.iter().map(find).collect()
}

/// Notes on annotations that the references lack.
fn notes(
    references: &ReferenceSet,
    pairs: &[ImageCaption<'_>],
    chair: bool,
    has_captions: bool,
) -> Vec<String> {
    let undescribed = pairs
        .iter()
        .filter(|(image, _)| image.captions.is_empty())
        .count();
    let has_objects = references
        .images()
        .iter()
        .any(|image| image.objects.is_some());
    let mut notes = Vec::new();
    if has_captions && undescribed > 0 {
        notes.push(format!(
            "{undescribed} images have no reference captions and are left out of the figures that \
             need them."
        ));
    }
    if chair && !has_objects {
        notes.push(
            "No image has annotated objects, so every object that no reference names counts as \
             hallucinated. Compare such figures only with each other."
                .into(),
        );
    }
    notes
}

/// Section on the differences between a user's vocabulary and the default one.
fn contrast_section(own: &ChairVocabulary, pairs: &[ImageCaption<'_>]) -> Section {
    let nothing = std::collections::BTreeSet::new();
    let captions: Vec<ContrastCaption<'_>> = pairs
        .iter()
        .map(|(image, hypothesis)| ContrastCaption {
            caption: &hypothesis.caption,
            instances: image.objects.as_ref().unwrap_or(&nothing),
            references: &image.captions,
        })
        .collect();
    let found = contrast(own, ChairVocabulary::coco80(), &captions);
    let row = |name: &str, s: &crate::eval::chair::ChairStats| {
        TableRow::new(
            name,
            vec![
                s.chair_i().into(),
                s.chair_s().into(),
                s.recall().into(),
                s.mentions.into(),
                s.hallucinated.into(),
            ],
        )
    };
    let share = |name: &str| Column::new(name, NumberFormat::Percent);
    let count = |name: &str| Column::new(name, NumberFormat::Count);
    Section {
        title: "How the vocabularies differ".into(),
        tables: vec![
            ReportTable {
                title: "The same captions under both".into(),
                note: String::new(),
                columns: vec![
                    share("CHAIR_i"),
                    share("CHAIR_s"),
                    share("recall"),
                    count("mentions"),
                    count("hallucinated"),
                ],
                rows: vec![
                    row("the given list", &found.first),
                    row("coco80", &found.second),
                ],
            },
            ReportTable {
                title: "Words on which they differ most".into(),
                note: "Mentions that only one of them counts.".into(),
                columns: vec![
                    Column::new("object", NumberFormat::Text),
                    count("given list alone"),
                    count("coco80 alone"),
                ],
                rows: found
                    .disagreements
                    .iter()
                    .take(15)
                    .map(|d| {
                        TableRow::new(
                            d.word.clone(),
                            vec![d.object.as_str().into(), d.first.into(), d.second.into()],
                        )
                    })
                    .collect(),
            },
        ],
        ..Section::default()
    }
}

/// Captions every photograph that has no caption in the file yet, and appends the captions.
fn generate(
    args: &EvalCaptionsArgs,
    answering: AnswerSession,
    references: &ReferenceSet,
) -> Result<(), Failure> {
    let images = references.images();
    if let Some(image) = images.iter().find(|image| image.photo.is_none()) {
        return Err(Failure::Misused(format!(
            "--generate: no photograph for '{}' beside the references",
            image.name()
        )));
    }
    let guard = match args.best_of {
        Some(n) => json!({ "guard": { "mode": "score", "candidates": n } }),
        None => json!({ "guard": { "mode": args.guard } }),
    };
    let (mut file, rows) = LineFile::open(
        &args.hypotheses,
        args.overwrite,
        settings(answering.config(), &guard)?,
    )?;
    let name = |row: &serde_json::Value| {
        row["image_id"]
            .as_str()
            .or(row["image"].as_str())
            .map(str::to_owned)
    };
    let captioned: std::collections::HashSet<*const AnnotatedImage> = rows
        .iter()
        .filter_map(name)
        .filter_map(|name| references.get(&name))
        .map(std::ptr::from_ref)
        .collect();
    let open: Vec<&AnnotatedImage> = images
        .iter()
        .filter(|image| !captioned.contains(&std::ptr::from_ref(*image)))
        .collect();
    let mut done = images.len() - open.len();
    if done > 0 {
        note(format_args!(
            "candor: {done} of {} photographs already have a caption in {}",
            images.len(),
            args.hypotheses.display()
        ));
    }
    if open.is_empty() {
        return Ok(());
    }
    let prompts: Vec<(&AnnotatedImage, &str)> = open.iter().map(|image| (*image, "")).collect();
    let run = answering.answer_each(&[("captioning", guard)], &prompts, |_, i, caption| {
        file.push(json!({ "image_id": open[i].name(), "caption": caption.text }))?;
        done += 1;
        Ok(())
    });
    match run {
        Err(Failure::Interrupted(_)) => Err(interruption(done, images.len(), &file)),
        other => other,
    }
}
