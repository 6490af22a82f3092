//! Failures of commands.

use std::fmt::Display;

use crate::config::ConfigProblems;

/// Failure of a command. Each kind has its exit status.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Wrong usage: exit status 2.
    #[error("{0}")]
    Misused(String),
    /// Any other failure: exit status 1.
    #[error("{0}")]
    Failed(String),
    /// Ctrl-C: exit status 130.
    #[error("{0}")]
    Interrupted(String),
    /// The reader of standard output closed it: exit status 0 and no message.
    #[error("standard output is closed")]
    ClosedPipe,
}

impl Failure {
    /// Converts an error for `map_err` to [`Failure::Failed`].
    pub(crate) fn failed(error: impl Display) -> Self {
        Self::Failed(error.to_string())
    }

    /// Converts an error for `map_err` to [`Failure::Misused`].
    pub(crate) fn misused(error: impl Display) -> Self {
        Self::Misused(error.to_string())
    }
}

impl From<ConfigProblems> for Failure {
    fn from(problems: ConfigProblems) -> Self {
        // Whoever typed a flag does not know the configuration key behind it.
        let flagged = |origin: &str, what: &str| {
            origin
                .strip_prefix("flag ")
                .map(|flag| format!("{flag}: {what}"))
        };
        let lines: Vec<(bool, String)> = problems
            .0
            .iter()
            .map(|p| {
                flagged(&p.origin, &p.what).map_or((false, p.to_string()), |line| (true, line))
            })
            .collect();
        match lines.as_slice() {
            [(true, line)] => Self::Misused(line.clone()),
            _ => Self::Misused(lines.iter().fold(
                "the configuration cannot be used:".to_owned(),
                |all, (_, line)| all + "\n  " + line,
            )),
        }
    }
}
