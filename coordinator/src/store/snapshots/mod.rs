//! Snapshots as plain files.
//!
//! ```text
//! snapshots/00000000000000001234.snapshot
//!   "pgcvsnap" | version (4) | frame*
//!   frame: length (4) | crc32 of the bytes (4) | bytes       the first frame is the label
//!   end:   0 (4)      | crc32 of all frames' checksums (4)
//! ```
//!
//! A snapshot appears in three steps: 1. it is written under another name and synced; 2. it is
//! renamed; 3. the directory is synced. Only then are older ones removed. So whatever bears the
//! ending is whole, and a crash leaves at most a `.partial` that the next open removes.
//!
//! The bytes that travel to another node are the file's, so its checksums are checked where they
//! arrive, and the last frame tells a cut file from a whole one.

mod frames;

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pgconvoy_runtime::telemetry::chain;

use self::frames::{FrameReader, FrameWriter};
use super::directory;
use super::error::{Damage, StoreError};

const ENDING: &str = "snapshot";
const PARTIAL: &str = "partial";

/// The snapshots of one node: at most one that counts, and those being written or received.
#[derive(Debug, Clone)]
pub struct Snapshots {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    next_partial: AtomicU64,
}

/// A snapshot file, open for reading. A partial one is removed when it is dropped.
#[derive(Debug)]
pub struct SnapshotFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    partial: bool,
}

impl Snapshots {
    /// Opens the directory, removes what is not whole, and gives the newest snapshot.
    pub fn open(dir: PathBuf) -> Result<(Self, Option<SnapshotFile>), StoreError> {
        directory::create(&dir)?;
        let mut newest: Option<PathBuf> = None;
        for entry in fs::read_dir(&dir).map_err(StoreError::io("list", &dir))? {
            let path = entry.map_err(StoreError::io("list", &dir))?.path();
            let obsolete = match path.extension().and_then(|ending| ending.to_str()) {
                Some(PARTIAL) => path,
                // Names sort by index.
                Some(ENDING) if newest.as_ref().is_none_or(|newest| *newest < path) => {
                    match newest.replace(path) {
                        Some(older) => older,
                        None => continue,
                    }
                }
                Some(ENDING) => path,
                _ => continue,
            };
            fs::remove_file(&obsolete).map_err(StoreError::io("remove", &obsolete))?;
        }
        let newest = newest.map(|path| SnapshotFile::open(path, false)).transpose()?;
        Ok((Self { inner: Arc::new(Inner { dir, next_partial: AtomicU64::default() }) }, newest))
    }

    /// Writes a snapshot whose frames `fill` gives; it does not count before [`Snapshots::keep`].
    pub fn write(
        &self,
        label: &[u8],
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<SnapshotFile, StoreError> {
        let mut incoming = self.receive()?;
        let written = (|| {
            let mut frames = FrameWriter::begin(BufWriter::new(&mut incoming.file))?;
            frames.write_all(label)?;
            frames.end_frame()?;
            fill(&mut frames)?;
            frames.finish()
        })();
        written.map_err(StoreError::io("write", incoming.path.clone()))?;
        incoming.finish()
    }

    /// A new file for the bytes of a snapshot that another node sends.
    pub fn receive(&self) -> Result<Incoming, StoreError> {
        let number = self.inner.next_partial.fetch_add(1, Ordering::Relaxed);
        let path = self.inner.dir.join(format!("{number:06}.{PARTIAL}"));
        let file = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(StoreError::io("create", &path))?;
        Ok(Incoming { path, file, finished: false })
    }

    /// Makes a snapshot the one that counts, and removes older ones.
    ///
    /// Gives it back under its new name.
    pub fn keep(&self, snapshot: SnapshotFile, index: u64) -> Result<SnapshotFile, StoreError> {
        let partial = if snapshot.path.parent() == Some(&self.inner.dir) {
            snapshot
        } else {
            let mut incoming = self.receive()?;
            io::copy(&mut snapshot.bytes(), &mut incoming.file)
                .map_err(StoreError::io("copy", &snapshot.path))?;
            incoming.finish()?
        };
        partial.file.sync_all().map_err(StoreError::io("sync", &partial.path))?;
        let path = self.inner.dir.join(format!("{index:020}.{ENDING}"));
        fs::rename(&partial.path, &path).map_err(StoreError::io("rename", &partial.path))?;
        let kept = SnapshotFile::open(path, false)?;
        // Its name is another's now: nothing is left to remove.
        let mut partial = partial;
        partial.partial = false;
        directory::sync(&self.inner.dir)?;
        self.remove_older(&kept.path)?;
        Ok(kept)
    }

    /// The snapshot that counts.
    pub fn current(&self) -> Result<Option<SnapshotFile>, StoreError> {
        let dir = &self.inner.dir;
        let mut paths = Vec::new();
        for entry in fs::read_dir(dir).map_err(StoreError::io("list", dir))? {
            paths.push(entry.map_err(StoreError::io("list", dir))?.path());
        }
        let newest =
            paths.into_iter().filter(|path| path.extension() == Some(ENDING.as_ref())).max();
        newest.map(|path| SnapshotFile::open(path, false)).transpose()
    }

    fn remove_older(&self, kept: &Path) -> Result<(), StoreError> {
        let dir = &self.inner.dir;
        for entry in fs::read_dir(dir).map_err(StoreError::io("list", dir))? {
            let path = entry.map_err(StoreError::io("list", dir))?.path();
            if path.extension() == Some(ENDING.as_ref()) && path.as_path() < kept {
                // Who still sends it reads on through its open handle.
                fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
            }
        }
        Ok(())
    }
}

/// A snapshot that is being received. Dropped unfinished, it is removed.
#[derive(Debug)]
pub struct Incoming {
    path: PathBuf,
    file: File,
    finished: bool,
}

impl Incoming {
    /// Appends what came.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(StoreError::io("write", &self.path))
    }

    /// Makes it readable. It is still partial.
    pub fn finish(mut self) -> Result<SnapshotFile, StoreError> {
        let snapshot = SnapshotFile::open(self.path.clone(), true)?;
        self.finished = true;
        Ok(snapshot)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.finished {
            remove_partial(&self.path);
        }
    }
}

impl Drop for SnapshotFile {
    fn drop(&mut self) {
        if self.partial {
            remove_partial(&self.path);
        }
    }
}

fn remove_partial(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!("cannot remove {}: {error}; the next start will", path.display());
    }
}

impl SnapshotFile {
    fn open(path: PathBuf, partial: bool) -> Result<Self, StoreError> {
        let file = File::open(&path).map_err(StoreError::io("open", &path))?;
        let bytes = file.metadata().map_err(StoreError::io("look at", &path))?.len();
        Ok(Self { path, file, bytes, partial })
    }

    /// Its size on disk, and on the wire.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.bytes
    }

    /// The file's bytes from an offset on, for the wire; empty at the end.
    pub fn piece(&self, offset: u64, bytes_max: usize) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut piece = vec![0; left.min(bytes_max)];
        self.file.read_exact_at(&mut piece, offset)?;
        Ok(piece)
    }

    /// Reads the label, and checks every frame up to the end.
    pub fn check(&self) -> Result<Vec<u8>, StoreError> {
        let (label, mut frames) = self.read()?;
        io::copy(&mut frames, &mut io::sink()).map_err(|error| self.damaged(&error))?;
        Ok(label)
    }

    /// The label, and what follows it.
    pub fn read(&self) -> Result<(Vec<u8>, impl Read + '_), StoreError> {
        let damaged = |error: io::Error| self.damaged(&error);
        let mut frames = FrameReader::begin(BufReader::new(self.bytes())).map_err(damaged)?;
        let label = frames.frame().map_err(damaged)?;
        Ok((label, frames))
    }

    fn bytes(&self) -> FileBytes<'_> {
        FileBytes { file: &self.file, at: 0 }
    }

    /// The error for something wrong in what it holds.
    #[must_use]
    pub fn damaged(&self, error: &dyn Error) -> StoreError {
        let reason = chain(error);
        let file = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let dir = self.path.parent().and_then(Path::parent).unwrap_or(&self.path).to_owned();
        StoreError::Damaged { dir, damage: Damage::Snapshot { file, reason } }
    }
}

/// Reads at an own place, so that several may read one handle.
struct FileBytes<'a> {
    file: &'a File,
    at: u64,
}

impl Read for FileBytes<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(into, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshots(dir: &Path) -> (Snapshots, Option<SnapshotFile>) {
        Snapshots::open(dir.join("snapshots")).expect("opens")
    }

    fn written(snapshots: &Snapshots, index: u64, content: &[u8]) -> SnapshotFile {
        let partial = snapshots.write(b"label", |to| to.write_all(content)).expect("writes");
        snapshots.keep(partial, index).expect("keeps")
    }

    fn content(snapshot: &SnapshotFile) -> Vec<u8> {
        let (label, mut frames) = snapshot.read().expect("reads");
        assert_eq!(label, b"label");
        let mut bytes = Vec::new();
        frames.read_to_end(&mut bytes).expect("reads");
        bytes
    }

    #[test]
    fn the_newest_whole_snapshot_counts() {
        let dir = tempfile::tempdir().expect("a directory");
        let large: Vec<u8> = (0..300_000_u32).map(|i| (i % 253) as u8).collect();
        {
            let (snapshots, none) = snapshots(dir.path());
            assert!(none.is_none());
            written(&snapshots, 9, b"old");
            written(&snapshots, 10, &large);
            std::mem::forget(snapshots.write(b"label", |to| to.write_all(b"cut")).expect("writes"));
        }
        let (_, newest) = snapshots(dir.path());
        let newest = newest.expect("a snapshot");
        assert_eq!(newest.check().expect("whole"), b"label");
        assert_eq!(content(&newest), large);
        let names = fs::read_dir(dir.path().join("snapshots")).expect("lists").count();
        assert_eq!(names, 1, "older and partial ones are gone");
    }

    #[test]
    fn any_changed_or_missing_byte_is_noticed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (snapshots, _) = snapshots(dir.path());
        let whole = written(&snapshots, 1, &[5; 200]).piece(0, usize::MAX).expect("reads");
        let check = |bytes: &[u8]| {
            let mut incoming = snapshots.receive().expect("receives");
            incoming.push(bytes).expect("writes");
            incoming.finish().expect("finishes").check()
        };
        assert!(check(&whole).is_ok());
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            assert!(check(&changed).is_err(), "a changed byte at {at}");
            assert!(check(&whole[..at]).is_err(), "cut at {at}");
        }
        assert!(check(&[whole.as_slice(), b"x"].concat()).is_err());
    }

    #[test]
    fn a_snapshot_of_another_directory_is_copied() {
        let (here, there) =
            (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("one"));
        let (mine, _) = snapshots(here.path());
        let (theirs, _) = snapshots(there.path());
        let kept = mine.keep(written(&theirs, 4, b"state"), 4).expect("keeps");
        assert_eq!(content(&kept), b"state");
        assert_eq!(content(&theirs.current().expect("lists").expect("still there")), b"state");
    }
}
