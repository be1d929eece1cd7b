//! What a verification costs beside the copy it checks: `cargo x bench verify`.
//!
//! A pgbench database moves between two throw-away servers that write durably; then both ends, which are identical, are
//! compared. Each is one command, timed from its start to its end.
#![expect(clippy::print_stdout, reason = "figures for people are what it makes")]

use clap::Parser;
use pgconvoy_integration_tests::bench::{Ends, Timed};

const DATABASE: &str = "bench";

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
    let ends = Ends::start(DATABASE).await?;
    let size = ends.fill(DATABASE, scale, "dtgvp").await?;
    println!("pgbench, scale {scale}: {size}");
    let copied = ends.timed(ends.pgconvoy("migrate", DATABASE)?).await?;
    told("migrate", &copied, "");
    for _ in 0..rounds {
        let verified = ends.timed(ends.pgconvoy("verify", DATABASE)?).await?;
        let ratio = format!(" = {:.2} x migrate", verified.seconds / copied.seconds);
        told("verify", &verified, &ratio);
    }
    Ok(())
}

fn told(command: &str, timed: &Timed, ratio: &str) {
    let Timed { seconds, own, servers, finished, .. } = timed;
    println!(
        "{command:8} {seconds:6.1} s{ratio}; processor: {own:.1} s, the servers {servers:.1} s\n{}",
        finished.stdout.trim_end()
    );
}
