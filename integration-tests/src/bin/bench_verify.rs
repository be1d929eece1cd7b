//! What a verification costs beside the copy it checks: `cargo x bench verify`.
//!
//! A pgbench database moves between two throw-away servers that write durably; then both ends, which are identical, are
//! compared. Each is one command, timed from its start to its end.
#![expect(clippy::print_stdout, reason = "figures for people are what it makes")]

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use pgconvoy_integration_tests::postgres::{Options, PASSWORD, Postgres, SUPERUSER};
use pgconvoy_integration_tests::process::{Finished, Program};

const DATABASE: &str = "bench";
/// For one command.
const LIMIT: Duration = Duration::from_secs(60 * 60);

/// Times `pgconvoy migrate` and then `pgconvoy verify` on a pgbench database.
#[derive(Debug, Parser)]
#[command(name = "bench_verify")]
struct Arguments {
    /// pgbench's scale; 100 is 1.5 GB.
    #[arg(long, default_value_t = 100)]
    scale: u32,
    /// How often both ends are compared.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
}

fn main() -> anyhow::Result<()> {
    let Arguments { scale, rounds } = Arguments::parse();
    tokio::runtime::Runtime::new()?.block_on(run(scale, rounds))
}

async fn run(scale: u32, rounds: u32) -> anyhow::Result<()> {
    let options = || {
        Options::default()
            .durable()
            .setting("shared_buffers", "256MB")
            .setting("max_wal_size", "4GB")
    };
    let (source, destination) =
        tokio::try_join!(Postgres::start(options()), Postgres::start(options()))?;
    source.create_database(DATABASE).await?;
    destination.create_database(DATABASE).await?;
    fill(&source, scale)?;
    let size = format!("select pg_size_pretty(pg_database_size('{DATABASE}'))");
    let size = source.value("postgres", &size).await?.unwrap_or_default();
    println!("pgbench, scale {scale}: {size}");

    let folder = tempfile::tempdir()?;
    let passwords = folder.path().join("pgpass");
    write_secret(&passwords, &format!("*:*:*:*:{PASSWORD}\n"))?;
    let command = |name: &str| -> anyhow::Result<Program> {
        let url = |server: &Postgres| {
            format!("postgres://{SUPERUSER}@127.0.0.1:{}/{DATABASE}", server.port())
        };
        let (source, destination) = (url(&source), url(&destination));
        Ok(Program::pgconvoy()?
            .args([name, "--yes", "--source", &source, "--destination", &destination, "--data-dir"])
            .arg(folder.path().join("data"))
            .env("PGPASSFILE", &passwords))
    };
    let (copied, told) = timed(command("migrate")?).await?;
    println!("migrate   {copied:6.1} s\n{}", told.stdout.trim_end());
    for _ in 0..rounds {
        let (verified, told) = timed(command("verify")?).await?;
        println!(
            "verify    {verified:6.1} s: {:.2} x migrate\n{}",
            verified / copied,
            told.stdout.trim_end()
        );
    }
    Ok(())
}

fn fill(server: &Postgres, scale: u32) -> anyhow::Result<()> {
    let scale = scale.to_string();
    let mut pgbench = server.client_tool("pgbench", DATABASE)?;
    pgbench.args(["--initialize", "--quiet", "--scale", &scale]);
    let status = pgbench.status().context("start pgbench")?;
    ensure!(status.success(), "pgbench ended with {status}");
    Ok(())
}

/// Seconds that a command took, and what it said.
async fn timed(command: Program) -> anyhow::Result<(f64, Finished)> {
    let began = Instant::now();
    let finished = command.run(LIMIT).await?;
    ensure!(finished.code() == Some(0), "{}\n{}", finished.stdout, finished.log);
    Ok((began.elapsed().as_secs_f64(), finished))
}

/// A file that its owner alone can read, as libpq wants it.
fn write_secret(path: &std::path::Path, secret: &str) -> anyhow::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    Ok(file.write_all(secret.as_bytes())?)
}
