//! The one thread that writes.
//!
//! For each round: 1. take all writes that wait; 2. apply each as one sled batch, in order; 3. if
//! any of them must be durable: `flush`, then sync; 4. answer all. The first error poisons the
//! writer: what the disk holds is then unknown, and an acknowledgement after it would be a guess.

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;

use super::durability::Durability;
use super::error::{StoreError, WriteError};

/// At most this many writes share a sync: bounds what a failed sync takes with it.
const ROUND_MAX: usize = 256;

struct Write {
    batch: sled::Batch,
    durable: bool,
    done: oneshot::Sender<Result<(), WriteError>>,
}

/// The handle of the thread. Dropping it waits for the thread's end.
pub(super) struct Writer {
    queue: Option<Sender<Write>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(db: sled::Db, durability: Box<dyn Durability>) -> Result<Self, StoreError> {
        let (queue, writes) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("log-writer".into())
            .spawn(move || run(&db, durability, &writes))
            .map_err(StoreError::io("start the thread", "log-writer"))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Queues a batch; the answer comes when it is durable.
    pub(super) fn durable(&self, batch: sled::Batch) -> Pending {
        self.queue(batch, true)
    }

    /// Queues a batch that becomes durable with the next one that must be.
    pub(super) fn lazy(&self, batch: sled::Batch) -> Pending {
        self.queue(batch, false)
    }

    fn queue(&self, batch: sled::Batch, durable: bool) -> Pending {
        let (done, answer) = oneshot::channel();
        let queue = self.queue.as_ref().expect("the queue is taken only by drop");
        // When the thread is gone, `done` is dropped with the write, and the answer says so.
        drop(queue.send(Write { batch, durable, done }));
        Pending(answer)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the log writer panicked");
        }
    }
}

/// An answer that is on its way.
pub(super) struct Pending(oneshot::Receiver<Result<(), WriteError>>);

impl Pending {
    pub(super) async fn answer(self) -> Result<(), WriteError> {
        self.0.await.unwrap_or_else(|_| Err(WriteError::new(StoreError::Closed)))
    }
}

fn run(db: &sled::Db, mut durability: Box<dyn Durability>, writes: &Receiver<Write>) {
    let mut poison: Option<WriteError> = None;
    while let Ok(first) = writes.recv() {
        let round: Vec<_> =
            std::iter::once(first).chain(writes.try_iter().take(ROUND_MAX - 1)).collect();
        let mut answers = Vec::with_capacity(round.len());
        let outcome = match &poison {
            Some(error) => {
                answers.extend(round.into_iter().map(|write| write.done));
                Err(error.clone())
            }
            None => {
                let durable = round.iter().any(|write| write.durable);
                let batches = round.into_iter().map(|write| {
                    answers.push(write.done);
                    write.batch
                });
                commit(db, durability.as_mut(), batches, durable).map_err(WriteError::new)
            }
        };
        if let Err(error) = &outcome {
            poison.get_or_insert_with(|| error.clone());
        }
        for answer in answers {
            // Nobody waits for a lazy write, or for one whose caller was cancelled.
            drop(answer.send(outcome.clone()));
        }
    }
}

/// Applies batches in order and, if asked, makes them durable.
pub(super) fn commit(
    db: &sled::Db,
    durability: &mut dyn Durability,
    batches: impl IntoIterator<Item = sled::Batch>,
    durable: bool,
) -> Result<(), StoreError> {
    for batch in batches {
        db.apply_batch(batch).map_err(|source| StoreError::Sled { action: "write", source })?;
    }
    if durable {
        db.flush().map_err(|source| StoreError::Sled { action: "flush", source })?;
        durability.make_durable().map_err(StoreError::io("sync", "log"))?;
    }
    Ok(())
}
