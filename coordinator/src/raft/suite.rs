//! openraft's own storage tests, over sled and snapshot files.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};

use openraft::storage::RaftLogStorageExt;
use openraft::testing::{StoreBuilder, Suite};
use pgconvoy_shared::ids::NodeId;
use tempfile::TempDir;

use super::install::Installs;
use super::log::RaftLog;
use super::machine::{Applier, ApplyError, Frozen, Machine, RestoreError};
use super::types::{Entry, StorageError, TypeConfig};
use crate::store::durability::Durability;
use crate::store::snapshots::Snapshots;
use crate::store::{LogStore, OpenOptions};

/// Remembers the bytes of the last entry.
#[derive(Default)]
struct Last(Mutex<Vec<u8>>);

impl Machine for Last {
    fn apply(&self, _index: u64, entry: &[u8]) -> Result<Vec<u8>, ApplyError> {
        *self.0.lock().expect("not poisoned") = entry.to_vec();
        Ok(Vec::new())
    }

    fn freeze(&self) -> Frozen {
        let state = self.0.lock().expect("not poisoned").clone();
        Box::new(move |to: &mut dyn Write| to.write_all(&state))
    }

    fn restore(&self, from: &mut dyn Read) -> Result<(), RestoreError> {
        let mut state = Vec::new();
        from.read_to_end(&mut state).map_err(|error| RestoreError(Box::new(error)))?;
        *self.0.lock().expect("not poisoned") = state;
        Ok(())
    }
}

struct OnDisk;

fn open(dir: &TempDir) -> (RaftLog, Applier) {
    let (store, _) = LogStore::open(dir.path(), OpenOptions::new(NodeId(0))).expect("opens");
    let (snapshots, newest) = Snapshots::open(dir.path().join("snapshots")).expect("opens");
    let installs = Arc::new(Installs::new());
    let machine = Arc::new(Last::default());
    let applier =
        Applier::open(machine, snapshots, newest.as_ref(), Arc::clone(&installs)).expect("opens");
    (RaftLog::new(0, store, installs), applier)
}

impl StoreBuilder<TypeConfig, RaftLog, Applier, TempDir> for OnDisk {
    async fn build(&self) -> Result<(TempDir, RaftLog, Applier), StorageError> {
        let dir = tempfile::tempdir().expect("a directory");
        let (log, applier) = open(&dir);
        Ok((dir, log, applier))
    }
}

#[test]
fn the_store_passes_openrafts_own_suite() {
    Suite::test_all(OnDisk).expect("the suite passes");
}

/// Counts, and syncs nothing.
struct Counted(Arc<Mutex<u64>>);

impl Durability for Counted {
    fn make_durable(&mut self) -> io::Result<()> {
        *self.0.lock().expect("not poisoned") += 1;
        Ok(())
    }
}

#[tokio::test]
async fn each_append_and_each_vote_is_acknowledged_after_a_sync_of_its_own() {
    use openraft::storage::RaftLogStorage;

    let dir = tempfile::tempdir().expect("a directory");
    let syncs = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&syncs);
    let options = OpenOptions::new(NodeId(1)).durability(|_| Box::new(Counted(counted)));
    let (store, _) = LogStore::open(dir.path(), options).expect("opens");
    let mut log = RaftLog::new(1, store, Arc::new(Installs::new()));
    let count = || *syncs.lock().expect("not poisoned");

    let mut seen = count();
    assert_eq!(seen, 1, "the header of a new store");
    for index in 0..20 {
        let mut entry = Entry::default();
        entry.log_id.index = index;
        log.blocking_append([entry]).await.expect("appends");
        assert_eq!(count(), seen + 1, "entry {index}");
        seen += 1;
        log.save_vote(&openraft::Vote::new(index + 1, 1)).await.expect("saves");
        assert_eq!(count(), seen + 1, "vote {index}");
        seen += 1;
    }
}
