//! What a unit does: begins at the databases, works for a while, sends its statement, hears the answer. It can be stopped,
//! overtaken or cut off between any two of these.

use pgconvoy_control::command::ReportBody;
use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::UnitId;
use pgconvoy_shared::unit::{Checkpoint, Ended, ResultPart, Work, WorkResult};

use super::network::ToLeader;
use super::world::{Event, World};

/// A run, unique in its world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RunKey(pub(super) u64);

#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) key: RunKey,
    pub(super) epoch: Epoch,
}

/// What the databases know of a run: enough to carry its statement out after its agent is gone.
#[derive(Debug, Clone)]
pub(super) struct Statement {
    pub(super) unit: UnitId,
    pub(super) epoch: Epoch,
    pub(super) life: u64,
    pub(super) work: Work,
    pub(super) answer: Option<Answer>,
}

#[derive(Debug, Clone)]
pub(super) enum Answer {
    /// The unit is over.
    Ends { parts: Vec<ResultPart>, ended: Ended },
    /// It is so far, and goes on.
    GoesOn(Checkpoint),
}

impl World {
    pub(super) fn begin(&mut self, agent: usize, unit: UnitId, epoch: Epoch, work: Work) {
        let key = RunKey(self.databases.statements.len() as u64);
        let life = self.agents[agent].life;
        let lost = self.import(agent, &unit, &work);
        let statement = Statement { unit: unit.clone(), epoch, life, work, answer: None };
        self.databases.statements.insert(key, statement);
        if let Some(lost) = lost {
            self.agents[agent].report_end(unit, epoch, 0, lost);
            return;
        }
        if let Err(reused) = self.databases.end_older_owners(&unit, epoch, key) {
            self.oracle.violate("an_epoch_is_used_once", reused);
        }
        self.agents[agent].runs.insert(unit, Run { key, epoch });
        let long = !self.healing && self.chance.happens(60);
        let ms =
            if long { self.chance.between(5_000, 20_000) } else { self.chance.between(10, 2_500) };
        self.after(ms, Event::Step { agent, run: key });
    }

    /// Holds the shared snapshot, imports it from whoever has it, or says that it is gone.
    fn import(&mut self, agent: usize, unit: &UnitId, work: &Work) -> Option<Ended> {
        let shard = match work {
            Work::Copy(shard) => shard,
            Work::VerifyRows(rows) => &rows.shard,
            _ => return None,
        };
        let shared = shard.snapshot.as_ref()?;
        let round = shared.round;
        let keeps = |agent: &super::agent::Agent| {
            agent.keepers.get(&unit.task).is_some_and(|(kept, _)| *kept == round)
        };
        if keeps(&self.agents[agent]) {
            return None;
        }
        let exported = |id| self.agents.iter().any(|other| other.id == id && keeps(other));
        if !shared.exports.iter().any(|export| exported(export.agent.clone())) {
            let gone = shared.exports.iter().map(|export| export.agent.clone()).collect();
            return Some(Ended::SnapshotLost { round, gone });
        }
        let moment = shared.snapshot.parse().expect("a moment");
        let this = &mut self.agents[agent];
        this.keepers.insert(unit.task.clone(), (round, moment));
        let incarnation = this.life;
        let export = format!("{}-{round}", this.id);
        self.send_to_leader(
            agent,
            ToLeader::Keeper { incarnation, task: unit.task.clone(), round, export },
        );
        None
    }

    /// The run's place in its agent, if it is still there and may go on.
    fn live(&mut self, agent: usize, key: RunKey) -> Option<UnitId> {
        let this = &mut self.agents[agent];
        if !this.believes(self.now) {
            this.stop_all();
        }
        let found = this.runs.iter().find(|(_, run)| run.key == key);
        found.map(|(unit, _)| unit.clone())
    }

    fn end_run(&mut self, agent: usize, unit: UnitId, parts: Vec<ResultPart>, ended: Ended) {
        let this = &mut self.agents[agent];
        let Some(run) = this.runs.remove(&unit) else { return };
        let count = parts.len() as u32;
        for (no, part) in (0u32..).zip(parts) {
            this.report(unit.clone(), run.epoch, ReportBody::Part { no, part });
        }
        this.report_end(unit, run.epoch, count, ended);
    }

    pub(super) fn unit_step(&mut self, agent: usize, key: RunKey) {
        let Some(unit) = self.live(agent, key) else { return };
        if let Some(ended) = self.misfortune(key) {
            return self.end_run(agent, unit, vec![], ended);
        }
        let slow = !self.healing && self.chance.happens(30);
        let ms = if slow { self.chance.between(1_000, 15_000) } else { self.chance.between(1, 30) };
        self.after(ms, Event::AtDatabases { agent, run: key });
    }

    fn misfortune(&mut self, key: RunKey) -> Option<Ended> {
        if self.healing {
            return None;
        }
        let failed = |class: fn(&'static str, &'static str) -> Failure| {
            Some(Ended::Failed(class("misfortune", "bad luck")))
        };
        match self.chance.between(0, 999) {
            0..40 => failed(Failure::transient),
            40..60 => failed(Failure::other),
            60..63 => failed(Failure::definite),
            63..75 => Some(Ended::Released),
            75..90 => {
                let (table, planned) = match &self.databases.statements[&key].work {
                    Work::Copy(shard) => (shard.table.no, true),
                    Work::Plan(tables) => (tables.last()?.no, false),
                    _ => return None,
                };
                let failure = if !planned || self.chance.happens(200) {
                    Failure::definite("table_rewritten", "rewritten since the snapshot")
                } else {
                    Failure::other("columns_changed", "a column was added")
                };
                Some(Ended::TableChanged { table, failure })
            }
            _ => None,
        }
    }

    pub(super) fn at_databases(&mut self, agent: usize, key: RunKey) {
        let answer = self.databases.carry_out(key, &mut self.chance);
        let (answer, snapshot) = match answer {
            Ok(answer) => answer,
            Err((invariant, details)) => return self.oracle.violate(invariant, details),
        };
        let statement = self.databases.statements.get_mut(&key).expect("it was carried out");
        if let Answer::GoesOn(checkpoint) = &answer {
            self.oracle.durable(&statement.unit.task, checkpoint.applied);
        }
        let this = &mut self.agents[agent];
        if let Some((round, moment)) = snapshot.filter(|_| this.life == statement.life) {
            this.keepers.insert(statement.unit.task.clone(), (round, moment));
        }
        let lost = !self.healing && self.chance.happens(40);
        statement.answer = Some(if lost {
            let failure = Failure::transient("connection_lost", "the reply was lost");
            Answer::Ends { parts: vec![], ended: Ended::Failed(failure) }
        } else {
            name_exporter(answer, &this.id)
        });
        let ms = self.chance.between(1, 30);
        self.after(ms, Event::Answered { agent, run: key });
    }

    pub(super) fn answered(&mut self, agent: usize, key: RunKey) {
        let Some(unit) = self.live(agent, key) else { return };
        let statement = self.databases.statements.get_mut(&key).expect("it was carried out");
        match statement.answer.take() {
            Some(Answer::Ends { parts, ended }) => self.end_run(agent, unit, parts, ended),
            Some(Answer::GoesOn(checkpoint)) => {
                let epoch = statement.epoch;
                self.agents[agent].report(unit, epoch, ReportBody::Checkpoint(checkpoint));
                let ms = self.chance.between(200, 3_000);
                self.after(ms, Event::Step { agent, run: key });
            }
            None => {}
        }
    }
}

/// The surveying agent exports the snapshot it took.
fn name_exporter(mut answer: Answer, id: &pgconvoy_shared::ids::AgentId) -> Answer {
    if let Answer::Ends { ended: Ended::Done(WorkResult::Survey(done)), .. } = &mut answer
        && let Some(shared) = &mut done.snapshot
    {
        for export in &mut shared.exports {
            export.agent = id.clone();
        }
    }
    answer
}
