//! The world: everything there is, its time, and the queue of what happens next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use pgconvoy_control::command::CreateTask;
use pgconvoy_control::invariants;
use pgconvoy_control::state::{EventKind, State, TaskStatus};
use pgconvoy_shared::ids::TaskId;
use pgconvoy_shared::unit::SnapshotMode;
use pgconvoy_shared::verify::Purpose;

use super::agent::Agent;
use super::chance::Chance;
use super::databases::Databases;
use super::faults::Fault;
use super::leader::Tag;
use super::network::{Network, ToAgent, ToLeader};
use super::oracle::Oracle;
use super::raft::{Entry, Node, Proposal};
use super::unit_run::RunKey;
use crate::{fixtures, following};

/// Bugs put in on purpose.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bugs {
    /// A new leader counts agents from long before its election.
    pub(super) no_grace: bool,
    /// Agents and destination see the same epoch with each lease of a unit.
    pub(super) epoch_not_raised: bool,
    /// The leader registers who says hello without asking back.
    pub(super) hello_believed: bool,
}

pub(super) const LEASE_MS: u64 = 10_000;
pub(super) const HEARTBEAT_MS: u64 = 2_000;
const CHAOS_MS: u64 = 120_000;
/// Windows, back-offs and leases are all far shorter than this.
const HEALING_MS: u64 = 900_000;
const TRAIL: usize = 60;

/// A clock that is off, and goes a little too fast or too slow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    offset_ms: u64,
    rate_ppm: i64,
}

impl Clock {
    fn new(chance: &mut Chance) -> Self {
        let offset_ms = chance.between(0, 3_600_000);
        Self { offset_ms, rate_ppm: chance.between(0, 20_000) as i64 - 10_000 }
    }

    pub(super) fn read(self, now: u64) -> u64 {
        let drift = i128::from(now) * i128::from(self.rate_ppm) / 1_000_000;
        self.offset_ms + u64::try_from(i128::from(now) + drift).expect("a drift is below the time")
    }
}

/// What happens at a time.
#[derive(Debug)]
pub(super) enum Event {
    LeaderTick(usize),
    AgentTick(usize),
    ToLeader {
        node: usize,
        agent: usize,
        session: u64,
        message: ToLeader,
    },
    ToAgent {
        agent: usize,
        session: u64,
        message: ToAgent,
    },
    Commit(u64),
    Apply(usize),
    /// The quorum is asked whether this node still leads.
    Ask {
        node: usize,
        term: u64,
        waiting: Vec<(usize, u64, u64)>,
    },
    /// It answered.
    Confirmed {
        node: usize,
        term: u64,
        waiting: Vec<(usize, u64, u64)>,
    },
    LearnsOfNewLeader {
        node: usize,
        term: u64,
    },
    Step {
        agent: usize,
        run: RunKey,
    },
    /// The statement of a unit arrives at the databases, whatever became of its agent.
    AtDatabases {
        agent: usize,
        run: RunKey,
    },
    /// Their answer arrives at the agent.
    Answered {
        agent: usize,
        run: RunKey,
    },
    Fault,
    OperatorLooks,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Process {
    Node(usize),
    Agent(usize),
}

pub(super) struct World {
    pub(super) now: u64,
    pub(super) bugs: Bugs,
    pub(super) chance: Chance,
    queue: BTreeMap<(u64, u64), Event>,
    queued: u64,
    pub(super) healing: bool,
    pub(super) nodes: Vec<Node>,
    pub(super) agents: Vec<Agent>,
    pub(super) network: Network,
    pub(super) databases: Databases,
    pub(super) term: u64,
    pub(super) log: Vec<Entry>,
    pub(super) in_flight: VecDeque<Proposal>,
    pub(super) next_proposal: u64,
    pub(super) oracle: Oracle,
    trail: VecDeque<String>,
    pub(super) tasks: Vec<TaskId>,
    fingerprint: u64,
}

impl World {
    pub(super) fn new(seed: u64, bugs: Bugs) -> Self {
        let mut chance = Chance::new(seed);
        let nodes = (0..3).map(|_| Node::new(Clock::new(&mut chance))).collect();
        let agent_count = chance.between(2, 5);
        let agents = (0..agent_count)
            .map(|no| Agent::new(no as usize, Clock::new(&mut chance), chance.number()))
            .collect();
        let mut world = Self {
            now: 0,
            bugs,
            chance,
            queue: BTreeMap::new(),
            queued: 0,
            healing: false,
            nodes,
            agents,
            network: Network::default(),
            databases: Databases::default(),
            term: 0,
            log: Vec::new(),
            in_flight: VecDeque::new(),
            next_proposal: 0,
            oracle: Oracle::default(),
            trail: VecDeque::new(),
            tasks: Vec::new(),
            fingerprint: seed,
        };
        world.elect(0);
        let task_count = world.chance.between(1, 3);
        for no in 0..task_count {
            let mode =
                if world.chance.happens(700) { SnapshotMode::Task } else { SnapshotMode::Shard };
            let create = task(no, mode);
            world.tasks.push(create.id.clone());
            world.databases.create(&create.id, &mut world.chance);
            let command = pgconvoy_control::command::Command::CreateTask(Box::new(create));
            world.propose(0, vec![(command, Tag::None)]);
        }
        for node in 0..world.nodes.len() {
            world.after(world.now + 1, Event::LeaderTick(node));
        }
        for agent in 0..world.agents.len() {
            let first = world.chance.between(1, 3_000);
            world.after(first, Event::AgentTick(agent));
        }
        world.after(1_000, Event::Fault);
        world.after(2_000, Event::OperatorLooks);
        world
    }

    /// A digest of everything that happened, in order.
    pub(super) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Kinds of events that tasks tell of.
    pub(super) fn led_to(&self) -> BTreeSet<EventKind> {
        let events = self.tasks.iter().flat_map(|task| self.oracle.state.events(task, 0));
        events.map(|event| event.kind).collect()
    }

    pub(super) fn run(&mut self) -> Result<(), String> {
        while self.now < CHAOS_MS {
            self.step()?;
        }
        self.heal();
        while self.now < CHAOS_MS + HEALING_MS {
            if self.all_ended() {
                return self.finish();
            }
            self.step()?;
        }
        let standing: Vec<_> = self.tasks.iter().map(|task| self.oracle.describe(task)).collect();
        Err(self.report("every_task_ends", &standing.join("\n")))
    }

    fn all_ended(&self) -> bool {
        let state = &self.oracle.state;
        let ended = |task: &TaskId| {
            matches!(state.task_status(task), Some(TaskStatus::Done | TaskStatus::Cancelled))
                && state.units(task).all(|unit| !unit.is_open())
        };
        self.tasks.iter().all(ended)
    }

    fn finish(&mut self) -> Result<(), String> {
        for task in self.tasks.clone() {
            if self.oracle.state.task_status(&task) == Some(TaskStatus::Done)
                && let Err(what) = self.databases.check_complete(&task, &self.oracle.state)
            {
                return Err(self.report("a_done_task_is_complete", &what));
            }
        }
        for node in 0..self.nodes.len() {
            self.catch_up(node);
        }
        let bytes: BTreeSet<Vec<Vec<u8>>> =
            self.nodes.iter().map(|node| digest(&node.state)).collect();
        if bytes.len() > 1 {
            return Err(self.report("the_same_log_gives_the_same_state", "nodes differ"));
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), String> {
        let ((at, _), event) = self.queue.pop_first().expect("ticks never end");
        self.now = at;
        if let Some(process) = self.runner(&event)
            && let Some(until) = self.asleep(process)
        {
            // A stopped process finds everything when it goes on, in its order.
            self.after(until.saturating_sub(self.now), event);
            return Ok(());
        }
        if !matches!(event, Event::AgentTick(_) | Event::LeaderTick(_)) {
            self.note(format!("{event:?}"));
        }
        self.happen(event);
        self.check_owners();
        self.check_lives();
        match self.oracle.violation.take() {
            None => Ok(()),
            Some((invariant, details)) => Err(self.report(invariant, &details)),
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::LeaderTick(node) => self.leader_tick(node),
            Event::AgentTick(agent) => self.agent_tick(agent),
            Event::ToLeader { node, agent, session, message } => {
                self.leader_receives(node, agent, session, message);
            }
            Event::ToAgent { agent, session, message } => {
                self.agent_receives(agent, session, message);
            }
            Event::Commit(proposal) => self.commit(proposal),
            Event::Apply(node) => self.leader_applies(node),
            Event::Ask { node, term, waiting } => self.ask(node, term, waiting),
            Event::Confirmed { node, term, waiting } => self.confirmed(node, term, waiting),
            Event::LearnsOfNewLeader { node, term } => self.steps_down(node, term),
            Event::Step { agent, run } => self.unit_step(agent, run),
            Event::AtDatabases { agent, run } => self.at_databases(agent, run),
            Event::Answered { agent, run } => self.answered(agent, run),
            Event::Fault => self.fault(),
            Event::OperatorLooks => self.operator_looks(),
        }
    }

    /// Whose process an event needs.
    fn runner(&self, event: &Event) -> Option<Process> {
        match event {
            Event::LeaderTick(node)
            | Event::Apply(node)
            | Event::ToLeader { node, .. }
            | Event::Ask { node, .. }
            | Event::Confirmed { node, .. }
            | Event::LearnsOfNewLeader { node, .. } => Some(Process::Node(*node)),
            Event::AgentTick(agent)
            | Event::ToAgent { agent, .. }
            | Event::Step { agent, .. }
            | Event::Answered { agent, .. } => Some(Process::Agent(*agent)),
            Event::Commit(_) | Event::AtDatabases { .. } | Event::Fault | Event::OperatorLooks => {
                None
            }
        }
    }

    fn asleep(&self, process: Process) -> Option<u64> {
        let until = match process {
            Process::Node(node) => self.nodes[node].paused_until,
            Process::Agent(agent) => self.agents[agent].paused_until,
        };
        (until > self.now).then_some(until)
    }

    /// Something happens so many milliseconds from now.
    pub(super) fn after(&mut self, ms: u64, event: Event) {
        self.queued += 1;
        self.queue.insert((self.now + ms, self.queued), event);
    }

    pub(super) fn note(&mut self, what: String) {
        for byte in what.bytes().chain(self.now.to_le_bytes()) {
            self.fingerprint = (self.fingerprint ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        if self.trail.len() == TRAIL {
            self.trail.pop_front();
        }
        let short: String = what.chars().take(400).collect();
        self.trail.push_back(format!("{:>8} ms  {short}", self.now));
    }

    pub(super) fn report(&self, invariant: &str, details: &str) -> String {
        let trail: Vec<_> = self.trail.iter().map(String::as_str).collect();
        format!("{}\n\n{invariant} is violated: {details}", trail.join("\n"))
    }

    pub(super) fn fault_now(&mut self, fault: Fault) {
        self.note(format!("{fault:?}"));
        self.strike(fault);
    }
}

/// The third task of a world only compares. The second one follows its source where each shard has its own moment.
pub(super) fn task(no: u64, mode: SnapshotMode) -> CreateTask {
    let create = match (no, mode) {
        (1, SnapshotMode::Shard) => following::create(no),
        _ => fixtures::create(no, mode),
    };
    let purpose = if no == 2 { Purpose::Verify } else { Purpose::Migrate };
    CreateTask { purpose, ..create }
}

pub(super) fn digest(state: &State) -> Vec<Vec<u8>> {
    debug_assert_eq!(invariants::check(state), []);
    state.freeze().encode(4_096).collect()
}
