//! The PostgreSQL versions on this machine.
//!
//! Looked for in Debian's folders and in a cache that `deploy/fetch-postgres` fills. Some builds hold only the server,
//! so a client tool is taken from the nearest major that has it and is not older.

use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::unistd::geteuid;

/// One installed major version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Major {
    number: u32,
    bin: PathBuf,
}

impl Major {
    /// Every major on this machine that can run a server, oldest first.
    pub fn found() -> Vec<Major> {
        let mut found: Vec<Major> = [PathBuf::from("/usr/lib/postgresql"), cache()]
            .iter()
            .flat_map(|home| majors_in(home))
            .collect();
        found.sort_by_key(|major| major.number);
        found.dedup_by_key(|major| major.number);
        found
    }

    /// The major that tests use when they do not care: `PGCONVOY_TEST_MAJOR`, or else the oldest from Debian.
    pub fn usual() -> anyhow::Result<Major> {
        if let Ok(wanted) = std::env::var("PGCONVOY_TEST_MAJOR") {
            let number = wanted.parse().context("PGCONVOY_TEST_MAJOR is no number")?;
            return Major::numbered(number);
        }
        majors_in(Path::new("/usr/lib/postgresql"))
            .into_iter()
            .min_by_key(|major| major.number)
            .or_else(|| Major::found().into_iter().next())
            .context("no PostgreSQL server on this machine: run deploy/test, which installs one")
    }

    /// A given major.
    pub fn numbered(number: u32) -> anyhow::Result<Major> {
        Major::found().into_iter().find(|major| major.number == number).with_context(|| {
            format!("PostgreSQL {number} is not here: run deploy/fetch-postgres {number}")
        })
    }

    /// A given major, for a test that can do without; see [`fetched`].
    pub fn fetched(number: u32) -> Option<Major> {
        fetched(Major::numbered(number))
    }

    /// The version: 15, 18.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// A server program of this version.
    pub(super) fn server(&self, program: &str) -> PathBuf {
        self.bin.join(program)
    }

    /// A client program: of this version, or else of the nearest newer one that has it.
    pub fn client(&self, program: &str) -> anyhow::Result<PathBuf> {
        Major::found()
            .into_iter()
            .filter(|other| other.number >= self.number)
            .map(|other| other.bin.join(program))
            .find(|path| path.exists())
            .with_context(|| format!("no {program} for PostgreSQL {} on this machine", self.number))
    }

    /// Tells two builds of one major apart, for what is kept between runs.
    pub(super) fn fingerprint(&self) -> anyhow::Result<String> {
        let program = self.server("postgres");
        let built = std::fs::metadata(&program)
            .and_then(|facts| facts.modified())
            .with_context(|| format!("read {}", program.display()))?
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |age| age.as_secs());
        Ok(format!("{}-{built:x}", self.number))
    }
}

/// What a test needs beside the usual server; `None` where it was not fetched, unless `PGCONVOY_ALL_MAJORS` says that all was.
pub fn fetched<T>(found: anyhow::Result<T>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(error) if std::env::var_os("PGCONVOY_ALL_MAJORS").is_some() => panic!("{error:#}"),
        Err(error) => {
            eprintln!("not tested: {error:#}");
            None
        }
    }
}

fn majors_in(home: &Path) -> Vec<Major> {
    // A missing folder means that no major is there.
    let Ok(entries) = std::fs::read_dir(home) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            let bin = entry.path().join("bin");
            (bin.join("postgres").exists() && bin.join("initdb").exists())
                .then_some(Major { number, bin })
        })
        .collect()
}

/// Where `deploy/fetch-postgres` puts what it fetched. Root's home cannot be entered by the servers' user.
pub(super) fn cache() -> PathBuf {
    if let Some(path) = std::env::var_os("PGCONVOY_POSTGRES_CACHE") {
        return path.into();
    }
    if geteuid().is_root() {
        return "/var/cache/pgconvoy/postgresql".into();
    }
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(home)
        .unwrap_or_else(std::env::temp_dir)
        .join("pgconvoy/postgresql")
}
