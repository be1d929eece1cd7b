//! The database that PostgreSQL's own regression tests leave behind, as `deploy/fetch-regression` made it: hundreds of
//! tables, and an object of every kind that the tests know of.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, ensure};

use super::major::cache;
use super::{Major, PASSWORD, SUPERUSER, template};
use crate::spawn::{Account, mortal, spawn};

/// The version that the tests are of.
const MAJOR: u32 = 15;

/// A server's data directory with that database in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Regression {
    data: PathBuf,
}

impl Regression {
    /// The database's name.
    pub const DATABASE: &str = "regression";

    /// The one on this machine.
    pub fn found() -> anyhow::Result<Regression> {
        let data = cache().join("regression/data");
        // The folder may be closed to whoever asks: it is the servers' user's.
        ensure!(
            data.exists(),
            "PostgreSQL's regression database is not here: run deploy/fetch-regression"
        );
        Ok(Regression { data })
    }

    /// Puts a copy at `data`, with the superuser's usual password.
    pub(super) fn copy_to(&self, data: &Path, account: Option<&Account>) -> anyhow::Result<Major> {
        template::copy(&self.data, data, account)?;
        let major = Major::numbered(MAJOR)?;
        // A server for a single user asks for no password.
        let mut server = mortal(major.server("postgres"), "KILL", account);
        server.args(["--single", "-D"]).arg(data).arg("postgres").current_dir("/");
        server.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = spawn(server).context("start PostgreSQL for a single user")?;
        let mut input = server.stdin.take().context("its input is a pipe")?;
        writeln!(input, "alter role {SUPERUSER} password '{PASSWORD}'")?;
        drop(input);
        let status = server.wait()?;
        ensure!(status.success(), "PostgreSQL for a single user ended with {status}");
        Ok(major)
    }
}
