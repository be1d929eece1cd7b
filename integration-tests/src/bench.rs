//! What benches share: a pgbench database, two servers that write durably, and programs that are timed between them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

use crate::postgres::{Options, PASSWORD, Postgres, Regression, SUPERUSER, quoted};
use crate::process::{Finished, Process, Program};
use crate::wait;

/// For one command.
const LIMIT: Duration = Duration::from_secs(60 * 60);

/// A source, a destination, and a folder for what goes between them.
#[derive(Debug)]
pub struct Ends {
    pub source: Postgres,
    pub destination: Postgres,
    folder: tempfile::TempDir,
}

/// What a program took.
#[derive(Debug)]
pub struct Timed {
    /// From its start to its end, in seconds.
    pub seconds: f64,
    /// Processor time of the program and what it started, in seconds.
    pub own: f64,
    /// Processor time of the two servers meanwhile, in seconds.
    pub servers: f64,
    /// The most memory that it had at once, in bytes.
    pub peak: u64,
    /// What it said.
    pub finished: Finished,
}

impl Ends {
    /// Two servers with an empty database of this name.
    pub async fn start(database: &str) -> anyhow::Result<Ends> {
        let ends = Ends::between(Options::default()).await?;
        ends.source.create_database(database).await?;
        ends.destination.create_database(database).await?;
        Ok(ends)
    }

    /// A server with the database that PostgreSQL's own tests leave behind, and an empty one.
    pub async fn with_regression(regression: Regression) -> anyhow::Result<Ends> {
        Ends::between(Options::default().regression(regression)).await
    }

    async fn between(source: Options) -> anyhow::Result<Ends> {
        let set = |options: Options| {
            options.durable().setting("shared_buffers", "256MB").setting("max_wal_size", "4GB")
        };
        let (source, destination) = tokio::try_join!(
            Postgres::start(set(source)),
            Postgres::start(set(Options::default()))
        )?;
        let folder = tempfile::tempdir()?;
        write_secret(&folder.path().join("pgpass"), &format!("*:*:*:*:{PASSWORD}\n"))?;
        Ok(Ends { source, destination, folder })
    }

    /// Fills a database of the source by these steps of pgbench; says how large it is then.
    pub async fn fill(&self, database: &str, scale: u32, steps: &str) -> anyhow::Result<String> {
        let scale = scale.to_string();
        let mut pgbench = self.source.client_tool("pgbench", database)?;
        pgbench.args(["--initialize", "--quiet", "--scale", &scale, "--init-steps", steps]);
        let status = pgbench.status().context("start pgbench")?;
        ensure!(status.success(), "pgbench ended with {status}");
        let size = format!("select pg_size_pretty(pg_database_size('{database}'))");
        Ok(self.source.value("postgres", &size).await?.unwrap_or_default())
    }

    /// As [`fill`](Self::fill), but the largest table of pgbench alone, without its key. Its definition is written to a
    /// file, for the destination.
    pub async fn fill_table(
        &self,
        database: &str,
        scale: u32,
        definition: &Path,
    ) -> anyhow::Result<String> {
        let size = self.fill(database, scale, "dtgv").await?;
        let others = "drop table pgbench_tellers, pgbench_branches, pgbench_history";
        self.source.sql(database, others).await?;
        std::fs::write(definition, self.source.pg_dump_schema(database).await?)?;
        Ok(size)
    }

    /// The destination's database anew, with nothing in it; and nothing is left to be written by either server.
    pub async fn anew(&self, database: &str) -> anyhow::Result<()> {
        let drop = format!("drop database if exists {} with (force)", quoted(database));
        self.destination.sql("postgres", &drop).await?;
        self.destination.create_database(database).await?;
        self.source.sql("postgres", "checkpoint").await?;
        self.destination.sql("postgres", "checkpoint").await
    }

    /// A path that only these benches use.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// How a client reaches a server. The password is in the file that [`program`](Self::program) names.
    pub fn url(&self, server: &Postgres, database: &str) -> String {
        format!("postgres://{SUPERUSER}@127.0.0.1:{}/{database}", server.port())
    }

    /// A program that finds the passwords.
    pub fn program(&self, program: Program) -> Program {
        program.env("PGPASSFILE", self.path("pgpass"))
    }

    /// A command of pgconvoy between the two databases.
    pub fn pgconvoy(&self, command: &str, database: &str) -> anyhow::Result<Program> {
        let (source, destination) =
            (self.url(&self.source, database), self.url(&self.destination, database));
        self.pgconvoy_between(command, "data", &source, &destination)
    }

    /// The same between any two ends, with a data directory of its own.
    pub fn pgconvoy_between(
        &self,
        command: &str,
        data: &str,
        source: &str,
        destination: &str,
    ) -> anyhow::Result<Program> {
        Ok(self
            .program(Program::pgconvoy()?)
            .args([command, "--yes", "--source", source, "--destination", destination])
            .arg("--data-dir")
            .arg(self.path(data)))
    }

    /// Runs a program, which must end well.
    pub async fn timed(&self, program: Program) -> anyhow::Result<Timed> {
        let shown = program.to_string();
        let (own, servers, began) = (of_children()?, self.of_servers()?, Instant::now());
        let process = Process::start("timed", program, self.folder.path())?;
        let mut peak = 0;
        let status = wait::closely(LIMIT, &shown, async || {
            // One that has just ended tells no more of its memory.
            peak = peak.max(process.peak_memory_bytes().unwrap_or_default());
            process.ended().transpose().ok_or("it runs")
        });
        let status = status.await??;
        let seconds = began.elapsed().as_secs_f64();
        let finished = Finished { status, stdout: process.stdout(), log: process.log() };
        for output in ["timed.out", "timed.log"] {
            std::fs::remove_file(self.path(output))?;
        }
        ensure!(finished.code() == Some(0), "{shown}:\n{}\n{}", finished.stdout, finished.log);
        let (own, servers) = (of_children()? - own, self.of_servers()? - servers);
        Ok(Timed { seconds, own, servers, peak, finished })
    }

    /// Processor time that the two servers took so far, in seconds.
    pub fn of_servers(&self) -> anyhow::Result<f64> {
        let times = [self.source.processor_time()?, self.destination.processor_time()?];
        Ok(times.iter().map(Duration::as_secs_f64).sum())
    }
}

/// The middle one of some figures, or between the two in the middle.
pub fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    let (below, above) = (figures[(figures.len() - 1) / 2], figures[figures.len() / 2]);
    (below + above) / 2.0
}

/// Removes a folder that may not be there.
pub fn remove(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Processor time of the programs that this process started, and that ended.
fn of_children() -> anyhow::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// A file that its owner alone can read, as libpq wants it.
fn write_secret(path: &Path, secret: &str) -> anyhow::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    Ok(file.write_all(secret.as_bytes())?)
}
