//! The two faults of the quickstart, struck at moments that prove something.
//!
//! First an agent is killed that holds a shard with bytes in flight. To be certain of that and not just likely: all
//! agents are stopped for a moment, the destination is asked what it took in and did not commit, the cluster is asked
//! who holds it, and one that holds such a shard is killed without ever going on. When its units have gone to others,
//! the leading coordinator is killed.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::future::try_join_all;
use indicatif::HumanBytes;
use pgconvoy_proto::v1::{Event, Task, TaskStatus};
use tokio::time::{MissedTickBehavior, interval};

use super::api::Api;
use super::cluster::{Cluster, Member};
use super::screen::Screen;
use super::witness::{InFlight, Witness};
use crate::wait;

/// How often the destination is asked: a small shard is there for some tens of milliseconds only.
const LOOK_EVERY: Duration = Duration::from_millis(4);
/// A lease time (10 s), what the scheduler needs, and a machine that is busy.
const MOVE_LIMIT: Duration = Duration::from_secs(120);
/// Some elections.
const ELECTION_LIMIT: Duration = Duration::from_secs(60);

/// What the faults did, and what they cost.
pub(super) struct Struck {
    pub(super) agent: AgentKilled,
    /// From the agent's end until its last unit had gone to another agent.
    pub(super) moved_after: Duration,
    pub(super) leader: LeaderKilled,
}

pub(super) struct AgentKilled {
    pub(super) name: String,
    pub(super) held: Vec<Held>,
    at: Instant,
}

/// A shard that was half copied.
pub(super) struct Held {
    pub(super) unit: u32,
    pub(super) subject: String,
    pub(super) bytes: u64,
}

impl AgentKilled {
    /// Bytes that were taken in and are rolled back.
    pub(super) fn bytes(&self) -> u64 {
        self.held.iter().map(|held| held.bytes).sum()
    }
}

pub(super) struct LeaderKilled {
    pub(super) node: u64,
    pub(super) successor: u64,
    /// Until another node led and answered.
    pub(super) away: Duration,
}

/// Everything that a fault needs to see and to reach.
pub(super) struct Striker<'a> {
    pub(super) screen: &'a Screen,
    pub(super) cluster: &'a Cluster,
    pub(super) api: &'a Api,
    pub(super) witness: &'a Witness,
    pub(super) task: &'a str,
    /// A shard with less than this in flight is left to go on: the smallest ones would prove little.
    pub(super) bytes_min: u64,
}

impl Striker<'_> {
    /// Both faults, one after the other.
    pub(super) async fn strike(&self) -> anyhow::Result<Struck> {
        let agent = self.kill_an_agent().await?;
        self.units_moved(&agent).await?;
        let moved_after = agent.at.elapsed();
        let leader = self.kill_the_leader().await?;
        Ok(Struck { agent, moved_after, leader })
    }

    async fn kill_an_agent(&self) -> anyhow::Result<AgentKilled> {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for look in 0_u32.. {
            looks.tick().await;
            let in_flight = self.witness.in_flight().await?;
            if in_flight.values().any(|bytes| *bytes >= self.bytes_min) {
                if let Some(killed) = self.strike_while_they_stand().await? {
                    return Ok(killed);
                }
            } else if look.is_multiple_of(256) && ended(&self.api.task(self.task).await?) {
                bail!("the task ended before an agent was seen with bytes in flight");
            }
        }
        unreachable!("the looks do not end")
    }

    /// Stops all agents and kills one that holds a shard half copied; none if every shard had just been finished.
    async fn strike_while_they_stand(&self) -> anyhow::Result<Option<AgentKilled>> {
        try_join_all(self.cluster.agents.iter().map(|agent| agent.process.pause())).await?;
        let in_flight = self.witness.settled().await?;
        let victim = self.holder(&self.api.task(self.task).await?, &in_flight);
        let killed = match victim {
            None => None,
            Some((agent, held)) => {
                let pid = agent.process.pid()?;
                agent.process.kill()?;
                let killed = AgentKilled { name: agent.name.clone(), held, at: Instant::now() };
                self.screen.highlight(
                    "KILLED",
                    &format!(
                        "{} (SIGKILL, process {pid}) with {} shards half copied, {} in flight",
                        killed.name,
                        killed.held.len(),
                        HumanBytes(killed.bytes()),
                    ),
                );
                Some(killed)
            }
        };
        for agent in &self.cluster.agents {
            if killed.as_ref().is_none_or(|killed| killed.name != agent.name) {
                agent.process.go_on()?;
            }
        }
        Ok(killed)
    }

    /// The agent with the most bytes in flight, and its shards.
    fn holder(&self, task: &Task, in_flight: &InFlight) -> Option<(&Member, Vec<Held>)> {
        let held_by = |agent: &Member| -> Vec<Held> {
            let running = task.running.iter().filter(|unit| unit.agent == agent.name);
            running
                .filter_map(|unit| {
                    let bytes = *in_flight.get(&unit.unit)?;
                    Some(Held { unit: unit.unit, subject: unit.subject.clone(), bytes })
                })
                .collect()
        };
        self.cluster
            .agents
            .iter()
            .map(|agent| (agent, held_by(agent)))
            .filter(|(_, held)| !held.is_empty())
            .max_by_key(|(_, held)| held.iter().map(|held| held.bytes).sum::<u64>())
    }

    /// Waits until each unit of the killed agent has gone to another one.
    async fn units_moved(&self, killed: &AgentKilled) -> anyhow::Result<()> {
        let what = format!("the units of {} to go to other agents", killed.name);
        wait::until(MOVE_LIMIT, &what, async || {
            let events = self.api.events(self.task).await.map_err(|error| format!("{error:#}"))?;
            let moved = |held: &Held| moves(&events).any(|event| event.unit == Some(held.unit));
            let waiting: Vec<u32> =
                killed.held.iter().filter(|held| !moved(held)).map(|held| held.unit).collect();
            if waiting.is_empty() { Ok(()) } else { Err(format!("units {waiting:?} wait")) }
        })
        .await?;
        Ok(())
    }

    async fn kill_the_leader(&self) -> anyhow::Result<LeaderKilled> {
        let node = self.api.leader().await?;
        let leader = self.cluster.coordinators.iter().find(|member| member.node == Some(node));
        let leader = leader.with_context(|| format!("no process is node {node}"))?;
        let pid = leader.process.pid()?;
        leader.process.kill()?;
        let at = Instant::now();
        self.screen.highlight(
            "KILLED",
            &format!("{} (SIGKILL, process {pid}), which led the cluster", leader.name),
        );
        let successor = wait::until(ELECTION_LIMIT, "another node to lead and to answer", async || {
            let successor = self.api.leader().await.map_err(|error| format!("{error:#}"))?;
            // A read of the task is one that only a leader with a quorum answers.
            self.api.task(self.task).await.map_err(|error| format!("{error:#}"))?;
            if successor == node { Err("nobody noticed yet".to_owned()) } else { Ok(successor) }
        })
        .await?;
        Ok(LeaderKilled { node, successor, away: at.elapsed() })
    }
}

/// The events that tell of a unit of a lost agent which went to another one.
pub(super) fn moves(events: &[Event]) -> impl Iterator<Item = &Event> {
    events.iter().filter(|event| event.kind == "unit_moved")
}

/// Whether a task goes on no more.
pub(super) fn ended(task: &Task) -> bool {
    match task.status() {
        TaskStatus::Done | TaskStatus::Failed | TaskStatus::Cancelled => true,
        TaskStatus::Unspecified
        | TaskStatus::Created
        | TaskStatus::Running
        | TaskStatus::Paused => false,
    }
}
