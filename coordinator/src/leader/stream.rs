//! One agent's stream to the leader.
//!
//! 1. `Hello`: the certificate must be this agent's.
//! 2. `Challenge`: the leader asks back, and goes on with who answers `Present`. What a process said
//!    can lie in a buffer for longer than that process lives; to register it then would release the
//!    units of the process that followed it.
//! 3. The session goes into the book, which closes an older one of the same agent.
//! 4. The agent is registered through the log: a new incarnation releases what the old one held.
//! 5. `Welcome`, then what the agent runs is compared with what the state leases to it.
//! 6. Heartbeats, reports and keepers come up, leases and revocations go down, until either side
//!    ends it. A heartbeat is answered by [`super::heartbeats`], a report once it is committed.
//!
//! Whenever something that the agent said may not have reached the log, the stream is ended: the
//! agent says it again on the next one.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use pgconvoy_control::command::{Command, NoteExport, RegisterAgent, ReportBody};
use pgconvoy_control::outcome::{Outcome, Reception};
use pgconvoy_control::rejected::Rejected;
use pgconvoy_proto::convert::{self, WireError};
use pgconvoy_proto::v1;
use pgconvoy_proto::v1::agent_message::Message as FromAgent;
use pgconvoy_proto::v1::leader_message::Message as ToAgent;
use pgconvoy_runtime::tls::{Peer, Role};
use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{AgentId, BadId, Incarnation, UnitId, UnitNo};
use pgconvoy_shared::unit::Ended;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Status, Streaming};
use tracing::{debug, info};

use super::Leader;
use super::session::{Outgoing, Session};
use super::sessions::NotOpened;
use crate::api::error::ApiError;
use crate::proposer::{Answered, Pending, ProposeError};

/// What an agent may have waiting: its slots' leases and some answers. A lease is a few KiB.
pub(super) const OUTBOX_MESSAGES: usize = 1024;

/// Reports of one agent on their way into the log. An agent has few open at a time; one that
/// empties a large plan at once waits, and its heartbeats behind it.
const REPORTS_OPEN: usize = 256;

/// For `Hello`, and for `Present`.
const INTRODUCTION_LIMIT: Duration = Duration::from_secs(10);

/// Serves one agent's stream until either side ends it.
pub(super) async fn serve(
    leader: Arc<Leader>,
    peer: Peer,
    mut incoming: Streaming<v1::AgentMessage>,
    outbox: mpsc::Sender<Outgoing>,
) {
    let ended = match introduce(&leader, &peer, &mut incoming, &outbox).await {
        Err(error) => Err(error),
        Ok(session) => {
            let ended = converse(&leader, &session, incoming).await;
            leader.sessions.remove(&session);
            info!("session of agent {} ended", session.agent);
            ended
        }
    };
    if let Err(error) = ended {
        debug!("an agent's session ended: {error}");
        // A full queue, or an agent that is gone, cannot be told.
        let _untold = outbox.try_send(Err(error.into()));
    }
}

/// Steps 1 to 5 of the module's protocol.
async fn introduce(
    leader: &Arc<Leader>,
    peer: &Peer,
    incoming: &mut Streaming<v1::AgentMessage>,
    outbox: &mpsc::Sender<Outgoing>,
) -> Result<Arc<Session>, ApiError> {
    let Some(FromAgent::Hello(hello)) = next(incoming).await? else {
        return Err(malformed("hello", "an agent says hello first"));
    };
    let agent: AgentId = hello
        .agent_id
        .parse()
        .map_err(|bad: BadId| malformed("hello.agent_id", &bad.to_string()))?;
    must_be(peer, &agent)?;
    let incarnation = Incarnation(hello.incarnation);
    must_not_be_over(leader, &agent, incarnation)?;
    let metrics = Arc::clone(&leader.node.metrics);
    let question = leader.sessions.question();
    let session = Arc::new(Session::new(agent, incarnation, question, outbox.clone(), metrics));
    session.send(ToAgent::Challenge(v1::Challenge {}));
    let Some(FromAgent::Present(v1::Present {})) = next(incoming).await? else {
        return Err(malformed("present", "an agent answers that it is there"));
    };
    let registered = register(leader, &session, hello).await;
    if let Err(error) = registered {
        leader.sessions.remove(&session);
        return Err(error);
    }
    Ok(session)
}

/// What an agent says before it is welcome.
async fn next(incoming: &mut Streaming<v1::AgentMessage>) -> Result<Option<FromAgent>, ApiError> {
    match timeout(INTRODUCTION_LIMIT, incoming.message()).await {
        Ok(Ok(said)) => Ok(said.and_then(|said| said.message)),
        Ok(Err(status)) => Err(gone(&status)),
        Err(_) => Err(malformed("message", "the agent said nothing")),
    }
}

async fn register(
    leader: &Arc<Leader>,
    session: &Arc<Session>,
    hello: v1::Hello,
) -> Result<(), ApiError> {
    let arrived_ms = leader.now_ms();
    let command = Command::RegisterAgent(Box::new(RegisterAgent {
        id: session.agent.clone(),
        incarnation: session.incarnation,
        site: hello.site,
        slots: hello.slots,
        version: hello.version,
        pg_dump_majors: hello.pg_dump_majors,
        address: hello.address,
    }));
    let queue = || leader.node.proposer.try_queue(command);
    let pending =
        leader.sessions.open(session, queue).map_err(|why| not_opened(session, why))??;
    match pending.outcome().await? {
        Ok(Outcome::Registered { released, .. }) => {
            let agent = &session.agent;
            match released {
                0 => info!("agent {agent} registered"),
                freed => info!("agent {agent} registered anew; {freed} units it held are free"),
            }
        }
        Ok(_) => return Err(ApiError::internal("a registration has another command's outcome")),
        Err(rejected) => return Err(rejected.into()),
    }
    leader.registered(session, arrived_ms)?;
    session.send(ToAgent::Welcome(v1::Welcome {
        term: leader.term,
        lease_ms: leader.node.times.lease_ms,
        heartbeat_ms: leader.node.times.heartbeat_ms,
    }));
    let in_its_place = session.note_running(hello.running).map_err(unreadable)?;
    session.registered();
    leader.report(in_its_place).await?;
    leader.report(session.give_orders(leader)).await?;
    leader.wake.notify_one();
    Ok(())
}

/// Step 6.
async fn converse(
    leader: &Arc<Leader>,
    session: &Arc<Session>,
    mut incoming: Streaming<v1::AgentMessage>,
) -> Result<(), ApiError> {
    let mut reports = FuturesOrdered::new();
    loop {
        tokio::select! {
            biased;
            // 1. The end: nothing is begun after it.
            dismissed = leader.ended() => return Err(dismissed),
            () = session.closed() => return Err(closed(&session.agent)),
            // 2. Acknowledgements make room for reports.
            Some(outcome) = reports.next(), if !reports.is_empty() => {
                acknowledge(leader, session, outcome)?;
            }
            // 3. The agent, unless too much of what it said is still on its way.
            message = incoming.message(), if reports.len() < REPORTS_OPEN => {
                let Some(message) = message.map_err(|status| gone(&status))? else {
                    return Ok(());
                };
                match message.message {
                    Some(FromAgent::Heartbeat(heartbeat)) => {
                        hear(leader, session, heartbeat).await?;
                    }
                    Some(FromAgent::Report(report)) => {
                        reports.push_back(take_in(leader, session, report).await?.outcome());
                    }
                    Some(FromAgent::Keeper(keeper)) => note_keeper(leader, session, keeper).await?,
                    Some(FromAgent::Goodbye(v1::Goodbye {})) => {
                        return take_leave(leader, session).await;
                    }
                    Some(FromAgent::Hello(_) | FromAgent::Present(_)) => {
                        return Err(malformed("hello", "an agent says hello once"));
                    }
                    // Of a newer version: nothing that this one needs.
                    None => {}
                }
            }
        }
    }
}

async fn hear(
    leader: &Arc<Leader>,
    session: &Arc<Session>,
    heartbeat: v1::Heartbeat,
) -> Result<(), ApiError> {
    if !leader.heard(session) {
        return Err(closed(&session.agent));
    }
    let in_its_place = session.note_running(heartbeat.running).map_err(unreadable)?;
    leader.heartbeats.push(Arc::clone(session), heartbeat.seq);
    leader.report(in_its_place).await?;
    Ok(leader.report(session.give_orders(leader)).await?)
}

/// A report on its way into the log.
struct Open {
    seq: u64,
    unit: UnitId,
    epoch: Epoch,
    pending: Pending,
}

impl Open {
    async fn outcome(self) -> Settled {
        let Open { seq, unit, epoch, pending } = self;
        Settled { seq, unit, epoch, outcome: pending.outcome().await }
    }
}

struct Settled {
    seq: u64,
    unit: UnitId,
    epoch: Epoch,
    outcome: Result<Answered, ProposeError>,
}

async fn take_in(
    leader: &Leader,
    session: &Session,
    report: v1::UnitReport,
) -> Result<Open, ApiError> {
    let v1::UnitReport { seq, task_id, unit, epoch, body } = report;
    let task =
        task_id.parse().map_err(|bad: BadId| malformed("report.task_id", &bad.to_string()))?;
    let (unit, epoch) = (UnitId { task, no: UnitNo(unit) }, Epoch(epoch));
    let body = body.ok_or_else(|| malformed("report.body", "it is missing"))?;
    let body = match convert::ReportBody::try_from(body).map_err(unreadable)? {
        convert::ReportBody::Part { no, part } => ReportBody::Part { no, part },
        convert::ReportBody::Checkpoint(checkpoint) => ReportBody::Checkpoint(checkpoint),
        convert::ReportBody::Parking(parking) => ReportBody::Parking(parking),
        convert::ReportBody::Note(note) => ReportBody::Note(note),
        convert::ReportBody::Ended { parts, ended } => {
            session.ending(&unit, epoch);
            ReportBody::Ended { parts, ended }
        }
    };
    let report = session.report(unit.clone(), epoch, body);
    let queued = leader.node.proposer.queue(Command::Reports(vec![report])).await;
    let pending = match queued {
        // It will never fit, however often it is said.
        Err(error @ ProposeError::TooLarge { .. }) => {
            let failure = Failure::definite("result_too_large", error.to_string())
                .about(format!("unit {unit}"))
                .remedy("this is a bug in pgconvoy: an agent sends a large result in parts");
            let ended = session.in_its_place(unit.clone(), epoch, Ended::Failed(failure));
            leader.node.proposer.queue(Command::Reports(vec![ended])).await?
        }
        queued => queued?,
    };
    Ok(Open { seq, unit, epoch, pending })
}

fn acknowledge(leader: &Leader, session: &Session, settled: Settled) -> Result<(), ApiError> {
    let accepted = match settled.outcome? {
        Ok(Outcome::Reported(receptions)) => {
            if let Some(Reception::Refused(rejected)) = receptions.first() {
                debug!("a report of agent {} was refused: {rejected}", session.agent);
            }
            receptions.first().is_some_and(Reception::is_accepted)
        }
        Ok(_) => return Err(ApiError::internal("a report has another command's outcome")),
        Err(rejected) => {
            debug!("a report of agent {} was refused: {rejected}", session.agent);
            false
        }
    };
    session.settled(&settled.unit, settled.epoch);
    session.send(ToAgent::ReportAck(v1::ReportAck { seq: settled.seq, accepted }));
    leader.wake.notify_one();
    Ok(())
}

async fn note_keeper(
    leader: &Leader,
    session: &Session,
    keeper: v1::KeeperOpened,
) -> Result<(), ApiError> {
    let task = keeper
        .task_id
        .parse()
        .map_err(|bad: BadId| malformed("keeper.task_id", &bad.to_string()))?;
    let command = Command::NoteExport(NoteExport {
        task,
        round: keeper.round,
        agent: session.agent.clone(),
        incarnation: session.incarnation,
        export_id: keeper.export_id,
    });
    if let Err(rejected) = leader.node.proposer.queue(command).await?.outcome().await? {
        debug!("an export of agent {} is not noted: {rejected}", session.agent);
    }
    Ok(())
}

/// It runs nothing any more: what it held is free at once.
async fn take_leave(leader: &Leader, session: &Arc<Session>) -> Result<(), ApiError> {
    // Closed first: no heartbeat of it is answered any more.
    leader.sessions.remove(session);
    let (agent, incarnation) = (session.agent.clone(), session.incarnation);
    leader.liveness().said_goodbye(&agent, incarnation);
    info!("agent {agent} says good-bye");
    if let Err(rejected) = leader
        .node
        .proposer
        .queue(Command::LoseAgent { agent, incarnation })
        .await?
        .outcome()
        .await?
    {
        debug!("a good-bye is refused: {rejected}");
    }
    Ok(())
}

/// A certificate is one agent's. Without TLS nobody can tell.
fn must_be(peer: &Peer, agent: &AgentId) -> Result<(), ApiError> {
    match &peer.identity {
        Some(identity) if identity.role != Role::Agent || identity.name != agent.as_str() => {
            let message = format!("{identity} may not speak for agent {agent}");
            let failure = Failure::definite("not_this_agent", message).about(agent.to_string());
            let remedy =
                "start the agent under the name its certificate has, or issue it another one";
            Err(ApiError::Forbidden(failure.remedy(remedy).into()))
        }
        Some(_) | None => Ok(()),
    }
}

/// The log would refuse it too, but only after it had closed the session of the life that followed.
fn must_not_be_over(
    leader: &Leader,
    agent: &AgentId,
    incarnation: Incarnation,
) -> Result<(), ApiError> {
    let over = leader
        .node
        .replica
        .read(|state| state.agent(agent).is_some_and(|known| known.former.contains(&incarnation)));
    if over {
        return Err(Rejected::FormerLife { agent: agent.clone(), incarnation }.into());
    }
    Ok(())
}

fn malformed(field: &str, problem: &str) -> ApiError {
    ApiError::invalid("bad_message", field, problem, "run agents of the coordinators' version")
}

fn unreadable(error: WireError) -> ApiError {
    malformed(&error.field, &error.problem.to_string())
}

fn not_opened(session: &Session, why: NotOpened) -> ApiError {
    match why {
        NotOpened::NotNow => not_now(&session.agent),
        NotOpened::Overtaken => closed(&session.agent),
    }
}

fn not_now(agent: &AgentId) -> ApiError {
    let message = format!("agent {agent} is being released");
    let failure = Failure::transient("agent_being_released", message)
        .about(agent.to_string())
        .remedy("connect again a little later");
    ApiError::Unavailable(failure.into())
}

pub(super) fn closed(agent: &AgentId) -> ApiError {
    let message = format!("the session of agent {agent} was closed");
    let failure = Failure::transient("session_closed", message)
        .about(agent.to_string())
        .remedy("connect again; if this repeats, see whether two agents have the same name");
    ApiError::Unavailable(failure.into())
}

fn gone(status: &Status) -> ApiError {
    ApiError::Unavailable(Failure::transient("agent_gone", status.message()).into())
}
