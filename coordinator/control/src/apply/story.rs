//! For tests: a state and a clock, and commands in the words of a story. Each command is followed by a check of all
//! invariants.

mod comparing;

use std::collections::BTreeSet;

use pgconvoy_shared::endpoint::Endpoint;
use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{AgentId, Incarnation, TaskId, UnitId};
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::precheck::{PrecheckItem, Severity};
use pgconvoy_shared::spec::{
    CopySettings, MigrationType, ObjectRules, RetryWindows, SchemaSettings, TaskSpec,
};
use pgconvoy_shared::stream::StreamNote;
use pgconvoy_shared::time::Timestamp;
use pgconvoy_shared::unit::{
    Checkpoint, CopyDone, CopyFormat, Ended, Export, Part, PlannedShard, ResultPart,
    SharedSnapshot, SnapshotMode, StreamOpened, SurveyDone, SurveyedTable, TablePlan, UnitKind,
    Work, WorkResult,
};
use pgconvoy_shared::verify::{Purpose, RowsCompared};

use super::apply;
use crate::command::{
    Acknowledge, Command, CreateTask, Grant, NewPasswords, NoteExport, RegisterAgent, Report,
    ReportBody, Stamped,
};
use crate::invariants;
use crate::outcome::{Applied, Effect, Outcome, Reception};
use crate::rejected::Rejected;
use crate::state::{EventKind, KindCount, State, TaskStatus};
use crate::view::{self, TaskView};
use crate::work;

/// Rows and bytes that a planned shard is expected to hold.
pub(crate) const SHARD_ROWS: u64 = 10;
const SHARD_BYTES: u64 = 1_000;

pub(crate) struct Story {
    pub(crate) state: State,
    pub(crate) task: TaskId,
    pub(crate) now: Timestamp,
}

/// A lease as its agent knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) unit: UnitId,
    pub(crate) agent: AgentId,
    pub(crate) incarnation: Incarnation,
    pub(crate) epoch: Epoch,
}

pub(crate) fn agent_id(name: &str) -> AgentId {
    name.parse().expect("an agent id")
}

fn registration(name: &str, incarnation: u64, slots: u32) -> RegisterAgent {
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

fn endpoint(host: &str) -> Endpoint {
    Endpoint {
        host: host.into(),
        port: 5432,
        database: "shop".into(),
        user: "migrator".into(),
        sslmode: Default::default(),
        sslrootcert: None,
        sslcert: None,
        sslkey: None,
        connect_timeout_secs: 0,
        settings: Default::default(),
        site: None,
    }
}

pub(crate) fn spec(name: &str) -> TaskSpec {
    TaskSpec {
        name: name.into(),
        source: endpoint("old"),
        destination: endpoint("new"),
        types: BTreeSet::from([MigrationType::Schema, MigrationType::Full]),
        objects: ObjectRules::default(),
        schema: SchemaSettings::default(),
        copy: CopySettings {
            jobs: 4,
            shard_size_bytes: 256 << 20,
            index_jobs: 2,
            snapshot: SnapshotMode::Task,
        },
        retry: RetryWindows { connection_ms: 60_000, other_ms: 10_000 },
        incremental: Default::default(),
    }
}

pub(crate) fn create(name: &str) -> CreateTask {
    CreateTask {
        request_id: format!("create-{name}").parse().expect("a request id"),
        id: TaskId::from_parts(1_000, 7),
        spec: spec(name),
        source_password: None,
        destination_password: None,
        acknowledge: Acknowledge::default(),
        start: false,
        purpose: Purpose::Migrate,
        verify: None,
    }
}

fn item(code: &str, severity: Severity) -> PrecheckItem {
    PrecheckItem {
        code: code.into(),
        side: None,
        object: String::new(),
        severity,
        observed: String::new(),
        required: String::new(),
        remedy: String::new(),
    }
}

pub(crate) fn warning(code: &str) -> PrecheckItem {
    item(code, Severity::Warning)
}

pub(crate) fn error(code: &str) -> PrecheckItem {
    item(code, Severity::Error)
}

fn acknowledging(codes: &[&str]) -> Acknowledge {
    Acknowledge { codes: codes.iter().map(|code| (*code).to_owned()).collect(), all: false }
}

pub(crate) fn surveyed(name: &str, bytes: u64) -> SurveyedTable {
    let (schema, name) = name.split_once('.').expect("schema.name");
    SurveyedTable {
        name: QualifiedName::new(schema, name),
        bytes,
        rows: bytes / 100,
        filenode: Some(1),
        index_entries: vec![1],
        late_entries: vec![],
    }
}

impl Story {
    pub(crate) fn new() -> Self {
        Self { state: State::new(), task: TaskId::from_parts(1_000, 7), now: Timestamp(1_000_000) }
    }

    /// A task that was created and nothing else.
    pub(crate) fn created(name: &str) -> Self {
        let mut story = Self::new();
        story.create(create(name));
        story
    }

    /// A task whose tables are planned, each into so many shards. The agent `keeper` did what comes before.
    pub(crate) fn copying(tables: &[(&str, u32)]) -> Self {
        let mut story = Self::created("shop").with_agents(&["keeper"]);
        story.start();
        let sized: Vec<_> =
            tables.iter().map(|(name, shards)| (*name, u64::from(*shards) * SHARD_BYTES)).collect();
        story.prepare("keeper", &sized);
        let plan = story.lease("keeper", UnitKind::Plan);
        story.plan_into(&plan, tables);
        story
    }

    pub(crate) const BARRIER: u64 = 700;

    /// A task that follows its source, up to where its tables are cut into so many shards.
    pub(crate) fn following(tables: &[(&str, u32)]) -> Self {
        let mut story = Self::new().with_agents(&["a"]);
        let mut create = CreateTask { start: true, ..create("shop") };
        create.spec.types.insert(MigrationType::Incremental);
        story.create(create);
        let precheck = story.lease("a", UnitKind::Precheck);
        story.done(&precheck, WorkResult::Precheck(vec![]));
        let schema = story.lease("a", UnitKind::SchemaPre);
        story.done(&schema, WorkResult::SchemaPre { entries_run: 1, entries_kept: 1 });
        let open = story.lease("a", UnitKind::OpenStream);
        let opened = StreamOpened {
            start: Lsn(1_000),
            barrier: Self::BARRIER,
            system_identifier: 42,
            timeline: 1,
        };
        story.done(&open, WorkResult::OpenStream(opened));
        let survey = story.lease("a", UnitKind::Survey);
        let found = tables
            .iter()
            .map(|(name, shards)| SurveyedTable {
                late_entries: vec![2],
                ..surveyed(name, u64::from(*shards) * SHARD_BYTES)
            })
            .collect();
        let done = SurveyDone {
            system_identifier: 42,
            snapshot: None,
            continues: false,
            left_out: 0,
            left_out_names: vec![],
        };
        let ended = Ended::Done(WorkResult::Survey(done));
        story.end_with(&survey, vec![ResultPart::Tables(found)], ended);
        let plan = story.lease("a", UnitKind::Plan);
        story.plan_into(&plan, tables);
        story
    }

    /// The same, up to where its stream is to be leased.
    pub(crate) fn streaming(tables: &[(&str, u32)]) -> Self {
        let mut story = Self::following(tables);
        for kind in [UnitKind::Copy, UnitKind::Audit, UnitKind::Index] {
            story.finish_all("a", kind);
        }
        story
    }

    /// Does what comes before the first plan; the survey finds these tables of so many bytes.
    pub(crate) fn prepare(&mut self, name: &str, tables: &[(&str, u64)]) {
        let precheck = self.lease(name, UnitKind::Precheck);
        self.done(&precheck, WorkResult::Precheck(vec![]));
        let schema = self.lease(name, UnitKind::SchemaPre);
        self.done(&schema, WorkResult::SchemaPre { entries_run: 1, entries_kept: 1 });
        let found = tables.iter().map(|(name, bytes)| surveyed(name, *bytes)).collect();
        self.survey_finding(name, 1, false, found);
    }

    pub(crate) fn with_agents(mut self, names: &[&str]) -> Self {
        for name in names {
            self.register(name, 1);
        }
        self
    }

    pub(crate) fn apply(&mut self, command: Command) -> Applied {
        self.now = self.now.plus_ms(1);
        let applied = apply(&mut self.state, &Stamped { at: self.now, command });
        assert_eq!(invariants::check(&self.state), []);
        applied
    }

    fn expect(&mut self, command: Command) -> Applied {
        let applied = self.apply(command);
        assert!(applied.outcome.is_ok(), "{:?}", applied.outcome);
        applied
    }

    pub(crate) fn create(&mut self, create: CreateTask) -> TaskId {
        match self.create_anyhow(create).expect("created") {
            Outcome::Created { task, .. } => task,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn create_anyhow(&mut self, create: CreateTask) -> Result<Outcome, Rejected> {
        self.apply(Command::CreateTask(Box::new(create))).outcome
    }

    pub(crate) fn start(&mut self) {
        let task = self.task.clone();
        self.expect(Command::StartTask { task, acknowledge: Acknowledge::default() });
    }

    pub(crate) fn pause(&mut self) -> Vec<Effect> {
        self.expect(Command::PauseTask { task: self.task.clone() }).effects
    }

    pub(crate) fn resume(&mut self) {
        self.resume_acknowledging(&[]);
    }

    pub(crate) fn resume_acknowledging(&mut self, codes: &[&str]) {
        let task = self.task.clone();
        let (acknowledge, passwords) = (acknowledging(codes), NewPasswords::default());
        self.expect(Command::ResumeTask { task, acknowledge, passwords });
    }

    pub(crate) fn cancel(&mut self) {
        self.expect(Command::CancelTask { task: self.task.clone() });
    }

    pub(crate) fn delete(&mut self) -> Result<Outcome, Rejected> {
        self.apply(Command::DeleteTask { task: self.task.clone() }).outcome
    }

    pub(crate) fn precheck(&mut self) {
        self.expect(Command::PrecheckTask { task: self.task.clone() });
    }

    /// Says how many leases an older life held.
    pub(crate) fn register(&mut self, name: &str, incarnation: u64) -> u32 {
        self.register_with(name, incarnation, 8)
    }

    pub(crate) fn register_at(&mut self, name: &str, site: &str) {
        let register = RegisterAgent { site: site.to_owned(), ..registration(name, 1, 8) };
        self.expect(Command::RegisterAgent(Box::new(register)));
    }

    fn register_with(&mut self, name: &str, incarnation: u64, slots: u32) -> u32 {
        match self.register_anyhow(name, incarnation, slots) {
            Ok(Outcome::Registered { released, .. }) => released,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn register_anyhow(
        &mut self,
        name: &str,
        incarnation: u64,
        slots: u32,
    ) -> Result<Outcome, Rejected> {
        let register = registration(name, incarnation, slots);
        self.apply(Command::RegisterAgent(Box::new(register))).outcome
    }

    pub(crate) fn slots(&mut self, name: &str, slots: u32) {
        let incarnation = self.incarnation(name).0;
        self.register_with(name, incarnation, slots);
    }

    fn incarnation(&self, name: &str) -> Incarnation {
        self.state.agent(&agent_id(name)).expect("registered").incarnation
    }

    pub(crate) fn drain(&mut self, name: &str) {
        self.expect(Command::DrainAgent { agent: agent_id(name) });
    }

    pub(crate) fn undrain(&mut self, name: &str) {
        self.expect(Command::UndrainAgent { agent: agent_id(name) });
    }

    pub(crate) fn lose(&mut self, name: &str) {
        let incarnation = self.incarnation(name);
        self.expect(Command::LoseAgent { agent: agent_id(name), incarnation });
    }

    pub(crate) fn export(&mut self, name: &str, round: u32) {
        self.expect(Command::NoteExport(NoteExport {
            task: self.task.clone(),
            round,
            agent: agent_id(name),
            incarnation: self.incarnation(name),
            export_id: format!("export-of-{name}"),
        }));
    }

    /// The first unit of this kind that is ready.
    pub(crate) fn ready_unit(&self, kind: UnitKind) -> UnitId {
        let task = &self.state.tasks[&self.task];
        let ready = task.index.kind(kind).ready.first().map(|(_, no)| *no);
        let no = ready.unwrap_or_else(|| panic!("no {} unit is ready", kind.as_str()));
        UnitId { task: self.task.clone(), no }
    }

    pub(crate) fn grant(&mut self, name: &str, unit: &UnitId) -> Result<Epoch, Rejected> {
        let grant = Grant {
            unit: unit.clone(),
            agent: agent_id(name),
            incarnation: self.incarnation(name),
        };
        match self.apply(Command::GrantLeases(vec![grant])).outcome {
            Ok(Outcome::Granted(mut granted)) => granted.remove(0),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn lease(&mut self, name: &str, kind: UnitKind) -> Held {
        let unit = self.ready_unit(kind);
        let epoch = self.grant(name, &unit).expect("it is ready");
        self.held(name, &unit, epoch)
    }

    /// A lease that was granted.
    pub(crate) fn held(&self, name: &str, unit: &UnitId, epoch: Epoch) -> Held {
        let incarnation = self.incarnation(name);
        Held { unit: unit.clone(), agent: agent_id(name), incarnation, epoch }
    }

    pub(crate) fn report(&mut self, held: &Held, body: ReportBody) -> Reception {
        let report = Report {
            agent: held.agent.clone(),
            incarnation: held.incarnation,
            unit: held.unit.clone(),
            epoch: held.epoch,
            body,
        };
        match self.apply(Command::Reports(vec![report])).outcome {
            Ok(Outcome::Reported(mut receptions)) => receptions.remove(0),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn end(&mut self, held: &Held, ended: Ended) -> Reception {
        self.end_with(held, vec![], ended)
    }

    pub(crate) fn end_with(
        &mut self,
        held: &Held,
        parts: Vec<ResultPart>,
        ended: Ended,
    ) -> Reception {
        let count = crate::state::count(parts.len());
        for (no, part) in (0u32..).zip(parts) {
            let received = self.report(held, ReportBody::Part { no, part });
            assert_eq!(received, Reception::Taken);
        }
        self.report(held, ReportBody::Ended { parts: count, ended })
    }

    pub(crate) fn checkpoint(&mut self, held: &Held, checkpoint: Checkpoint) -> Reception {
        self.report(held, ReportBody::Checkpoint(checkpoint))
    }

    pub(crate) fn note(&mut self, held: &Held, note: StreamNote) -> Reception {
        self.report(held, ReportBody::Note(note))
    }

    pub(crate) fn done(&mut self, held: &Held, result: WorkResult) {
        assert_eq!(self.end(held, Ended::Done(result)), Reception::Taken);
    }

    pub(crate) fn release(&mut self, held: &Held) -> Reception {
        self.end(held, Ended::Released)
    }

    pub(crate) fn fail(&mut self, held: &Held, failure: Failure) {
        assert_eq!(self.end(held, Ended::Failed(failure)), Reception::Taken);
    }

    pub(crate) fn copied(&mut self, held: &Held, rows: u64) -> Reception {
        self.end(
            held,
            Ended::Done(WorkResult::Copy(CopyDone {
                rows,
                bytes: rows * 100,
                snapshot: "10:10:".into(),
                noted_lsn: Lsn(16),
                found_done: false,
            })),
        )
    }

    /// Surveys the tables that are known already.
    pub(crate) fn survey(&mut self, name: &str, round: u32, continues: bool) {
        let known = self.state.tables(&self.task).map(|table| (*table.surveyed).clone()).collect();
        self.survey_finding(name, round, continues, known);
    }

    fn survey_finding(
        &mut self,
        name: &str,
        round: u32,
        continues: bool,
        found: Vec<SurveyedTable>,
    ) {
        self.survey_leaving_out(name, round, continues, found, &[]);
    }

    /// The survey finds also tables that are not of the schema the task made.
    pub(crate) fn survey_leaving_out(
        &mut self,
        name: &str,
        round: u32,
        continues: bool,
        found: Vec<SurveyedTable>,
        left_out: &[&str],
    ) {
        let held = self.lease(name, UnitKind::Survey);
        let snapshot = SharedSnapshot {
            round,
            snapshot: format!("{round}0:{round}0:"),
            noted_lsn: Lsn(8),
            exports: vec![Export { agent: agent_id(name), id: format!("export-of-{name}") }],
        };
        let done = SurveyDone {
            system_identifier: 42,
            snapshot: Some(snapshot),
            continues,
            left_out: crate::state::count(left_out.len()),
            left_out_names: left_out.iter().map(|name| surveyed(name, 0).name).collect(),
        };
        let ended = Ended::Done(WorkResult::Survey(done));
        assert_eq!(self.end_with(&held, vec![ResultPart::Tables(found)], ended), Reception::Taken);
    }

    /// Answers a plan with so many shards for each table.
    pub(crate) fn plan_into(&mut self, held: &Held, tables: &[(&str, u32)]) {
        self.plan_by(held, |name| {
            let (_, shards) = tables.iter().find(|(known, _)| name.to_string() == *known)?;
            Some((name.clone(), *shards))
        });
    }

    fn plan_by(
        &mut self,
        held: &Held,
        plan: impl Fn(&QualifiedName) -> Option<(QualifiedName, u32)>,
    ) {
        let (asked, result) = match self.work(held) {
            Work::Plan(asked) => (asked, WorkResult::Plan),
            Work::VerifyPlan(asked) => (asked, WorkResult::VerifyPlan),
            other => panic!("a plan: {other:?}"),
        };
        let mut parts = Vec::new();
        for table in asked {
            let (write_to, shards) = plan(&table.name).expect("known");
            parts.push(ResultPart::Plan(TablePlan {
                no: table.no,
                generation: table.generation,
                name: table.name,
                write_to,
                columns: vec!["id".into()],
                fingerprint: "f".into(),
                filenode: table.filenode,
                format: CopyFormat::Text,
                key: vec![],
            }));
            let shard = PlannedShard { part: Part::Whole, bytes: SHARD_BYTES, rows: SHARD_ROWS };
            parts.push(ResultPart::Shards(vec![shard; shards as usize]));
        }
        let ended = Ended::Done(result);
        assert_eq!(self.end_with(held, parts, ended), Reception::Taken);
    }

    /// Leases and finishes all units of a kind that is answered without anything of interest.
    pub(crate) fn finish_all(&mut self, name: &str, kind: UnitKind) -> u32 {
        self.finish_all_but(name, kind, 0)
    }

    /// The same, but the last so many of them stay.
    pub(crate) fn finish_all_but(&mut self, name: &str, kind: UnitKind, left: u32) -> u32 {
        let mut finished = 0;
        while self.counts(kind).ready > left {
            let held = self.lease(name, kind);
            match kind {
                UnitKind::Copy => {
                    assert_eq!(self.copied(&held, SHARD_ROWS), Reception::Taken);
                }
                UnitKind::Audit => self.done(&held, WorkResult::Audit { missing: vec![] }),
                UnitKind::Index => self.done(&held, WorkResult::Index),
                UnitKind::SchemaPost => {
                    self.done(&held, WorkResult::SchemaPost { entries_run: 1 });
                }
                UnitKind::Sequences => self.done(&held, WorkResult::Sequences { count: 1 }),
                UnitKind::Analyze => self.done(&held, WorkResult::Analyze),
                UnitKind::VerifyRows => self.compared(&held, RowsCompared::default()),
                UnitKind::VerifySchema => {
                    self.done(&held, WorkResult::VerifySchema(Default::default()));
                }
                UnitKind::VerifySequences => {
                    self.done(&held, WorkResult::VerifySequences(Default::default()));
                }
                UnitKind::Finish => self.done(&held, WorkResult::Finish),
                UnitKind::Precheck
                | UnitKind::SchemaPre
                | UnitKind::OpenStream
                | UnitKind::Stream
                | UnitKind::Cutover
                | UnitKind::Survey
                | UnitKind::Plan
                | UnitKind::VerifyPlan => {
                    panic!("{} has a story of its own", kind.as_str())
                }
            }
            finished += 1;
        }
        finished
    }

    pub(crate) fn work(&self, held: &Held) -> Work {
        work::order(&self.state, &held.unit).expect("it is leased").work
    }

    pub(crate) fn describe(&self, held: &Held) -> String {
        let record = &self.state.tasks[&self.task].record;
        record.describe(&record.unit(held.unit.no).expect("a unit").subject)
    }

    pub(crate) fn view(&self) -> TaskView {
        view::task(&self.state, &self.task, 100, &|_, _| None).expect("the task")
    }

    pub(crate) fn status(&self) -> TaskStatus {
        self.state.task_status(&self.task).expect("the task")
    }

    pub(crate) fn cause(&self) -> Failure {
        self.view().cause.expect("a task that failed, or found differences, has a cause")
    }

    pub(crate) fn counts(&self, kind: UnitKind) -> KindCount {
        let none =
            KindCount { kind, total: 0, done: 0, running: 0, ready: 0, backed_off: 0, failed: 0 };
        let counts = self.state.unit_counts(&self.task);
        counts.into_iter().find(|count| count.kind == kind).unwrap_or(none)
    }

    /// How many events of a kind there are.
    pub(crate) fn told(&self, kind: EventKind) -> usize {
        self.state.events(&self.task, 0).filter(|event| event.kind == kind).count()
    }

    /// The message of the latest event of a kind.
    pub(crate) fn event(&self, kind: EventKind) -> String {
        let found = self.state.events(&self.task, 0).filter(|event| event.kind == kind).last();
        found.unwrap_or_else(|| panic!("no {} event", kind.as_str())).message.clone()
    }
}
