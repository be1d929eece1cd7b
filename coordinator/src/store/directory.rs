//! The data directory: one process at a time, and entries that survive a power cut.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

use super::error::StoreError;

/// Held while a process uses the directory; released when it is dropped or the process ends.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    pub(super) fn take(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(StoreError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse { dir: dir.to_owned() }),
            Err(TryLockError::Error(source)) => Err(StoreError::io("lock", path)(source)),
        }
    }
}

/// Makes a directory whose own entry in its parent is durable.
pub(super) fn create(dir: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(dir).map_err(StoreError::io("create directory", dir))?;
    sync(dir)?;
    match dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => sync(parent),
        None => Ok(()),
    }
}

/// Makes the entries of a directory durable: a synced file in an unsynced directory may vanish.
pub(super) fn sync(dir: &Path) -> Result<(), StoreError> {
    sync_io(dir).map_err(StoreError::io("sync directory", dir))
}

pub(super) fn sync_io(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
