//! Bytes that this version wrote once, kept for ever: each later version reads them.
//!
//! While nothing is released they are written anew with `PGCONVOY_WRITE_GOLDEN=1` when the vocabulary changes; from the
//! first release on, files are only added.

use std::collections::BTreeSet;
use std::path::PathBuf;

use pgconvoy_control::codec;
use pgconvoy_control::command::{
    Acknowledge, Command, Grant, NewPasswords, NoteExport, Report, ReportBody, Stamped,
};
use pgconvoy_control::state::State;
use pgconvoy_control::{apply, work};
use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{Incarnation, TableNo, UnitId, UnitNo};
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::secret::Sealed;
use pgconvoy_shared::stream::{SlotState, StreamNote, WalStatus};
use pgconvoy_shared::time::Timestamp;
use pgconvoy_shared::unit::{Checkpoint, Ended, SnapshotMode, UnitKind, Work, WorkResult};

use crate::{fixtures, following};

#[expect(clippy::disallowed_methods, reason = "whoever changes the format says so from outside")]
fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var("PGCONVOY_WRITE_GOLDEN").is_ok() {
        std::fs::write(&path, bytes).expect("golden bytes are written");
    }
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn report(no: u32, body: ReportBody) -> Report {
    Report {
        agent: fixtures::agent_id("agent-1"),
        incarnation: Incarnation(7),
        unit: UnitId { task: fixtures::task_id(0), no: UnitNo(no) },
        epoch: Epoch(2),
        body,
    }
}

/// One of each command.
fn batch() -> Vec<Stamped> {
    let task = fixtures::task_id(0);
    let agent = fixtures::agent_id("agent-1");
    let codes = BTreeSet::from(["unlogged_tables".to_owned()]);
    let acknowledge = Acknowledge { codes, all: true };
    let passwords = NewPasswords { source: Some(Sealed(vec![1, 2, 3])), destination: None };
    let unit = UnitId { task: task.clone(), no: UnitNo(300) };
    let failure = Failure::transient("connection_lost", "reset").about("source").remedy("wait");
    let ended = |ended| ReportBody::Ended { parts: 0, ended };
    let done = |work| ended(Ended::Done(fixtures::answer(work, &agent, 2).1));
    let table = TableNo(3);
    let slot = SlotState {
        status: WalStatus::Extended,
        kept: 1 << 30,
        left: Some(1 << 20),
        growth: Some(-5),
        source_spilled: 7,
    };
    let commands = vec![
        Command::CreateTask(Box::new(fixtures::create(0, SnapshotMode::Task))),
        Command::StartTask { task: task.clone(), acknowledge: acknowledge.clone() },
        Command::PauseTask { task: task.clone() },
        Command::ResumeTask { task: task.clone(), acknowledge, passwords },
        Command::CancelTask { task: task.clone() },
        Command::DeleteTask { task: task.clone() },
        Command::PrecheckTask { task: task.clone() },
        Command::RegisterAgent(Box::new(fixtures::register("agent-1", 7, 8))),
        Command::DrainAgent { agent: agent.clone() },
        Command::UndrainAgent { agent: agent.clone() },
        Command::LoseAgent { agent: agent.clone(), incarnation: Incarnation(7) },
        Command::ForgetAgent { agent: agent.clone() },
        Command::GrantLeases(vec![Grant {
            unit,
            agent: agent.clone(),
            incarnation: Incarnation(7),
        }]),
        Command::Reports(vec![
            report(1, ended(Ended::Failed(failure.clone()))),
            report(2, ended(Ended::Released)),
            report(3, ended(Ended::SnapshotLost { round: 1, gone: vec![agent.clone()] })),
            report(4, ended(Ended::TableChanged { table, failure })),
            report(6, ended(Ended::TableGone { table, system_identifier: 42 })),
            report(5, ended(Ended::Done(WorkResult::Audit { missing: vec![(table, 4)] }))),
            report(7, ended(Ended::Done(WorkResult::VerifyRows(fixtures::compared())))),
            report(8, done(&Work::VerifySchema)),
            report(9, done(&Work::VerifySequences)),
            report(10, ReportBody::Checkpoint(Checkpoint { applied: Lsn(9), consistent: true })),
            report(10, ReportBody::Parking(Box::new(following::parking(3, 1, true)))),
            report(10, ReportBody::Note(StreamNote::SlotAtRisk(slot))),
        ]),
        Command::NoteExport(NoteExport {
            task: task.clone(),
            round: 1,
            agent,
            incarnation: Incarnation(7),
            export_id: "00000003-1".into(),
        }),
        Command::ResumeTable { task: task.clone(), table: "public.orders".into() },
        Command::ResyncTable { task: task.clone(), table: "public.orders".into() },
        Command::CutoverTask { task: task.clone(), settings: following::cutover_settings() },
        Command::LeaveFence { task },
    ];
    commands
        .into_iter()
        .map(|command| Stamped { at: Timestamp(1_700_000_000_000), command })
        .collect()
}

/// A task in the midst of its copy.
fn state() -> State {
    let mut state = State::new();
    let agent = fixtures::agent_id("agent-1");
    let incarnation = Incarnation(7);
    let task = fixtures::task_id(0);
    let mut run =
        |command| apply(&mut state, &Stamped { at: Timestamp(1_700_000_000_000), command });
    let _ = run(Command::RegisterAgent(Box::new(fixtures::register("agent-1", 7, 8))));
    let _ = run(Command::CreateTask(Box::new(fixtures::create(0, SnapshotMode::Task))));
    for no in 0..6 {
        let unit = UnitId { task: task.clone(), no: UnitNo(no) };
        let grant = Grant { unit: unit.clone(), agent: agent.clone(), incarnation };
        let command = Command::GrantLeases(vec![grant]);
        let granted = apply(&mut state, &Stamped { at: Timestamp(1_700_000_001_000), command });
        assert!(granted.outcome.is_ok());
        let order = work::order(&state, &unit).expect("each unit is ready in its turn");
        if no == 5 {
            assert_eq!(order.work.kind(), UnitKind::Copy);
            break;
        }
        let (parts, result) = fixtures::answer(&order.work, &agent, 2);
        let count = parts.len() as u32;
        let parts = (0u32..).zip(parts).map(|(no, part)| ReportBody::Part { no, part });
        let end = ReportBody::Ended { parts: count, ended: Ended::Done(result) };
        let reports = parts.chain([end]).map(|body| Report {
            agent: agent.clone(),
            incarnation,
            unit: unit.clone(),
            epoch: order.epoch,
            body,
        });
        let command = Command::Reports(reports.collect());
        let at = Timestamp(1_700_000_002_000);
        let _ = apply(&mut state, &Stamped { at, command });
    }
    state
}

#[test]
fn commands_are_written_and_read_as_ever() {
    let bytes = codec::encode_batch(&batch());
    let golden = golden("batch-1.bin", &bytes);
    assert_eq!(codec::decode_batch(&golden), Ok(batch()), "an old log can be read");
    assert_eq!(bytes, golden, "a node of an older version can read ours");
}

#[test]
fn snapshots_are_written_and_read_as_ever() {
    let bytes: Vec<u8> = state().freeze().encode(64).flatten().collect();
    let golden = golden("snapshot-1.bin", &bytes);
    let restored = State::restore([&golden]).expect("an old snapshot can be read");
    assert_eq!(restored.freeze().encode(64).flatten().collect::<Vec<_>>(), golden);
    assert_eq!(bytes, golden, "a node of an older version can read ours");
}
