//! What this node does while it leads the cluster, and only then.
//!
//! A [`Leader`] exists from the moment this node has applied the first entry of its term until it
//! learns that it leads no more; whoever needs the leader takes it from its [`Seat`]. What a leader
//! knows besides the replicated state (whose session is open, when an agent was last heard, how far
//! units are) is in memory, begins empty, and is *unknown* until it is heard, not *gone*.
//!
//! Nothing here is decided by trust in being the leader: what is proposed is decided again when it
//! is applied, and an agent's heartbeat is answered only after a quorum confirmed this node. So two
//! nodes that both take themselves for the leader can only have their commands refused.
//!
//! - [`office`]: takes it up and lays it down;
//! - [`driver`]: looks at state and agents, and proposes what has to be done;
//! - [`sessions`], [`session`], [`stream`]: agents, and [`ledger`]: who of them was told what;
//! - [`heartbeats`]: the answers that renew leases.

mod driver;
mod heartbeats;
mod ledger;
mod office;
mod session;
mod sessions;
mod stream;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use pgconvoy_control::command::{Command, Report};
use pgconvoy_control::liveness::{Liveness, Presence};
use pgconvoy_control::schedule::{self, Explanation, Observed};
use pgconvoy_control::state::{Agent, State};
use pgconvoy_control::view::{self, TaskView};
use pgconvoy_proto::v1;
use pgconvoy_runtime::clock;
use pgconvoy_runtime::tasks;
use pgconvoy_runtime::tls::Peer;
use pgconvoy_shared::ids::{AgentId, TaskId, UnitId};
use pgconvoy_shared::time::Timestamp;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::api::error::{ApiError, LeaderHint};
use crate::node::Node;
use crate::proposer::ProposeError;
use heartbeats::Heartbeats;
pub(crate) use office::follow;
use session::{Outgoing, Session};
use sessions::Sessions;

/// Who leads, as this node knows.
#[derive(Clone)]
pub(crate) enum Seat {
    /// Nobody that is known.
    Vacant,
    /// Nobody: this node was removed from the cluster.
    Removed,
    /// Another node.
    Elsewhere(LeaderHint),
    /// This node.
    Here(Arc<Leader>),
}

/// This node in its office as leader of one term.
pub(crate) struct Leader {
    node: Arc<Node>,
    term: u64,
    began: Instant,
    /// Cancelled when the office ends.
    ended: CancellationToken,
    liveness: Mutex<Liveness>,
    sessions: Sessions,
    heartbeats: Heartbeats,
    /// Something happened that the driver should look at now.
    wake: Notify,
    /// Who leads next, if that was known when the office ended.
    successor: OnceLock<LeaderHint>,
}

impl Leader {
    fn new(node: Arc<Node>, term: u64) -> Leader {
        let liveness = Liveness::new(u64::from(node.times.lease_ms), 0);
        Leader {
            node,
            term,
            began: Instant::now(),
            ended: CancellationToken::new(),
            liveness: Mutex::new(liveness),
            sessions: Sessions::default(),
            heartbeats: Heartbeats::default(),
            wake: Notify::new(),
            successor: OnceLock::new(),
        }
    }

    /// Milliseconds in office: the clock of liveness, which never goes back.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn liveness(&self) -> MutexGuard<'_, Liveness> {
        self.liveness.lock().expect("nothing panics while it holds this lock")
    }

    /// A heartbeat arrived. False = it must not be answered.
    fn heard(&self, session: &Session) -> bool {
        self.liveness().note(&session.agent, session.incarnation, self.now_ms())
    }

    /// An agent's registration was applied; its request had arrived at this time.
    fn registered(&self, session: &Session, arrived_ms: u64) -> Result<(), ApiError> {
        let mut liveness = self.liveness();
        // Condemned meanwhile, which happens under the same lock: the log will say that it is lost.
        if session.is_closed() {
            return Err(stream::closed(&session.agent));
        }
        liveness.registered(&session.agent, session.incarnation, arrived_ms);
        Ok(())
    }

    /// Closes the sessions of agents that were not heard for a lease time, and says what to
    /// propose. None of them is answered again before [`Sessions::pardon`].
    fn condemn(&self) -> Vec<(AgentId, Command)> {
        let mut liveness = self.liveness();
        let now_ms = self.now_ms();
        let commands = self.node.replica.read(|state| liveness.condemn(state, now_ms));
        let condemned = commands.into_iter().filter_map(|command| match &command {
            Command::LoseAgent { agent, .. } => {
                self.sessions.condemn(agent);
                Some((agent.clone(), command))
            }
            _ => None,
        });
        condemned.collect()
    }

    /// A task with at most so many of its tables; none if it is unknown.
    pub(crate) fn view(&self, task: &TaskId, tables_max: usize) -> Option<TaskView> {
        // Before the look at the state: sessions look at the state while they hold what is asked
        // here.
        let known = self.sessions.progress(task);
        let progress = |unit: &UnitId, epoch| {
            known.get(&unit.no).filter(|(of, _)| *of == epoch).map(|(_, progress)| progress.clone())
        };
        self.node.replica.read(|state| view::task(state, task, tables_max, &progress))
    }

    /// Why units of a task wait.
    pub(crate) fn explain(&self, task: &TaskId) -> Vec<Explanation> {
        let liveness = self.liveness();
        let observed = Observed { liveness: &liveness, now_ms: self.now_ms() };
        let now = Timestamp(clock::wall_clock_ms());
        self.node.replica.read(|state| schedule::explain(state, &observed, now, task))
    }

    /// All agents that ever registered.
    pub(crate) fn agents(&self) -> Vec<v1::Agent> {
        let liveness = self.liveness();
        let (now_ms, wall_ms) = (self.now_ms(), clock::wall_clock_ms());
        let show = |state: &State, agent: &Agent| {
            let heard = liveness.last_heard_ms(&agent.id);
            v1::Agent {
                id: agent.id.to_string(),
                site: agent.site.clone(),
                slots: agent.slots,
                running: state.lease_count(&agent.id),
                status: presence(&liveness, agent, now_ms).to_owned(),
                draining: agent.draining,
                last_heard_ms: heard
                    .map_or(0, |heard| wall_ms.saturating_sub(now_ms.saturating_sub(heard))),
                version: agent.version.clone(),
                pg_dump_majors: agent.pg_dump_majors.clone(),
                incarnation: agent.incarnation.to_string(),
            }
        };
        self.node.replica.read(|state| state.agents().map(|agent| show(state, agent)).collect())
    }

    /// How many agents there are of each status.
    pub(crate) fn agents_by_status(&self) -> Vec<(&'static str, u64)> {
        let liveness = self.liveness();
        let now_ms = self.now_ms();
        self.node.replica.read(|state| {
            state.agents().map(|agent| (presence(&liveness, agent, now_ms), 1)).collect()
        })
    }

    /// Tells of each entry that is applied.
    pub(crate) fn applied(&self) -> watch::Receiver<u64> {
        self.node.replica.applied()
    }

    /// Says something in an agent's place. Nobody waits for it: should it be lost, the next
    /// comparison finds the same.
    async fn report(&self, reports: Vec<Report>) -> Result<(), ProposeError> {
        if !reports.is_empty() {
            let _unawaited = self.node.proposer.queue(Command::Reports(reports)).await?;
        }
        Ok(())
    }

    /// Serves an agent's stream; returns at once.
    pub(crate) fn serve(
        self: &Arc<Self>,
        peer: Peer,
        incoming: Streaming<v1::AgentMessage>,
    ) -> Result<mpsc::Receiver<Outgoing>, ApiError> {
        let inside = self.node.gate.enter("agent session").map_err(|_| ApiError::Stopping)?;
        let (outbox, outgoing) = mpsc::channel(stream::OUTBOX_MESSAGES);
        let served = stream::serve(Arc::clone(self), peer, incoming, outbox);
        let _on_its_own = tasks::spawn(tasks::Kind::Worker, "agent session", async move {
            served.await;
            drop(inside);
        });
        Ok(outgoing)
    }

    /// Returns when the office has ended, with what to tell those who relied on it.
    pub(crate) async fn ended(&self) -> ApiError {
        self.ended.cancelled().await;
        ApiError::NotLeader(self.successor.get().cloned())
    }
}

/// What is thought of an agent, in the contract's words.
fn presence(liveness: &Liveness, agent: &Agent, now_ms: u64) -> &'static str {
    if !agent.present {
        return "lost";
    }
    match liveness.presence(&agent.id, agent.incarnation, now_ms) {
        Presence::Alive => "alive",
        Presence::Unknown => "unknown",
        Presence::Lost => "lost",
    }
}
