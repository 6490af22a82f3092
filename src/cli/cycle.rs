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

/// Scheduling priority of the process: the lowest.
const NICE: i32 = 19;

/// Learn from the corrections in the store: train, evaluate, and promote only what is better
///
/// Steps: snapshot, scorers, policy, scorers again, evaluation, gate, registry, promotion. An
/// interrupted cycle continues where it stopped. Store, registry, model and directory come from the
/// configuration; a server may be using them. A rejected candidate is kept with the reasons, and
/// the exit status is 0.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  candor cycle --once\n  candor cycle --every 24h --min-feedback \
                  500\n  candor cycle --once --recipe config/cycle.toml --config candor.toml"
)]
pub(crate) struct CycleArgs {
    /// Run one cycle
    #[arg(long, required_unless_present_any = ["every", "abandon"], conflicts_with = "every")]
    once: bool,

    /// Run a cycle every so often, from start to start: 24h, 30m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    every: Option<Duration>,

    /// Start no cycle with fewer new corrections than this
    #[arg(long, value_name = "N", default_value_t = 1)]
    min_feedback: usize,

    /// Abandon the unfinished cycle, and do nothing else
    #[arg(long, conflicts_with_all = ["once", "every"])]
    abandon: bool,

    /// Recipe: steps of a cycle and their sizes
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
    // Threads inherit the priority, so it is set before there are any. A refusal does no harm.
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
    let session = CycleSession {
        config,
        registry,
        cycles,
        runtime,
        store,
        images,
    };
    if args.abandon {
        return session.abandon();
    }
    let Some(every) = args.every else {
        return session.run_once(&args).map(drop);
    };
    loop {
        let begun = std::time::Instant::now();
        match session.run_once(&args) {
            // The next cycle continues there.
            Err(Failure::Failed(error)) => note(format_args!("candor: {error}")),
            other => other?,
        }
        sleep(every.saturating_sub(begun.elapsed()));
    }
}

/// Prints progress; the cycle goes on even if standard output is closed.
fn tell(line: impl std::fmt::Display) {
    let _ = print(line);
}

/// Configuration, store and registry that all cycles use.
struct CycleSession {
    config: Config,
    registry: Registry,
    cycles: CycleDirectory,
    runtime: tokio::runtime::Runtime,
    store: SqlStore,
    images: ImageStore,
}

impl CycleSession {
    fn context(&self) -> CycleContext<'_> {
        CycleContext {
            cycles: &self.cycles,
            store: &self.store,
            images: &self.images,
            registry: &self.registry,
            model: &self.config.model.name,
            runtime: &self.runtime,
        }
    }

    /// Runs one cycle if one is unfinished or there are enough new corrections.
    fn run_once(&self, args: &CycleArgs) -> Result<(), Failure> {
        let (new, under_way) = waiting(&self.context()).map_err(Failure::failed)?;
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
        let mut cycle = CycleRun::open(self.context(), recipe).map_err(|e| match e {
            crate::train::TrainError::Config { .. } => Failure::Misused(e.to_string()),
            other => Failure::failed(other),
        })?;
        let (number, on) = (
            cycle.state().number,
            cycle.state().next().map_or("end", CycleStep::name),
        );
        tell(format_args!(
            "cycle {number}: starts with {on}, in {}",
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
        self.remove_old()?;
        if outcome == CycleOutcome::Outdated {
            tell(format_args!(
                "  another version was promoted meanwhile; to serve this one: candor models \
                 promote {version}"
            ));
        }
        Ok(())
    }

    /// Removes old versions and cycles.
    fn remove_old(&self) -> Result<(), Failure> {
        let surplus = self.registry.surplus(self.config.registry.keep);
        let surplus = surplus.map_err(Failure::failed)?;
        let ids: Vec<&str> = surplus.iter().map(|version| &*version.id).collect();
        self.registry.remove(&ids).map_err(Failure::failed)?;
        let cycles = self.cycles.surplus(self.config.cycle.keep);
        for (_, dir) in cycles.map_err(Failure::failed)? {
            std::fs::remove_dir_all(&dir)
                .map_err(|e| Failure::Failed(format!("{}: {e}", dir.display())))?;
        }
        Ok(())
    }

    fn abandon(&self) -> Result<(), Failure> {
        if !waiting(&self.context()).map_err(Failure::failed)?.1 {
            return print("no cycle is unfinished");
        }
        let none = || {
            Err(crate::train::TrainError::Run(
                "no cycle is unfinished".into(),
            ))
        };
        let mut cycle = CycleRun::open(self.context(), none).map_err(Failure::failed)?;
        cycle.abandon().map_err(Failure::failed)?;
        print(format_args!("cycle {} is abandoned", cycle.state().number))
    }
}
