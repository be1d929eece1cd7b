//! Where faults strike: everything that takes part in one migration.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pgconvoy_integration_tests::convoy::Coordinator;
use pgconvoy_integration_tests::net::{Proxy, Trap, Weather};
use pgconvoy_integration_tests::process::Finished;
use pgconvoy_integration_tests::wait;
use tokio::sync::Mutex;

use super::fault::{End, Fault, Trouble};
use crate::faults::COMMIT;
use crate::world::{DATABASE, Fleet, Gate, LIMIT, Pair, Roads, SOON, WRITTEN, told};

pub(super) const AGENTS: [&str; 3] = ["anna", "bert", "carl"];

/// All that faults can touch.
pub(super) struct Stage<'a> {
    pair: &'a Pair,
    roads: &'a Roads,
    fleet: &'a Fleet,
    task: &'a str,
    /// Where shards are held until the last fault is over.
    gate: Mutex<Option<Gate>>,
    traps: Mutex<Vec<Trap>>,
    /// The way of those who write at the source, where somebody does.
    writers: Option<&'a Proxy>,
}

impl<'a> Stage<'a> {
    pub(super) fn new(
        pair: &'a Pair,
        roads: &'a Roads,
        fleet: &'a Fleet,
        task: &'a str,
        gate: Option<Gate>,
    ) -> Self {
        let (gate, traps) = (Mutex::new(gate), Mutex::default());
        Stage { pair, roads, fleet, task, gate, traps, writers: None }
    }

    /// Somebody writes at the source, by this way.
    pub(super) fn with_writers(self, way: &'a Proxy) -> Self {
        Stage { writers: Some(way), ..self }
    }

    /// The shards that were held may end. Answers to their commits may still be lost.
    pub(super) async fn peace(&self) {
        // A pause may have outlived its resume. Refused where there was none.
        self.fleet.run(&["task", "resume", self.task]).await;
        if let Some(gate) = self.gate.lock().await.take() {
            gate.open().await;
        }
    }

    /// One fault, or two at once; which of them struck.
    pub(super) async fn strike_with(&self, fault: Fault, second: Option<Fault>) -> Vec<Fault> {
        let also = async {
            match second {
                Some(second) => self.strike(second).await,
                None => false,
            }
        };
        let (struck, also_struck) = tokio::join!(self.strike(fault), also);
        let first = struck.then_some(fault);
        first.into_iter().chain(second.filter(|_| also_struck)).collect()
    }

    /// Returns when it is healed; false where it did not strike.
    async fn strike(&self, fault: Fault) -> bool {
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
            Fault::KillOwner => {
                let Some(owner) = self.owner().await else { return false };
                convoy.agent(&owner).kill().unwrap();
                convoy.agent(&owner).start_again().unwrap();
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
                return self.run(&["cluster", "transfer-leader"]).await;
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
                let paused = self.run(&["task", "pause", self.task]).await;
                self.run(&["task", "resume", self.task]).await;
                return paused;
            }
            Fault::LoseAnswersOfWriters(times) => {
                let Some(way) = self.writers else { return false };
                let trap = way.lose_answers_to(WRITTEN, times);
                self.traps.lock().await.push(trap);
            }
            Fault::CutWriters => {
                let Some(way) = self.writers else { return false };
                way.cut();
            }
            Fault::ReplaceNode => self.replace_node().await,
            Fault::CopyAnew(table) => {
                // Refused before the source is followed, and while nobody leads.
                return self.run(&["task", "resync", self.task, table]).await;
            }
        }
        true
    }

    async fn run(&self, command: &[&str]) -> bool {
        self.fleet.run(command).await.code() == Some(0)
    }

    /// The agent that follows the source.
    async fn owner(&self) -> Option<String> {
        let task = self.fleet.convoy.task(self.task).await.ok()?;
        let mut running = task.running.into_iter();
        running.find(|unit| unit.kind == "stream").map(|unit| unit.agent)
    }

    /// A follower leaves, and comes back as one that knows nothing.
    async fn replace_node(&self) {
        let convoy = &self.fleet.convoy;
        let node = convoy.coordinator(convoy.leader().await.unwrap() % 3 + 1);
        let id = node.id().to_string();
        let transfer = ["cluster", "transfer-leader"];
        // Refused while nobody leads, while another change is under way, and if it leads by now.
        wait::until(LIMIT, "the node to be removed", async || {
            let asked = self.fleet.run(&["cluster", "remove-node", &id]).await;
            if asked.log.contains("node_leads") {
                self.fleet.run(&transfer).await;
            }
            done_or(&asked, "not_member")
        })
        .await
        .unwrap();
        node.process().kill().unwrap();
        std::fs::remove_dir_all(convoy.folder().join(node.process().name())).unwrap();
        node.process().start_again().unwrap();
        let place = format!("{id}={}", node.address());
        wait::until(LIMIT, "the node to be taken in", async || {
            done_or(&self.fleet.run(&["cluster", "add-node", &place]).await, "already_member")
        })
        .await
        .unwrap();
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
            let mut gate = self.gate.lock().await;
            if gate.is_some() {
                *gate = Some(Gate::shut(server).await);
            }
        }
        self.way(end).set(Weather::Clear);
    }
}

/// It is done, or found done: an answer may have been lost.
fn done_or(asked: &Finished, found: &str) -> Result<(), String> {
    if asked.code() == Some(0) || asked.log.contains(found) { Ok(()) } else { Err(told(asked)) }
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
