//! A data directory that is initialised once and copied for each server: 0.1 s instead of a second or more.
//!
//! Made under a lock and moved into place by one rename, so that processes that run side by side, or one that is
//! killed half-way, never see half a template.
//!
//! There is more than one, and the servers of a process take turns: a copy keeps its template's system identifier, and
//! two servers that share one look like the same server.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail};

use super::home::{lock, scratch};
use super::{Major, PASSWORD, SUPERUSER};
use crate::spawn::{Account, mortal};

/// As many as the servers of one migration.
const TEMPLATES: u32 = 2;

/// Puts a fresh data directory at `data`.
pub(super) fn copy_to(data: &Path, major: &Major, account: Option<&Account>) -> anyhow::Result<()> {
    static COPIES: AtomicU32 = AtomicU32::new(0);
    let turn = COPIES.fetch_add(1, Ordering::Relaxed) % TEMPLATES;
    copy(&ready(turn, major, account)?, data, account)
}

/// Copies a data directory.
pub(super) fn copy(from: &Path, to: &Path, account: Option<&Account>) -> anyhow::Result<()> {
    let mut copy = mortal("cp", "KILL", account);
    copy.args(["--archive", "--reflink=auto"]).arg(from).arg(to);
    run(copy)
}

fn ready(turn: u32, major: &Major, account: Option<&Account>) -> anyhow::Result<PathBuf> {
    let scratch = scratch()?;
    let name = format!("template-{}-{turn}", major.fingerprint()?);
    let template = scratch.join(&name);
    let _one_at_a_time = lock(&scratch.join(format!("{name}.lock")))?;
    if template.join("data/PG_VERSION").exists() {
        return Ok(template.join("data"));
    }
    let unfinished = scratch.join(format!("{name}.unfinished"));
    if unfinished.exists() {
        std::fs::remove_dir_all(&unfinished)?;
    }
    std::fs::create_dir(&unfinished)?;
    let password = unfinished.join("password");
    std::fs::write(&password, PASSWORD)?;
    if let Some(account) = account {
        account.own(&unfinished)?;
        account.own(&password)?;
    }
    let mut initdb = mortal(major.server("initdb"), "KILL", account);
    initdb
        .args(["--username", SUPERUSER, "--auth", "scram-sha-256", "--encoding", "UTF8"])
        .args(["--locale", "C.UTF-8", "--no-sync", "--pwfile"])
        .arg(&password)
        .arg("--pgdata")
        .arg(unfinished.join("data"));
    run(initdb)?;
    std::fs::rename(&unfinished, &template)?;
    Ok(template.join("data"))
}

/// Runs a program to its good end.
pub(super) fn run(mut command: Command) -> anyhow::Result<()> {
    // Folders of the caller may be closed to the servers' user.
    let output = command.current_dir("/").output().with_context(|| format!("start {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
