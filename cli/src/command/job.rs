//! What `migrate`, `precheck` and `verify` have in common: the flags, and what runs them in this process.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use pgconvoy_shared::failure::Failure;

use crate::embedded::{Embedded, socket_of};
use crate::exit::Exit;
use crate::problem::Problem;
use crate::submission::{Acknowledge, SpecFlags, Wanted};

/// The job, and where and by whom it is done.
#[derive(Debug, Clone, Args)]
pub(super) struct Job {
    #[command(flatten)]
    pub(super) spec: SpecFlags,
    #[command(flatten)]
    pub(super) acknowledge: Acknowledge,
    /// Where the migration keeps its state; precheck and verify work in a folder below, and remove it
    #[arg(long, value_name = "DIR", default_value = ".pgconvoy")]
    pub(super) data_dir: PathBuf,
    /// Agents in this process
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=64)
    )]
    pub(super) agents: u32,
}

/// Beside copies and indexes an agent may have to plan and to look after the schema.
const SLOTS_BESIDE_JOBS: u32 = 4;

/// The slots that an agent needs to do alone what the task may do at once.
pub(super) fn slots_for(wanted: &Wanted) -> u32 {
    let copy = &wanted.submission.spec.copy;
    copy.jobs.saturating_add(copy.index_jobs).saturating_add(SLOTS_BESIDE_JOBS)
}

/// Coordinator and agents on a directory that nobody else works on.
pub(super) async fn start(
    data_dir: &Path,
    agents: u32,
    slots: u32,
    differences: Option<PathBuf>,
) -> Result<Embedded, Problem> {
    if socket_of(data_dir).await?.is_some() {
        return Err(Problem::usage(
            "data_dir_in_use",
            format!("another pgconvoy runs on the data directory `{}`", data_dir.display()),
            "watch it with `pgconvoy task list --data-dir …`, or give another --data-dir",
        ));
    }
    let mut embedded = Embedded::start(data_dir).await?;
    match embedded.add_agents(agents, slots, differences).await {
        Ok(()) => Ok(embedded),
        Err(problem) => {
            embedded.stop().await;
            Err(problem)
        }
    }
}

/// The folder holds a sealed password: it goes with the command. What was there before stays.
pub(super) fn remove(folder: &Path, data_dir: &Path) -> Result<(), Problem> {
    std::fs::remove_dir_all(folder).map_err(|error| {
        let message = format!("cannot remove `{}`: {error}", folder.display());
        Problem::new(Exit::Failed, Failure::other("data_dir_unusable", message))
    })?;
    match std::fs::remove_dir(data_dir) {
        Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => {
            let message = format!("cannot remove `{}`: {error}", data_dir.display());
            Err(Problem::new(Exit::Failed, Failure::other("data_dir_unusable", message)))
        }
        _ => Ok(()),
    }
}
