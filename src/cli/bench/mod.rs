//! `candor bench`

mod case;
mod growth;
mod material;
mod model;
mod plots;
mod table;
mod timing;
mod waits;

use std::{fs, path::PathBuf, time::Instant};

use clap::Args;
use serde::Serialize;

use self::{
    case::{measure_in_turn, settings},
    growth::{GrowthAxis, GrowthCurve, GrowthPlan},
    material::{Material, read_photos},
    model::{GuardChoice, MeasuredModel},
    table::SpeedRow,
    timing::{milliseconds, resident_mib, stream_answer},
    waits::{LongPromptWaits, SecondQuestion},
};
use crate::{
    cli::{
        Failure,
        common::{ModelArgs, block_on},
        output::{failed_at, is_stdio, write_file, write_stdout},
    },
    config::Config,
    reward::RewardKind,
};

/// Measure speed: tokens per second, latency for new and known photographs, start-up time and
/// memory
///
/// Every request is streamed through the API's handlers in this process; a model that takes no
/// photographs is asked in text. Measured are the time to the first word, the gaps between words
/// and the time to the whole answer. Modes and concurrencies are measured in turn, several times;
/// the table shows medians, so that their ratios hold on a busy machine too. --growth,
/// --second-question and --stall replace the table.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  candor bench --concurrency 1,4,16 --guard off,flag\n  candor bench \
                  --scorers probe,detached --guard off,flag\n  candor bench --model \
                  models/SmolLM2-135M-Instruct --max-tokens 128\n  candor bench --growth clients \
                  --plot runs/growth\n  candor bench --guard \
                  off,regenerate,regenerate/0,regenerate/6 --photos \
                  ../shared/data/flickr8k/images/dev"
)]
pub(crate) struct BenchArgs {
    /// Numbers of concurrent requests, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "1,4,16")]
    concurrency: Vec<usize>,

    /// Guard modes, separated by commas; MODE/WINDOW streams with a window of that many words
    /// [default: off,flag; off where the model has no scorer]
    #[arg(long, value_name = "MODES", value_delimiter = ',', value_parser = GuardChoice::parse)]
    guard: Vec<GuardChoice>,

    /// Scorers of a bundle to compare in one run, separated by commas: probe, detached (the
    /// standalone scorer) [default: the configured one]
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_parser = scorer_kind)]
    scorers: Vec<RewardKind>,

    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_tokens: usize,

    /// Folder of JPEG photographs
    #[arg(long, value_name = "DIR", default_value = "tests/fixtures/photos")]
    photos: PathBuf,

    /// Captions per measurement
    #[arg(long, default_value_t = 32)]
    captions: usize,

    /// Measurements per mode and concurrency
    #[arg(long, default_value_t = 7)]
    repeats: usize,

    /// Measure growth against clients (1 to 64), prompt (100 to 4,000 tokens) or images (1 to 8),
    /// separated by commas
    #[arg(long, value_name = "AXES", value_enum, value_delimiter = ',')]
    growth: Vec<GrowthAxis>,

    /// Draw the growth as growth-AXIS.svg in this folder
    #[arg(long, value_name = "DIR", requires = "growth")]
    plot: Option<PathBuf>,

    /// Measure the time to the first token of a first and a second question about one photograph
    #[arg(long)]
    second_question: bool,

    /// Measure a running stream and a prompt of 2,000 tokens, alone and beside each other
    #[arg(long)]
    stall: bool,

    /// Write the figures as JSON; `-` writes them to standard output instead of the table
    #[arg(long, value_name = "OUT")]
    json: Option<PathBuf>,

    #[command(flatten)]
    model: ModelArgs,
}

impl BenchArgs {
    /// Checks what does not depend on the model.
    fn check(&self) -> Result<(), Failure> {
        let counts = [self.captions, self.repeats, self.max_tokens];
        if self.concurrency.iter().chain(&counts).any(|&n| n == 0) {
            return Err(Failure::Misused(
                "--concurrency, --captions, --repeats and --max-tokens must be at least 1".into(),
            ));
        }
        let scores = self.guard.is_empty() || self.guard.iter().any(GuardChoice::scores);
        if !self.scorers.is_empty() && !scores {
            return Err(Failure::Misused(
                "--scorers: none of the modes of --guard scores".into(),
            ));
        }
        Ok(())
    }

    /// Checks what the model has to be able to do.
    fn check_model(&self, model: &MeasuredModel) -> Result<(), Failure> {
        for &axis in &self.growth {
            growth::check(axis, model, self.max_tokens)?;
        }
        if self.second_question {
            waits::check_second_question(model)?;
        }
        if self.stall {
            waits::check_stall(model)?;
        }
        Ok(())
    }

    /// Returns the guard modes: the given ones, or those that the model can honor.
    fn guards(&self, model: &MeasuredModel) -> Vec<GuardChoice> {
        if !self.guard.is_empty() {
            return self.guard.clone();
        }
        let flag = model.can_score().then(GuardChoice::flag);
        [GuardChoice::off()].into_iter().chain(flag).collect()
    }

    /// Returns `true` if the table of modes is measured.
    fn wants_table(&self) -> bool {
        self.growth.is_empty() && !self.second_question && !self.stall
    }
}

/// Parses the name of a scorer.
fn scorer_kind(name: &str) -> Result<RewardKind, String> {
    let names = || RewardKind::ALL.map(RewardKind::name).join(" or ");
    let found = RewardKind::ALL.into_iter().find(|kind| kind.name() == name);
    found.ok_or_else(|| format!("must be {}", names()))
}

/// Figures of a run.
#[derive(Debug, Serialize)]
struct Figures {
    model: String,
    /// Time to load the model and start the engine.
    start_ms: f64,
    first_caption_ms: f64,
    /// Resident memory after the first caption.
    resident_mib: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rows: Vec<SpeedRow>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    growth: Vec<GrowthCurve>,
    #[serde(skip_serializing_if = "Option::is_none")]
    second_question: Option<SecondQuestion>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stall: Option<LongPromptWaits>,
}

pub(crate) fn run(args: BenchArgs) -> Result<(), Failure> {
    args.check()?;
    let config = args.model.load(&[])?;
    let begun = Instant::now();
    let model = MeasuredModel::start(&config, args.scorers.first().copied(), args.max_tokens)?;
    let start_ms = milliseconds(begun.elapsed());
    args.check_model(&model)?;
    let photos = match model.sees() {
        true => read_photos(&args.photos)?,
        false => Vec::new(),
    };
    let figures = block_on(measure(
        &args,
        &config,
        model,
        Material::new(photos),
        start_ms,
    ))?;
    if let Some(dir) = &args.plot {
        fs::create_dir_all(dir).map_err(failed_at(dir))?;
        for curve in &figures.growth {
            let svg = plots::draw(curve).map_err(Failure::failed)?;
            let file = format!("growth-{}.svg", curve.against.name());
            write_file(&dir.join(file), svg.as_bytes())?;
        }
    }
    let json = serde_json::to_vec_pretty(&figures).map_err(Failure::failed)?;
    match &args.json {
        Some(out) if is_stdio(out) => write_stdout(&json),
        Some(out) => write_stdout(format(&figures).as_bytes()).and(write_file(out, &json)),
        None => write_stdout(format(&figures).as_bytes()),
    }
}

async fn measure(
    args: &BenchArgs,
    config: &Config,
    model: MeasuredModel,
    mut material: Material,
    start_ms: f64,
) -> Result<Figures, Failure> {
    let guards = args.guards(&model);
    let begun = Instant::now();
    let (photos, text) = match model.sees() {
        true => (vec![material.known_photo(0)], None),
        false => (Vec::new(), Some(material.new_text(0))),
    };
    let first = model.request(&photos, text.as_deref(), &GuardChoice::off());
    stream_answer(&model.local, &first)
        .await
        .map_err(Failure::Failed)?;
    let mut figures = Figures {
        model: model.name.clone(),
        start_ms,
        first_caption_ms: milliseconds(begun.elapsed()),
        resident_mib: resident_mib(),
        rows: Vec::new(),
        growth: Vec::new(),
        second_question: None,
        stall: None,
    };
    let mut models = vec![model];
    for &kind in args.scorers.iter().skip(1) {
        models.push(MeasuredModel::start(config, Some(kind), args.max_tokens)?);
    }
    let settings = settings(&models, &guards)?;
    if args.wants_table() {
        let cases = table::cases(&settings, &args.concurrency, |_| args.captions);
        let measured = measure_in_turn(&cases, args.repeats, &mut material).await?;
        figures.rows = table::rows(&settings, &cases, &measured);
    }
    let plan = GrowthPlan {
        settings: &settings,
        requests: args.captions,
        rounds: args.repeats,
        max_tokens: args.max_tokens,
    };
    for &axis in &args.growth {
        let curve = growth::measure(axis, &plan, &mut material).await?;
        figures.growth.push(curve);
    }
    let first = &models[0];
    if args.second_question {
        let found = waits::second_question(first, args.captions, &mut material).await?;
        figures.second_question = Some(found);
    }
    if args.stall {
        figures.stall = Some(waits::stall(first, args.repeats, &mut material).await?);
    }
    Ok(figures)
}

fn format(figures: &Figures) -> String {
    let mut out = format!(
        "{}: start {:.0} ms, first caption {:.0} ms",
        figures.model, figures.start_ms, figures.first_caption_ms
    );
    if let Some(mib) = figures.resident_mib {
        out += &format!(", resident {mib:.0} MiB");
    }
    out.push('\n');
    if !figures.rows.is_empty() {
        out += &table::format(&figures.rows);
    }
    out.extend(figures.growth.iter().map(growth::format));
    let second_question = figures.second_question.iter();
    out.extend(second_question.map(waits::format_second_question));
    out.extend(figures.stall.iter().map(waits::format_stall));
    out
}
