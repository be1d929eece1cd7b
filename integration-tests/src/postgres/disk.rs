//! A small disk that can be full: a file system in memory, which only the server sees.
//!
//! It is mounted in a mount namespace that the server is started in, so it goes when the server does, however that ends,
//! and nothing has to be unmounted. That takes root.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

/// How large it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    bytes: u64,
}

impl Disk {
    /// A disk of that size; fails, saying why, where no file system may be mounted.
    pub fn of(bytes: u64) -> anyhow::Result<Disk> {
        let tried = Command::new("unshare")
            .args(["--mount", "--", "mount", "-t", "tmpfs", "tmpfs", "/mnt"])
            .stdin(Stdio::null())
            .output()
            .context("start unshare, which mounts a small disk")?;
        let why = String::from_utf8_lossy(&tried.stderr);
        ensure!(tried.status.success(), "a small disk cannot be mounted here: {}", why.trim());
        Ok(Disk { bytes })
    }

    /// The same command, run where the disk is mounted at `folder`; the disk belongs to whom the folder belongs to.
    pub(super) fn mounted(self, folder: &Path, command: &Command) -> Command {
        let mount = r#"owner=$(stat -c uid=%u,gid=%g "$2") &&
            mount -t tmpfs -o "size=$1,$owner" tmpfs "$2" && shift 2 && exec "$@""#;
        let mut mounted = Command::new("unshare");
        mounted
            .args(["--mount", "--", "sh", "-c", mount, "sh", &self.bytes.to_string()])
            .arg(folder)
            .arg(command.get_program())
            .args(command.get_args());
        mounted
    }
}
