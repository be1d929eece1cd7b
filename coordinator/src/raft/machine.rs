//! The replicated state machine, as its owner writes it and as openraft wants it.
//!
//! The state is in memory. It is rebuilt from the newest snapshot and the log after it, so nothing
//! is written when an entry is applied. A snapshot is made in two steps: `freeze` between two
//! entries, which has to be cheap, and the writing of the frozen state beside the applying.

use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder};
use pgconvoy_runtime::tasks;

use super::encoding;
use super::install::Installs;
use super::types::{
    Answer, Entry, LogId, Snapshot, SnapshotMeta, StorageError, StorageIoError, StoredMembership,
    TypeConfig,
};
use crate::store::StoreError;
use crate::store::snapshots::{SnapshotFile, Snapshots};

/// A state that no longer changes; writes itself.
pub type Frozen = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

/// What the log drives.
pub trait Machine: Send + Sync + 'static {
    /// Applies one committed entry, in log order. The same entries give the same state and the same
    /// answers on each node. A refusal is an answer; on an error the node stops.
    fn apply(&self, index: u64, entry: &[u8]) -> Result<Vec<u8>, ApplyError>;

    /// Freezes the state in less than 100 ms, copying on write: no entry is applied meanwhile. The
    /// frozen state is written later, on another thread.
    fn freeze(&self) -> Frozen;

    /// Replaces the state by a written one. On an error the state stays what it was.
    fn restore(&self, from: &mut dyn Read) -> Result<(), RestoreError>;
}

/// The code of an [`ApplyError`].
const UNREADABLE: &str = "log_of_another_version";

/// A committed entry cannot be read. Whoever cannot read what a majority wrote must not go on.
#[derive(Debug, thiserror::Error)]
#[error(
    "{UNREADABLE}: entry {index} of the log cannot be read: {reason} (see `pgconvoy errors {UNREADABLE}`)"
)]
pub struct ApplyError {
    /// Which entry.
    pub index: u64,
    /// The format found and the one that is read, or what is wrong.
    pub reason: String,
}

/// A written state cannot be taken over.
#[derive(Debug, thiserror::Error)]
#[error("the snapshot's state cannot be read")]
pub struct RestoreError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Drives a [`Machine`] for openraft.
pub(super) struct Applier {
    machine: Arc<dyn Machine>,
    snapshots: Snapshots,
    installs: Arc<Installs>,
    snapshot_bytes: Arc<AtomicU64>,
    applied: Option<LogId>,
    membership: StoredMembership,
}

impl Applier {
    /// Takes over the newest snapshot, if there is one.
    ///
    /// Blocks: it reads the snapshot twice, first to check it whole.
    pub(super) fn open(
        machine: Arc<dyn Machine>,
        snapshots: Snapshots,
        newest: Option<&SnapshotFile>,
        installs: Arc<Installs>,
    ) -> Result<Self, StoreError> {
        let mut applier = Self {
            machine,
            snapshots,
            installs,
            snapshot_bytes: Arc::default(),
            applied: None,
            membership: StoredMembership::default(),
        };
        if let Some(newest) = newest {
            let meta = restore(applier.machine.as_ref(), newest)?;
            applier.take_over(&meta, newest);
        }
        Ok(applier)
    }

    /// The size of the last snapshot: what the state takes when it is written.
    pub(super) fn snapshot_bytes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.snapshot_bytes)
    }

    /// The last entry in the machine.
    pub(super) fn applied(&self) -> Option<LogId> {
        self.applied
    }

    fn take_over(&mut self, meta: &SnapshotMeta, snapshot: &SnapshotFile) {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.snapshot_bytes.store(snapshot.size_bytes(), Ordering::Relaxed);
    }

    /// First the bytes are checked whole, then the machine takes them over, then the file is kept. A
    /// crash before that leaves the old state, on disk and in the log.
    async fn install(&mut self, snapshot: SnapshotFile) -> Result<(), InstallError> {
        let (machine, snapshots) = (Arc::clone(&self.machine), self.snapshots.clone());
        let work = move || {
            let meta = restore(machine.as_ref(), &snapshot)?;
            let kept = snapshots.keep(snapshot, meta.last_log_id.map_or(0, |last| last.index))?;
            Ok::<_, StoreError>((meta, kept))
        };
        let (meta, kept) = tasks::blocking("install snapshot", work).await??;
        self.take_over(&meta, &kept);
        Ok(())
    }

    fn apply_one(&mut self, entry: Entry) -> Result<Answer, ApplyError> {
        self.applied = Some(entry.log_id);
        Ok(match entry.payload {
            EntryPayload::Blank => Answer::default(),
            EntryPayload::Normal(proposal) => {
                Answer(self.machine.apply(entry.log_id.index, &proposal.0)?)
            }
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                Answer::default()
            }
        })
    }
}

fn restore(machine: &dyn Machine, snapshot: &SnapshotFile) -> Result<SnapshotMeta, StoreError> {
    let meta =
        encoding::decode_label(&snapshot.check()?).map_err(|error| snapshot.damaged(&error))?;
    let (_, mut state) = snapshot.read()?;
    machine.restore(&mut state).map_err(|error| snapshot.damaged(&error))?;
    Ok(meta)
}

#[derive(Debug, thiserror::Error)]
enum InstallError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Died(#[from] tasks::Died),
}

fn write_error(error: &(impl std::error::Error + 'static)) -> StorageError {
    StorageIoError::write_snapshot(None, AnyError::new(error)).into()
}

fn read_error(error: &StoreError) -> StorageError {
    StorageIoError::read_snapshot(None, AnyError::new(error)).into()
}

impl RaftStateMachine<TypeConfig> for Applier {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Answer>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        // A panic would end this task alone and leave a node that takes entries and never applies
        // them. As an error it stops the node.
        let all = || {
            entries.into_iter().map(|entry| self.apply_one(entry)).collect::<Result<Vec<_>, _>>()
        };
        let applied = catch_unwind(AssertUnwindSafe(all)).map_err(|_panic| {
            AnyError::error("the state machine panicked; the message is in the log")
        });
        let applied = applied.and_then(|all| all.map_err(|error| AnyError::new(&error)));
        applied.map_err(|error| StorageIoError::write_state_machine(error).into())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
            snapshot_id: encoding::snapshot_id(self.applied.as_ref()),
        };
        Builder {
            frozen: Mutex::new(Some(self.machine.freeze())),
            meta,
            snapshots: self.snapshots.clone(),
            snapshot_bytes: Arc::clone(&self.snapshot_bytes),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotFile>, StorageError> {
        // Ours are received by the gRPC service; this is for openraft's own test suite.
        let empty = self.snapshots.receive().and_then(|incoming| incoming.finish());
        empty.map(Box::new).map_err(|error| write_error(&error))
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMeta,
        snapshot: Box<SnapshotFile>,
    ) -> Result<(), StorageError> {
        let installed = self.install(*snapshot).await;
        match &installed {
            Ok(()) => self.installs.settled(),
            Err(_) => self.installs.failed(),
        }
        installed.map_err(|error| write_error(&error))
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        let Some(snapshot) = self.snapshots.current().map_err(|error| read_error(&error))? else {
            return Ok(None);
        };
        let (label, _) = snapshot.read().map_err(|error| read_error(&error))?;
        let meta = encoding::decode_label(&label)
            .map_err(|error| read_error(&snapshot.damaged(&error)))?;
        Ok(Some(Snapshot { meta, snapshot: Box::new(snapshot) }))
    }
}

/// Writes one frozen state.
pub(super) struct Builder {
    frozen: Mutex<Option<Frozen>>,
    meta: SnapshotMeta,
    snapshots: Snapshots,
    snapshot_bytes: Arc<AtomicU64>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let frozen = self.frozen.get_mut().expect("nothing panics while it holds this lock").take();
        let frozen = frozen.expect("openraft builds once with each builder");
        let (snapshots, label) = (self.snapshots.clone(), encoding::encode_label(&self.meta));
        let index = self.meta.last_log_id.map_or(0, |last| last.index);
        let write = move || {
            let partial = snapshots.write(&label, frozen)?;
            snapshots.keep(partial, index)
        };
        let written =
            tasks::blocking("snapshot", write).await.map_err(|died| write_error(&died))?;
        let snapshot = written.map_err(|error| write_error(&error))?;
        self.snapshot_bytes.store(snapshot.size_bytes(), Ordering::Relaxed);
        Ok(Snapshot { meta: self.meta.clone(), snapshot: Box::new(snapshot) })
    }
}
