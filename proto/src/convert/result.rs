//! What a done unit found out.

use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::unit::{CopyDone, ResultPart, SurveyDone, SurveyedTable, WorkResult};

use super::{WireError, list, optional, required, wire_list};
use crate::v1;
use crate::v1::done::Result as Wire;

impl From<WorkResult> for Wire {
    fn from(result: WorkResult) -> Self {
        match result {
            WorkResult::Precheck(items) => {
                Self::Precheck(v1::PrecheckDone { items: wire_list(items) })
            }
            WorkResult::SchemaPre { entries_run, entries_kept } => {
                Self::SchemaPre(v1::SchemaPreDone { entries_run, entries_kept })
            }
            WorkResult::OpenStream(opened) => Self::OpenStream(opened.into()),
            WorkResult::Survey(survey) => Self::Survey(survey.into()),
            WorkResult::Plan => Self::Plan(v1::PlanDone {}),
            WorkResult::Copy(copy) => Self::Copy(copy.into()),
            WorkResult::Audit { missing } => Self::Audit(v1::AuditDone {
                missing: missing
                    .into_iter()
                    .map(|(table, shard)| v1::MissingShard { table: table.0, shard })
                    .collect(),
            }),
            WorkResult::Index => Self::Index(v1::IndexDone {}),
            WorkResult::SchemaPost { entries_run } => {
                Self::SchemaPost(v1::SchemaPostDone { entries_run })
            }
            WorkResult::Sequences { count } => Self::Sequences(v1::SequencesDone { count }),
            WorkResult::Analyze => Self::Analyze(v1::AnalyzeDone {}),
            WorkResult::VerifyPlan => Self::VerifyPlan(v1::VerifyPlanDone {}),
            WorkResult::VerifyRows(rows) => Self::VerifyRows(rows.into()),
            WorkResult::VerifySchema(objects) => Self::VerifySchema(objects.into()),
            WorkResult::VerifySequences(objects) => Self::VerifySequences(objects.into()),
            WorkResult::Cutover(done) => Self::Cutover(done.into()),
            WorkResult::Finish => Self::Finish(v1::FinishDone {}),
        }
    }
}

impl TryFrom<Wire> for WorkResult {
    type Error = WireError;
    fn try_from(wire: Wire) -> Result<Self, WireError> {
        Ok(match wire {
            Wire::Precheck(done) => Self::Precheck(list(done.items, "precheck.items")?),
            Wire::SchemaPre(done) => {
                Self::SchemaPre { entries_run: done.entries_run, entries_kept: done.entries_kept }
            }
            Wire::OpenStream(opened) => Self::OpenStream(opened.into()),
            Wire::Survey(done) => Self::Survey(required(Some(done), "survey")?),
            Wire::Plan(v1::PlanDone {}) => Self::Plan,
            Wire::Copy(done) => Self::Copy(done.into()),
            Wire::Audit(done) => Self::Audit {
                missing: done.missing.into_iter().map(|m| (TableNo(m.table), m.shard)).collect(),
            },
            Wire::Index(v1::IndexDone {}) => Self::Index,
            Wire::SchemaPost(done) => Self::SchemaPost { entries_run: done.entries_run },
            Wire::Sequences(done) => Self::Sequences { count: done.count },
            Wire::Analyze(v1::AnalyzeDone {}) => Self::Analyze,
            Wire::VerifyPlan(v1::VerifyPlanDone {}) => Self::VerifyPlan,
            Wire::VerifyRows(rows) => Self::VerifyRows(required(Some(rows), "verify_rows")?),
            Wire::VerifySchema(objects) => {
                Self::VerifySchema(required(Some(objects), "verify_schema")?)
            }
            Wire::VerifySequences(objects) => {
                Self::VerifySequences(required(Some(objects), "verify_sequences")?)
            }
            Wire::Cutover(done) => Self::Cutover(required(Some(done), "cutover")?),
            Wire::Finish(v1::FinishDone {}) => Self::Finish,
        })
    }
}

impl From<SurveyDone> for v1::SurveyDone {
    fn from(done: SurveyDone) -> Self {
        Self {
            system_identifier: done.system_identifier,
            snapshot: done.snapshot.map(Into::into),
            continues: done.continues,
            left_out: done.left_out,
            left_out_names: wire_list(done.left_out_names),
        }
    }
}

impl TryFrom<v1::SurveyDone> for SurveyDone {
    type Error = WireError;
    fn try_from(wire: v1::SurveyDone) -> Result<Self, WireError> {
        Ok(Self {
            system_identifier: wire.system_identifier,
            snapshot: optional(wire.snapshot, "snapshot")?,
            continues: wire.continues,
            left_out: wire.left_out,
            left_out_names: list(wire.left_out_names, "left_out_names")?,
        })
    }
}

impl From<CopyDone> for v1::CopyDone {
    fn from(done: CopyDone) -> Self {
        Self {
            rows: done.rows,
            bytes: done.bytes,
            snapshot: done.snapshot,
            noted_lsn: done.noted_lsn.0,
            found_done: done.found_done,
        }
    }
}

impl From<v1::CopyDone> for CopyDone {
    fn from(wire: v1::CopyDone) -> Self {
        Self {
            rows: wire.rows,
            bytes: wire.bytes,
            snapshot: wire.snapshot,
            noted_lsn: Lsn(wire.noted_lsn),
            found_done: wire.found_done,
        }
    }
}

impl v1::ResultPart {
    /// A piece of a result, with its number within the lease.
    #[must_use]
    pub fn numbered(no: u32, part: ResultPart) -> Self {
        use v1::result_part::Part;
        let part = match part {
            ResultPart::Tables(tables) => {
                Part::Tables(v1::SurveyedTables { tables: wire_list(tables) })
            }
            ResultPart::Plan(plan) => Part::Plan(plan.into()),
            ResultPart::Shards(shards) => {
                Part::Shards(v1::PlannedShards { shards: wire_list(shards) })
            }
            ResultPart::NotCompared { table, why } => {
                Part::NotCompared(v1::TableNotCompared { table: table.0, why: Some(why.into()) })
            }
        };
        Self { no, part: Some(part) }
    }
}

/// The piece without its number.
impl TryFrom<v1::ResultPart> for ResultPart {
    type Error = WireError;
    fn try_from(wire: v1::ResultPart) -> Result<Self, WireError> {
        use v1::result_part::Part;
        Ok(match wire.part.ok_or_else(|| WireError::missing("part"))? {
            Part::Tables(tables) => Self::Tables(list(tables.tables, "tables")?),
            Part::Plan(plan) => Self::Plan(required(Some(plan), "plan")?),
            Part::Shards(shards) => Self::Shards(list(shards.shards, "shards")?),
            Part::NotCompared(table) => super::verify::not_compared(table)?,
        })
    }
}

impl From<SurveyedTable> for v1::SurveyedTable {
    fn from(table: SurveyedTable) -> Self {
        Self {
            name: Some(table.name.into()),
            bytes: table.bytes,
            rows: table.rows,
            filenode: table.filenode,
            index_entries: table.index_entries,
            late_entries: table.late_entries,
        }
    }
}

impl TryFrom<v1::SurveyedTable> for SurveyedTable {
    type Error = WireError;
    fn try_from(wire: v1::SurveyedTable) -> Result<Self, WireError> {
        Ok(Self {
            name: required(wire.name, "name")?,
            bytes: wire.bytes,
            rows: wire.rows,
            filenode: wire.filenode,
            index_entries: wire.index_entries,
            late_entries: wire.late_entries,
        })
    }
}
