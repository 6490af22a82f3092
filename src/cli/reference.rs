//! `candor completions` and `candor man`: what other programs know about the command line.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

use super::{
    Failure, command,
    output::{named, write_stdout},
};

/// Print the completions of a shell
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  candor completions bash > \
                  ~/.local/share/bash-completion/completions/candor\n  candor completions zsh > \
                  ~/.zfunc/_candor\n  candor completions fish > \
                  ~/.config/fish/completions/candor.fish")]
pub(super) struct CompletionsArgs {
    /// Which shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Print the manual page of candor, or write those of all commands
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  candor man | man -l -\n  candor man --out ~/.local/share/man/man1"
)]
pub(super) struct ManArgs {
    /// Folder for one page a command, as candor-caption.1
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(super) fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "candor", &mut script);
    write_stdout(&script)
}

pub(super) fn man(args: &ManArgs) -> Result<(), Failure> {
    let root = command().disable_help_subcommand(true);
    match &args.out {
        Some(dir) => std::fs::create_dir_all(dir)
            .and_then(|()| clap_mangen::generate_to(root, dir))
            .map_err(named(dir)),
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(root)
                .render(&mut page)
                .map_err(Failure::failed)?;
            write_stdout(&page)
        }
    }
}
