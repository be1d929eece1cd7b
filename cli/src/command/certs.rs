//! `pgconvoy certs`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use pgconvoy_runtime::certs::{self, CertsError, Written};
use pgconvoy_runtime::telemetry::chain;
use pgconvoy_runtime::tls::Role;
use serde_json::json;

use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;

/// A small certificate authority for mutual TLS
#[derive(Debug, Args)]
pub(super) struct Certs {
    #[command(subcommand)]
    command: CertsCommand,
}

#[derive(Debug, Subcommand)]
enum CertsCommand {
    /// Make an authority: DIR/ca.crt for every process, DIR/ca.key to be kept
    #[command(after_help = "Example:\n  pgconvoy certs init ca")]
    Init {
        /// Folder of the authority; made if it is not there
        #[arg(value_name = "DIR", default_value = "ca")]
        dir: PathBuf,
    },
    /// Issue a certificate and its key
    #[command(after_help = "\
Examples:
  pgconvoy certs issue ca --role coordinator --name c1 --host c1.example --host 10.0.0.11
  pgconvoy certs issue ca --role agent --name a1
  pgconvoy certs issue ca --role client --name ann --out ~/.pgconvoy")]
    Issue {
        /// Folder of the authority
        #[arg(value_name = "DIR", default_value = "ca")]
        dir: PathBuf,
        /// What its holder is to the cluster
        #[arg(long, value_parser = ["coordinator", "agent", "client"])]
        role: String,
        /// The holder's name; an agent's is its --id
        #[arg(long)]
        name: String,
        /// Name or address under which the holder is dialled; may be repeated
        #[arg(long, value_name = "HOST", value_delimiter = ',')]
        host: Vec<String>,
        /// Folder to write NAME.crt and NAME.key to [default: the authority's]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

impl Certs {
    pub(super) fn run(self, format: Format) -> Result<Exit, Problem> {
        let written = match self.command {
            CertsCommand::Init { dir } => certs::init(&dir),
            CertsCommand::Issue { dir, role, name, host, out } => {
                let role: Role = role.parse().expect("the parser let only roles through");
                certs::issue(&dir, role, &name, &host, out.as_ref().unwrap_or(&dir))
            }
        };
        let Written { cert, key } = written.map_err(|error| refused(&error))?;
        let value = json!({ "cert": cert, "key": key });
        output::data(format, &value, |_| format!("{}\n{}", cert.display(), key.display()))?;
        Ok(Exit::Done)
    }
}

fn refused(error: &CertsError) -> Problem {
    Problem::usage("certificate_not_made", chain(error), "")
}
