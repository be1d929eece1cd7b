//! The command line: one file a subcommand.

mod agent;
mod agents;
mod certs;
mod cleaning;
mod cluster;
mod coordinator;
mod cutover;
mod errors;
mod goal;
mod interruption;
mod job;
mod migrate;
mod precheck;
mod remarks;
mod task;
mod verify;

use std::io::IsTerminal;
use std::sync::LazyLock;

use clap::{CommandFactory, Parser, Subcommand};
use pgconvoy_runtime::shutdown::Shutdown;
use pgconvoy_runtime::telemetry::{self, TelemetryConfig, chain};
use pgconvoy_runtime::{build_info, signals};
use pgconvoy_shared::failure::Failure;

use crate::exit::Exit;
use crate::output::Format;
use crate::problem::Problem;

/// Moves very large PostgreSQL databases that stay in use.
#[derive(Debug, Parser)]
#[command(
    name = "pgconvoy",
    version = build_info::VERSION,
    long_version = LONG_VERSION.as_str(),
    max_term_width = 100,
    after_help = EXAMPLES
)]
pub(crate) struct Cli {
    /// How data is shown
    #[arg(
        short = 'o',
        long = "output",
        global = true,
        value_name = "FORMAT",
        default_value = "table",
        help_heading = "Global options"
    )]
    format: Format,
    /// What is logged to stderr: a level, or level,target=level,… [default: info for coordinator and
    /// agent, error for all else, which tell by themselves what went wrong]
    #[arg(
        long,
        global = true,
        value_name = "FILTER",
        env = "PGCONVOY_LOG",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    log: Option<String>,
    /// How log lines look
    #[arg(
        long,
        global = true,
        value_name = "FORM",
        env = "PGCONVOY_LOG_FORMAT",
        hide_env_values = true,
        default_value = "plain",
        help_heading = "Global options"
    )]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  pgconvoy migrate --source postgres://me@old/shop --destination postgres://me@new/shop
  pgconvoy task create -f shop.yaml --start --coordinators c1:7411,c2:7411,c3:7411
  pgconvoy task watch shop
  pgconvoy errors destination_not_empty

Exit codes: 0 done; 1 the task failed or was cancelled; 2 bad usage, specification, unknown id, or a
state that does not allow it; 3 precheck failed (also unreachable database, wrong password, missing
privilege); 4 verification found differences; 5 no coordinator could be reached; 130 interrupted (state is kept)";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum LogFormat {
    // For people.
    Plain,
    // One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    Migrate(migrate::Migrate),
    Precheck(precheck::Precheck),
    Verify(verify::Verify),
    Coordinator(coordinator::Coordinator),
    Agent(agent::Agent),
    Task(task::Task),
    Agents(agents::Agents),
    Cluster(cluster::Cluster),
    Certs(certs::Certs),
    Errors(errors::Errors),
    /// Print a completion script for a shell
    #[command(
        after_help = "Example:\n  pgconvoy completions bash > /etc/bash_completion.d/pgconvoy"
    )]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// A command whose meaning is documented and not built: it takes anything, and is refused.
#[derive(Debug, clap::Args)]
pub(crate) struct NotYet {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    anything: Vec<String>,
}

static LONG_VERSION: LazyLock<String> = LazyLock::new(build_info::describe);

impl Cli {
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        pgconvoy_runtime::install_crypto();
        self.log_to_stderr()?;
        let shutdown = Shutdown::new();
        signals::install(&shutdown).map_err(|error| {
            let message = format!("cannot listen to signals: {}", chain(&error));
            Problem::new(Exit::Failed, Failure::other("internal_error", message))
        })?;
        let format = self.format;
        match self.command {
            Command::Migrate(command) => Box::pin(command.run(format, &shutdown)).await,
            Command::Precheck(command) => command.run(format, &shutdown).await,
            Command::Verify(command) => command.run(format, &shutdown).await,
            Command::Coordinator(command) => command.run(&shutdown).await,
            Command::Agent(command) => command.run(&shutdown).await,
            Command::Task(command) => {
                // Boxed: the largest of all futures, and the only one.
                unless(&shutdown, Box::pin(command.run(format))).await
            }
            Command::Agents(command) => unless(&shutdown, command.run(format)).await,
            Command::Cluster(command) => unless(&shutdown, command.run(format)).await,
            Command::Certs(command) => command.run(format),
            Command::Errors(command) => command.run(format),
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "pgconvoy", &mut script);
                crate::output::line(&String::from_utf8_lossy(&script))?;
                Ok(Exit::Done)
            }
        }
    }

    fn log_to_stderr(&self) -> Result<(), Problem> {
        let default = match self.command {
            // openraft tells of every peer that does not answer, several times a second, and of who still asks a node that
            // ends; what stops a node we tell ourselves.
            Command::Coordinator(_) | Command::Agent(_) => "info,openraft=off",
            _ => "error,openraft=off",
        };
        let filter = self.log.clone().or_else(|| std::env::var("RUST_LOG").ok());
        let config = TelemetryConfig {
            format: match self.log_format {
                LogFormat::Plain => telemetry::Format::Plain,
                LogFormat::Json => telemetry::Format::Json,
            },
            filter: filter.unwrap_or_else(|| default.to_owned()),
            colour: std::io::stderr().is_terminal(),
        };
        telemetry::init(&config)
            .map_err(|error| Problem::usage("bad_usage", chain(&error), "see --help"))
    }
}

/// Commands that only ask may be cut off anywhere.
async fn unless(
    shutdown: &Shutdown,
    command: impl Future<Output = Result<Exit, Problem>>,
) -> Result<Exit, Problem> {
    tokio::select! {
        ended = command => ended,
        () = shutdown.begun() => Ok(Exit::Interrupted),
    }
}
