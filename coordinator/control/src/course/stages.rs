//! The order of stages, and what each begins with.

use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::unit::UnitKind;

use super::group::groups;
use super::{cutover, open, survey, verify};
use crate::state::clerk::Clerk;
use crate::state::record::TaskRecord;
use crate::state::unit::Subject;
use crate::state::{EventKind, Stage, Table, TaskStatus, UnitState};

/// Moves the task on over every stage that has nothing left to do.
pub(super) fn advance(clerk: &mut Clerk<'_>) {
    if clerk.record().status.has_ended() {
        return;
    }
    loop {
        let stage = clerk.record().stage;
        let finished = match stage {
            // Its gate moves the task on.
            Stage::Precheck | Stage::Ended => return,
            // Its steps move it on, or back; one of them compares.
            Stage::Cutover => {
                if cutover::is_comparing(clerk) && verify::is_over(clerk) {
                    cutover::compared(clerk);
                }
                return;
            }
            Stage::SchemaPre => open(clerk, UnitKind::SchemaPre) == 0,
            Stage::OpenStream => open(clerk, UnitKind::OpenStream) == 0,
            Stage::Survey => open(clerk, UnitKind::Survey) == 0,
            Stage::Copy => [UnitKind::Survey, UnitKind::Plan, UnitKind::Copy]
                .into_iter()
                .all(|kind| open(clerk, kind) == 0),
            Stage::Audit | Stage::LastAudit => open(clerk, UnitKind::Audit) == 0,
            Stage::Index | Stage::LateIndex => open(clerk, UnitKind::Index) == 0,
            Stage::CatchUp => clerk.record().following.checkpoint.consistent,
            // It has no end of its own.
            Stage::Stream => open(clerk, UnitKind::Stream) == 0,
            Stage::SchemaPost => open(clerk, UnitKind::SchemaPost) == 0,
            Stage::Settle => {
                open(clerk, UnitKind::Sequences) == 0 && open(clerk, UnitKind::Analyze) == 0
            }
            Stage::Verify => verify::is_over(clerk),
            Stage::Finish => open(clerk, UnitKind::Finish) == 0,
        };
        if !finished {
            return;
        }
        let later = next(stage, clerk.record());
        enter(clerk, later);
    }
}

/// The stage after this one, of those asked for.
pub(super) fn next(stage: Stage, record: &TaskRecord) -> Stage {
    let (schema, rows) = (record.moves_schema(), record.moves_rows());
    let (moves, follows) = (record.migrates(), record.follows());
    let course = [
        (Stage::SchemaPre, moves && schema),
        (Stage::OpenStream, follows),
        (Stage::Survey, rows),
        (Stage::Copy, moves && rows),
        (Stage::Audit, moves && rows),
        (Stage::Index, moves && rows && schema),
        (Stage::CatchUp, follows),
        (Stage::LateIndex, follows && schema),
        // Without the schema, what is there already shows the rows.
        (Stage::SchemaPost, moves),
        (Stage::Settle, moves && rows),
        (Stage::Verify, record.verify.is_some()),
        (Stage::LastAudit, moves && rows && !follows),
        (Stage::Stream, follows),
        (Stage::Finish, true),
    ];
    let mut later = course.into_iter().filter(|(later, asked)| *later > stage && *asked);
    later.next().map_or(Stage::Ended, |(next, _)| next)
}

/// Begins a stage: makes its units.
pub(super) fn enter(clerk: &mut Clerk<'_>, stage: Stage) {
    clerk.set_stage(stage);
    match stage {
        Stage::Precheck => {}
        Stage::SchemaPre => {
            clerk.add_unit(Subject::SchemaPre);
        }
        Stage::OpenStream => {
            clerk.add_unit(Subject::OpenStream);
        }
        Stage::Survey => survey::begin(clerk),
        // The survey made the units that plan, and those make the ones that copy.
        Stage::Copy => {}
        Stage::Audit | Stage::LastAudit => {
            if clerk.record().live_tables().any(|(_, table)| table.shard_count() > 0) {
                clerk.add_unit(Subject::Audit);
            }
        }
        Stage::Index => make_index_units(clerk, Entries::BeforeChanges),
        Stage::CatchUp => {
            let unit = clerk.add_unit(Subject::Stream);
            clerk.record().following.unit = Some(unit);
        }
        Stage::LateIndex => make_index_units(clerk, Entries::AfterConsistency),
        // The stream runs already, and a cutover is begun by its user.
        Stage::Stream | Stage::Cutover => {}
        Stage::SchemaPost => {
            clerk.add_unit(Subject::SchemaPost);
        }
        Stage::Settle => {
            clerk.add_unit(Subject::Sequences);
            let tables = clerk.record().live_tables().map(sized).collect();
            for group in groups(tables) {
                clerk.add_unit(Subject::Analyze(group));
            }
        }
        Stage::Verify => verify::begin(clerk),
        Stage::Finish => {
            clerk.add_unit(Subject::Finish);
        }
        Stage::Ended => end(clerk),
    }
}

/// The statements of a large table run side by side, those of small ones in groups. Those of a table that is gone at the
/// source too: it stands at the destination, and foreign keys that come later may need them.
fn make_index_units(clerk: &mut Clerk<'_>, entries: Entries) {
    let late = entries == Entries::AfterConsistency;
    let tables = clerk
        .record()
        .all_tables()
        .filter(|(_, table)| !entries.of(table).is_empty())
        .map(sized)
        .collect();
    for group in groups(tables) {
        match &*group {
            [table] => {
                let entries = clerk.record().table(*table).map(|table| entries.of(table).to_vec());
                for entry in entries.unwrap_or_default() {
                    index_unit(clerk, Subject::Index { table: *table, entry });
                }
            }
            _ => index_unit(clerk, Subject::Indexes { tables: group, late }),
        }
    }
}

/// Which of a table's index statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entries {
    /// Those that come before any change is applied.
    BeforeChanges,
    /// Those that wait until the table is consistent.
    AfterConsistency,
}

impl Entries {
    fn of(self, table: &Table) -> &[u32] {
        match self {
            Self::BeforeChanges => &table.surveyed.index_entries,
            Self::AfterConsistency => &table.surveyed.late_entries,
        }
    }
}

fn index_unit(clerk: &mut Clerk<'_>, subject: Subject) {
    for table in tables_of(&subject) {
        clerk.edit_table(table, |table| table.index_open += 1);
    }
    clerk.add_unit(subject);
}

/// The tables that a unit is about.
pub(super) fn tables_of(subject: &Subject) -> Vec<TableNo> {
    match subject {
        Subject::Plan(tables)
        | Subject::Indexes { tables, .. }
        | Subject::Analyze(tables)
        | Subject::VerifyPlan(tables) => tables.to_vec(),
        Subject::Copy { table, .. }
        | Subject::Index { table, .. }
        | Subject::VerifyRows { table, .. } => vec![*table],
        Subject::Precheck
        | Subject::SchemaPre
        | Subject::OpenStream
        | Subject::Stream
        | Subject::Cutover
        | Subject::Survey { .. }
        | Subject::Audit
        | Subject::SchemaPost
        | Subject::Sequences
        | Subject::VerifySchema
        | Subject::VerifySequences
        | Subject::Finish => Vec::new(),
    }
}

pub(super) fn sized((no, table): (TableNo, &Table)) -> (u64, TableNo) {
    (table.surveyed.bytes, no)
}

/// The task is done; where it compared and found differences, they are its cause. A precheck that a user asked for beside it ends with it.
pub(super) fn end(clerk: &mut Clerk<'_>) {
    let at = clerk.at;
    let record = clerk.record();
    record.status = TaskStatus::Done;
    record.ended = Some(at);
    record.cleaned_up = true;
    let differs = verify::differs(clerk);
    let told = differs.as_ref().map_or("done", |failure| failure.message.as_str()).to_owned();
    clerk.record().cause = differs;
    clerk.tell(EventKind::TaskDone, told);
    drop_prechecks(clerk);
    super::revoke_all(clerk, crate::state::Afterwards::Dropped);
}

/// Those that are not leased; a leased one is revoked.
fn drop_prechecks(clerk: &mut Clerk<'_>) {
    let index = clerk.task.index.kind(UnitKind::Precheck);
    let ready = index.ready.iter().map(|(_, no)| *no);
    let left: Vec<_> = ready.chain(index.back_off.iter().map(|(_, no)| *no)).collect();
    for no in left {
        clerk.set(no, UnitState::Dropped);
    }
}

#[cfg(test)]
mod tests {
    use pgconvoy_shared::failure::{Failure, FailureClass};
    use pgconvoy_shared::unit::UnitKind;

    use crate::apply::story::Story;
    use crate::state::{EventKind, Phase, TaskStatus};
    use crate::view::TableStatus;

    #[test]
    fn a_task_runs_through_all_its_stages_to_the_end() {
        let tables = [("public.orders", 3), ("public.items", 2), ("public.empty", 0)];
        let mut story = Story::copying(&tables).with_agents(&["a"]);
        assert_eq!(story.finish_all("a", UnitKind::Copy), 5);
        assert_eq!(story.view().tables[0].status, TableStatus::Copied);
        assert_eq!(story.finish_all("a", UnitKind::Audit), 1);
        assert_eq!(story.view().tables[0].status, TableStatus::Indexing);
        assert_eq!(story.finish_all("a", UnitKind::Index), 1, "small tables share a unit");
        assert_eq!(story.finish_all("a", UnitKind::SchemaPost), 1);
        assert_eq!(story.finish_all("a", UnitKind::Sequences), 1);
        assert_eq!(story.finish_all("a", UnitKind::Analyze), 1);
        assert_eq!(story.status(), TaskStatus::Running);
        assert_eq!(story.finish_all("a", UnitKind::Audit), 1, "a crash may have taken some");
        assert_eq!(story.finish_all("a", UnitKind::Finish), 1);
        let view = story.view();
        assert_eq!((view.status, view.phase), (TaskStatus::Done, Phase::Done));
        assert_eq!((view.rows_done, view.rows_total), (50, 50));
        assert!(view.cleaned_up && view.ended.is_some());
        let phases: Vec<_> = view.phase_times.iter().map(|time| time.phase).collect();
        assert_eq!(phases, [Phase::Precheck, Phase::Schema, Phase::Copy, Phase::Index]);
        assert!(view.phase_times.iter().all(|time| time.ended.is_some()));
        assert_eq!(story.event(EventKind::TaskDone), "done");
        assert!(story.state.busy.is_empty());
    }

    /// However the precheck that a user asked for meanwhile stands.
    #[test]
    fn a_precheck_beside_the_work_neither_fails_nor_outlives_the_task() {
        let waits = Failure::transient("connection_lost", "the connection broke");
        let failed = Failure::definite("insufficient_privilege", "may not read");
        for failure in [None, Some(waits), Some(failed)] {
            let gives_up =
                failure.as_ref().is_some_and(|failure| failure.class == FailureClass::Definite);
            let mut story = Story::copying(&[("public.orders", 1)]).with_agents(&["a"]);
            story.precheck();
            if let Some(failure) = failure {
                let held = story.lease("a", UnitKind::Precheck);
                story.fail(&held, failure);
            }
            assert_eq!(story.status(), TaskStatus::Running);
            let kinds = [UnitKind::Copy, UnitKind::Audit, UnitKind::Index, UnitKind::SchemaPost];
            let last = [UnitKind::Sequences, UnitKind::Analyze, UnitKind::Audit, UnitKind::Finish];
            for kind in kinds.into_iter().chain(last) {
                story.finish_all("a", kind);
            }
            assert_eq!(story.status(), TaskStatus::Done);
            let prechecks = story.counts(UnitKind::Precheck);
            assert_eq!(prechecks.total, prechecks.done, "none is left open");
            let report = story.view().precheck;
            let told = report.iter().find(|item| item.code == "insufficient_privilege");
            assert_eq!(told.is_some(), gives_up, "who waits for it is told");
        }
    }
}
