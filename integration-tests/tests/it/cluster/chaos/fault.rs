//! What can go wrong, and in which order it does.

use std::fmt;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::stage::AGENTS;

/// One thing that goes wrong. All of them heal at once or after a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    KillAgent(usize),
    EndAgent(usize),
    FreezeAgent(usize, Duration),
    KillLeader,
    KillFollower,
    KillAllNodes,
    FreezeNode(u64, Duration),
    NodeLink(u64, Trouble, Duration),
    HandOver,
    Crash(End),
    Restart(End),
    EndSessions,
    Way(End, Trouble, Duration),
    LoseAnswers(usize),
    PauseTask,
    /// A node is taken out of the cluster, and a new, empty one takes its place.
    ReplaceNode,
    /// The agent that follows the source.
    KillOwner,
    /// The source writes what its writers said, and so many of them are not told.
    LoseAnswersOfWriters(usize),
    /// The writers' connections break.
    CutWriters,
    /// A table is copied anew while the others are followed.
    CopyAnew(&'static str),
}

/// One of the two databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Destination,
}

/// What a network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Connections break; new ones may be made.
    Cut,
    /// Connections break, and the server hears nothing of it.
    Forget,
    /// All stands still for a while, and goes on.
    Stall,
    /// All that is said for a while is lost, and then the connections.
    BlackHole,
}

/// What a fault touches: two that touch the same are not mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Agents,
    Cluster,
    Source,
    Destination,
}

impl Fault {
    /// Six to nine faults, each of another kind.
    pub(super) fn schedule(random: &mut StdRng) -> Vec<Fault> {
        let mut faults = Self::each_once(random);
        faults.shuffle(random);
        faults.truncate(random.random_range(6..=9));
        faults
    }

    /// All of them in some order, those included that want a source which is followed.
    pub(super) fn round(random: &mut StdRng, tables: &[&'static str]) -> Vec<Fault> {
        let mut faults = Self::each_once(random);
        let lost = Fault::LoseAnswersOfWriters(random.random_range(1..=6));
        faults.extend([Fault::ReplaceNode, Fault::KillOwner, Fault::CutWriters, lost]);
        // More than one: what else strikes meanwhile matters.
        faults.extend(tables.sample(random, 3).map(|table| Fault::CopyAnew(table)));
        faults.shuffle(random);
        faults
    }

    /// One that strikes a cutover.
    pub(super) fn at_cutover(random: &mut StdRng) -> Fault {
        let mut faults = Self::each_once(random);
        faults.push(Fault::KillOwner);
        // A pause would only be refused, or wait.
        faults.retain(|fault| *fault != Fault::PauseTask);
        *faults.choose(random).expect("there are some")
    }

    fn each_once(random: &mut StdRng) -> Vec<Fault> {
        let mut agent = || random.random_range(0..AGENTS.len());
        let (killed, ended, frozen) = (agent(), agent(), agent());
        let mut node = || random.random_range(1..=3);
        let (still, cut) = (node(), node());
        let mut short = || Duration::from_millis(random.random_range(200..3_000));
        let [still_for, cut_for, stall_for, hole_for] = [short(), short(), short(), short()];
        // Sometimes within a lease of 10 s, sometimes beyond it.
        let frozen_for = match random.random_bool(0.3) {
            true => Duration::from_millis(random.random_range(10_500..12_000)),
            false => Duration::from_millis(random.random_range(200..3_000)),
        };
        let mut end = || if random.random_bool(0.5) { End::Source } else { End::Destination };
        let ends = [end(), end(), end(), end(), end(), end()];
        let node_trouble =
            if random.random_bool(0.5) { Trouble::Stall } else { Trouble::BlackHole };
        vec![
            Fault::KillAgent(killed),
            Fault::EndAgent(ended),
            Fault::FreezeAgent(frozen, frozen_for),
            Fault::KillLeader,
            Fault::KillFollower,
            Fault::KillAllNodes,
            Fault::FreezeNode(still, still_for),
            Fault::NodeLink(cut, node_trouble, cut_for),
            Fault::HandOver,
            Fault::Crash(ends[0]),
            Fault::Restart(ends[1]),
            Fault::EndSessions,
            Fault::Way(ends[2], Trouble::Cut, Duration::ZERO),
            Fault::Way(ends[3], Trouble::Forget, Duration::ZERO),
            Fault::Way(ends[4], Trouble::Stall, stall_for),
            Fault::Way(ends[5], Trouble::BlackHole, hole_for),
            Fault::LoseAnswers(random.random_range(1..=3)),
            Fault::PauseTask,
        ]
    }

    /// As it stands in the tally.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Fault::KillAgent(_) => "agent killed",
            Fault::EndAgent(_) => "agent ended",
            Fault::FreezeAgent(..) => "agent frozen",
            Fault::KillLeader => "leader killed",
            Fault::KillFollower => "follower killed",
            Fault::KillAllNodes => "all nodes killed",
            Fault::FreezeNode(..) => "node frozen",
            Fault::NodeLink(..) => "node cut off",
            Fault::HandOver => "leader handed over",
            Fault::Crash(End::Source) => "source crashed",
            Fault::Crash(End::Destination) => "destination crashed",
            Fault::Restart(End::Source) => "source restarted",
            Fault::Restart(End::Destination) => "destination restarted",
            Fault::EndSessions => "sessions ended",
            Fault::Way(_, Trouble::Cut, _) => "way to a database cut",
            Fault::Way(_, Trouble::Forget, _) => "way to a database forgotten",
            Fault::Way(_, Trouble::Stall, _) => "way to a database stalled",
            Fault::Way(_, Trouble::BlackHole, _) => "way to a database black-holed",
            Fault::LoseAnswers(_) => "answers to commits lost",
            Fault::PauseTask => "task paused and resumed",
            Fault::KillOwner => "agent that follows killed",
            Fault::LoseAnswersOfWriters(_) => "answers to writers lost",
            Fault::CutWriters => "writers' connections cut",
            Fault::ReplaceNode => "node removed and a new one added",
            Fault::CopyAnew(_) => "table copied anew",
        }
    }

    /// Whether the two touch different things.
    pub(super) fn is_apart_from(self, other: Fault) -> bool {
        self.victims().iter().all(|victim| !other.victims().contains(victim))
    }

    fn victims(self) -> &'static [Victim] {
        match self {
            Fault::KillAgent(_)
            | Fault::KillOwner
            | Fault::EndAgent(_)
            | Fault::FreezeAgent(..) => &[Victim::Agents],
            Fault::KillLeader
            | Fault::KillFollower
            | Fault::KillAllNodes
            | Fault::FreezeNode(..)
            | Fault::NodeLink(..)
            | Fault::HandOver
            | Fault::PauseTask
            | Fault::ReplaceNode => &[Victim::Cluster],
            Fault::Crash(end) | Fault::Restart(end) | Fault::Way(end, ..) => match end {
                End::Source => &[Victim::Source],
                End::Destination => &[Victim::Destination],
            },
            Fault::EndSessions => &[Victim::Source, Victim::Destination],
            Fault::LoseAnswers(_) => &[Victim::Destination],
            // Nobody else is touched.
            Fault::CopyAnew(_) | Fault::LoseAnswersOfWriters(_) | Fault::CutWriters => &[],
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, out)
    }
}
