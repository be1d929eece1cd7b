//! What an agent is told: a leased unit with all that is needed to run it.

use std::sync::Arc;

use pgconvoy_shared::cutover::CutoverOrder;
use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::ids::{AgentId, Incarnation, TableNo, UnitId};
use pgconvoy_shared::secret::Sealed;
use pgconvoy_shared::spec::TaskSpec;
use pgconvoy_shared::time::Timestamp;
use pgconvoy_shared::unit::{
    AuditTable, CopyShard, IndexBuild, PlanTable, PlannedShard, SnapshotMode, StreamOrder, Survey,
    VerifyRows, Work,
};
use pgconvoy_shared::verify::Purpose;

use crate::state::clerk::Task;
use crate::state::record::TaskRecord;
use crate::state::{Cutover, State, Subject, Table};

/// A lease as it is sent. Passwords are still sealed.
#[derive(Debug, Clone)]
pub struct Order {
    /// Which unit.
    pub unit: UnitId,
    /// Under which epoch.
    pub epoch: Epoch,
    /// Whose.
    pub agent: AgentId,
    /// In which life.
    pub incarnation: Incarnation,
    /// Its task's specification.
    pub spec: Arc<TaskSpec>,
    /// To open for the agent alone.
    pub source_password: Option<Sealed>,
    /// To open for the agent alone.
    pub destination_password: Option<Sealed>,
    /// What to do.
    pub work: Work,
    /// What its task is there for.
    pub purpose: Purpose,
}

/// The order for a unit that is leased and not revoked.
#[must_use]
pub fn order(state: &State, id: &UnitId) -> Option<Order> {
    let task = state.tasks.get(&id.task)?;
    let record = &task.record;
    let unit = record.unit(id.no)?;
    let lease = unit.lease().filter(|lease| lease.revoked.is_none())?;
    Some(Order {
        unit: id.clone(),
        epoch: unit.epoch,
        agent: lease.agent.clone(),
        incarnation: lease.incarnation,
        spec: Arc::clone(&record.spec),
        source_password: record.source_password.clone(),
        destination_password: record.destination_password.clone(),
        work: work(task, &unit.subject, lease.since)?,
        purpose: record.purpose,
    })
}

/// None = the unit is about a table that is not planned, which invariants rule out for a leased one.
fn work(task: &Task, subject: &Subject, leased: Timestamp) -> Option<Work> {
    let record = &task.record;
    Some(match subject {
        Subject::Precheck => Work::Precheck { verified: record.verify.is_some() },
        Subject::SchemaPre => Work::SchemaPre,
        Subject::OpenStream => Work::OpenStream,
        Subject::Stream => Work::Stream(StreamOrder {
            opened: record.following.opened?,
            checkpoint: record.following.checkpoint,
            resume: tables(task, Table::is_to_resume),
            hold: tables(task, Table::is_to_hold),
            gone: record.all_tables().filter(|(_, table)| table.gone).map(|(no, _)| no).collect(),
            cutovers_over: record.cutover.as_deref().map_or(0, Cutover::attempts_over),
        }),
        Subject::Cutover => Work::Cutover(Box::new(cutover(record, leased)?)),
        Subject::Survey { round } => Work::Survey(survey(record, *round)),
        Subject::Plan(tables) => {
            Work::Plan(tables.iter().filter_map(|no| plan_table(record, *no)).collect())
        }
        Subject::Copy { table, shard } => {
            let table = record.table(*table)?;
            let planned = table.shards.get(*shard as usize)?;
            Work::Copy(Box::new(CopyShard {
                table: table.plan.as_deref()?.clone(),
                shard: *shard,
                part: planned.part.clone(),
                snapshot: record.snapshot.shared.clone(),
                barrier: table.barrier().or(record.following.opened.map(|opened| opened.barrier)),
                bytes: planned.bytes,
            }))
        }
        Subject::Audit => Work::Audit(
            record
                .live_tables()
                .filter(|(_, table)| table.shard_count() > 0)
                .map(|(no, table)| AuditTable {
                    no,
                    generation: table.generation,
                    shards: table.shard_count(),
                })
                .collect(),
        ),
        Subject::Indexes { tables, late } => {
            let of = tables.iter().filter_map(|no| record.table(*no)).map(|table| &table.surveyed);
            let entries =
                of.flat_map(|of| if *late { &of.late_entries } else { &of.index_entries });
            let entries = entries.copied();
            let subject = record.table(*tables.first()?)?.surveyed.name.to_string();
            Work::Index(IndexBuild { subject, entries: entries.collect() })
        }
        Subject::Index { table, entry } => Work::Index(IndexBuild {
            subject: record.table(*table)?.surveyed.name.to_string(),
            entries: vec![*entry],
        }),
        Subject::SchemaPost => Work::SchemaPost,
        Subject::Sequences => Work::Sequences,
        Subject::Analyze(tables) => Work::Analyze(
            tables.iter().filter_map(|no| Some(record.table(*no)?.surveyed.name.clone())).collect(),
        ),
        Subject::VerifyPlan(tables) => {
            Work::VerifyPlan(tables.iter().filter_map(|no| plan_table(record, *no)).collect())
        }
        Subject::VerifyRows { table, shard } => {
            let check = &record.table(*table)?.check;
            let snapshot = record.snapshot.shared.clone();
            let mut table = check.plan.as_deref()?.clone();
            // Of a moment of its own, whatever file the table has by then is the right one.
            table.filenode = table.filenode.filter(|_| snapshot.is_some());
            let PlannedShard { part, bytes, .. } = check.shards.get(*shard as usize)?.clone();
            let shard = CopyShard { table, shard: *shard, part, snapshot, barrier: None, bytes };
            let sample = record.compares().unwrap_or_default().sample;
            Work::VerifyRows(Box::new(VerifyRows { shard, sample }))
        }
        Subject::VerifySchema => Work::VerifySchema,
        Subject::VerifySequences => Work::VerifySequences,
        Subject::Finish => Work::Finish,
    })
}

/// Tables that the stream treats in another way than most.
fn tables(task: &Task, are: impl Fn(&Table) -> bool) -> Vec<TableNo> {
    let those = |no: &TableNo| task.record.table(*no).is_some_and(&are);
    task.index.aside.iter().copied().filter(those).collect()
}

/// Times are told as what is left of them: agents have clocks of their own.
fn cutover(record: &TaskRecord, leased: Timestamp) -> Option<CutoverOrder> {
    let cutover = record.cutover.as_deref()?;
    let timeout_ms = cutover.settings.timeout_ms;
    Some(CutoverOrder {
        step: cutover.step,
        attempt: cutover.attempt,
        settings: cutover.settings.clone(),
        setting_before: cutover.setting_before.clone(),
        fence: cutover.fence,
        marker: cutover.marker,
        left_ms: cutover.deadline.map_or(timeout_ms, |deadline| deadline.since_ms(leased)),
    })
}

fn survey(record: &TaskRecord, round: u32) -> Survey {
    let lost = record.snapshot.shared.as_ref().filter(|_| !record.snapshot.unusable);
    let mode = if record.shares_snapshot() { SnapshotMode::Task } else { SnapshotMode::Shard };
    Survey { mode, round, lost: lost.map(|shared| shared.snapshot.clone()) }
}

fn plan_table(record: &TaskRecord, no: TableNo) -> Option<PlanTable> {
    let table = record.table(no)?;
    Some(PlanTable {
        no,
        name: table.surveyed.name.clone(),
        generation: table.generation,
        bytes: table.surveyed.bytes,
        filenode: table.surveyed.filenode,
        anew: table.anew.is_some(),
    })
}
