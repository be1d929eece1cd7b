//! The control plane's state as Raft drives it, and as the rest of the node reads it.
//!
//! There is no decision in here. An entry is a batch of commands; each is applied for itself. The
//! outcomes of the entry applied last are kept for whoever proposed it: the proposer has one entry
//! on its way at a time, so it never asks for an older one. Reading is done by short closures under
//! a lock that applying waits for: no encoding, no I/O, no await in them.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use pgconvoy_control::outcome::Effect;
use pgconvoy_control::state::State;
use pgconvoy_control::{apply, codec};
use pgconvoy_runtime::telemetry::chain;
use pgconvoy_shared::ids::AgentId;
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::proposer::Answered;
use crate::raft::{ApplyError, Frozen, Machine, RestoreError};

/// A frozen state is written and read in pieces of this size.
const CHUNK_BYTES: usize = 64 * 1024;

/// The replicated state on this node.
pub(crate) struct Replica {
    state: RwLock<State>,
    applied: watch::Sender<u64>,
    last: Mutex<Last>,
    metrics: Arc<Metrics>,
}

/// What came out of the entries applied lately.
#[derive(Default)]
struct Last {
    index: u64,
    outcomes: Vec<Answered>,
    /// Agents with something new to be told, since the leader asked last. Bounded by the number of
    /// agents.
    touched: BTreeSet<AgentId>,
}

impl Replica {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Replica {
        Replica {
            state: RwLock::new(State::new()),
            applied: watch::Sender::new(0),
            last: Mutex::default(),
            metrics,
        }
    }

    /// Looks at the state. Applying waits meanwhile.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells of each entry that was applied here.
    pub(crate) fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// The outcomes of the entry at `index`, once, if no later entry was applied.
    pub(crate) fn take_outcomes(&self, index: u64) -> Option<Vec<Answered>> {
        let mut last = self.last();
        (last.index == index).then(|| std::mem::take(&mut last.outcomes))
    }

    /// Agents with something new to be told.
    pub(crate) fn take_touched(&self) -> BTreeSet<AgentId> {
        std::mem::take(&mut self.last().touched)
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The index of an entry, as the machine's answer to Raft.
pub(crate) fn answered_index(answer: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(answer.try_into().ok()?))
}

/// A written state in pieces, until its end or until it cannot be read.
fn chunks<'a>(
    from: &'a mut dyn Read,
    broken: &'a mut Option<io::Error>,
) -> impl Iterator<Item = Vec<u8>> + 'a {
    std::iter::from_fn(move || {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        match from.take(CHUNK_BYTES as u64).read_to_end(&mut chunk) {
            Ok(0) => None,
            Ok(_) => Some(chunk),
            Err(error) => {
                *broken = Some(error);
                None
            }
        }
    })
}

fn touched(effect: Effect) -> AgentId {
    match effect {
        Effect::Lease { agent, .. } | Effect::Revoke { agent, .. } | Effect::Drain { agent } => {
            agent
        }
    }
}

impl Machine for Replica {
    fn apply(&self, index: u64, entry: &[u8]) -> Result<Vec<u8>, ApplyError> {
        let began = Instant::now();
        let commands = codec::decode_batch(entry)
            .map_err(|error| ApplyError { index, reason: chain(&error) })?;
        let mut outcomes = Vec::with_capacity(commands.len());
        let mut effects = Vec::new();
        {
            let mut state = self.state.write().expect("a node whose apply panicked has stopped");
            for command in &commands {
                let applied = apply(&mut state, command);
                outcomes.push(applied.outcome);
                effects.extend(applied.effects);
            }
        }
        let mut last = self.last();
        last.index = index;
        last.outcomes = outcomes;
        last.touched.extend(effects.into_iter().map(touched));
        drop(last);
        self.applied.send_replace(index);
        self.metrics.applied_in(began.elapsed());
        Ok(index.to_be_bytes().to_vec())
    }

    fn freeze(&self) -> Frozen {
        let frozen = self.read(State::freeze);
        Box::new(move |file: &mut dyn Write| {
            frozen.encode(CHUNK_BYTES).try_for_each(|chunk| file.write_all(&chunk))
        })
    }

    fn restore(&self, from: &mut dyn Read) -> Result<(), RestoreError> {
        let mut broken = None;
        let restored = State::restore(chunks(from, &mut broken));
        // A file that cannot be read looks like one that was cut off; the cause is told first.
        if let Some(error) = broken {
            return Err(RestoreError(Box::new(error)));
        }
        let restored = restored.map_err(|error| RestoreError(Box::new(error)))?;
        *self.state.write().expect("a node whose apply panicked has stopped") = restored;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use pgconvoy_control::command::{Command, RegisterAgent, Stamped};
    use pgconvoy_control::outcome::Outcome;
    use pgconvoy_shared::ids::Incarnation;
    use pgconvoy_shared::time::Timestamp;

    use super::*;

    fn replica() -> Replica {
        Replica::new(Arc::new(Metrics::new()))
    }

    fn register(agent: &str) -> Stamped {
        let command = Command::RegisterAgent(Box::new(RegisterAgent {
            id: agent.parse().unwrap(),
            incarnation: Incarnation(1),
            site: String::new(),
            slots: 1,
            version: String::new(),
            pg_dump_majors: Vec::new(),
            address: String::new(),
        }));
        Stamped { at: Timestamp(1), command }
    }

    fn agents(replica: &Replica) -> Vec<String> {
        replica.read(|state| state.agents().map(|agent| agent.id.to_string()).collect())
    }

    #[test]
    fn the_outcomes_of_the_last_entry_are_there_once() {
        let replica = replica();
        let mut applied = replica.applied();
        let entry = codec::encode_batch(&[register("a"), register("b")]);
        let answer = replica.apply(7, &entry).unwrap();
        assert_eq!(answered_index(&answer), Some(7));
        assert_eq!(*applied.borrow_and_update(), 7);
        let registered = Ok(Outcome::Registered { released: 0, draining: false });
        assert_eq!(replica.take_outcomes(7), Some(vec![registered.clone(), registered]));
        replica.apply(8, &codec::encode_batch(&[])).unwrap();
        assert_eq!(replica.take_outcomes(7), None);
    }

    #[test]
    fn a_frozen_state_is_what_it_was_and_can_be_restored() {
        let from = replica();
        from.apply(1, &codec::encode_batch(&[register("a")])).unwrap();
        let frozen = from.freeze();
        from.apply(2, &codec::encode_batch(&[register("b")])).unwrap();
        let mut written = Vec::new();
        frozen(&mut written).unwrap();
        let to = replica();
        to.restore(&mut written.as_slice()).unwrap();
        assert_eq!(agents(&to), ["a"]);
        let cut_off = to.restore(&mut &written[..written.len() - 1]);
        assert!(cut_off.is_err());
        assert_eq!(agents(&to), ["a"], "what cannot be read changes nothing");
    }

    #[test]
    fn an_entry_of_another_version_is_refused_by_name_and_changes_nothing() {
        let replica = replica();
        let mut entry = codec::encode_batch(&[register("a")]);
        entry[0] = codec::VERSION + 1;
        let told = replica.apply(7, &entry).unwrap_err().to_string();
        let formats = format!(
            "entry 7 of the log cannot be read: written in format {}, this version reads up to {}",
            codec::VERSION + 1,
            codec::VERSION
        );
        assert!(told.starts_with("log_of_another_version: ") && told.contains(&formats), "{told}");
        assert_eq!(agents(&replica), [""; 0]);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_told_as_such() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the disk is gone"))
            }
        }
        let error = replica().restore(&mut Broken).unwrap_err();
        assert_eq!(error.source().unwrap().to_string(), "the disk is gone");
    }
}
