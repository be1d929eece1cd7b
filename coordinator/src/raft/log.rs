//! The log store, as openraft wants it.

use std::fmt::Debug;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{AnyError, OptionalSend, RaftLogId, RaftLogReader};

use super::encoding::{self, BadEncoding};
use super::install::Installs;
use super::types::{Entry, LogId, NodeNo, StorageError, StorageIoError, TypeConfig, Vote};
use crate::store::{Damage, LogStore, Mark, StoreError, WriteError};

/// What one message to another node carries at most, besides one entry: far below gRPC's 4 MiB.
const READ_BYTES_MAX: u64 = 1024 * 1024;

/// The log of a node. Clones read.
#[derive(Clone, Debug)]
pub(super) struct RaftLog {
    node: NodeNo,
    store: LogStore,
    installs: Arc<Installs>,
}

impl RaftLog {
    pub(super) fn new(node: NodeNo, store: LogStore, installs: Arc<Installs>) -> Self {
        Self { node, store, installs }
    }

    fn read(&self, range: Range<u64>, bytes_max: u64) -> Result<Vec<Entry>, StoreError> {
        let decode = |(index, bytes): (u64, Vec<u8>)| {
            encoding::decode_entry(&bytes)
                .map_err(|error| self.unreadable(&format!("entry {index}"), &error))
        };
        self.store.read(range, bytes_max)?.into_iter().map(decode).collect()
    }

    fn position(&self, key: &str, mark: Option<Mark>) -> Result<Option<LogId>, StoreError> {
        mark.map(|mark| encoding::decode_mark(&mark))
            .transpose()
            .map_err(|error| self.unreadable(key, &error))
    }

    fn state(&self) -> Result<LogState<TypeConfig>, StoreError> {
        let last_purged_log_id = self.position("purged", self.store.purged()?)?;
        let last = match self.store.range().next_back() {
            Some(last) => self.read(last..last + 1, u64::MAX)?.pop().map(|entry| entry.log_id),
            None => None,
        };
        Ok(LogState { last_purged_log_id, last_log_id: last.or(last_purged_log_id) })
    }

    /// The stored vote; one that made this node leader is given back as its candidacy.
    ///
    /// openraft would start such a node as the leader that it was, with as much applied as the lazily
    /// stored commit mark says: less than it had answered. It would serve reads that miss answered
    /// writes. As a candidate of that term it promises the same, and leads only after an election,
    /// whose first entry brings everything before it.
    fn vote(&self) -> Result<Option<Vote>, StoreError> {
        let vote = self.store.vote()?.map(|bytes| encoding::decode_vote(&bytes)).transpose();
        let vote = vote.map_err(|error| self.unreadable("vote", &error))?;
        Ok(vote.map(|vote| match *vote.leader_id() {
            led if led.node_id == self.node => Vote::new(led.term, led.node_id),
            _ => vote,
        }))
    }

    fn committed(&self) -> Result<Option<LogId>, StoreError> {
        self.position("committed", self.store.committed()?)
    }

    fn unreadable(&self, key: &str, error: &BadEncoding) -> StoreError {
        self.store.damaged(Damage::Unreadable { key: key.into(), reason: error.to_string() })
    }
}

fn read_error(error: StoreError) -> StorageError {
    StorageIoError::read_logs(AnyError::new(&error)).into()
}

fn write_error(error: &WriteError) -> StorageError {
    StorageIoError::write_logs(AnyError::new(error)).into()
}

fn bounds(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&end) => end.saturating_add(1),
        Bound::Excluded(&end) => end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<TypeConfig> for RaftLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        self.read(bounds(&range), u64::MAX).map_err(read_error)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        self.read(start..end, READ_BYTES_MAX).map_err(read_error)
    }
}

impl RaftLogStorage<TypeConfig> for RaftLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        self.state().map_err(read_error)
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let saved = self.store.put_vote(&encoding::encode_vote(vote)).await;
        saved.map_err(|error| StorageIoError::write_vote(AnyError::new(&error)).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        self.vote().map_err(|error| StorageIoError::read_vote(AnyError::new(&error)).into())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        if let Some(committed) = committed {
            self.store.put_committed(&encoding::encode_mark(&committed));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        self.committed().map_err(read_error)
    }

    /// Returns only when the entries are on disk: openraft 0.9 waits for that before it goes on
    /// anyway, so there is nothing to gain by returning earlier.
    async fn append<I>(
        &mut self,
        entries: I,
        flushed: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut first = None;
        let mut encoded = Vec::new();
        for entry in entries {
            first.get_or_insert(entry.get_log_id().index);
            encoded.push(encoding::encode_entry(&entry));
        }
        if let Some(first) = first
            && let Err(error) = self.store.append(first, encoded).await
        {
            flushed.log_io_completed(Err(std::io::Error::other(error.clone())));
            return Err(write_error(&error));
        }
        flushed.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.store.truncate(log_id.index).await.map_err(|error| write_error(&error))
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let failed = |error: AnyError| StorageError::from(StorageIoError::write_logs(error));
        self.installs
            .before_purge(log_id.index)
            .await
            .map_err(|error| failed(AnyError::new(&error)))?;
        self.store.purge(&encoding::encode_mark(&log_id)).await.map_err(|error| write_error(&error))
    }
}
