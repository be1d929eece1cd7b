//! Leases, reports, and what an agent does when it is cut off.

use std::time::{Duration, Instant};

use pgconvoy_agent::{AgentError, AgentHandle, Coordinators};
use pgconvoy_integration_tests::wait;
use pgconvoy_proto::convert::Leased;
use pgconvoy_runtime::http::Probed;
use pgconvoy_runtime::shutdown::{Reason, Shutdown};
use pgconvoy_runtime::tls::Security;
use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::unit::{Ended, Work};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use crate::leader::{LIMIT, Leader};
use crate::world::{agent, endpoint, spec, unit};

const LEASE_MS: u32 = 2_000;

/// A leader, an agent with two slots, and a server that takes connections and never answers: units that run until they
/// are stopped.
struct Stage {
    leader: Leader,
    agent: AgentHandle,
    shutdown: Shutdown,
    silent: TcpListener,
}

impl Stage {
    async fn set() -> Self {
        let leader = Leader::start(LEASE_MS);
        let shutdown = Shutdown::new();
        let agent = agent("a1", Coordinators::Channel(leader.channel()), &shutdown).await;
        let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self { leader, agent, shutdown, silent }
    }

    /// A unit that never ends by itself.
    fn endless(&self, no: u32, epoch: u32) -> Leased {
        let port = self.silent.local_addr().expect("it is bound").port();
        let mut silent = endpoint(port, "nothing");
        silent.connect_timeout_secs = 600;
        Leased {
            unit: unit(no),
            epoch: Epoch(epoch),
            spec: spec(silent.clone(), silent),
            source_password: None,
            destination_password: None,
            work: Work::Analyze(Vec::new()),
            purpose: Default::default(),
        }
    }

    /// A unit that ends at once: nobody listens at its server's port.
    fn short(&self, no: u32, epoch: u32) -> Leased {
        let nobody = endpoint(1, "nothing");
        Leased { spec: spec(nobody.clone(), nobody), ..self.endless(no, epoch) }
    }

    /// Waits until a unit's connection is there.
    async fn connected(&self) -> TcpStream {
        let accepted = tokio::time::timeout(LIMIT, self.silent.accept()).await;
        accepted.expect("a unit connects").expect("loopback works").0
    }
}

/// Waits until the agent drops a unit's connection.
async fn dropped(mut connection: TcpStream) {
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(LIMIT, connection.read_to_end(&mut rest)).await;
    // A reset is as good as an end.
    drop(closed.expect("it is dropped"));
}

#[track_caller]
fn assert_unreachable(ended: &Ended) {
    match ended {
        Ended::Failed(failure) => assert_eq!(failure.code, "unreachable_host"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_agent_says_what_it_is_and_how_its_units_end() {
    let stage = Stage::set().await;
    stage.leader.lease(stage.short(1, 1)).await;
    assert_unreachable(&stage.leader.ended(&unit(1), Epoch(1)).await);
    let [hello] = &stage.leader.hellos()[..] else { panic!("one session") };
    assert_eq!((hello.agent_id.as_str(), hello.slots), ("a1", 2));
    assert!(!hello.pg_dump_majors.is_empty(), "the tests need pg_dump");
    assert_eq!(stage.agent.id().as_str(), "a1");
}

#[tokio::test]
async fn a_report_is_told_again_in_the_next_session_until_it_is_acknowledged() {
    let stage = Stage::set().await;
    stage.leader.forgetful(true);
    stage.leader.lease(stage.short(1, 1)).await;
    stage.leader.ended(&unit(1), Epoch(1)).await;
    stage.leader.cut();
    stage.leader.sessions(2).await;
    // The same lease again, as a new leader sends it that does not know of the end: it is not run again.
    stage.leader.lease(stage.short(1, 1)).await;
    stage.leader.lease(stage.short(2, 1)).await;
    stage.leader.forgetful(false);
    stage.leader.ended(&unit(2), Epoch(1)).await;
    let told: Vec<_> =
        stage.leader.reports().iter().map(|report| (report.seq, report.unit)).collect();
    assert_eq!(told, [(1, 1), (1, 1), (2, 2)]);
}

#[tokio::test]
async fn units_run_on_while_there_is_no_session_and_the_lease_lasts() {
    let stage = Stage::set().await;
    stage.leader.lease(stage.endless(1, 7)).await;
    let _connection = stage.connected().await;
    stage.leader.cut();
    stage.leader.sessions(2).await;
    let hello = stage.leader.hellos().pop().expect("two sessions");
    let running: Vec<_> = hello.running.iter().map(|unit| (unit.unit, unit.epoch)).collect();
    assert_eq!(running, [(1, 7)]);
    stage.leader.heartbeats(2).await;
    assert!(stage.leader.reports().is_empty(), "it still runs");
}

#[tokio::test]
async fn units_end_before_the_lease_when_no_heartbeat_is_answered() {
    let stage = Stage::set().await;
    stage.leader.lease(stage.endless(1, 1)).await;
    let connection = stage.connected().await;
    stage.leader.mute(true);
    let since = Instant::now();
    dropped(connection).await;
    assert!(since.elapsed() < Duration::from_millis(LEASE_MS.into()), "{:?}", since.elapsed());
    assert_eq!(stage.leader.ended(&unit(1), Epoch(1)).await, Ended::Released);
    // A leader that answers is believed again.
    stage.leader.mute(false);
    stage.leader.lease(stage.short(2, 1)).await;
    assert_unreachable(&stage.leader.ended(&unit(2), Epoch(1)).await);
}

#[tokio::test]
async fn an_agent_cut_off_stops_its_units_and_tells_it_to_the_next_leader() {
    let stage = Stage::set().await;
    stage.leader.lease(stage.endless(1, 1)).await;
    let connection = stage.connected().await;
    stage.leader.close(true);
    let since = Instant::now();
    dropped(connection).await;
    assert!(since.elapsed() < Duration::from_millis(LEASE_MS.into()), "{:?}", since.elapsed());
    stage.leader.close(false);
    assert_eq!(stage.leader.ended(&unit(1), Epoch(1)).await, Ended::Released);
}

#[tokio::test]
async fn a_revoked_unit_stops() {
    let stage = Stage::set().await;
    stage.leader.lease(stage.endless(1, 1)).await;
    let _connection = stage.connected().await;
    // Another lease was meant: answered, for the leader waits for a word, and this one runs on.
    stage.leader.revoke(&unit(1), Epoch(2)).await;
    assert_eq!(stage.leader.ended(&unit(1), Epoch(2)).await, Ended::Released);
    stage.leader.heartbeats(2).await;
    assert_eq!(stage.leader.reports().len(), 1);
    stage.leader.revoke(&unit(1), Epoch(1)).await;
    assert_eq!(stage.leader.ended(&unit(1), Epoch(1)).await, Ended::Released);
}

#[tokio::test]
async fn a_younger_lease_of_a_unit_ends_the_older() {
    let stage = Stage::set().await;
    stage.leader.lease(stage.endless(1, 1)).await;
    let _first = stage.connected().await;
    stage.leader.lease(stage.endless(1, 2)).await;
    assert_eq!(stage.leader.ended(&unit(1), Epoch(1)).await, Ended::Released);
    let _second = stage.connected().await;
}

#[tokio::test]
async fn no_more_units_run_than_there_are_slots() {
    let stage = Stage::set().await;
    for no in 1..=2 {
        stage.leader.lease(stage.endless(no, 1)).await;
    }
    let (_first, _second) = (stage.connected().await, stage.connected().await);
    stage.leader.lease(stage.endless(3, 1)).await;
    stage.leader.heartbeats(2).await;
    let third = tokio::time::timeout(Duration::ZERO, stage.silent.accept()).await;
    assert!(third.is_err(), "two slots, two units");
    stage.leader.revoke(&unit(1), Epoch(1)).await;
    let _third = stage.connected().await;
}

#[tokio::test]
async fn a_drained_agent_finishes_takes_nothing_new_and_says_goodbye() {
    let stage = Stage::set().await;
    stage.leader.lease(stage.endless(1, 1)).await;
    let connection = stage.connected().await;
    stage.agent.drain();
    stage.leader.sessions(2).await;
    let hello = stage.leader.hellos().pop().expect("two sessions");
    assert_eq!((hello.slots, hello.running.len()), (0, 1));
    stage.leader.lease(stage.short(2, 1)).await;
    assert_eq!(stage.leader.ended(&unit(2), Epoch(1)).await, Ended::Released);
    drop(connection);
    let Ended::Failed(_) = stage.leader.ended(&unit(1), Epoch(1)).await else {
        panic!("it ran to its end")
    };
    stage.leader.goodbye().await;
    stage.agent.stopped().await.expect("it leaves in good order");
}

#[tokio::test]
async fn an_agent_that_is_shut_down_gives_its_units_back() {
    let stage = Stage::set().await;
    stage.leader.lease(stage.endless(1, 1)).await;
    let _connection = stage.connected().await;
    stage.shutdown.begin(Reason::Asked);
    stage.agent.stopped().await.expect("it leaves in good order");
    assert_eq!(stage.leader.ended(&unit(1), Epoch(1)).await, Ended::Released);
    stage.leader.goodbye().await;
}

#[tokio::test]
async fn an_agent_finds_the_leader_by_way_of_a_follower() {
    let leader = Leader::start(LEASE_MS);
    let (address, _leader) = leader.listen().await;
    let (follower, _follower) = Leader::follower(&address).await;
    let coordinators =
        Coordinators::Addresses { addresses: vec![follower], security: Security::Plaintext };
    let _agent = agent("a1", coordinators, &Shutdown::new()).await;
    leader.heartbeats(1).await;
}

#[tokio::test]
async fn an_agent_that_is_refused_for_good_ends_with_the_reason() {
    let leader = Leader::start(LEASE_MS);
    let refusal = Failure::definite("not_this_agent", "you are another one").remedy("rename it");
    leader.refuse(Some(refusal.clone()));
    let shutdown = Shutdown::new();
    let agent = agent("a1", Coordinators::Channel(leader.channel()), &shutdown).await;
    match agent.stopped().await {
        Err(AgentError::Refused(failure)) => assert_eq!(*failure, refusal),
        other => panic!("{other:?}"),
    }
    assert!(matches!(shutdown.reason(), Some(Reason::Failed { .. })));
}

#[tokio::test]
async fn an_agent_that_was_welcome_waits_until_its_refusal_is_put_right() {
    let stage = Stage::set().await;
    stage.leader.sessions(1).await;
    stage.leader.refuse(Some(Failure::definite("not_this_agent", "you are another one")));
    stage.leader.refusals(2).await;
    stage.leader.refuse(None);
    stage.leader.sessions(2).await;
}

#[tokio::test]
async fn an_agent_tells_what_it_does_to_those_who_watch() {
    let stage = Stage::set().await;
    let probe = stage.agent.probe();
    let shows = async |line: &str| {
        wait::until(LIMIT, line, async || {
            let text = probe.metrics().await;
            if text.lines().any(|shown| shown == line) { Ok(()) } else { Err(text) }
        })
        .await
        .expect("it is shown");
    };
    stage.leader.lease(stage.endless(1, 1)).await;
    stage.leader.lease(stage.short(2, 1)).await;
    for line in [
        "pgconvoy_agent_connected 1",
        "pgconvoy_agent_slots 2",
        "pgconvoy_agent_units_running{kind=\"analyze\"} 1",
        "pgconvoy_agent_units_ended_total{kind=\"analyze\",outcome=\"failed\"} 1",
    ] {
        shows(line).await;
    }
    let ready = async || probe.readiness();
    wait::until(LIMIT, "it is ready", ready).await.expect("a heartbeat is answered");
    stage.leader.close(true);
    shows("pgconvoy_agent_connected 0").await;
    assert_eq!(probe.readiness(), Err("no session with a leader".to_owned()));
    // It gives its unit back before its lease is over.
    shows("pgconvoy_agent_units_ended_total{kind=\"analyze\",outcome=\"given_back\"} 1").await;
}
