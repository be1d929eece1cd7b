//! The client programs of PostgreSQL on this machine.
//!
//! A pg_dump reads servers of its own major and older ones; what it writes, a server of that major takes. So the
//! destination's major is the best one, and any from the source's up will do. pg_restore comes from the same place: an
//! archive is read only by a pg_restore that is not older than the pg_dump that wrote it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use pgconvoy_shared::failure::Failure;
use tokio::process::Command;

/// Directories to look into first, separated like PATH.
const EXTRA_DIRS: &str = "PGCONVOY_PG_BIN";

/// pg_dump and pg_restore of one major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Toolset {
    /// The major version.
    pub(crate) major: u32,
    /// Path of pg_dump.
    pub(crate) pg_dump: PathBuf,
    /// Path of pg_restore.
    pub(crate) pg_restore: PathBuf,
}

/// All that were found, one a major.
#[derive(Debug, Default)]
pub(crate) struct Tools {
    by_major: BTreeMap<u32, Toolset>,
    setpriv: Option<PathBuf>,
}

impl Tools {
    /// Looks for them: `PGCONVOY_PG_BIN`, Debian's folders, PATH. Of one major the first that is found serves.
    pub(crate) async fn find() -> Self {
        let mut found = Self { setpriv: in_path("setpriv"), ..Self::default() };
        for directory in directories() {
            if let Some(tools) = look_into(&directory).await {
                found.by_major.entry(tools.major).or_insert(tools);
            }
        }
        found
    }

    /// The majors found.
    pub(crate) fn majors(&self) -> Vec<u32> {
        self.by_major.keys().copied().collect()
    }

    /// The tools for a migration between these majors.
    pub(crate) fn choose(&self, source: u32, destination: u32) -> Result<&Toolset, Failure> {
        let any = || self.by_major.range(source..).map(|(_, tools)| tools).next();
        self.by_major
            .get(&destination)
            .or_else(any)
            .ok_or_else(|| self.missing(source, destination))
    }

    fn missing(&self, source: u32, destination: u32) -> Failure {
        let found = if self.by_major.is_empty() {
            "none was found".to_owned()
        } else {
            let majors: Vec<_> = self.by_major.keys().map(u32::to_string).collect();
            format!("found: {}", majors.join(", "))
        };
        Failure::definite(
            "pg_dump_missing",
            format!("no pg_dump and pg_restore of PostgreSQL {source} or newer on the agent ({found})"),
        )
        .about(format!("pg_dump {destination}"))
        .remedy(format!(
            "install the client programs of PostgreSQL {destination} on every agent (Debian: apt-get install \
             postgresql-client-{destination}), or name their directory in {EXTRA_DIRS}"
        ))
    }

    /// A program that dies with this process, and with the future that waits for it.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = match &self.setpriv {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        // A locale of the agent's would translate messages, and libpq takes settings from the environment.
        command.env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command
    }
}

fn directories() -> Vec<PathBuf> {
    let mut directories = split(std::env::var_os(EXTRA_DIRS).as_deref());
    if let Ok(entries) = std::fs::read_dir("/usr/lib/postgresql") {
        directories.extend(entries.flatten().map(|entry| entry.path().join("bin")));
    }
    directories.extend(split(std::env::var_os("PATH").as_deref()));
    directories
}

fn split(path: Option<&OsStr>) -> Vec<PathBuf> {
    path.map(|path| std::env::split_paths(path).collect()).unwrap_or_default()
}

fn in_path(program: &str) -> Option<PathBuf> {
    let directories = split(std::env::var_os("PATH").as_deref());
    directories.into_iter().map(|directory| directory.join(program)).find(|path| path.is_file())
}

/// The tools of a directory, if both are there and say the same version.
async fn look_into(directory: &Path) -> Option<Toolset> {
    let (pg_dump, pg_restore) = (directory.join("pg_dump"), directory.join("pg_restore"));
    let is_one = |program: &Path| program.is_file() && !is_debians_wrapper(program);
    if !is_one(&pg_dump) || !is_one(&pg_restore) {
        return None;
    }
    let (major, of_restore) = tokio::join!(major_of(&pg_dump), major_of(&pg_restore));
    (major == of_restore).then_some(Toolset { major: major?, pg_dump, pg_restore })
}

/// It runs one of those in Debian's folders, which were found there already, and takes longer than they to say its version.
fn is_debians_wrapper(program: &Path) -> bool {
    program.canonicalize().is_ok_and(|path| path.ends_with("pg_wrapper"))
}

async fn major_of(program: &Path) -> Option<u32> {
    let output = Command::new(program)
        .arg("--version")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .ok()?;
    major_in(&String::from_utf8(output.stdout).ok()?)
}

/// `pg_dump (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)` → 15; `… 19devel` → 19.
fn major_in(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL) ")?.1;
    let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Tools {
        /// As if just these were there.
        pub(crate) fn of(majors: &[u32]) -> Self {
            let toolset = |major| Toolset {
                major,
                pg_dump: format!("/opt/{major}/pg_dump").into(),
                pg_restore: format!("/opt/{major}/pg_restore").into(),
            };
            let by_major = majors.iter().map(|major| (*major, toolset(*major))).collect();
            Self { by_major, setpriv: None }
        }
    }

    #[test]
    fn the_destinations_major_is_taken_or_else_any_from_the_sources_up() {
        let found = Tools::of(&[13, 15, 17]);
        let chosen = |source, destination| found.choose(source, destination).map(|t| t.major);
        assert_eq!(chosen(13, 17), Ok(17));
        assert_eq!(chosen(14, 16), Ok(15));
        let missing = chosen(18, 18).expect_err("17 cannot read 18");
        assert_eq!(missing.code, "pg_dump_missing");
        assert!(missing.message.contains("found: 13, 15, 17"), "{missing}");
    }

    #[test]
    fn versions_are_read_as_packagers_write_them() {
        assert_eq!(major_in("pg_dump (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n"), Some(15));
        assert_eq!(major_in("pg_dump (PostgreSQL) 19devel\n"), Some(19));
        assert_eq!(major_in("pg_dump, some other product 3"), None);
    }
}
