//! `candor cycle`

use std::{
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use clap::Args;

use super::{
    Failure,
    common::{ModelArgs, settle},
    output::{note, print},
};
use crate::{
    config::Config,
    feedback::{images::ImageStore, store::sql::SqlStore},
    registry::Registry,
    train::cycle::{
        CycleContext, CycleRun, Recipe,
        state::{CycleDirectory, CycleOutcome, CycleStep, StepOutcome},
        waiting,
    },
};

/// How willingly the process gives way to others.
const NICE: i32 = 19;

/// Learn from the corrections in the store: train, evaluate, and promote only what is better
///
/// Snapshot, scorers, policy, scorers again, evaluation, gate, registry, promotion. A cycle that
/// died goes on where it did. Store, registry, model and directory are those of the configuration,
/// which a server may be using. A rejected candidate is kept with the reasons, and no failure: the
/// exit status is 0.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  candor cycle --once\n  candor cycle --every 24h --min-feedback \
                  500\n  candor cycle --once --recipe config/cycle.toml --config candor.toml"
)]
pub(crate) struct CycleArgs {
    /// One cycle
    #[arg(long, required_unless_present_any = ["every", "abandon"], conflicts_with = "every")]
    once: bool,

    /// A cycle, and the next one that long after its beginning: 24h, 30m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    every: Option<Duration>,

    /// Begin none with fewer new corrections than these
    #[arg(long, value_name = "N", default_value_t = 1)]
    min_feedback: usize,

    /// Give up the cycle that is under way, and do nothing else
    #[arg(long, conflicts_with_all = ["once", "every"])]
    abandon: bool,

    /// What a cycle does, and how much of it
    #[arg(long, value_name = "FILE", default_value = "config/cycle.toml")]
    recipe: PathBuf,

    #[command(flatten)]
    model: ModelArgs,
}

pub(crate) fn run(args: CycleArgs) -> Result<(), Failure> {
    let config = args.model.load(&[])?;
    if !config.feedback.enabled() {
        return Err(Failure::Misused("feedback.store is off".to_owned()));
    }
    let Some(registry) = config.registry.open() else {
        return Err(Failure::Misused("registry.dir is off".to_owned()));
    };
    settle(config.model.threads.value())?;
    // Before there are threads, which inherit it. Where it is refused the cycle is only less
    // polite.
    let _ = rustix::process::nice(NICE);
    let registry = registry.map_err(Failure::failed)?;
    let cycles = CycleDirectory::hold(Path::new(&config.cycle.dir)).map_err(Failure::failed)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(Failure::failed)?;
    let store = runtime
        .block_on(SqlStore::open(&config.feedback.store))
        .map_err(Failure::failed)?;
    let images =
        ImageStore::open(&config.feedback.images, std::env::vars_os()).map_err(Failure::failed)?;
    let here = Here {
        config,
        registry,
        cycles,
        runtime,
        store,
        images,
    };
    if args.abandon {
        return here.abandon();
    }
    let Some(every) = args.every else {
        return here.once(&args).map(drop);
    };
    loop {
        let begun = std::time::Instant::now();
        match here.once(&args) {
            // The next time it goes on there.
            Err(Failure::Failed(error)) => note(format_args!("candor: {error}")),
            other => other?,
        }
        sleep(every.saturating_sub(begun.elapsed()));
    }
}

/// Prints how a cycle goes; it goes on where nobody reads that.
fn tell(line: impl std::fmt::Display) {
    let _ = print(line);
}

/// Everything that is opened once.
struct Here {
    config: Config,
    registry: Registry,
    cycles: CycleDirectory,
    runtime: tokio::runtime::Runtime,
    store: SqlStore,
    images: ImageStore,
}

impl Here {
    fn place(&self) -> CycleContext<'_> {
        CycleContext {
            cycles: &self.cycles,
            store: &self.store,
            images: &self.images,
            registry: &self.registry,
            model: &self.config.model.name,
            runtime: &self.runtime,
        }
    }

    /// One cycle, if there is enough to learn from or one to go on with.
    fn once(&self, args: &CycleArgs) -> Result<(), Failure> {
        let (new, under_way) = waiting(&self.place()).map_err(Failure::failed)?;
        if new < args.min_feedback && !under_way {
            tell(format_args!(
                "waiting: {new} of {} new corrections",
                args.min_feedback
            ));
            return Ok(());
        }
        let recipe = || {
            Recipe::read(&args.recipe, &mut |warning| {
                note(format_args!("candor: {warning}"));
            })
        };
        let mut cycle = CycleRun::open(self.place(), recipe).map_err(|e| match e {
            crate::train::TrainError::Config { .. } => Failure::Misused(e.to_string()),
            other => Failure::failed(other),
        })?;
        let (number, on) = (
            cycle.state().number,
            cycle.state().next().map_or("end", CycleStep::name),
        );
        tell(format_args!(
            "cycle {number}: begins with {on}, in {}",
            cycle.dir().display()
        ));
        let told = |step: CycleStep, done: &StepOutcome| {
            tell(format_args!(
                "cycle {number}: {} done in {:.0} s",
                step.name(),
                done.seconds
            ))
        };
        let outcome = cycle.run(told).map_err(Failure::failed)?;
        let version = cycle.state().version.clone().unwrap_or_default();
        tell(format_args!("cycle {number}: {} {version}", outcome.name()));
        let reasons = cycle.state().verdict.iter().flat_map(|verdict| {
            if verdict.passed {
                &verdict.held
            } else {
                &verdict.reasons
            }
        });
        reasons.for_each(|reason| tell(format_args!("  {reason}")));
        if outcome == CycleOutcome::Outdated {
            tell(format_args!(
                "  another version was promoted meanwhile: candor models promote {version} serves \
                 this one"
            ));
        }
        Ok(())
    }

    fn abandon(&self) -> Result<(), Failure> {
        if !waiting(&self.place()).map_err(Failure::failed)?.1 {
            return print("no cycle is under way");
        }
        let none = || {
            Err(crate::train::TrainError::Run(
                "no cycle is under way".into(),
            ))
        };
        let mut cycle = CycleRun::open(self.place(), none).map_err(Failure::failed)?;
        cycle.abandon().map_err(Failure::failed)?;
        print(format_args!("cycle {} is given up", cycle.state().number))
    }
}
