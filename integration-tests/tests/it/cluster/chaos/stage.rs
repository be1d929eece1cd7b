//! Where faults strike: everything that takes part in one migration.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pgconvoy_integration_tests::convoy::Coordinator;
use pgconvoy_integration_tests::net::{Proxy, Trap, Weather};
use pgconvoy_integration_tests::wait;
use tokio::sync::Mutex;

use super::fault::{End, Fault, Trouble};
use crate::faults::COMMIT;
use crate::world::{DATABASE, Fleet, Gate, Pair, Roads, SOON};

pub(super) const AGENTS: [&str; 3] = ["anna", "bert", "carl"];

/// All that faults can touch.
pub(super) struct Stage<'a> {
    pair: &'a Pair,
    roads: &'a Roads,
    fleet: &'a Fleet,
    task: &'a str,
    gate: Mutex<Gate>,
    traps: Mutex<Vec<Trap>>,
}

impl<'a> Stage<'a> {
    pub(super) fn new(
        pair: &'a Pair,
        roads: &'a Roads,
        fleet: &'a Fleet,
        task: &'a str,
        gate: Gate,
    ) -> Self {
        Stage { pair, roads, fleet, task, gate: Mutex::new(gate), traps: Mutex::default() }
    }

    /// The shards that were held may end. Answers to their commits may still be lost: the traps go with what is given back.
    pub(super) async fn peace(self) -> Vec<Trap> {
        // A pause may have outlived its resume. Refused where there was none.
        self.fleet.run(&["task", "resume", self.task]).await;
        self.gate.into_inner().open().await;
        self.traps.into_inner()
    }

    /// Returns when it is healed.
    pub(super) async fn strike(&self, fault: Fault) {
        let convoy = &self.fleet.convoy;
        match fault {
            Fault::KillAgent(agent) => {
                convoy.agent(AGENTS[agent]).kill().unwrap();
                convoy.agent(AGENTS[agent]).start_again().unwrap();
            }
            Fault::EndAgent(agent) => {
                let agent = convoy.agent(AGENTS[agent]);
                agent.terminate(Signal::SIGTERM, SOON).await.unwrap();
                agent.start_again().unwrap();
            }
            Fault::FreezeAgent(agent, time) => {
                let agent = convoy.agent(AGENTS[agent]);
                agent.pause().await.unwrap();
                pass(time).await;
                agent.go_on().unwrap();
            }
            Fault::KillLeader => {
                let leader = convoy.leader().await.unwrap();
                kill(&[convoy.coordinator(leader)]);
            }
            Fault::KillFollower => {
                let leader = convoy.leader().await.unwrap();
                kill(&[convoy.coordinator(leader % 3 + 1)]);
            }
            Fault::KillAllNodes => kill(&convoy.coordinators().iter().collect::<Vec<_>>()),
            Fault::FreezeNode(node, time) => {
                let node = convoy.coordinator(node).process();
                node.pause().await.unwrap();
                pass(time).await;
                node.go_on().unwrap();
            }
            Fault::NodeLink(node, trouble, time) => {
                network(convoy.coordinator(node).link(), trouble, time).await;
            }
            Fault::HandOver => {
                // May be refused while a node is away.
                self.fleet.run(&["cluster", "transfer-leader"]).await;
            }
            Fault::Crash(end) => self.restart(end, true).await,
            Fault::Restart(end) => self.restart(end, false).await,
            Fault::EndSessions => {
                let most = "select pg_terminate_backend(pid) from pg_stat_activity
                             where application_name like 'pgconvoy/%' and random() < 0.7";
                for server in [&self.pair.source, &self.pair.destination] {
                    server.sql(DATABASE, most).await.unwrap();
                }
            }
            Fault::Way(end, trouble, time) => network(self.way(end), trouble, time).await,
            Fault::LoseAnswers(times) => {
                let trap = self.roads.destination.lose_answers_to(COMMIT, times);
                self.traps.lock().await.push(trap);
            }
            Fault::PauseTask => {
                // Both may be refused while there is no leader.
                self.fleet.run(&["task", "pause", self.task]).await;
                self.fleet.run(&["task", "resume", self.task]).await;
            }
        }
    }

    fn way(&self, end: End) -> &Proxy {
        match end {
            End::Source => &self.roads.source,
            End::Destination => &self.roads.destination,
        }
    }

    async fn restart(&self, end: End, crash: bool) {
        let server = match end {
            End::Source => &self.pair.source,
            End::Destination => &self.pair.destination,
        };
        // Nobody is let in before the gate is shut again, for it opened with its keeper's session.
        self.way(end).set(Weather::Refusing);
        if crash { server.stop_immediate() } else { server.stop_fast() }.unwrap();
        server.start_again().await.unwrap();
        if end == End::Destination {
            *self.gate.lock().await = Gate::shut(server).await;
        }
        self.way(end).set(Weather::Clear);
    }
}

fn kill(nodes: &[&Coordinator]) {
    for node in nodes {
        node.process().kill().unwrap();
    }
    for node in nodes {
        node.process().start_again().unwrap();
    }
}

async fn network(way: &Proxy, trouble: Trouble, time: Duration) {
    match trouble {
        Trouble::Cut => way.cut(),
        Trouble::Forget => way.forget(),
        Trouble::Stall => {
            way.set(Weather::Stalled);
            pass(time).await;
            way.set(Weather::Clear);
        }
        Trouble::BlackHole => {
            way.set(Weather::BlackHole);
            pass(time).await;
            way.set(Weather::Clear);
        }
    }
}

/// Lets a time pass: what is tested is that it may.
pub(super) async fn pass(time: Duration) {
    let since = Instant::now();
    let passed = async || if since.elapsed() >= time { Ok(()) } else { Err("not yet") };
    wait::until(time + SOON, "time to pass", passed).await.unwrap();
}
