//! The way into the log: batches what waits into entries, and gives each caller its own answer.
//!
//! One entry is on its way at a time; what comes meanwhile goes into the next one, so that the
//! busier the node, the more commands share one fsync. The time of day is stamped here, once for an
//! entry, and never goes back while this node proposes.
//!
//! What waits is bounded by its bytes. A user's command that finds no room is refused; an agent's
//! report waits, and so does the agent's stream.
//!
//! An answer is one of three: the command's outcome; a refusal before anything was written; or that
//! nobody knows ([`ProposeError::FateUnknown`]): the entry was handed over, and this node lost its
//! office before it heard that the entry is committed. Only who asked knows whether asking again
//! is harmless.

use std::sync::Arc;
use std::time::Duration;

use pgconvoy_control::codec;
use pgconvoy_control::command::{Command, Stamped};
use pgconvoy_control::outcome::Outcome;
use pgconvoy_control::rejected::Rejected;
use pgconvoy_runtime::clock;
use pgconvoy_shared::time::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::api::error::LeaderHint;
use crate::metrics::Metrics;
use crate::raft::PROPOSAL_BYTES_MAX as ENTRY_BYTES_MAX;

/// What may wait: 32 full entries, about a second's worth on a slow disk.
const WAITING_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What a waiting command takes besides its bytes: it bounds the number of small ones.
const COMMAND_COST: usize = 256;

/// How long a user's call waits for its command: longer than an election, shorter than a person.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// The state machine's answer to one command.
pub(crate) type Answered = Result<Outcome, Rejected>;

/// The log commands go into.
pub(crate) trait Log: Send + Sync + 'static {
    /// Proposes one entry, an encoded batch; returns an answer for each of its commands once it is
    /// committed and applied here.
    fn propose(
        &self,
        entry: Vec<u8>,
    ) -> impl Future<Output = Result<Vec<Answered>, ProposeError>> + Send;
}

/// Why a command has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProposeError {
    #[error("this node does not lead the cluster")]
    NotLeader(Option<LeaderHint>),
    #[error("it is not known whether the command was committed: {cause}")]
    FateUnknown { cause: String },
    #[error("the command has {bytes} bytes; {ENTRY_BYTES_MAX} fit into an entry")]
    TooLarge { bytes: usize },
    #[error("too much is waiting to be committed")]
    Overloaded,
    #[error("this node is shutting down")]
    Stopping,
}

struct Waiting {
    command: Command,
    bytes: usize,
    answer: oneshot::Sender<Result<Answered, ProposeError>>,
    /// Held until the command was taken into an entry.
    _room: OwnedSemaphorePermit,
}

/// Takes commands. Clones feed the same queue.
#[derive(Clone)]
pub(crate) struct Proposer {
    queue: mpsc::UnboundedSender<Waiting>,
    room: Arc<Semaphore>,
}

impl Proposer {
    /// The handle, and the work to be run beside it; it ends with the last handle.
    pub(crate) fn new<L: Log>(
        log: L,
        metrics: Arc<Metrics>,
    ) -> (Proposer, impl Future<Output = ()> + Send + use<L>) {
        let (queue, waiting) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(WAITING_BYTES_MAX));
        (Proposer { queue, room }, run(log, waiting, metrics))
    }

    /// Proposes a command, if there is room, and waits for its outcome.
    pub(crate) async fn propose(&self, command: Command) -> Result<Answered, ProposeError> {
        self.try_queue(command)?.outcome().await
    }

    /// Queues a command at once, if there is room.
    pub(crate) fn try_queue(&self, command: Command) -> Result<Pending, ProposeError> {
        let (command, bytes) = weigh(command)?;
        let room = Arc::clone(&self.room).try_acquire_many_owned(cost(bytes));
        self.enqueue(command, bytes, room.map_err(|_| ProposeError::Overloaded)?)
    }

    /// Queues a command, waiting for room; commands of one caller keep their order.
    pub(crate) async fn queue(&self, command: Command) -> Result<Pending, ProposeError> {
        let (command, bytes) = weigh(command)?;
        let room = Arc::clone(&self.room).acquire_many_owned(cost(bytes)).await;
        self.enqueue(command, bytes, room.map_err(|_| ProposeError::Stopping)?)
    }

    fn enqueue(
        &self,
        command: Command,
        bytes: usize,
        room: OwnedSemaphorePermit,
    ) -> Result<Pending, ProposeError> {
        let (answer, outcome) = oneshot::channel();
        let waiting = Waiting { command, bytes, answer, _room: room };
        self.queue.send(waiting).map_err(|_| ProposeError::Stopping)?;
        Ok(Pending { outcome })
    }
}

/// A command on its way.
pub(crate) struct Pending {
    outcome: oneshot::Receiver<Result<Answered, ProposeError>>,
}

impl Pending {
    pub(crate) async fn outcome(self) -> Result<Answered, ProposeError> {
        // The sender is dropped unanswered only when the process ends under it.
        self.outcome.await.unwrap_or(Err(ProposeError::Stopping))
    }
}

/// Checked before anything waits, so that what is queued fits into an entry of its own.
fn weigh(command: Command) -> Result<(Command, usize), ProposeError> {
    // With the time that takes most bytes.
    let alone = Stamped { at: Timestamp(u64::MAX), command };
    let bytes = codec::encode_batch(std::slice::from_ref(&alone)).len();
    if bytes > ENTRY_BYTES_MAX {
        return Err(ProposeError::TooLarge { bytes });
    }
    Ok((alone.command, bytes))
}

fn cost(bytes: usize) -> u32 {
    u32::try_from(bytes + COMMAND_COST).expect("no command is larger than an entry")
}

async fn run<L: Log>(log: L, mut queue: mpsc::UnboundedReceiver<Waiting>, metrics: Arc<Metrics>) {
    let mut at = Timestamp(0);
    let mut carried = None;
    loop {
        let first = match carried.take() {
            Some(waiting) => waiting,
            None => match queue.recv().await {
                Some(waiting) => waiting,
                None => return,
            },
        };
        let mut batch = Batch::new(at.max(Timestamp(clock::wall_clock_ms())));
        batch.add(first);
        while let Ok(waiting) = queue.try_recv() {
            if batch.bytes + waiting.bytes > ENTRY_BYTES_MAX {
                carried = Some(waiting);
                break;
            }
            batch.add(waiting);
        }
        at = batch.at;
        metrics.entries.inc();
        metrics.commands.inc_by(batch.answers.len() as u64);
        batch.propose(&log).await;
    }
}

/// What goes into one entry.
struct Batch {
    at: Timestamp,
    bytes: usize,
    commands: Vec<Stamped>,
    answers: Vec<oneshot::Sender<Result<Answered, ProposeError>>>,
}

impl Batch {
    fn new(at: Timestamp) -> Batch {
        Batch { at, bytes: 0, commands: Vec::new(), answers: Vec::new() }
    }

    fn add(&mut self, waiting: Waiting) {
        self.bytes += waiting.bytes;
        self.commands.push(Stamped { at: self.at, command: waiting.command });
        self.answers.push(waiting.answer);
    }

    async fn propose<L: Log>(self, log: &L) {
        let answers = self.answers.len();
        let results = match log.propose(codec::encode_batch(&self.commands)).await {
            Err(error) => vec![Err(error); answers],
            Ok(outcomes) => {
                assert_eq!(outcomes.len(), answers, "the machine answers each command once");
                outcomes.into_iter().map(Ok).collect()
            }
        };
        for (answer, result) in self.answers.into_iter().zip(results) {
            // Who asked may have gone away meanwhile.
            let _gone = answer.send(result);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use pgconvoy_control::command::NoteExport;
    use pgconvoy_control::{apply, state::State};
    use pgconvoy_shared::ids::{AgentId, Incarnation};

    use super::*;

    /// A log that applies at once, but lets each entry wait for a permit.
    #[derive(Clone)]
    struct Gated {
        permits: Arc<Semaphore>,
        entries: Arc<Mutex<Vec<usize>>>,
        office: Arc<Mutex<Result<(), ProposeError>>>,
    }

    impl Gated {
        fn new(permits: usize) -> Gated {
            Gated {
                permits: Arc::new(Semaphore::new(permits)),
                entries: Arc::default(),
                office: Arc::new(Mutex::new(Ok(()))),
            }
        }

        fn entries(&self) -> Vec<usize> {
            self.entries.lock().unwrap().clone()
        }
    }

    impl Log for Gated {
        async fn propose(&self, entry: Vec<u8>) -> Result<Vec<Answered>, ProposeError> {
            assert!(entry.len() <= ENTRY_BYTES_MAX);
            let batch = codec::decode_batch(&entry).unwrap();
            self.entries.lock().unwrap().push(batch.len());
            self.permits.acquire().await.unwrap().forget();
            self.office.lock().unwrap().clone()?;
            let mut state = State::new();
            Ok(batch.iter().map(|command| apply(&mut state, command).outcome).collect())
        }
    }

    fn start(log: &Gated) -> Proposer {
        let (proposer, work) = Proposer::new(log.clone(), Arc::new(Metrics::new()));
        let _runs =
            pgconvoy_runtime::tasks::spawn(pgconvoy_runtime::tasks::Kind::Worker, "proposer", work);
        proposer
    }

    fn agent(n: usize) -> AgentId {
        format!("agent-{n}").parse().unwrap()
    }

    fn drain(n: usize) -> Command {
        Command::DrainAgent { agent: agent(n) }
    }

    /// Of no agent, so that its outcome names the one that was meant.
    fn refused(n: usize) -> Answered {
        Err(Rejected::UnknownAgent { agent: agent(n) })
    }

    fn large(bytes: usize) -> Command {
        Command::NoteExport(NoteExport {
            task: "aaaaaaaaaaaa".parse().unwrap(),
            round: 1,
            agent: agent(0),
            incarnation: Incarnation(1),
            export_id: "x".repeat(bytes),
        })
    }

    async fn until_entries(log: &Gated, count: usize) {
        while log.entries().len() < count {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_waits_shares_an_entry_and_each_gets_its_own_answer() {
        let log = Gated::new(0);
        let proposer = start(&log);
        let first = proposer.queue(drain(0)).await.unwrap();
        until_entries(&log, 1).await;
        let mut waiting = Vec::new();
        for n in 1..=20 {
            waiting.push(proposer.queue(drain(n)).await.unwrap());
        }
        log.permits.add_permits(2);
        assert_eq!(first.outcome().await, Ok(refused(0)));
        for (n, pending) in (1..).zip(waiting) {
            assert_eq!(pending.outcome().await, Ok(refused(n)));
        }
        assert_eq!(log.entries(), [1, 20]);
    }

    #[tokio::test]
    async fn an_entry_is_never_too_large() {
        let log = Gated::new(0);
        let proposer = start(&log);
        let third = ENTRY_BYTES_MAX / 3;
        let mut waiting = Vec::new();
        for _ in 0..5 {
            waiting.push(proposer.queue(large(third)).await.unwrap());
        }
        log.permits.add_permits(5);
        for pending in waiting {
            assert!(matches!(pending.outcome().await, Ok(Err(_))));
        }
        assert_eq!(log.entries().iter().sum::<usize>(), 5);
        let alone = proposer.propose(large(ENTRY_BYTES_MAX)).await;
        assert!(matches!(alone, Err(ProposeError::TooLarge { .. })), "{alone:?}");
    }

    #[tokio::test]
    async fn when_too_much_waits_a_user_is_refused_and_a_report_waits() {
        let log = Gated::new(0);
        let proposer = start(&log);
        let mut waiting = Vec::new();
        while proposer.room.available_permits() > ENTRY_BYTES_MAX {
            waiting.push(proposer.queue(large(ENTRY_BYTES_MAX - 200)).await.unwrap());
        }
        let user = proposer.propose(large(ENTRY_BYTES_MAX - 200)).await;
        assert_eq!(user, Err(ProposeError::Overloaded));
        log.permits.add_permits(waiting.len() + 1);
        let report = proposer.queue(large(ENTRY_BYTES_MAX - 200)).await.unwrap();
        assert!(report.outcome().await.is_ok());
    }

    #[tokio::test]
    async fn a_lost_office_is_told_to_everybody_who_waits() {
        let log = Gated::new(0);
        let unknown = ProposeError::FateUnknown { cause: "lost".to_owned() };
        *log.office.lock().unwrap() = Err(unknown.clone());
        let proposer = start(&log);
        let first = proposer.queue(drain(1)).await.unwrap();
        let second = proposer.queue(drain(2)).await.unwrap();
        log.permits.add_permits(2);
        assert_eq!(first.outcome().await, Err(unknown.clone()));
        assert_eq!(second.outcome().await, Err(unknown));
    }
}
