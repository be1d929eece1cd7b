//! The binary `pgconvoy`: reads the command line, sets the process up, hands over.
//!
//! Data goes to stdout, everything else to stderr; how a command ended is its exit code ([`exit::Exit`]).

mod client;
mod command;
mod connect;
mod embedded;
mod exit;
mod output;
mod password;
mod problem;
mod report;
mod settings;
mod submission;
mod view;

use std::process::ExitCode;

use clap::Parser;
use pgconvoy_runtime::telemetry::{chain, redact};

use command::Cli;
use exit::Exit;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let format = cli.format();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::note(&format!("error: cannot start: {}", redact(&chain(&error))));
            return Exit::Failed.into();
        }
    };
    let exit = runtime.block_on(cli.run()).unwrap_or_else(|problem| {
        if let Some(text) = problem.describe(format) {
            output::note(&text);
        }
        problem.exit()
    });
    exit.into()
}
