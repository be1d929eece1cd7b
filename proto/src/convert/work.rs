//! What an agent is to do.

use pgconvoy_shared::epoch::Generation;
use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::unit::{AuditTable, CopyShard, IndexBuild, PlanTable, Survey, Work};

use super::{WireError, list, non_empty, optional, required, required_enum, wire_list};
use crate::v1;
use crate::v1::work::Kind;

impl From<Work> for v1::Work {
    fn from(work: Work) -> Self {
        let kind = match work {
            Work::Precheck { verified } => Kind::Precheck(v1::PrecheckWork { verified }),
            Work::SchemaPre => Kind::SchemaPre(v1::SchemaPreWork {}),
            Work::OpenStream => Kind::OpenStream(v1::OpenStreamWork {}),
            Work::Stream(order) => Kind::Stream(order.into()),
            Work::Cutover(order) => Kind::Cutover((*order).into()),
            Work::Survey(survey) => Kind::Survey(survey.into()),
            Work::Plan(tables) => Kind::Plan(v1::PlanWork { tables: wire_list(tables) }),
            Work::Copy(shard) => Kind::Copy((*shard).into()),
            Work::Audit(tables) => Kind::Audit(v1::AuditWork { tables: wire_list(tables) }),
            Work::Index(build) => Kind::Index(build.into()),
            Work::SchemaPost => Kind::SchemaPost(v1::SchemaPostWork {}),
            Work::Sequences => Kind::Sequences(v1::SequencesWork {}),
            Work::Analyze(tables) => Kind::Analyze(v1::AnalyzeWork { tables: wire_list(tables) }),
            Work::VerifyPlan(tables) => {
                Kind::VerifyPlan(v1::VerifyPlanWork { tables: wire_list(tables) })
            }
            Work::VerifyRows(rows) => Kind::VerifyRows((*rows).into()),
            Work::VerifySchema => Kind::VerifySchema(v1::VerifySchemaWork {}),
            Work::VerifySequences => Kind::VerifySequences(v1::VerifySequencesWork {}),
            Work::Finish => Kind::Finish(v1::FinishWork {}),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<v1::Work> for Work {
    type Error = WireError;
    fn try_from(wire: v1::Work) -> Result<Self, WireError> {
        Ok(match wire.kind.ok_or_else(|| WireError::missing("kind"))? {
            Kind::Precheck(v1::PrecheckWork { verified }) => Self::Precheck { verified },
            Kind::SchemaPre(v1::SchemaPreWork {}) => Self::SchemaPre,
            Kind::OpenStream(v1::OpenStreamWork {}) => Self::OpenStream,
            Kind::Stream(order) => Self::Stream(required(Some(order), "stream")?),
            Kind::Cutover(order) => Self::Cutover(Box::new(required(Some(order), "cutover")?)),
            Kind::Survey(survey) => Self::Survey(required(Some(survey), "survey")?),
            Kind::Plan(plan) => Self::Plan(list(plan.tables, "plan.tables")?),
            Kind::Copy(copy) => Self::Copy(Box::new(required(Some(copy), "copy")?)),
            Kind::Audit(audit) => Self::Audit(list(audit.tables, "audit.tables")?),
            Kind::Index(index) => Self::Index(required(Some(index), "index")?),
            Kind::SchemaPost(v1::SchemaPostWork {}) => Self::SchemaPost,
            Kind::Sequences(v1::SequencesWork {}) => Self::Sequences,
            Kind::Analyze(analyze) => Self::Analyze(list(analyze.tables, "analyze.tables")?),
            Kind::VerifyPlan(plan) => Self::VerifyPlan(list(plan.tables, "verify_plan.tables")?),
            Kind::VerifyRows(rows) => {
                Self::VerifyRows(Box::new(required(Some(rows), "verify_rows")?))
            }
            Kind::VerifySchema(v1::VerifySchemaWork {}) => Self::VerifySchema,
            Kind::VerifySequences(v1::VerifySequencesWork {}) => Self::VerifySequences,
            Kind::Finish(v1::FinishWork {}) => Self::Finish,
        })
    }
}

impl From<Survey> for v1::SurveyWork {
    fn from(survey: Survey) -> Self {
        Self {
            mode: v1::SnapshotMode::from(survey.mode).into(),
            round: survey.round,
            lost: survey.lost.unwrap_or_default(),
        }
    }
}

impl TryFrom<v1::SurveyWork> for Survey {
    type Error = WireError;
    fn try_from(wire: v1::SurveyWork) -> Result<Self, WireError> {
        Ok(Self {
            mode: required_enum(wire.mode, "mode")?,
            round: wire.round,
            lost: non_empty(wire.lost),
        })
    }
}

impl From<PlanTable> for v1::PlanTable {
    fn from(table: PlanTable) -> Self {
        Self {
            no: table.no.0,
            name: Some(table.name.into()),
            generation: table.generation.0,
            bytes: table.bytes,
            filenode: table.filenode,
            anew: table.anew,
        }
    }
}

impl TryFrom<v1::PlanTable> for PlanTable {
    type Error = WireError;
    fn try_from(wire: v1::PlanTable) -> Result<Self, WireError> {
        Ok(Self {
            no: TableNo(wire.no),
            name: required(wire.name, "name")?,
            generation: Generation(wire.generation),
            bytes: wire.bytes,
            filenode: wire.filenode,
            anew: wire.anew,
        })
    }
}

impl From<CopyShard> for v1::CopyWork {
    fn from(copy: CopyShard) -> Self {
        Self {
            table: Some(copy.table.into()),
            shard: copy.shard,
            part: Some(copy.part.into()),
            snapshot: copy.snapshot.map(Into::into),
            barrier: copy.barrier,
            bytes: copy.bytes,
        }
    }
}

impl TryFrom<v1::CopyWork> for CopyShard {
    type Error = WireError;
    fn try_from(wire: v1::CopyWork) -> Result<Self, WireError> {
        Ok(Self {
            table: required(wire.table, "table")?,
            shard: wire.shard,
            part: required(wire.part, "part")?,
            snapshot: optional(wire.snapshot, "snapshot")?,
            barrier: wire.barrier,
            bytes: wire.bytes,
        })
    }
}

impl From<AuditTable> for v1::AuditTable {
    fn from(table: AuditTable) -> Self {
        Self { no: table.no.0, generation: table.generation.0, shards: table.shards }
    }
}

impl TryFrom<v1::AuditTable> for AuditTable {
    type Error = WireError;
    fn try_from(wire: v1::AuditTable) -> Result<Self, WireError> {
        Ok(Self {
            no: TableNo(wire.no),
            generation: Generation(wire.generation),
            shards: wire.shards,
        })
    }
}

impl From<IndexBuild> for v1::IndexWork {
    fn from(build: IndexBuild) -> Self {
        Self { subject: build.subject, entries: build.entries }
    }
}

impl TryFrom<v1::IndexWork> for IndexBuild {
    type Error = WireError;
    fn try_from(wire: v1::IndexWork) -> Result<Self, WireError> {
        Ok(Self { subject: wire.subject, entries: wire.entries })
    }
}
