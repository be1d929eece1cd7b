//! Exit codes, the same for every command. They are a contract: add, never change.

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It did what was asked.
    Done = 0,
    /// The task failed or was cancelled, or something unforeseen happened.
    Failed = 1,
    /// Bad usage or specification, an unknown id, or a state that does not allow it.
    Usage = 2,
    /// The precheck found errors, or warnings that nobody acknowledged; a database cannot be reached or used.
    Precheck = 3,
    /// Verification found differences.
    Differs = 4,
    /// No coordinator could be reached.
    NoCoordinator = 5,
    /// SIGINT or SIGTERM; state is kept.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}
