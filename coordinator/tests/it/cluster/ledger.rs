//! A machine whose state shows what was lost and what came twice.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex, MutexGuard};

use pgconvoy_coordinator::raft::{ApplyError, Frozen, Machine, RestoreError};
use serde::{Deserialize, Serialize};

/// An entry: one more write of a key.
#[derive(Serialize, Deserialize)]
pub(crate) struct Write1 {
    pub(crate) key: u64,
    #[serde(with = "serde_bytes")]
    pub(crate) value: Vec<u8>,
}

impl Write1 {
    pub(crate) fn encode(key: u64, value: Vec<u8>) -> Vec<u8> {
        postcard::to_stdvec(&Write1 { key, value }).expect("encodes")
    }
}

/// For each key how often it was written, and its last value. A copy shares the values.
pub(crate) type State = BTreeMap<u64, (u64, Arc<Vec<u8>>)>;

/// Answers each write with how often its key was written.
#[derive(Default)]
pub(crate) struct Ledger {
    // Copied when it changes while a frozen one lives.
    state: Mutex<Arc<State>>,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Arc<State>> {
        self.state.lock().expect("not poisoned")
    }

    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(&self.lock())
    }
}

impl Machine for Ledger {
    fn apply(&self, _index: u64, entry: &[u8]) -> Result<Vec<u8>, ApplyError> {
        let Write1 { key, value } = postcard::from_bytes(entry).expect("our own entries");
        let mut state = self.lock();
        let slot = Arc::make_mut(&mut state).entry(key).or_default();
        slot.0 += 1;
        slot.1 = Arc::new(value);
        Ok(slot.0.to_be_bytes().to_vec())
    }

    fn freeze(&self) -> Frozen {
        let state = self.state();
        Box::new(move |to: &mut dyn Write| {
            for record in state.iter() {
                let bytes = postcard::to_stdvec(&record).expect("encodes");
                to.write_all(&(bytes.len() as u64).to_be_bytes())?;
                to.write_all(&bytes)?;
            }
            Ok(())
        })
    }

    fn restore(&self, from: &mut dyn Read) -> Result<(), RestoreError> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).map_err(|error| RestoreError(Box::new(error)))?;
        let mut rest = bytes.as_slice();
        let mut state = State::new();
        while let Some((length, tail)) = rest.split_first_chunk() {
            let (record, tail) = tail.split_at(u64::from_be_bytes(*length) as usize);
            let (key, slot) = postcard::from_bytes(record).expect("our own records");
            state.insert(key, slot);
            rest = tail;
        }
        *self.lock() = Arc::new(state);
        Ok(())
    }
}
