//! Values that several tests need.

use std::collections::BTreeSet;

use pgconvoy_control::command::{Acknowledge, CreateTask, RegisterAgent};
use pgconvoy_shared::cutover::{CutoverDone, CutoverOrder, CutoverStep};
use pgconvoy_shared::endpoint::{Endpoint, SslMode};
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{AgentId, Incarnation, TableNo, TaskId};
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::secret::Sealed;
use pgconvoy_shared::spec::{
    CopySettings, MigrationType, ObjectRules, RetryWindows, SchemaSettings, TaskSpec,
};
use pgconvoy_shared::unit::{
    CopyDone, CopyFormat, Export, Part, PlanTable, PlannedShard, ResultPart, SharedSnapshot,
    SnapshotMode, StreamOpened, SurveyDone, SurveyedTable, TablePlan, Work, WorkResult,
};
use pgconvoy_shared::verify::{
    Difference, NotCompared, ObjectDifference, ObjectsCompared, Purpose, RowDifference,
    RowsCompared, VerifySettings,
};

pub(crate) fn agent_id(name: &str) -> AgentId {
    name.parse().expect("an agent id")
}

pub(crate) fn task_id(no: u64) -> TaskId {
    TaskId::from_parts(1_000, no)
}

fn endpoint(host: &str) -> Endpoint {
    Endpoint {
        host: host.into(),
        port: 5432,
        database: "shop".into(),
        user: "migrator".into(),
        sslmode: SslMode::Prefer,
        sslrootcert: None,
        sslcert: None,
        sslkey: None,
        connect_timeout_secs: 0,
        settings: Default::default(),
        site: None,
    }
}

pub(crate) fn create(no: u64, snapshot: SnapshotMode) -> CreateTask {
    CreateTask {
        request_id: format!("request-{no}").parse().expect("a request id"),
        id: task_id(no),
        spec: TaskSpec {
            name: format!("task-{no}"),
            source: endpoint("old"),
            destination: endpoint("new"),
            types: BTreeSet::from([MigrationType::Schema, MigrationType::Full]),
            objects: ObjectRules { include: vec![], exclude: vec!["public.audit_*".into()] },
            schema: SchemaSettings::default(),
            copy: CopySettings { jobs: 4, shard_size_bytes: 256 << 20, index_jobs: 2, snapshot },
            retry: RetryWindows { connection_ms: 60_000, other_ms: 20_000 },
            incremental: Default::default(),
        },
        source_password: Some(Sealed(vec![1, 2, 3])),
        destination_password: None,
        acknowledge: Acknowledge::default(),
        start: true,
        purpose: Purpose::Migrate,
        // Every other task compares what it copied.
        verify: no.is_multiple_of(2).then(VerifySettings::default),
    }
}

pub(crate) fn register(name: &str, incarnation: u64, slots: u32) -> RegisterAgent {
    RegisterAgent {
        id: agent_id(name),
        incarnation: Incarnation(incarnation),
        site: String::new(),
        slots,
        version: "0.1.0".into(),
        pg_dump_majors: vec![15],
        address: String::new(),
    }
}

pub(crate) fn surveyed(no: u32, bytes: u64) -> SurveyedTable {
    SurveyedTable {
        name: QualifiedName::new("public", format!("t{no}")),
        bytes,
        rows: bytes / 100,
        filenode: Some(no),
        index_entries: vec![no * 10, no * 10 + 1],
        late_entries: vec![no * 10 + 2],
    }
}

pub(crate) fn plan_of(table: &PlanTable) -> TablePlan {
    TablePlan {
        no: table.no,
        generation: table.generation,
        name: table.name.clone(),
        write_to: table.name.clone(),
        columns: vec!["id".into(), "text".into()],
        fingerprint: "5f".into(),
        filenode: table.filenode,
        format: CopyFormat::Binary,
        key: vec![],
    }
}

pub(crate) fn shard(table: TableNo, no: u32) -> PlannedShard {
    let bound = |n: u32| Some(vec![format!("{}-{n}", table.0).into_boxed_str()].into_boxed_slice());
    PlannedShard {
        part: Part::Range { from: bound(no), to: bound(no + 1) },
        bytes: 1_000,
        rows: 10,
    }
}

pub(crate) fn compared() -> RowsCompared {
    let row = |difference, key: &str| RowDifference { difference, key: key.into(), count: 1 };
    RowsCompared {
        source_rows: 11,
        destination_rows: 11,
        bytes: 900,
        compared: 11,
        missing: 1,
        extra: 1,
        listed: vec![row(Difference::Missing, "1"), row(Difference::Extra, "12")],
        lists: vec!["a:/differences/1.jsonl".into()],
        ..RowsCompared::default()
    }
}

/// What comes of a cutover's step; of some it is refused.
fn cutover_done(order: &CutoverOrder, chance: u32) -> CutoverDone {
    let refused = CutoverDone::Refused(Failure::definite("cutover_writers", "somebody writes"));
    match order.step {
        CutoverStep::Lift => CutoverDone::Lifted,
        _ if chance.is_multiple_of(3) => refused,
        CutoverStep::Check => CutoverDone::Checked { setting_before: None, lag_bytes: 5 },
        CutoverStep::Compare => panic!("it has units of its own"),
        CutoverStep::Ready => CutoverDone::Ready { lag_bytes: 5, again: None },
        CutoverStep::Fence => {
            CutoverDone::Fenced { at: Lsn(90), ended: 2, left: vec!["admin".into()] }
        }
        CutoverStep::Prove => {
            CutoverDone::Proved { marker: Lsn(99), sequences: 3, again: None, copied: None }
        }
        CutoverStep::Switch => CutoverDone::Switched,
    }
}

/// A result that fits the work, with its parts; each planned table is cut into so many shards.
pub(crate) fn answer(work: &Work, agent: &AgentId, shards: u32) -> (Vec<ResultPart>, WorkResult) {
    let mut parts = Vec::new();
    let result = match work {
        Work::Precheck { .. } => WorkResult::Precheck(vec![]),
        Work::SchemaPre => WorkResult::SchemaPre { entries_run: 1, entries_kept: 1 },
        Work::OpenStream => WorkResult::OpenStream(StreamOpened {
            start: Lsn(6),
            barrier: 10,
            system_identifier: 42,
            timeline: 1,
        }),
        Work::Stream(_) => unreachable!("a stream reports checkpoints, and has no result"),
        Work::Cutover(order) => WorkResult::Cutover(cutover_done(order, shards)),
        Work::Survey(survey) => {
            parts.push(ResultPart::Tables((0..3).map(|no| surveyed(no, 1_000)).collect()));
            let shared = SharedSnapshot {
                round: survey.round,
                snapshot: "10:10:".into(),
                noted_lsn: Lsn(7),
                exports: vec![Export { agent: agent.clone(), id: "export".into() }],
            };
            let snapshot = (survey.mode == SnapshotMode::Task).then_some(shared);
            let continues = survey.lost.is_some() && shards.is_multiple_of(2);
            WorkResult::Survey(SurveyDone {
                system_identifier: 42,
                snapshot,
                continues,
                left_out: 0,
                left_out_names: vec![],
            })
        }
        Work::Plan(tables) => {
            for table in tables {
                parts.push(ResultPart::Plan(plan_of(table)));
                let shards = (0..shards).map(|no| shard(table.no, no));
                parts.push(ResultPart::Shards(shards.collect()));
            }
            WorkResult::Plan
        }
        Work::Copy(_) => WorkResult::Copy(CopyDone {
            rows: 11,
            bytes: 900,
            snapshot: "10:10:".into(),
            noted_lsn: Lsn(8),
            found_done: false,
        }),
        Work::Audit(tables) => {
            let table = tables.first().filter(|_| shards == 3);
            WorkResult::Audit { missing: table.map(|t| (t.no, 0)).into_iter().collect() }
        }
        Work::Index(_) => WorkResult::Index,
        Work::SchemaPost => WorkResult::SchemaPost { entries_run: 1 },
        Work::Sequences => WorkResult::Sequences { count: 1 },
        Work::Analyze(_) => WorkResult::Analyze,
        Work::VerifyPlan(tables) => {
            for table in tables {
                if table.no.0 == 1 {
                    let why = NotCompared { reason: "no such table".into(), differs: true };
                    parts.push(ResultPart::NotCompared { table: table.no, why });
                    continue;
                }
                parts.push(ResultPart::Plan(plan_of(table)));
                let shards = (0..shards).map(|no| shard(table.no, no));
                parts.push(ResultPart::Shards(shards.collect()));
            }
            WorkResult::VerifyPlan
        }
        Work::VerifyRows(_) => WorkResult::VerifyRows(compared()),
        Work::VerifySchema => {
            let mut compared = ObjectsCompared { objects: 3, ..ObjectsCompared::default() };
            compared.push(ObjectDifference {
                difference: Difference::Missing,
                object: "INDEX public.t0_idx".into(),
                source: "CREATE INDEX t0_idx ON public.t0 USING btree (text);".into(),
                destination: String::new(),
            });
            compared.skip("ROLE app", "the destination has no such role".into());
            WorkResult::VerifySchema(compared)
        }
        Work::VerifySequences => {
            let compared = ObjectsCompared { objects: 2, went_on: 1, ..ObjectsCompared::default() };
            WorkResult::VerifySequences(compared)
        }
        Work::Finish => WorkResult::Finish,
    };
    (parts, result)
}
