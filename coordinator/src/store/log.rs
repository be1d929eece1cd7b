//! The store itself: opening with all checks, and the operations on log, vote and marks.

use std::fs::File;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use pgconvoy_shared::ids::NodeId;
use tokio::sync::oneshot;

use super::directory::{self, DirectoryLock};
use super::durability::{Durability, Fdatasync};
use super::error::{Damage, StoreError, WriteError};
use super::header::{DATA_VERSION, Header, StoreId};
use super::index::LogIndex;
use super::keys::Key;
use super::scan::{Marks, scan, unreadable};
use super::value::{self, Assembler};
use super::writer::{self, Writer};

/// What one entry may have: 256 KiB of a proposal and what Raft puts around it.
pub const ENTRY_BYTES_MAX: usize = 256 * 1024 + 1024;
/// sled's cache. The live log is read from it; more would only be kept, never needed.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// A page of 17 values of 8 KiB stays below a quarter of this: see the module `store`.
const SEGMENT_BYTES: usize = 1024 * 1024;
/// Bounds the memory that one batch of removals takes: with 4096 it was 200 MiB, and sled kept it.
const REMOVALS_MAX: usize = 256;
/// sled's own threads may hold its file lock for a moment after the last handle is gone.
const SLED_LINGERS: Duration = Duration::from_secs(3);

/// A position that stands beside the log, with whatever its owner stores there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    pub index: u64,
    pub bytes: Vec<u8>,
}

impl Mark {
    fn encode(&self) -> Vec<u8> {
        [&self.index.to_le_bytes(), self.bytes.as_slice()].concat()
    }

    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let (index, bytes) = value.split_first_chunk()?;
        Some(Self { index: u64::from_le_bytes(*index), bytes: bytes.to_vec() })
    }
}

type MakeDurability = Box<dyn FnOnce(File) -> Box<dyn Durability> + Send>;

/// How to open a store.
pub struct OpenOptions {
    node: NodeId,
    durability: Option<MakeDurability>,
}

impl OpenOptions {
    /// For the node whose store it is, or becomes.
    #[must_use]
    pub fn new(node: NodeId) -> Self {
        Self { node, durability: None }
    }

    /// Puts something else where the sync is; it gets the handle that would be synced.
    #[must_use]
    pub fn durability(
        mut self,
        make: impl FnOnce(File) -> Box<dyn Durability> + Send + 'static,
    ) -> Self {
        self.durability = Some(Box::new(make));
        self
    }
}

/// What was found when a store was opened.
#[derive(Debug)]
pub struct Opened {
    pub header: Header,
    pub vote: Option<Vec<u8>>,
    pub committed: Option<Mark>,
    pub purged: Option<Mark>,
    /// Resolves when the last handle is gone and the directory may be opened again.
    pub closed: Closed,
}

/// See [`Opened::closed`].
#[derive(Debug)]
pub struct Closed(oneshot::Receiver<()>);

impl Closed {
    pub async fn wait(self) {
        // The sender only ever goes away: that is the signal.
        drop(self.0.await);
    }
}

/// The log, the vote and the header of one node. A cheap handle; the last one closes the store.
#[derive(Clone)]
pub struct LogStore {
    inner: Arc<Inner>,
}

/// A handle that does not keep the store open.
#[derive(Clone)]
pub struct WeakLogStore {
    inner: Weak<Inner>,
}

impl WeakLogStore {
    /// The store, unless it is closed.
    #[must_use]
    pub fn upgrade(&self) -> Option<LogStore> {
        self.inner.upgrade().map(|inner| LogStore { inner })
    }
}

// Dropped in this order: the thread ends, sled closes, the lock goes, and then it is told.
struct Inner {
    writer: Writer,
    db: sled::Db,
    index: Mutex<LogIndex>,
    dir: PathBuf,
    _lock: DirectoryLock,
    _closed: oneshot::Sender<()>,
}

impl LogStore {
    /// Opens the store of a data directory, and makes it when the directory is empty.
    ///
    /// Blocks: it reads the whole log.
    pub fn open(dir: &Path, options: OpenOptions) -> Result<(Self, Opened), StoreError> {
        directory::create(dir)?;
        let lock = DirectoryLock::take(dir)?;
        let log_dir = dir.join("log");
        let db = open_sled(dir, &log_dir)?;
        let file = log_dir.join("db");
        let handle = File::options()
            .read(true)
            .write(true)
            .open(&file)
            .map_err(StoreError::io("open", &file))?;
        directory::sync(&log_dir)?;
        directory::sync(dir)?;

        let found = scan(&db).map_err(|cause| cause.at(dir))?;
        let mut durability = match options.durability {
            Some(make) => make(handle),
            None => Box::new(Fdatasync(handle)),
        };
        let header = match found.header {
            Some(header) => header,
            None => Header {
                data_version: DATA_VERSION,
                node: options.node,
                store: StoreId(rand::random()),
                cluster: None,
            },
        };
        if header.data_version > DATA_VERSION {
            let (found, supported) = (header.data_version, DATA_VERSION);
            return Err(StoreError::TooNew { dir: dir.to_owned(), found, supported });
        }
        if header.node != options.node {
            let (found, wanted) = (header.node, options.node);
            return Err(StoreError::OtherNode { dir: dir.to_owned(), found, wanted });
        }
        // A purge that was cut short is finished, and a new store gets its header, before it is used.
        let mut batch = header_batch(&header);
        for key in found.leftovers {
            batch.remove(key);
        }
        writer::commit(&db, durability.as_mut(), [batch], true)?;

        let (told, closed) = oneshot::channel();
        let store = Self {
            inner: Arc::new(Inner {
                writer: Writer::start(db.clone(), durability)?,
                db,
                index: Mutex::new(found.index),
                dir: dir.to_owned(),
                _lock: lock,
                _closed: told,
            }),
        };
        let Marks { vote, committed, purged } = found.marks;
        Ok((store, Opened { header, vote, committed, purged, closed: Closed(closed) }))
    }

    /// Appends entries from `first` on. Answered when they are on disk.
    pub async fn append(&self, first: u64, entries: Vec<Vec<u8>>) -> Result<(), WriteError> {
        let mut batch = sled::Batch::default();
        if !self.index().follows(first) {
            let last = self.index().last();
            return Err(WriteError::new(StoreError::NotNext { index: first, last }));
        }
        for (index, entry) in (first..).zip(&entries) {
            if entry.len() > ENTRY_BYTES_MAX {
                let (bytes, limit) = (entry.len(), ENTRY_BYTES_MAX);
                return Err(WriteError::new(StoreError::TooLarge { index, bytes, limit }));
            }
            insert(&mut batch, Key::Entry(index), entry);
        }
        self.inner.writer.durable(batch).answer().await?;
        let mut log = self.index();
        for (index, entry) in (first..).zip(&entries) {
            log.push(index, u32::try_from(entry.len()).expect("checked against the limit"));
        }
        Ok(())
    }

    /// Removes `from` and all after it.
    pub async fn truncate(&self, from: u64) -> Result<(), WriteError> {
        let range = from..self.range().end;
        self.remove(range, sled::Batch::default()).await?;
        self.index().truncate(from);
        Ok(())
    }

    /// Removes all entries up to `mark.index`; from then on the log begins after it.
    pub async fn purge(&self, mark: &Mark) -> Result<(), WriteError> {
        let have = self.range();
        let mut batch = sled::Batch::default();
        insert(&mut batch, Key::Purged, &mark.encode());
        self.remove(have.start..have.end.min(mark.index + 1), batch).await?;
        self.index().purge(mark.index);
        Ok(())
    }

    /// One batch after the other, the mark in the first, the sync with the last: what a crash leaves
    /// of a purge lies before its mark and is removed at the next open.
    async fn remove(&self, range: Range<u64>, mut batch: sled::Batch) -> Result<(), WriteError> {
        let mut keys = 0;
        for index in range {
            let parts = value::part_count(self.index().size(index));
            for part in 0..parts {
                batch.remove(Key::Entry(index).part(part));
            }
            keys += usize::from(parts);
            if keys >= REMOVALS_MAX {
                self.inner.writer.lazy(std::mem::take(&mut batch)).answer().await?;
                keys = 0;
            }
        }
        self.inner.writer.durable(batch).answer().await
    }

    /// Answered when it is on disk.
    pub async fn put_vote(&self, vote: &[u8]) -> Result<(), WriteError> {
        let mut batch = sled::Batch::default();
        insert(&mut batch, Key::Vote, vote);
        self.inner.writer.durable(batch).answer().await
    }

    /// Becomes durable with the next write that must be: it only saves work after a restart.
    pub fn put_committed(&self, mark: &Mark) {
        let mut batch = sled::Batch::default();
        insert(&mut batch, Key::Committed, &mark.encode());
        // If it fails, so does the next write, and that one is waited for.
        drop(self.inner.writer.lazy(batch));
    }

    /// Answered when it is on disk.
    pub async fn put_header(&self, header: &Header) -> Result<(), WriteError> {
        self.inner.writer.durable(header_batch(header)).answer().await
    }

    pub fn vote(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.value(Key::Vote)
    }

    pub fn committed(&self) -> Result<Option<Mark>, StoreError> {
        self.mark(Key::Committed)
    }

    pub fn purged(&self) -> Result<Option<Mark>, StoreError> {
        self.mark(Key::Purged)
    }

    /// The entries of `wanted` that are there, from its start, up to `bytes_max` but at least one.
    pub fn read(
        &self,
        wanted: Range<u64>,
        bytes_max: u64,
    ) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let range = self.index().cut(wanted, bytes_max);
        let mut entries = Vec::new();
        let mut assembler = Assembler::default();
        if range.is_empty() {
            return Ok(entries);
        }
        for item in self.inner.db.range(Key::entries_from(range.start)..entries_end(range.end)) {
            let (key, stored) =
                item.map_err(|source| StoreError::Sled { action: "read", source })?;
            if let Some((Key::Entry(index), bytes)) =
                assembler.push(&key, &stored).map_err(|damage| self.damaged(damage))?
            {
                entries.push((index, bytes));
            }
        }
        assembler.finish().map_err(|damage| self.damaged(damage))?;
        Ok(entries)
    }

    /// The indexes of the entries that are there.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.index().range()
    }

    /// Bytes of all entries.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        self.index().bytes()
    }

    /// Bytes of the entries after `index`.
    #[must_use]
    pub fn bytes_after(&self, index: Option<u64>) -> u64 {
        self.index().bytes_after(index)
    }

    /// The longest beginning of `wanted` with at most `bytes_max`, but at least one entry.
    #[must_use]
    pub fn cut(&self, wanted: Range<u64>, bytes_max: u64) -> Range<u64> {
        self.index().cut(wanted, bytes_max)
    }

    /// The last entry that may be purged when, of those up to `upto`, `keep_bytes` are to stay.
    #[must_use]
    pub fn purgeable(&self, upto: u64, keep_bytes: u64) -> Option<u64> {
        self.index().keeping(upto, keep_bytes)
    }

    /// A handle that does not keep the store open.
    #[must_use]
    pub fn downgrade(&self) -> WeakLogStore {
        WeakLogStore { inner: Arc::downgrade(&self.inner) }
    }

    /// The data directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// The error for something wrong that was found above.
    #[must_use]
    pub fn damaged(&self, damage: Damage) -> StoreError {
        StoreError::Damaged { dir: self.inner.dir.clone(), damage }
    }

    fn mark(&self, key: Key) -> Result<Option<Mark>, StoreError> {
        let Some(value) = self.value(key)? else { return Ok(None) };
        Mark::decode(&value).map(Some).ok_or_else(|| self.damaged(unreadable(key, "too short")))
    }

    fn value(&self, key: Key) -> Result<Option<Vec<u8>>, StoreError> {
        let mut assembler = Assembler::default();
        let mut value = None;
        for item in self.inner.db.scan_prefix(key.prefix()) {
            let (stored_key, stored) =
                item.map_err(|source| StoreError::Sled { action: "read", source })?;
            let whole =
                assembler.push(&stored_key, &stored).map_err(|damage| self.damaged(damage))?;
            value = whole.map(|(_, bytes)| bytes);
        }
        Ok(value)
    }

    fn index(&self) -> MutexGuard<'_, LogIndex> {
        self.inner.index.lock().expect("nothing panics while it holds the index")
    }
}

impl std::fmt::Debug for LogStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogStore").field("dir", &self.inner.dir).finish_non_exhaustive()
    }
}

fn insert(batch: &mut sled::Batch, key: Key, bytes: &[u8]) {
    for (key, stored) in value::parts(key, bytes) {
        batch.insert(key, stored);
    }
}

fn header_batch(header: &Header) -> sled::Batch {
    let mut batch = sled::Batch::default();
    let bytes = postcard::to_stdvec(header).expect("a header of numbers encodes");
    insert(&mut batch, Key::Header, &bytes);
    batch
}

fn entries_end(end: u64) -> Vec<u8> {
    if end == u64::MAX { Key::entries_end() } else { Key::entries_from(end) }
}

fn open_sled(dir: &Path, log_dir: &Path) -> Result<sled::Db, StoreError> {
    let config = sled::Config::new()
        .path(log_dir)
        .flush_every_ms(None)
        .cache_capacity(CACHE_BYTES)
        .segment_size(SEGMENT_BYTES);
    let deadline = Instant::now() + SLED_LINGERS;
    loop {
        // sled panics on some kinds of damage instead of telling them.
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
        let damaged = |reason: String| StoreError::Damaged {
            dir: dir.to_owned(),
            damage: Damage::Sled { reason },
        };
        match opened {
            Ok(Ok(db)) => return Ok(db),
            // We hold the directory's lock: it can only be what is left of our own last use.
            Ok(Err(sled::Error::Io(error)))
                if error.to_string().contains("lock") && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(Err(error @ (sled::Error::Corruption { .. } | sled::Error::ReportableBug(_)))) => {
                return Err(damaged(error.to_string()));
            }
            Ok(Err(source)) => return Err(StoreError::Sled { action: "open the log", source }),
            Err(_panic) => return Err(damaged("it panicked while opening".into())),
        }
    }
}
