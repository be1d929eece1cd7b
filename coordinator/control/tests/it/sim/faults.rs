//! What goes wrong, what users do meanwhile, and how it heals.

use pgconvoy_control::command::Command;
use pgconvoy_control::state::{State, TaskStatus};
use pgconvoy_shared::ids::TaskId;
use pgconvoy_shared::unit::{SnapshotMode, UnitKind};

use super::leader::Tag;
use super::raft::Node;
use super::world::{Event, World, task};

#[derive(Debug)]
pub(super) enum Fault {
    Elect(usize),
    RestartNode(usize),
    PauseNode(usize, u64),
    KillAgent(usize, u64),
    PauseAgent(usize, u64),
    Cut(usize, usize, u64),
    CloseKeepers(usize),
    Write(usize),
    ForgetShard(usize),
    User(UserDoes),
}

#[derive(Debug)]
pub(super) enum UserDoes {
    Pause(usize),
    Resume(usize),
    Precheck(usize),
    Cancel(usize),
    Drain(usize),
    Undrain(usize),
}

impl World {
    pub(super) fn fault(&mut self) {
        if self.healing {
            return;
        }
        let ms = self.chance.between(200, 4_000);
        self.after(ms, Event::Fault);
        let node = self.chance.index(self.nodes.len());
        let agent = self.chance.index(self.agents.len());
        let task = self.chance.index(self.tasks.len());
        let long = self.chance.between(500, 25_000);
        let fault = match self.chance.between(0, 99) {
            0..14 => Fault::Elect(node),
            14..18 => Fault::RestartNode(node),
            18..24 => Fault::PauseNode(node, long),
            24..36 => Fault::KillAgent(agent, long / 5),
            36..48 => Fault::PauseAgent(agent, long),
            48..60 => Fault::Cut(agent, node, long),
            60..66 => Fault::CloseKeepers(agent),
            66..72 => Fault::Write(task),
            72..77 => Fault::ForgetShard(task),
            77..82 => Fault::User(UserDoes::Pause(task)),
            82..88 => Fault::User(UserDoes::Resume(task)),
            88..91 => Fault::User(UserDoes::Precheck(task)),
            91 => Fault::User(UserDoes::Cancel(task)),
            92..96 => Fault::User(UserDoes::Drain(agent)),
            _ => Fault::User(UserDoes::Undrain(agent)),
        };
        self.fault_now(fault);
        if self.latest_leader().is_none() {
            self.fault_now(Fault::Elect(node));
        }
    }

    pub(super) fn strike(&mut self, fault: Fault) {
        let now = self.now;
        match fault {
            Fault::Elect(node) => self.elect(node),
            Fault::RestartNode(node) => {
                let clock = self.nodes[node].clock;
                self.nodes[node] = Node::new(clock);
            }
            Fault::PauseNode(node, ms) => self.nodes[node].paused_until = now + ms,
            Fault::KillAgent(agent, ms) => {
                let life = self.chance.number();
                self.agents[agent].die(life);
                // Its successor, now and then, dies with its first word.
                if self.chance.happens(300) {
                    self.connect(agent);
                    let life = self.chance.number();
                    self.agents[agent].die(life);
                }
                self.agents[agent].paused_until = now + ms;
            }
            Fault::PauseAgent(agent, ms) => self.agents[agent].paused_until = now + ms,
            Fault::Cut(agent, node, ms) => {
                self.network.cut.insert((agent, node), now + ms);
            }
            Fault::CloseKeepers(agent) => self.agents[agent].keepers.clear(),
            Fault::Write(task) => {
                let task = self.tasks[task].clone();
                self.databases.write(&task, &mut self.chance);
            }
            Fault::ForgetShard(task) => {
                let task = self.tasks[task].clone();
                if rows_are_still_copied(&self.oracle.state, &task) {
                    self.databases.forget_shard(&task, &mut self.chance);
                }
            }
            Fault::User(does) => self.user_does(does),
        }
    }

    fn user_does(&mut self, does: UserDoes) {
        let task = |no: usize| self.tasks[no].clone();
        let agent = |no: usize| self.agents[no].id.clone();
        let command = match does {
            UserDoes::Pause(no) => Command::PauseTask { task: task(no) },
            UserDoes::Resume(no) => resume(task(no)),
            UserDoes::Precheck(no) => Command::PrecheckTask { task: task(no) },
            UserDoes::Cancel(no) => Command::CancelTask { task: task(no) },
            UserDoes::Drain(no) => Command::DrainAgent { agent: agent(no) },
            UserDoes::Undrain(no) => Command::UndrainAgent { agent: agent(no) },
        };
        self.ask_leader(vec![command]);
    }

    fn ask_leader(&mut self, commands: Vec<Command>) {
        if let Some(node) = self.latest_leader()
            && self.nodes[node].paused_until <= self.now
        {
            self.propose(node, commands.into_iter().map(|command| (command, Tag::None)).collect());
        }
    }

    /// Somebody looks after the tasks now and then; while the world heals, until all is well.
    pub(super) fn operator_looks(&mut self) {
        self.after(2_000, Event::OperatorLooks);
        if !self.healing && !self.chance.happens(300) {
            return;
        }
        let mut commands = Vec::new();
        for task in &self.tasks {
            match self.oracle.state.task_status(task) {
                Some(TaskStatus::Failed) => commands.push(resume(task.clone())),
                Some(TaskStatus::Cancelled) if self.healing => {
                    commands.push(Command::CancelTask { task: task.clone() });
                }
                Some(TaskStatus::Paused) if self.healing => commands.push(resume(task.clone())),
                // What follows has no end of its own.
                Some(TaskStatus::Running) if self.healing && self.oracle.follows(task) => {
                    commands.push(Command::CancelTask { task: task.clone() });
                }
                _ => {}
            }
        }
        if self.healing {
            commands.extend(
                self.agents.iter().map(|agent| Command::UndrainAgent { agent: agent.id.clone() }),
            );
        }
        if !commands.is_empty() {
            self.ask_leader(commands);
        }
    }

    /// Everything that was broken works from now on.
    pub(super) fn heal(&mut self) {
        self.note("healing".to_owned());
        self.healing = true;
        self.network.cut.clear();
        self.nodes.iter_mut().for_each(|node| node.paused_until = 0);
        self.agents.iter_mut().for_each(|agent| agent.paused_until = 0);
        let node = self.chance.index(self.nodes.len());
        self.elect(node);
        // What the first entries held may have been lost with their leader.
        let missing: Vec<_> = (0u64..)
            .zip(&self.tasks)
            .filter(|(_, task)| self.oracle.state.task_status(task).is_none())
            .map(|(no, _)| task(no, SnapshotMode::Task))
            .map(|create| Command::CreateTask(Box::new(create)))
            .collect();
        if !missing.is_empty() {
            self.ask_leader(missing);
        }
    }
}

fn resume(task: TaskId) -> Command {
    let (acknowledge, passwords) = Default::default();
    Command::ResumeTask { task, acknowledge, passwords }
}

/// What the destination forgets now will be missed by the audit that follows.
fn rows_are_still_copied(state: &State, task: &TaskId) -> bool {
    state
        .unit_counts(task)
        .iter()
        .any(|count| count.kind == UnitKind::Copy && count.done < count.total)
}
