//! `deploy/quickstart` builds and runs this: see [`pgconvoy_integration_tests::quickstart`].

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use pgconvoy_integration_tests::quickstart::{self, Options};
use tokio::signal::unix::{SignalKind, signal};

/// What shells say of a program that a signal ended.
const INTERRUPTED: u8 = 130;

/// Moves a generated shop between two throw-away PostgreSQL servers while an agent and the leader are killed, and
/// compares both ends.
#[derive(Debug, Parser)]
#[command(name = "deploy/quickstart")]
struct Arguments {
    /// How large the shop is; 1 is about 1 GB.
    #[arg(long, default_value_t = 1.0, value_parser = scale)]
    scale: f64,
    /// Leave everything up in the end, to look around, until Ctrl-C.
    #[arg(long)]
    keep: bool,
}

fn scale(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(scale) if (0.01..=100.0).contains(&scale) => Ok(scale),
        _ => Err("a scale is a number from 0.01 to 100".to_owned()),
    }
}

fn main() -> ExitCode {
    let Arguments { scale, keep } = Arguments::parse();
    let outcome = tokio::runtime::Runtime::new()
        .context("start the runtime")
        .and_then(|runtime| runtime.block_on(run(&Options { scale, keep })));
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("quickstart: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The run, or what ends it first. Whatever it started goes with the future that is dropped here.
async fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let mut signals = Vec::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        signals.push(signal(kind).context("listen for signals")?);
    }
    let interrupted = futures::future::select_all(signals.iter_mut().map(|s| Box::pin(s.recv())));
    tokio::select! {
        biased;
        _ = interrupted => {
            eprintln!("quickstart: interrupted; everything it started is gone");
            Ok(ExitCode::from(INTERRUPTED))
        }
        outcome = Box::pin(quickstart::run(options)) => match outcome {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(failed) => {
                eprintln!("quickstart: {:#}", failed.error);
                if let Some(logs) = failed.logs {
                    eprintln!("quickstart: all logs are in {}", logs.display());
                }
                Ok(ExitCode::FAILURE)
            }
        },
    }
}
