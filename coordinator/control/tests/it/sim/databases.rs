//! A source and a destination for each task: as much of them as the laws speak of.
//!
//! The destination fences by generation and by `shard_progress` (laws O1, O2) and ends older owners of a unit (O5); the
//! source has a moment that moves on with each write. What must never be seen from here is a violation.

use std::collections::{BTreeMap, BTreeSet};

use pgconvoy_control::state::State;
use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{TableNo, TaskId, UnitId};
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::unit::{
    AuditTable, Checkpoint, CopyDone, CopyShard, Ended, Export, PlanTable, ResultPart,
    SharedSnapshot, SnapshotMode, Survey, SurveyDone, Work, WorkResult,
};

use super::chance::Chance;
use super::unit_run::{Answer, RunKey, Statement};
use crate::fixtures;

#[derive(Default)]
pub(super) struct Databases {
    by_task: BTreeMap<TaskId, Db>,
    pub(super) statements: BTreeMap<RunKey, Statement>,
}

#[derive(Default)]
struct Db {
    /// Grows with each write at the source.
    moment: u64,
    tables: BTreeSet<u32>,
    next_table: u32,
    generations: BTreeMap<TableNo, u32>,
    /// Done shards, with the moment that their rows show.
    progress: BTreeMap<(TableNo, u32, u32), Option<u64>>,
    owners: BTreeMap<UnitId, (Epoch, RunKey)>,
    /// How far the source's changes are applied.
    applied: Lsn,
    /// The run that removed everything of the task.
    finished_by: Option<RunKey>,
}

type Snapshot = Option<(u32, u64)>;

const SYSTEM_IDENTIFIER: u64 = 42;

impl Databases {
    pub(super) fn create(&mut self, task: &TaskId, chance: &mut Chance) {
        let count = chance.between(1, 6) as u32;
        let db = Db { moment: 1, tables: (0..count).collect(), next_table: count, ..Db::default() };
        self.by_task.insert(task.clone(), db);
    }

    /// A new owner ends what the older ones left; its epoch is newer than theirs, or it is the one that comes too late.
    pub(super) fn end_older_owners(
        &mut self,
        unit: &UnitId,
        epoch: Epoch,
        key: RunKey,
    ) -> Result<(), String> {
        let owners = &mut self.by_task.get_mut(&unit.task).expect("a task").owners;
        match owners.get(unit) {
            Some((known, other)) if *known == epoch && *other != key => {
                Err(format!("unit {unit} began twice under epoch {epoch}"))
            }
            Some((known, _)) if *known > epoch => Ok(()),
            Some(_) | None => {
                owners.insert(unit.clone(), (epoch, key));
                Ok(())
            }
        }
    }

    /// Somebody writes at the source; now and then a table comes or goes.
    pub(super) fn write(&mut self, task: &TaskId, chance: &mut Chance) {
        let db = self.by_task.get_mut(task).expect("a task");
        db.moment += 1;
        if chance.happens(100) {
            db.tables.insert(db.next_table);
            db.next_table += 1;
        }
        if chance.happens(100) && db.tables.len() > 1 {
            db.tables.pop_first();
        }
    }

    /// The destination forgets a shard, as one restored from a backup would.
    pub(super) fn forget_shard(&mut self, task: &TaskId, chance: &mut Chance) {
        let db = self.by_task.get_mut(task).expect("a task");
        if !db.progress.is_empty() {
            let at = chance.index(db.progress.len());
            let key = *db.progress.keys().nth(at).expect("below the length");
            db.progress.remove(&key);
        }
    }

    /// What the task is to have brought there is there, once, and of one moment if it was to be.
    pub(super) fn check_complete(&self, task: &TaskId, state: &State) -> Result<(), String> {
        let db = &self.by_task[task];
        let mut moments = BTreeSet::new();
        for (no, table) in (0u32..).map(TableNo).zip(state.tables(task)) {
            if table.gone {
                continue;
            }
            for shard in 0..table.shard_count() {
                match db.progress.get(&(no, table.generation.0, shard)) {
                    None => {
                        return Err(format!("shard {shard} of table {no} of {task} is missing"));
                    }
                    Some(moment) => moments.extend(*moment),
                }
            }
        }
        if moments.len() > 1 {
            return Err(format!("rows of {task} show the moments {moments:?}"));
        }
        if db.finished_by.is_none() {
            return Err(format!("{task} was not finished"));
        }
        Ok(())
    }

    /// Carries a run's statement out: also one whose agent has died since.
    pub(super) fn carry_out(
        &mut self,
        key: RunKey,
        chance: &mut Chance,
    ) -> Result<(Answer, Snapshot), (&'static str, String)> {
        let statement = &self.statements[&key];
        let db = self.by_task.get_mut(&statement.unit.task).expect("a task");
        let owner = db.owners.get(&statement.unit);
        if owner.is_some_and(|(epoch, _)| *epoch > statement.epoch) {
            return Ok((refusal("ended_by_new_owner", "session was ended"), None));
        }
        if let Some(finish) = db.finished_by.filter(|_| writes(&statement.work)) {
            // Those that had begun were ended with their sessions; nobody else begins (law O9).
            if key > finish {
                let details = format!("{:?} of {} began", statement.work.kind(), statement.unit);
                return Err(("nobody_writes_after_the_end", details));
            }
            return Ok((refusal("task_row_gone", "the task has ended here"), None));
        }
        let mut parts = Vec::new();
        let mut snapshot = None;
        let result = match &statement.work {
            Work::Precheck { .. } => WorkResult::Precheck(vec![]),
            Work::SchemaPre => WorkResult::SchemaPre { entries_run: 1, entries_kept: 1 },
            Work::Survey(survey) => {
                parts.push(db.list());
                snapshot = (survey.mode == SnapshotMode::Task).then_some((survey.round, db.moment));
                WorkResult::Survey(db.survey(survey))
            }
            Work::Plan(tables) => match db.plan(tables, chance) {
                Ok(planned) => {
                    parts = planned;
                    WorkResult::Plan
                }
                Err(ended) => return Ok((*ended, None)),
            },
            Work::Copy(shard) => match db.copy(shard)? {
                Ok(done) => WorkResult::Copy(done),
                Err(ended) => return Ok((ended, None)),
            },
            Work::Audit(tables) => WorkResult::Audit { missing: db.missing(tables) },
            Work::Index(_) => WorkResult::Index,
            Work::SchemaPost => WorkResult::SchemaPost { entries_run: 1 },
            Work::Sequences => WorkResult::Sequences { count: 1 },
            Work::Analyze(_) => WorkResult::Analyze,
            Work::Stream(order) => {
                if order.checkpoint.applied > db.applied.max(order.opened.start) {
                    let details = format!("{} goes on from what is not there", statement.unit);
                    return Err(("a_checkpoint_is_durable", details));
                }
                db.applied = Lsn(db.applied.max(order.opened.start).0 + chance.between(0, 100));
                let consistent = order.checkpoint.consistent || chance.happens(300);
                return Ok((Answer::GoesOn(Checkpoint { applied: db.applied, consistent }), None));
            }
            Work::OpenStream
            | Work::Cutover(_)
            | Work::VerifyPlan(_)
            | Work::VerifyRows(_)
            | Work::VerifySchema
            | Work::VerifySequences => {
                // What came of a comparison is no law of the control plane: any answer does.
                let agent = fixtures::agent_id("nobody");
                let (more, result) = fixtures::answer(&statement.work, &agent, 2);
                parts = more;
                result
            }
            Work::Finish => {
                db.finished_by = Some(key);
                WorkResult::Finish
            }
        };
        Ok((Answer::Ends { parts, ended: Ended::Done(result) }, snapshot))
    }
}

/// What leaves something at the destination. A survey does where the task moves rows alone.
fn writes(work: &Work) -> bool {
    match work {
        Work::SchemaPre
        | Work::OpenStream
        | Work::Stream(_)
        | Work::Survey(_)
        | Work::Plan(_)
        | Work::Copy(_)
        | Work::Index(_)
        | Work::SchemaPost
        | Work::Sequences
        | Work::Analyze(_) => true,
        Work::Precheck { .. }
        | Work::Cutover(_)
        | Work::Audit(_)
        | Work::VerifyPlan(_)
        | Work::VerifyRows(_)
        | Work::VerifySchema
        | Work::VerifySequences
        | Work::Finish => false,
    }
}

fn refusal(code: &'static str, message: &'static str) -> Answer {
    Answer::Ends { parts: vec![], ended: Ended::Failed(Failure::transient(code, message)) }
}

impl Db {
    fn list(&self) -> ResultPart {
        let tables = self.tables.iter();
        ResultPart::Tables(
            tables.map(|no| fixtures::surveyed(*no, u64::from(no % 4) << 25)).collect(),
        )
    }

    fn survey(&self, survey: &Survey) -> SurveyDone {
        let text = self.moment.to_string();
        let continues = survey.lost.as_ref() == Some(&text);
        // Who surveys is named on the way to it.
        let export = Export { agent: fixtures::agent_id("surveyor"), id: "export".into() };
        let shared = SharedSnapshot {
            round: survey.round,
            snapshot: text,
            noted_lsn: Lsn(self.moment),
            exports: vec![export],
        };
        let snapshot = (survey.mode == SnapshotMode::Task).then_some(shared);
        SurveyDone {
            system_identifier: SYSTEM_IDENTIFIER,
            snapshot,
            continues,
            left_out: 0,
            left_out_names: vec![],
        }
    }

    fn plan(
        &mut self,
        tables: &[PlanTable],
        chance: &mut Chance,
    ) -> Result<Vec<ResultPart>, Box<Answer>> {
        let mut parts = Vec::new();
        for table in tables {
            self.must_have(table.no, &table.name)?;
            let known = self.generations.entry(table.no).or_default();
            if *known > table.generation.0 {
                return Err(Box::new(refusal("stale_generation", "planned anew since")));
            }
            if *known < table.generation.0 {
                *known = table.generation.0;
                self.progress.retain(|(no, _, _), _| *no != table.no);
            }
            parts.push(ResultPart::Plan(fixtures::plan_of(table)));
            let shards = chance.between(0, 5) as u32;
            let shards = (0..shards).map(|shard| fixtures::shard(table.no, shard));
            parts.push(ResultPart::Shards(shards.collect()));
        }
        Ok(parts)
    }

    /// Who comes to lock a table that was dropped finds it gone.
    fn must_have(&self, table: TableNo, name: &QualifiedName) -> Result<(), Box<Answer>> {
        if self.tables.iter().any(|no| fixtures::surveyed(*no, 0).name == *name) {
            return Ok(());
        }
        let ended = Ended::TableGone { table, system_identifier: SYSTEM_IDENTIFIER };
        Err(Box::new(Answer::Ends { parts: vec![], ended }))
    }

    fn copy(
        &mut self,
        shard: &CopyShard,
    ) -> Result<Result<CopyDone, Answer>, (&'static str, String)> {
        let (no, generation) = (shard.table.no, shard.table.generation.0);
        if let Err(gone) = self.must_have(no, &shard.table.name) {
            return Ok(Err(*gone));
        }
        let known = self.generations.get(&no).copied().unwrap_or_default();
        if known != generation {
            return Ok(Err(refusal("stale_generation", "planned anew since")));
        }
        let moment = shard.snapshot.as_ref().map(|s| s.snapshot.parse().expect("a moment"));
        let key = (no, generation, shard.shard);
        let found_done = self.progress.contains_key(&key);
        if let Some(known) = self.progress.get(&key)
            && *known != moment
        {
            let details = format!("table {no}, shard {}: {known:?} and {moment:?}", shard.shard);
            return Err(("a_shard_shows_one_moment", details));
        }
        self.progress.insert(key, moment);
        let snapshot = moment.unwrap_or(self.moment).to_string();
        Ok(Ok(CopyDone { rows: 11, bytes: 900, snapshot, noted_lsn: Lsn(self.moment), found_done }))
    }

    fn missing(&self, tables: &[AuditTable]) -> Vec<(TableNo, u32)> {
        let all = tables
            .iter()
            .flat_map(|table| (0..table.shards).map(|shard| (table.no, table.generation.0, shard)));
        all.filter(|key| !self.progress.contains_key(key))
            .map(|(table, _, shard)| (table, shard))
            .collect()
    }
}
