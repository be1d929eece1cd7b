//! Where a throw-away server lives, and who clears up after a test that was killed.
//!
//! Each server has a folder of its own below one scratch folder. The process that uses it holds a lock on the file
//! `owner` in it for as long as it lives, however it ends; so a folder whose lock is free belongs to nobody, and the
//! next process that makes a home removes it. Nothing here trusts process ids, which are used again.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;

use crate::spawn::Account;

/// A folder for one server, removed when dropped.
#[derive(Debug)]
pub(super) struct Home {
    path: PathBuf,
    _owner: File,
}

impl Home {
    /// Makes a folder, and removes those that dead processes left.
    pub(super) fn make(account: Option<&Account>) -> anyhow::Result<Home> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let servers = scratch()?.join("servers");
        make_folder(&servers)?;
        // Held while a home is made: a folder without its lock yet must not look like nobody's.
        let door = lock(&servers.join("lock"))?;
        sweep(&servers);
        let name = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = servers.join(name);
        std::fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        let owner = lock(&path.join("owner"))?;
        drop(door);
        if let Some(account) = account {
            account.own(&path)?;
        }
        Ok(Home { path, _owner: owner })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// The scratch folder of all tests of this user: short, because a socket's path may have 107 bytes only.
pub(super) fn scratch() -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PGCONVOY_TEST_DIR").map_or_else(
        || std::env::temp_dir().join(format!("pgconvoy-tests-{}", nix::unistd::geteuid())),
        PathBuf::from,
    );
    make_folder(&path)?;
    Ok(path)
}

/// Makes a folder that the servers' user may enter.
fn make_folder(path: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))
}

/// An exclusive lock, free again when the file is closed or the process dies.
pub(super) fn lock(path: &Path) -> anyhow::Result<File> {
    let file = File::create(path).with_context(|| format!("make {}", path.display()))?;
    file.lock().with_context(|| format!("lock {}", path.display()))?;
    Ok(file)
}

fn sweep(servers: &Path) {
    // What cannot be read or removed now is tried again by the next process.
    let Ok(entries) = std::fs::read_dir(servers) else { return };
    for entry in entries.flatten() {
        let Ok(owner) = File::open(entry.path().join("owner")) else { continue };
        match owner.try_lock() {
            Ok(()) => remove(&entry.path()),
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
}

/// A server that is on its way out may still make a file while its folder goes, so this may fail; then the rest is
/// left to the next sweep, which needs the file `owner` to be the last to go.
fn remove(path: &Path) {
    for part in ["data", "socket"] {
        // Not there yet, or not removable now: see above.
        if std::fs::remove_dir_all(path.join(part)).is_err() && path.join(part).exists() {
            return;
        }
    }
    drop(std::fs::remove_dir_all(path));
}
