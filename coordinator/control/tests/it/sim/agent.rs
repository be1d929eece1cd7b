//! An agent: its session with the leader, its lease rule, its reports; what a unit does is in `unit_run`.
//!
//! The lease rule is the real one: an answered heartbeat renews all leases for one lease time from when it was *sent*, by
//! the agent's own clock, less a margin for clocks that do not go alike; before each step the deadline is looked at.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use pgconvoy_control::command::ReportBody;
use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::ids::{AgentId, TaskId, UnitId};
use pgconvoy_shared::unit::Ended;

use super::network::{ToAgent, ToLeader};
use super::unit_run::Run;
use super::world::{Clock, Event, HEARTBEAT_MS, LEASE_MS, World};
use crate::fixtures;

/// Part of the lease time that is not used: clocks here differ by up to two in a hundred.
const MARGIN_MS: u64 = LEASE_MS / 10;
const SILENCE_MS: u64 = 4_000;
const RESEND_MS: u64 = 1_000;

pub(super) struct Session {
    pub(super) no: u64,
    pub(super) node: usize,
    welcomed: bool,
    heard: u64,
    next_heartbeat: u64,
    next_resend: u64,
    seq: u64,
    sent: BTreeMap<u64, u64>,
}

pub(super) struct Unacknowledged {
    seq: u64,
    pub(super) unit: UnitId,
    epoch: Epoch,
    pub(super) body: ReportBody,
}

pub(super) struct Agent {
    pub(super) id: AgentId,
    pub(super) clock: Clock,
    pub(super) slots: u32,
    pub(super) life: u64,
    pub(super) paused_until: u64,
    pub(super) session: Option<Session>,
    /// Which life began which session.
    lives: Vec<u64>,
    /// By the agent's clock.
    pub(super) deadline: u64,
    pub(super) runs: BTreeMap<UnitId, Run>,
    /// The latest epoch heard of for each unit: nothing up to it is begun (again).
    seen: BTreeMap<UnitId, Epoch>,
    pub(super) reports: VecDeque<Unacknowledged>,
    report_seq: u64,
    /// Snapshots that a keeper session holds, by task: round and moment.
    pub(super) keepers: BTreeMap<TaskId, (u32, u64)>,
}

impl Agent {
    pub(super) fn new(no: usize, clock: Clock, life: u64) -> Self {
        Self {
            id: fixtures::agent_id(&format!("agent-{no}")),
            clock,
            slots: 3,
            life,
            paused_until: 0,
            session: None,
            lives: Vec::new(),
            deadline: 0,
            runs: BTreeMap::new(),
            seen: BTreeMap::new(),
            reports: VecDeque::new(),
            report_seq: 0,
            keepers: BTreeMap::new(),
        }
    }

    pub(super) fn session_life(&self, session: u64) -> u64 {
        self.lives[session as usize]
    }

    /// The process dies; a new one starts later.
    pub(super) fn die(&mut self, next_life: u64) {
        let lives = std::mem::take(&mut self.lives);
        let (id, slots) = (self.id.clone(), self.slots);
        *self = Self { id, slots, lives, ..Self::new(0, self.clock, next_life) };
    }

    /// It runs, and thinks that it may run its units.
    pub(super) fn believes(&self, now: u64) -> bool {
        self.paused_until <= now && self.clock.read(now) < self.deadline
    }

    pub(super) fn report(&mut self, unit: UnitId, epoch: Epoch, body: ReportBody) {
        self.report_seq += 1;
        self.reports.push_back(Unacknowledged { seq: self.report_seq, unit, epoch, body });
    }

    pub(super) fn report_end(&mut self, unit: UnitId, epoch: Epoch, parts: u32, ended: Ended) {
        self.report(unit, epoch, ReportBody::Ended { parts, ended });
    }

    /// What it runs, or has not been heard on.
    fn running(&self) -> Vec<(UnitId, Epoch)> {
        let runs = self.runs.iter().map(|(unit, run)| (unit.clone(), run.epoch));
        let told = self.reports.iter().map(|report| (report.unit.clone(), report.epoch));
        runs.chain(told).collect()
    }

    pub(super) fn stop_all(&mut self) {
        for (unit, run) in std::mem::take(&mut self.runs) {
            self.report_end(unit, run.epoch, 0, Ended::Released);
        }
    }
}

impl World {
    pub(super) fn agent_tick(&mut self, agent: usize) {
        let ms = self.chance.between(50, 200);
        self.after(ms, Event::AgentTick(agent));
        let this = &mut self.agents[agent];
        let local = this.clock.read(self.now);
        if local >= this.deadline {
            this.stop_all();
        }
        if this.session.as_ref().is_none_or(|session| local >= session.heard + SILENCE_MS) {
            return self.connect(agent);
        }
        let life = this.life;
        let running = this.running();
        let Some(session) = this.session.as_mut().filter(|session| session.welcomed) else {
            return;
        };
        let mut messages = Vec::new();
        if local >= session.next_heartbeat {
            session.next_heartbeat = local + HEARTBEAT_MS;
            session.seq += 1;
            session.sent.insert(session.seq, local);
            let seq = session.seq;
            messages.push(ToLeader::Heartbeat { incarnation: life, seq, running });
        }
        if local >= session.next_resend {
            session.next_resend = local + RESEND_MS;
            // Of each unit the earliest: parts and their end arrive in order also where messages do not.
            let mut units = BTreeSet::new();
            let earliest = this.reports.iter().filter(|report| units.insert(&report.unit));
            messages.extend(earliest.map(|report| ToLeader::Report {
                incarnation: life,
                seq: report.seq,
                unit: report.unit.clone(),
                epoch: report.epoch,
                body: report.body.clone(),
            }));
        }
        for message in messages {
            self.send_to_leader(agent, message);
        }
    }

    pub(super) fn connect(&mut self, agent: usize) {
        let guess = self.chance.index(self.nodes.len());
        let hinted = self.chance.happens(700);
        let node = self.latest_leader().filter(|_| hinted).unwrap_or(guess);
        let this = &mut self.agents[agent];
        let local = this.clock.read(self.now);
        let no = this.lives.len() as u64;
        this.lives.push(this.life);
        this.session = Some(Session {
            no,
            node,
            welcomed: false,
            heard: local,
            next_heartbeat: local,
            next_resend: local,
            seq: 0,
            sent: BTreeMap::new(),
        });
        let hello = ToLeader::Hello { incarnation: this.life, running: this.running() };
        self.send_to_leader(agent, hello);
    }

    pub(super) fn agent_receives(&mut self, agent: usize, session: u64, message: ToAgent) {
        let this = &mut self.agents[agent];
        let local = this.clock.read(self.now);
        let running = this.running();
        let Some(current) = this.session.as_mut().filter(|current| current.no == session) else {
            return;
        };
        current.heard = local;
        match message {
            ToAgent::Refused => this.session = None,
            ToAgent::Challenge { term, question } => {
                let incarnation = this.life;
                let present = ToLeader::Present { term, question, incarnation, running };
                self.send_to_leader(agent, present);
            }
            ToAgent::Welcome => current.welcomed = true,
            ToAgent::HeartbeatAck { seq } => {
                if let Some(sent) = current.sent.remove(&seq) {
                    this.deadline = this.deadline.max(sent + LEASE_MS - MARGIN_MS);
                }
            }
            ToAgent::ReportAck { seq } => {
                current.next_resend = local;
                this.reports.retain(|report| report.seq != seq);
            }
            ToAgent::Lease { unit, epoch, work } => {
                let known = this.seen.get(&unit).is_some_and(|seen| *seen >= epoch);
                let full = this.runs.len() >= this.slots as usize && !this.runs.contains_key(&unit);
                if !known && !full && local < this.deadline {
                    this.seen.insert(unit.clone(), epoch);
                    self.begin(agent, unit, epoch, work);
                }
            }
            ToAgent::Revoke { unit, epoch } => {
                let seen = this.seen.entry(unit.clone()).or_default();
                *seen = epoch.max(*seen);
                let newer = this.runs.get(&unit).is_some_and(|run| run.epoch > epoch);
                let told = this.reports.iter().any(|report| {
                    report.unit == unit
                        && report.epoch == epoch
                        && matches!(report.body, ReportBody::Ended { .. })
                });
                if !newer && !told {
                    this.runs.remove(&unit);
                    this.report_end(unit, epoch, 0, Ended::Released);
                }
            }
        }
    }
}
