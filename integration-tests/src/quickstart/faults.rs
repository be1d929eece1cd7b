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
use pgconvoy_proto::v1::{Event, ListEventsRequest, Task, TaskStatus};
use tokio::time::{MissedTickBehavior, interval};

use super::screen::Screen;
use super::witness::{InFlight, Witness};
use crate::convoy::Convoy;
use crate::process::Process;
use crate::wait;

/// How often the destination is asked: a small shard is there for some tens of milliseconds only.
const LOOK_EVERY: Duration = Duration::from_millis(4);
/// A lease time (10 s), what the scheduler needs, and a machine that is busy.
const MOVE_LIMIT: Duration = Duration::from_secs(120);

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

    /// How many shards, in words.
    pub(super) fn shards(&self) -> String {
        match self.held.len() {
            1 => "1 shard".to_owned(),
            count => format!("{count} shards"),
        }
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
    pub(super) convoy: &'a Convoy,
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
        for look in 1_u32.. {
            looks.tick().await;
            let in_flight = self.witness.in_flight().await?;
            if in_flight.values().any(|bytes| *bytes >= self.bytes_min) {
                if let Some(killed) = self.strike_while_they_stand().await? {
                    return Ok(killed);
                }
            } else if look.is_multiple_of(256) && ended(&self.convoy.task(self.task).await?) {
                bail!("the task ended before an agent was seen with bytes in flight");
            }
        }
        unreachable!("the looks do not end")
    }

    /// Stops all agents and kills one that holds a shard half copied; none if every shard had just been finished.
    async fn strike_while_they_stand(&self) -> anyhow::Result<Option<AgentKilled>> {
        try_join_all(self.agents().map(|(_, process)| process.pause())).await?;
        let in_flight = self.witness.settled().await?;
        let task = self.convoy.task(self.task).await?;
        let Some((name, process, held)) = self.holder(&task, &in_flight) else {
            self.agents().try_for_each(|(_, process)| process.go_on())?;
            return Ok(None);
        };
        let pid = process.pid()?;
        process.kill()?;
        let killed = AgentKilled { name: name.to_owned(), held, at: Instant::now() };
        self.agents()
            .filter(|(other, _)| *other != name)
            .try_for_each(|(_, process)| process.go_on())?;
        self.screen.highlight(
            "KILLED",
            &format!(
                "{name} (SIGKILL, process {pid}) with {} half copied, {} in flight",
                killed.shards(),
                HumanBytes(killed.bytes()),
            ),
        );
        for held in &killed.held {
            let Held { unit, subject, bytes } = held;
            self.screen.line("", &format!("unit {unit}, {subject}: {}", HumanBytes(*bytes)));
        }
        Ok(Some(killed))
    }

    /// The agent with the most bytes in flight, and its shards.
    fn holder(&self, task: &Task, in_flight: &InFlight) -> Option<(&str, &Process, Vec<Held>)> {
        let held_by = |name: &str| -> Vec<Held> {
            let running = task.running.iter().filter(|unit| unit.agent == name);
            running
                .filter_map(|unit| {
                    let bytes = *in_flight.get(&unit.unit)?;
                    Some(Held { unit: unit.unit, subject: unit.subject.clone(), bytes })
                })
                .collect()
        };
        self.agents()
            .map(|(name, process)| (name, process, held_by(name)))
            .filter(|(_, _, held)| !held.is_empty())
            .max_by_key(|(_, _, held)| held.iter().map(|held| held.bytes).sum::<u64>())
    }

    /// Waits until each unit of the killed agent has gone to another one.
    async fn units_moved(&self, killed: &AgentKilled) -> anyhow::Result<()> {
        let what = format!("the units of {} to go to other agents", killed.name);
        wait::until(MOVE_LIMIT, &what, async || {
            let events =
                events(self.convoy, self.task).await.map_err(|error| format!("{error:#}"))?;
            let moved = |held: &Held| moves(&events).any(|event| event.unit == Some(held.unit));
            let waiting: Vec<u32> =
                killed.held.iter().filter(|held| !moved(held)).map(|held| held.unit).collect();
            if waiting.is_empty() { Ok(()) } else { Err(format!("units {waiting:?} wait")) }
        })
        .await?;
        Ok(())
    }

    async fn kill_the_leader(&self) -> anyhow::Result<LeaderKilled> {
        let node = self.convoy.leader().await?;
        let leader = self.convoy.coordinator(node).process();
        let pid = leader.pid()?;
        leader.kill()?;
        let at = Instant::now();
        let name = leader.name();
        self.screen
            .highlight("KILLED", &format!("{name} (SIGKILL, process {pid}), the cluster's leader"));
        let successor = self.convoy.leader().await?;
        // A read of the task is one that only a leader with a quorum answers.
        self.convoy.task(self.task).await?;
        Ok(LeaderKilled { node, successor, away: at.elapsed() })
    }

    fn agents(&self) -> impl Iterator<Item = (&str, &Process)> {
        self.convoy.agents().map(|name| (name, self.convoy.agent(name)))
    }
}

/// All that happened to the task so far.
pub(super) async fn events(convoy: &Convoy, task: &str) -> anyhow::Result<Vec<Event>> {
    let request = ListEventsRequest { task: task.to_owned(), after: 0, limit: 0 };
    let answer = convoy.tasks().await?.list_events(request).await.context("list the events")?;
    Ok(answer.into_inner().events)
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
