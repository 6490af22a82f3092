//! The command line, one file per subcommand. Exit status: 0 success, 1 failure, 2 wrong usage, 130
//! interrupted.

// `print!` panics on a closed pipe; the functions of `output` do not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod caption;
mod common;
mod cycle;
mod doctor;
mod download;
mod eval;
mod failure;
mod feedback;
mod keys;
mod lines;
mod models;
mod output;
mod photo;
mod score;
mod selftest;
mod serve;
mod train;

use std::{ffi::OsString, path::PathBuf, process::ExitCode, sync::LazyLock};

use clap::{Args, ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

pub(crate) use self::failure::Failure;
use self::output::{failed_at, write_stdout};
use crate::bundle::Bundle;

/// Captions photographs and answers questions about them, and flags the words that the photograph
/// may not support
#[derive(Parser)]
#[command(name = "candor", version = version(), arg_required_else_help = true,
    after_help = "Example:\n  candor serve --listen 127.0.0.1:8080")]
struct Cli {
    /// When to color text: auto (on a terminal, unless NO_COLOR, CLICOLOR=0 or TERM=dumb is set),
    /// always or never
    #[arg(
        long,
        value_name = "WHEN",
        value_enum,
        default_value_t,
        global = true,
        hide_possible_values = true
    )]
    color: ColorChoice,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Caption(caption::CaptionArgs),
    Ask(caption::AskArgs),
    Score(score::ScoreArgs),
    Eval(eval::EvalArgs),
    Train(train::TrainArgs),
    Cycle(cycle::CycleArgs),
    Feedback(feedback::FeedbackArgs),
    Models(models::ModelsArgs),
    Keys(keys::KeysArgs),
    Bench(bench::BenchArgs),
    Doctor(doctor::DoctorArgs),
    Selftest(selftest::SelftestArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

/// Print shell completions
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  candor completions bash > \
                  ~/.local/share/bash-completion/completions/candor\n  candor completions zsh > \
                  ~/.zfunc/_candor\n  candor completions fish > \
                  ~/.config/fish/completions/candor.fish")]
struct CompletionsArgs {
    /// Shell to complete for
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Print the manual page of candor, or write one page per command
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  candor man | man -l -\n  candor man --out ~/.local/share/man/man1"
)]
struct ManArgs {
    /// Folder for the pages, such as candor-caption.1
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Version of the program, and of the embedded bundles.
pub(crate) fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let bundles = Bundle::embedded()
            .iter()
            .filter_map(|name| Bundle::describe(name).ok());
        let bundles: Vec<String> = bundles
            .map(|bundle| format!("{} {}", bundle.name, bundle.version))
            .collect();
        let own = env!("CARGO_PKG_VERSION");
        if bundles.is_empty() {
            own.to_owned()
        } else {
            format!("{own} (embedded: {})", bundles.join(", "))
        }
    });
    &VERSION
}

/// The command line as a clap command.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses a command line without running it.
///
/// # Errors
/// A usage error, or a request for help or version.
pub fn check(args: impl IntoIterator<Item = OsString>) -> Result<(), clap::Error> {
    parse(args.into_iter().collect()).map(drop)
}

fn parse(args: Vec<OsString>) -> Result<Cli, clap::Error> {
    let mut command = Cli::command().color(requested_color(&args));
    let matches = command.try_get_matches_from_mut(args)?;
    Cli::from_arg_matches(&matches).map_err(|e| e.format(&mut command))
}

/// Value of `--color`, found before the arguments are parsed because usage errors are colored too.
fn requested_color(args: &[OsString]) -> ColorChoice {
    let mut words = args
        .iter()
        .map(|word| word.to_str().unwrap_or_default())
        .take_while(|word| *word != "--");
    let mut choice = ColorChoice::Auto;
    while let Some(word) = words.next() {
        let value = match word.strip_prefix("--color") {
            Some("") => words.next(),
            Some(rest) => rest.strip_prefix('='),
            None => None,
        };
        choice = value
            .and_then(|value| ColorChoice::from_str(value, true).ok())
            .unwrap_or(choice);
    }
    choice
}

/// Runs the command of the process's arguments and returns the exit status.
pub fn run() -> ExitCode {
    let cli = match parse(std::env::args_os().collect()) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output, which may be closed.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    if cli.color != ColorChoice::Auto {
        console::set_colors_enabled(cli.color == ColorChoice::Always);
        console::set_colors_enabled_stderr(cli.color == ColorChoice::Always);
    }
    let done = match cli.command {
        Command::Serve(args) => serve::run(args),
        Command::Caption(args) => caption::caption(args),
        Command::Ask(args) => caption::ask(args),
        Command::Score(args) => score::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Train(args) => train::run(args),
        Command::Cycle(args) => cycle::run(args),
        Command::Feedback(args) => feedback::run(args),
        Command::Models(args) => models::run(args),
        Command::Keys(args) => keys::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Selftest(args) => selftest::run(args),
        Command::Completions(args) => print_completions(&args),
        Command::Man(args) => print_manual(&args),
    };
    let failure = match done {
        Ok(()) | Err(Failure::ClosedPipe) => return ExitCode::SUCCESS,
        Err(failure) => failure,
    };
    output::note(format_args!("candor: {failure}"));
    ExitCode::from(match failure {
        Failure::Misused(_) => 2,
        Failure::Interrupted(_) => 130,
        Failure::Failed(_) | Failure::ClosedPipe => 1,
    })
}

fn print_completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "candor", &mut script);
    write_stdout(&script)
}

fn print_manual(args: &ManArgs) -> Result<(), Failure> {
    let root = command().disable_help_subcommand(true);
    match &args.out {
        Some(dir) => std::fs::create_dir_all(dir)
            .and_then(|()| clap_mangen::generate_to(root, dir))
            .map_err(failed_at(dir)),
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(root)
                .render(&mut page)
                .map_err(Failure::failed)?;
            write_stdout(&page)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_of_every_command_shows_an_example() {
        let mut cli = Cli::command();
        cli.clone().debug_assert();
        let missing = |c: &mut clap::Command| !c.render_long_help().to_string().contains("Example");
        assert!(!missing(&mut cli));
        let own = cli.get_subcommands_mut().filter(|c| c.get_name() != "help");
        let without: Vec<_> = own
            .filter_map(|c| missing(c).then(|| c.get_name().to_owned()))
            .collect();
        assert!(without.is_empty(), "{without:?}");
    }

    #[test]
    fn color_flag_is_found_before_parsing() {
        for (args, want) in [
            (
                &["candor", "caption", "--color", "never"][..],
                ColorChoice::Never,
            ),
            (&["candor", "--color=always", "x"], ColorChoice::Always),
            (
                &["candor", "--color=always", "--color", "never"],
                ColorChoice::Never,
            ),
            (&["candor", "--color", "blue"], ColorChoice::Auto),
            (
                &["candor", "caption", "--", "--color=never"],
                ColorChoice::Auto,
            ),
            (&["candor", "--color"], ColorChoice::Auto),
        ] {
            assert_eq!(
                requested_color(&args.iter().map(OsString::from).collect::<Vec<_>>()),
                want,
                "{args:?}"
            );
        }
    }
}
