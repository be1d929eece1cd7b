//! The quickstart: a shop of about 1 GB moves from one server to another, each at a site that only its own agents reach,
//! while somebody goes on selling in it, and an agent and the leader are killed. A cutover ends it: from then on orders are
//! taken at the destination. Both ends are the same afterwards: that is what the verification says, and what is found
//! without it; and each order that was acknowledged is there.
//!
//! It is what a user sees first, and a test as well: it starts the binary, speaks its public interface, and judges by
//! plain SQL and pg_dump. Everything it starts dies with it, and what it makes goes, however it ends; after a failure
//! the logs stay.

mod clerk;
mod cutover;
mod faults;
mod follow;
mod screen;
mod servers;
mod sites;
mod summary;
mod witness;

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use futures::try_join;
use indicatif::{HumanBytes, HumanCount};
use pgconvoy_proto::v1::{Severity, Task};

use crate::convoy::Convoy;
use crate::logs::Expected;
use crate::postgres::PASSWORD;
use clerk::Clerk;
use faults::{Striker, Struck};
use screen::Screen;
use servers::Servers;
use sites::{AT_DESTINATION, AT_SOURCE, Sites};
use witness::Witness;

/// At scale 1; a smaller shop is cut finer, so that the faults find a shard half copied.
const SHARD_MIB: f64 = 32.0;
/// Copied at once in the whole task: two for each agent near the destination.
const JOBS: u32 = 6;
/// The task's name.
const TASK: &str = "shop";
/// What a command may take that only talks to a cluster on this machine.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// What a user may choose.
#[derive(Debug, Clone)]
pub struct Options {
    /// How large the shop is: 1 is about 1 GB.
    pub scale: f64,
    /// Everything stays up in the end, to look around, until the run is interrupted.
    pub keep: bool,
}

/// Why a run did not end well.
#[derive(Debug)]
pub struct Failed {
    /// What happened.
    pub error: anyhow::Error,
    /// Where the logs of all processes and servers are now; none if nothing was started yet.
    pub logs: Option<PathBuf>,
}

/// Runs it all. Dropped before its end, it cleans up.
pub async fn run(options: &Options) -> Result<(), Failed> {
    let screen = Screen::new();
    let sites = Sites::make();
    screen.line("sites", &sites.told());
    let started = Servers::start(&screen, &sites).await;
    let servers = started.map_err(|error| Failed { error, logs: None })?;
    let mut convoy = None;
    let story = story(options, &screen, &sites, &servers, &mut convoy);
    let Err(error) = story.await else { return Ok(()) };
    match keep_logs(&servers, convoy.as_ref()) {
        Ok(logs) => Err(Failed { error, logs: Some(logs) }),
        Err(lost) => Err(Failed { error: error.context(format!("no logs: {lost:#}")), logs: None }),
    }
}

async fn story(
    options: &Options,
    screen: &Screen,
    sites: &Sites,
    servers: &Servers,
    convoy: &mut Option<Convoy>,
) -> anyhow::Result<()> {
    servers.fill(screen, options.scale).await?;
    let convoy = convoy.insert(start_convoy(screen, sites).await?);
    let mut clerk = Clerk::begin(servers).await?;
    let task = create_task(screen, servers, convoy, options.scale).await?;
    let (followed, struck) = migrate(screen, servers, convoy, &task, options.scale).await?;
    let before = clerk.sold().await?;
    let sold =
        format!("{} orders so far, acknowledged by the source meanwhile", HumanCount(before));
    screen.line("sold", &sold);
    for item in followed.precheck.iter().filter(|item| item.severity() == Severity::Warning) {
        screen.line("warned", &format!("{} {}: {}", item.code, item.object, item.observed));
    }
    summary::units_moved(screen, &faults::events(convoy, &task).await?);
    let done = cutover::make(screen, servers, convoy, clerk).await?;
    // After such faults a log may hold any warning, but never a password.
    convoy.check_logs(&Expected::nothing().allow("").secret(PASSWORD))?;
    servers.compare(screen).await?;
    summary::tell(screen, &done, &struck);
    summary::relayed(screen, convoy).await?;
    screen.line("identical", "");
    if options.keep {
        stay(screen, servers, convoy).await?;
    }
    Ok(())
}

async fn start_convoy(screen: &Screen, sites: &Sites) -> anyhow::Result<Convoy> {
    let step = screen.begin("cluster", "starting coordinators and agents");
    let builder = Convoy::builder().coordinators(3).tls().by_commands();
    let convoy = sites.agents(builder).start().await?;
    step.done(&format!(
        "3 coordinators, {} agents at {}, {} at {}, each a process, mutual TLS between them",
        AT_SOURCE.len(),
        sites::SOURCE,
        AT_DESTINATION.len(),
        sites::DESTINATION,
    ));
    Ok(convoy)
}

/// Creates and starts the task as a user does: from a task file, with the password in a file of its own.
async fn create_task(
    screen: &Screen,
    servers: &Servers,
    convoy: &Convoy,
    scale: f64,
) -> anyhow::Result<String> {
    let step = screen.begin("task", "creating it");
    let password = convoy.folder().join("password");
    write_secret(&password, PASSWORD)?;
    let end = |server, site| {
        let (url, password) = (Servers::url(server), password.display());
        format!("{{ url: \"{url}\", password: {{ file: \"{password}\" }}, site: {site} }}")
    };
    let source = end(&servers.source, sites::SOURCE);
    let destination = end(&servers.destination, sites::DESTINATION);
    let shard_mib = shard_bytes(scale) >> 20;
    let specification = format!(
        "name: {TASK}\nsource: {source}\ndestination: {destination}\n\
         types: [schema, full, incremental]\n\
         copy: {{ jobs: {JOBS}, shard_size: {shard_mib}MiB }}\n"
    );
    let file = convoy.folder().join("shop.yaml");
    std::fs::write(&file, specification).context("write the task file")?;
    let command =
        convoy.cli(["task", "create", "--start", "--yes", "--verify"])?.arg("-f").arg(file);
    let answer = command.run(COMMAND_LIMIT).await?.success().context("create the task")?;
    let task = answer.trim().to_owned();
    step.done(&format!("{task}, in shards of {shard_mib} MiB, {JOBS} at once"));
    Ok(task)
}

/// Watches the task until it follows the source, verified, while the faults strike.
async fn migrate(
    screen: &Screen,
    servers: &Servers,
    convoy: &Convoy,
    task: &str,
    scale: f64,
) -> anyhow::Result<(Task, Struck)> {
    let witness = Witness::new(servers.witness().await?, task);
    let bytes_min = shard_bytes(scale) / 8;
    let step = screen
        .begin("move", "precheck, schema, rows, indexes, what is written meanwhile, verification");
    let striker = Striker { screen, convoy, witness: &witness, task, bytes_min };
    let (task, struck) = try_join!(follow::follow(convoy, task, &step), striker.strike())?;
    step.done(&format!("{} rows, {}", HumanCount(task.rows_done), HumanBytes(task.bytes_done)));
    Ok((task, struck))
}

/// From the smallest that a task may ask for.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a small positive number"
)]
fn shard_bytes(scale: f64) -> u64 {
    ((SHARD_MIB * scale) as u64).clamp(1, 32) << 20
}

/// Leaves everything up, and says how to look around.
async fn stay(screen: &Screen, servers: &Servers, convoy: &Convoy) -> anyhow::Result<()> {
    let passwords = convoy.folder().join("pgpass");
    write_secret(&passwords, &format!("*:*:*:*:{PASSWORD}\n"))?;
    screen.line("", "everything stays up until Ctrl-C; to look around:");
    screen.line("", &format!("  export PGPASSFILE={}", passwords.display()));
    screen.line("", &format!("  psql '{}'   # the source", Servers::way_in(&servers.source)));
    let destination = Servers::way_in(&servers.destination);
    screen.line("", &format!("  psql '{destination}'   # the destination"));
    screen.line("", &format!("  {}", convoy.cli(["task", "events", TASK])?));
    screen.line("", &format!("  logs are in {}", convoy.folder().display()));
    std::future::pending().await
}

/// Copies all logs to a folder that stays.
fn keep_logs(servers: &Servers, convoy: Option<&Convoy>) -> anyhow::Result<PathBuf> {
    let folder = tempfile::Builder::new().prefix("pgconvoy-quickstart-").tempdir()?;
    servers.keep_logs(folder.path())?;
    let files = convoy.map(|convoy| std::fs::read_dir(convoy.folder())).transpose()?;
    for file in files.into_iter().flatten() {
        let file = file?.path();
        let name = file.file_name().zip(file.extension());
        if let Some((name, end)) = name
            && (end == "log" || end == "out")
        {
            std::fs::copy(&file, folder.path().join(name))?;
        }
    }
    Ok(folder.keep())
}

/// A file that its owner alone can read, from its first byte on.
fn write_secret(path: &Path, secret: &str) -> anyhow::Result<()> {
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(secret.as_bytes())?;
    Ok(())
}
