//! The course of a task: which units follow which.
//!
//! ```text
//! precheck ─▶ gate ─▶ schema_pre ─▶ survey ─▶ plan* ─▶ copy* ─▶ audit ─▶ index* ─▶ schema_post ─▶ sequences, analyze*
//!   ─▶ verify_plan* ─▶ verify_rows*, verify_schema, verify_sequences ─▶ audit ─▶ finish
//! ```
//!
//! Where changes are followed, a stream is opened before the survey. Its one long unit begins once the indexes that it needs
//! are there, and runs beside all that comes after: when it has made the rows those of one moment, what had to wait for that
//! goes on (indexes that copied rows of different moments could violate, then the rest as above), and in the end nothing is
//! left but to follow ([`stream`]), until the destination takes over ([`cutover`]).
//!
//! A stage begins by making its units, and ends when none of them is open; so no unit waits for another one, and what is
//! ready is found without a walk over a graph. Stages that were not asked for are left out. Three things lead back: an audit
//! that misses shards (to copy, also at the end), a snapshot whose keepers are all gone (a survey beside the copy stage), and a table that is
//! not as planned (planned anew within the copy stage). A table that is gone at the source takes no part from then on.
//!
//! Units of the next stage are made also while a task is paused or has failed, when a late result completes the one before:
//! what may be leased is decided by the task's status ([`crate::state::record::TaskRecord::may_run`]).

mod aside;
mod audit;
mod copy;
mod cutover;
mod gate;
mod gone;
mod group;
mod lease_end;
mod life;
mod plan;
mod snapshot;
mod stages;
mod stream;
mod survey;
mod verify;

use std::sync::Arc;

use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::UnitNo;
use pgconvoy_shared::unit::{ResultPart, UnitKind, WorkResult};

use crate::state::clerk::Clerk;
use crate::state::unit::Subject;
use crate::state::{EventKind, Tally, TaskStatus, UnitState};

pub(crate) use aside::{parking, resume_table, resync_table};
pub(crate) use cutover::{
    LeftFence, begin as begin_cutover, interrupted as cutover_interrupted, leave_fence,
};
pub(crate) use gate::{acknowledge, ensure_precheck};
pub(crate) use gone::table_gone;
pub(crate) use lease_end::{dropped, failed, lease_lost, released, revoke_all, table_changed};
pub(crate) use life::{cancel, finish_again, resume, start};
pub(crate) use snapshot::{exports_gone, snapshot_lost};
pub(crate) use stream::{checkpoint, noted};
pub(crate) use verify::differences;

/// Takes a result in. An error means that it does not fit the unit: the agent's own bug, treated as a failure of the unit.
pub(crate) fn done(
    clerk: &mut Clerk<'_>,
    no: UnitNo,
    result: &WorkResult,
    parts: &[Arc<ResultPart>],
) -> Result<(), Box<Failure>> {
    let Some(subject) = clerk.record().unit(no).map(|unit| unit.subject.clone()) else {
        debug_assert!(false, "the unit was looked up before");
        return Ok(());
    };
    match (&subject, result) {
        (Subject::Precheck, WorkResult::Precheck(items)) => gate::prechecked(clerk, no, items),
        (Subject::OpenStream, WorkResult::OpenStream(opened)) => {
            stream::opened(clerk, no, *opened)?
        }
        (Subject::Cutover, WorkResult::Cutover(done)) => cutover::stepped(clerk, no, done)?,
        (Subject::Survey { .. }, WorkResult::Survey(found)) => {
            survey::surveyed(clerk, no, found, parts)?;
        }
        (Subject::Plan(tables), WorkResult::Plan) => plan::planned(clerk, no, tables, parts)?,
        (Subject::Copy { table, shard }, WorkResult::Copy(copied)) => {
            copy::copied(clerk, no, (*table, *shard), copied);
        }
        (Subject::Audit, WorkResult::Audit { missing }) => audit::audited(clerk, no, missing)?,
        (Subject::VerifyPlan(tables), WorkResult::VerifyPlan) => {
            verify::planned(clerk, no, tables, parts)?;
        }
        (Subject::VerifyRows { table, .. }, WorkResult::VerifyRows(found)) => {
            verify::compared(clerk, no, *table, found);
        }
        (Subject::VerifySchema, WorkResult::VerifySchema(found)) => {
            settle(clerk, no);
            clerk.record().schema_compared = Some(Arc::new(found.clone()));
        }
        (Subject::VerifySequences, WorkResult::VerifySequences(found)) => {
            settle(clerk, no);
            clerk.record().sequences_compared = Some(Arc::new(found.clone()));
        }
        (Subject::Indexes { .. } | Subject::Index { .. }, WorkResult::Index) => {
            settle(clerk, no);
            for table in stages::tables_of(&subject) {
                clerk.edit_table(table, |table| {
                    table.index_open = table.index_open.saturating_sub(1);
                });
            }
        }
        (Subject::Finish, WorkResult::Finish) => {
            settle(clerk, no);
            if clerk.record().status == TaskStatus::Cancelled {
                clerk.record().cleaned_up = true;
                clerk.tell(EventKind::CleanedUp, "nothing of the task is left at the databases");
            }
        }
        (Subject::SchemaPre, WorkResult::SchemaPre { .. })
        | (Subject::SchemaPost, WorkResult::SchemaPost { .. })
        | (Subject::Sequences, WorkResult::Sequences { .. })
        | (Subject::Analyze(_), WorkResult::Analyze) => settle(clerk, no),
        (subject, _) => {
            return Err(bad_result(format!(
                "a {} unit was answered with another kind's result",
                subject.kind().as_str()
            )));
        }
    }
    stages::advance(clerk);
    Ok(())
}

/// A unit is done, and there is nothing to count.
fn settle(clerk: &mut Clerk<'_>, no: UnitNo) {
    settle_with(clerk, no, Tally::default());
}

fn settle_with(clerk: &mut Clerk<'_>, no: UnitNo, tally: Tally) {
    clerk.edit_unit(no, |unit| {
        unit.state = UnitState::Done(tally);
        unit.trouble = None;
    });
}

pub(crate) fn bad_result(message: impl Into<String>) -> Box<Failure> {
    let failure = Failure::other("bad_result", message);
    Box::new(failure.remedy(
        "agents and coordinators are of versions that do not fit; see `pgconvoy agents list`",
    ))
}

/// Units of a kind that are neither done nor dropped.
fn open(clerk: &Clerk<'_>, kind: UnitKind) -> u32 {
    clerk.task.index.kind(kind).open()
}
