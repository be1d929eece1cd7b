//! One session, from Hello to its end.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::stream::{PollNext, select_with_strategy};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use tracing::{info, warn};

use pgconvoy_proto::v1;
use pgconvoy_proto::v1::agent_message::Message as ToLeader;
use pgconvoy_proto::v1::agent_service_client::AgentServiceClient;
use pgconvoy_proto::v1::leader_message::Message as FromLeader;
use pgconvoy_runtime::tasks;

use super::{Broken, wire};
use crate::runner::{LeaseClock, Runner, Uptime};

/// For the connection and the introduction. Dialling has its own limit below this one.
const OPEN_LIMIT: Duration = Duration::from_secs(8);
/// For the leader to end the stream after Goodbye.
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);
/// A specification with many object rules is some KiB, and a plan's tables some hundred: far below this.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Messages that wait for the network; reports have their own queue behind this one.
const OUTGOING: usize = 8;
/// Heartbeats that may wait for an answer. More than a session survives without one.
const UNANSWERED_MAX: usize = 64;

/// A session that the agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// It said Goodbye and is gone.
    Left,
    /// It takes nothing new from now on, which it says in the Hello of the next one.
    Drains,
}

/// An open stream.
pub(super) struct Session {
    incoming: Streaming<v1::LeaderMessage>,
    /// Sent before anything in `outgoing`.
    urgent: mpsc::Sender<v1::AgentMessage>,
    outgoing: mpsc::Sender<v1::AgentMessage>,
    /// The leader knows that the agent takes nothing new.
    without_slots: bool,
}

fn message(message: ToLeader) -> v1::AgentMessage {
    v1::AgentMessage { message: Some(message) }
}

impl Session {
    /// Says Hello, answers that it is there, and waits to be welcome.
    pub(super) async fn open(
        channel: Channel,
        hello: v1::Hello,
    ) -> Result<(Self, v1::Welcome), Broken> {
        let opened = timeout(OPEN_LIMIT, Self::say_hello(channel, hello)).await;
        opened.map_err(|_| Broken::Silent("a welcome"))?
    }

    async fn say_hello(channel: Channel, hello: v1::Hello) -> Result<(Self, v1::Welcome), Broken> {
        let without_slots = hello.slots == 0;
        let (urgent, urgent_queue) = mpsc::channel(OUTGOING);
        let (outgoing, queue) = mpsc::channel(OUTGOING);
        urgent.try_send(message(ToLeader::Hello(hello))).expect("the queue is new and has room");
        let requests = select_with_strategy(
            ReceiverStream::new(urgent_queue),
            ReceiverStream::new(queue),
            |(): &mut ()| PollNext::Left,
        );
        let mut client =
            AgentServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut incoming = client.session(requests).await.map_err(Broken::Refused)?.into_inner();
        let Some(FromLeader::Challenge(v1::Challenge {})) = next(&mut incoming).await? else {
            return Err(Broken::Nonsense("no question whether the agent is there".to_owned()));
        };
        let present = message(ToLeader::Present(v1::Present {}));
        urgent.send(present).await.map_err(|_| Broken::Closed)?;
        match next(&mut incoming).await? {
            Some(FromLeader::Welcome(welcome))
                if welcome.lease_ms > 0 && welcome.heartbeat_ms > 0 =>
            {
                Ok((Self { incoming, urgent, outgoing, without_slots }, welcome))
            }
            _ => Err(Broken::Nonsense("no welcome, or one without times".to_owned())),
        }
    }

    /// Heartbeats and reports go out on tasks of their own, so that neither waits for what comes in.
    pub(super) async fn attend(
        mut self,
        welcome: &v1::Welcome,
        runner: &Runner,
        heartbeats: &Arc<AtomicU64>,
    ) -> Result<Over, Broken> {
        let lease = Duration::from_millis(welcome.lease_ms.into());
        let interval = Duration::from_millis(welcome.heartbeat_ms.into());
        let unanswered = Arc::new(Unanswered::default());
        let _heart = tasks::owned("heartbeats", {
            let (runner, urgent) = (runner.clone(), self.urgent.clone());
            beat(interval, runner, urgent, Arc::clone(heartbeats), Arc::clone(&unanswered))
        });
        let _reports = tasks::owned("reports", report(runner.clone(), self.outgoing.clone()));
        let _keepers = tasks::owned("keepers", tell_keepers(runner.clone(), self.outgoing.clone()));

        // Left for another leader while a quarter of a lease is there to find one, before units have to end.
        let patience = (lease / 2).max(interval + interval / 2);
        let mut answered = Instant::now();
        loop {
            let said = tokio::select! {
                biased;
                said = next(&mut self.incoming) => said?,
                () = tokio::time::sleep_until(answered + patience) => return Err(Broken::Silent("an answer to a heartbeat")),
                () = all_told(runner) => return Ok(self.goodbye().await),
                () = runner.draining(), if !self.without_slots => return Ok(Over::Drains),
            };
            match said {
                Some(FromLeader::HeartbeatAck(ack)) => {
                    answered = Instant::now();
                    unanswered.answered(ack.seq, lease, runner.lease());
                }
                Some(FromLeader::Neighbours(neighbours)) => wire::meet(neighbours, runner),
                Some(FromLeader::Lease(lease)) => wire::take(lease, runner),
                Some(FromLeader::Revoke(revoke)) => wire::revoke(&revoke, runner),
                Some(FromLeader::ReportAck(ack)) => {
                    if !ack.accepted {
                        info!(
                            seq = ack.seq,
                            "the leader had no use for a report: the lease was over"
                        );
                    }
                    runner.reports().acknowledge(ack.seq, ack.accepted);
                }
                // The leader gives nothing more; what it gives after an undrain is welcome.
                Some(FromLeader::Drain(v1::Drain {})) => info!("the leader drains this agent"),
                Some(FromLeader::Welcome(_) | FromLeader::Challenge(_)) => {
                    return Err(Broken::Nonsense("a second welcome".to_owned()));
                }
                // A newer leader's message that this version does not know.
                None => warn!("the leader sent a message of a kind this version does not know"),
            }
        }
    }

    async fn goodbye(mut self) -> Over {
        // A stream that is closed already says the same.
        drop(self.outgoing.send(message(ToLeader::Goodbye(v1::Goodbye {}))).await);
        drop((self.urgent, self.outgoing));
        let ended = async { while let Ok(Some(_)) = self.incoming.message().await {} };
        drop(timeout(GOODBYE_LIMIT, ended).await);
        Over::Left
    }
}

/// What the leader says next.
async fn next(incoming: &mut Streaming<v1::LeaderMessage>) -> Result<Option<FromLeader>, Broken> {
    let said = incoming.message().await.map_err(Broken::Refused)?.ok_or(Broken::Closed)?;
    Ok(said.message)
}

/// Nothing runs, nothing new is taken, and the leader knows how all ended.
async fn all_told(runner: &Runner) {
    runner.drained().await;
    runner.reports().acknowledged().await;
}

/// When which heartbeat was sent.
#[derive(Debug, Default)]
struct Unanswered {
    sent: Mutex<VecDeque<(u64, Uptime)>>,
}

impl Unanswered {
    fn sent(&self, seq: u64, at: Uptime) {
        let mut sent = self.sent.lock().expect("nothing panics while it holds this lock");
        if sent.len() == UNANSWERED_MAX {
            sent.pop_front();
        }
        sent.push_back((seq, at));
    }

    fn answered(&self, seq: u64, length: Duration, lease: &LeaseClock) {
        let mut sent = self.sent.lock().expect("nothing panics while it holds this lock");
        while let Some((oldest, at)) = sent.front().copied()
            && oldest <= seq
        {
            if oldest == seq {
                lease.renew(at, length);
            }
            sent.pop_front();
        }
    }
}

/// Sends heartbeats until the session ends.
async fn beat(
    interval: Duration,
    runner: Runner,
    urgent: mpsc::Sender<v1::AgentMessage>,
    heartbeats: Arc<AtomicU64>,
    unanswered: Arc<Unanswered>,
) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _tick = ticks.tick() => {}
            () = runner.news() => {}
        }
        // Noted before it is even made: the lease may only be taken for shorter than it is.
        let at = Uptime::now();
        let seq = heartbeats.fetch_add(1, Ordering::Relaxed) + 1;
        let heartbeat = v1::Heartbeat { seq, running: wire::progress(&runner) };
        unanswered.sent(seq, at);
        if urgent.send(message(ToLeader::Heartbeat(heartbeat))).await.is_err() {
            return;
        }
    }
}

/// Tells all that is not acknowledged, and then what comes.
async fn report(runner: Runner, outgoing: mpsc::Sender<v1::AgentMessage>) {
    let mut untold = runner.reports().untold();
    loop {
        for report in untold.next().await {
            if outgoing.send(message(ToLeader::Report(wire::report(report)))).await.is_err() {
                return;
            }
        }
    }
}

/// Tells which snapshots this agent keeps alive: all of them in each session, and then what is new. The leader may have
/// heard of one already, or another leader may have.
async fn tell_keepers(runner: Runner, outgoing: mpsc::Sender<v1::AgentMessage>) {
    let mut changes = runner.keepers().changes();
    let mut told = Vec::new();
    loop {
        // Before the look, so that what changes after it is looked at again.
        changes.mark_unchanged();
        let exports = runner.keepers().exports();
        for export in exports.iter().filter(|export| !told.contains(*export)) {
            let opened = message(ToLeader::Keeper(wire::keeper(export)));
            if outgoing.send(opened).await.is_err() {
                return;
            }
        }
        told = exports;
        if changes.changed().await.is_err() {
            return;
        }
    }
}
