//! Values that several tests need.

use std::collections::BTreeSet;

use pgconvoy_control::command::{Acknowledge, CreateTask, RegisterAgent};
use pgconvoy_shared::endpoint::{Endpoint, SslMode};
use pgconvoy_shared::ids::{AgentId, Incarnation, TableNo, TaskId};
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::secret::Sealed;
use pgconvoy_shared::spec::{CopySettings, MigrationType, ObjectRules, RetryWindows, TaskSpec};
use pgconvoy_shared::unit::{
    CopyFormat, Part, PlanTable, PlannedShard, SnapshotMode, SurveyedTable, TablePlan,
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
            copy: CopySettings {
                jobs: 4,
                shard_size_bytes: 256 << 20,
                index_jobs: 2,
                snapshot,
            },
            retry: RetryWindows { connection_ms: 60_000, other_ms: 20_000 },
        },
        source_password: Some(Sealed(vec![1, 2, 3])),
        destination_password: None,
        acknowledge: Acknowledge::default(),
        start: true,
        precheck_only: false,
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
    PlannedShard { part: Part::Range { from: bound(no), to: bound(no + 1) }, bytes: 1_000, rows: 10 }
}
