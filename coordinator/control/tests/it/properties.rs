//! Random commands: whatever comes in whatever order, the invariants hold, and the same log gives the same state.

use proptest::prelude::*;

use pgconvoy_control::command::{Command, NoteExport, Report, ReportBody, Stamped};
use pgconvoy_control::liveness::Liveness;
use pgconvoy_control::schedule::{self, Observed};
use pgconvoy_control::state::State;
use pgconvoy_control::{apply, codec, invariants, work};
use pgconvoy_shared::epoch::Generation;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{AgentId, UnitId};
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::parking::{Changes, Parking};
use pgconvoy_shared::time::Timestamp;
use pgconvoy_shared::unit::{Checkpoint, Ended, SnapshotMode, Work, WorkResult};

use crate::{fixtures, following};

/// A step: what, and two numbers to choose by.
type Step = (u8, u8, u8);

struct Machine {
    state: State,
    now: Timestamp,
    liveness: Liveness,
    log: Vec<Stamped>,
}

impl Machine {
    fn new() -> Self {
        let liveness = Liveness::new(10_000, 0);
        Self { state: State::new(), now: Timestamp(1_000), liveness, log: Vec::new() }
    }

    fn apply(&mut self, command: Command) {
        self.now = self.now.plus_ms(10);
        if let Command::RegisterAgent(agent) = &command {
            self.liveness.registered(&agent.id, agent.incarnation, 1);
        }
        let stamped = Stamped { at: self.now, command };
        apply(&mut self.state, &stamped);
        assert_eq!(invariants::check(&self.state), [], "after {stamped:?}");
        self.log.push(stamped);
    }

    fn leases(&self) -> Vec<(AgentId, UnitId)> {
        let agents = self.state.agents().map(|agent| agent.id.clone());
        agents
            .flat_map(|agent| {
                let held = self.state.leases_of(&agent).collect::<Vec<_>>();
                held.into_iter().map(move |held| (agent.clone(), held.unit))
            })
            .collect()
    }

    fn step(&mut self, (what, a, b): Step) {
        let agent = fixtures::agent_id(&format!("agent-{}", a % 3));
        let task = fixtures::task_id(u64::from(a % 2));
        match what % 21 {
            0 => {
                let register = fixtures::register(agent.as_str(), u64::from(b % 4), 3);
                self.apply(Command::RegisterAgent(Box::new(register)));
            }
            1 => {
                let known = self.state.agent(&agent).map(|agent| agent.incarnation);
                if let Some(incarnation) = known {
                    self.apply(Command::LoseAgent { agent, incarnation });
                }
            }
            2 => self.apply(Command::DrainAgent { agent }),
            3 => self.apply(Command::UndrainAgent { agent }),
            4 => self.apply(Command::PauseTask { task }),
            5 | 6 => {
                let (acknowledge, passwords) = Default::default();
                self.apply(Command::ResumeTask { task, acknowledge, passwords });
            }
            7 if b < 20 => self.apply(Command::CancelTask { task }),
            7 => self.apply(Command::PrecheckTask { task }),
            8 => {
                self.apply(Command::DeleteTask { task });
                let mode =
                    if b.is_multiple_of(3) { SnapshotMode::Shard } else { SnapshotMode::Task };
                let create = fixtures::create(u64::from(a % 2), mode);
                self.apply(Command::CreateTask(Box::new(create)));
            }
            9 => self.now = self.now.plus_ms(u64::from(b) * 100),
            10 => {
                if let Some(incarnation) = self.state.agent(&agent).map(|agent| agent.incarnation) {
                    let round = u32::from(b % 4);
                    let export_id = "another".into();
                    let note = NoteExport { task, round, agent, incarnation, export_id };
                    self.apply(Command::NoteExport(note));
                }
            }
            11 if b < 128 => {
                let table = fixtures::surveyed(u32::from(b % 4), 0).name.to_string();
                self.apply(if b < 64 {
                    Command::ResumeTable { task, table }
                } else {
                    Command::ResyncTable { task, table }
                });
            }
            11..15 => {
                let observed = Observed { liveness: &self.liveness, now_ms: 2 };
                let plan = schedule::plan(&self.state, &observed, self.now);
                plan.commands.into_iter().for_each(|command| self.apply(command));
            }
            20 => {
                let (task, settings) = (fixtures::task_id(2), following::cutover_settings());
                self.apply(Command::CutoverTask { task, settings });
            }
            21 => self.apply(Command::LeaveFence { task: fixtures::task_id(2) }),
            _ => self.answer(a, b),
        }
    }

    fn answer(&mut self, a: u8, b: u8) {
        let leases = self.leases();
        if leases.is_empty() {
            return;
        }
        let (agent, unit) = leases[usize::from(a) % leases.len()].clone();
        let Some(known) = self.state.unit(&unit) else { return };
        let epoch = known.epoch;
        let Some(lease) = known.lease() else { return };
        let incarnation = lease.incarnation;
        let order = work::order(&self.state, &unit);
        let table = pgconvoy_shared::ids::TableNo(u32::from(a % 4));
        let (parts, ended) = match (b % 17, order) {
            (0, _) => (vec![], Ended::Failed(Failure::transient("t", "t"))),
            (1, _) => (vec![], Ended::Failed(Failure::definite("d", "d"))),
            (2, _) => (vec![], Ended::SnapshotLost { round: 1, gone: vec![agent.clone()] }),
            (3, _) => {
                (vec![], Ended::TableChanged { table, failure: Failure::other("changed", "c") })
            }
            (4, _) => {
                (vec![], Ended::TableChanged { table, failure: Failure::definite("changed", "c") })
            }
            (5, _) => (vec![], Ended::Done(WorkResult::Audit { missing: vec![(table, 9)] })),
            (16, _) => (vec![], Ended::TableGone { table, system_identifier: 42 }),
            (6, _) | (_, None) => (vec![], Ended::Released),
            (far, Some(order)) if matches!(order.work, Work::Stream(_)) => {
                let applied = Lsn(u64::from(far));
                let body = match far {
                    7 | 8 => ReportBody::Parking(Box::new(following::parking(
                        table.0,
                        u32::from(b / 86),
                        far == 7,
                    ))),
                    9 => ReportBody::Parking(Box::new(Parking {
                        table,
                        generation: Generation(u32::from(b / 86)),
                        changes: Changes::Held(7),
                    })),
                    _ => ReportBody::Checkpoint(Checkpoint { applied, consistent: far > 8 }),
                };
                self.apply(Command::Reports(vec![Report {
                    agent,
                    incarnation,
                    unit,
                    epoch,
                    body,
                }]));
                return;
            }
            (shards, Some(order)) => {
                let (parts, result) = fixtures::answer(&order.work, &agent, u32::from(shards) % 4);
                (parts, Ended::Done(result))
            }
        };
        let count = parts.len() as u32;
        let parts = (0u32..).zip(parts).map(|(no, part)| ReportBody::Part { no, part });
        let bodies = parts.chain([ReportBody::Ended { parts: count, ended }]);
        let reports = bodies.map(|body| Report {
            agent: agent.clone(),
            incarnation,
            unit: unit.clone(),
            epoch,
            body,
        });
        let reports: Vec<_> = reports.collect();
        self.apply(Command::Reports(reports.clone()));
        if b > 200 {
            self.apply(Command::Reports(reports));
        }
    }
}

fn bytes(state: &State) -> Vec<Vec<u8>> {
    state.freeze().encode(10_000).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_and_the_log_decides_all(
        steps in prop::collection::vec(any::<Step>(), 1..250),
        freeze_at in 0usize..250,
    ) {
        let mut machine = Machine::new();
        for no in 0..2 {
            let create = fixtures::create(no, SnapshotMode::Task);
            machine.apply(Command::CreateTask(Box::new(create)));
        }
        machine.apply(Command::CreateTask(Box::new(following::create(2))));
        for no in 0..3 {
            let register = fixtures::register(&format!("agent-{no}"), 9, 3);
            machine.apply(Command::RegisterAgent(Box::new(register)));
        }
        let mut frozen = None;
        for (no, step) in steps.into_iter().enumerate() {
            if no == freeze_at {
                frozen = Some((machine.state.freeze(), bytes(&machine.state), machine.log.len()));
            }
            machine.step(step);
        }
        // A node that has only the log comes to the same.
        let log = codec::decode_batch(&codec::encode_batch(&machine.log)).expect("just encoded");
        prop_assert_eq!(&log, &machine.log);
        let mut other = State::new();
        for stamped in &log {
            apply(&mut other, stamped);
        }
        prop_assert_eq!(bytes(&other), bytes(&machine.state));
        // So does one that has a snapshot and the rest of the log; and a frozen state stays what it was.
        if let Some((frozen, then, from)) = frozen {
            let chunks: Vec<_> = frozen.encode(777).collect();
            prop_assert!(chunks.iter().rev().skip(1).all(|chunk| chunk.len() == 777));
            let mut restored = State::restore(&chunks).expect("just encoded");
            prop_assert_eq!(bytes(&restored), then);
            prop_assert_eq!(invariants::check(&restored), []);
            for stamped in &log[from..] {
                apply(&mut restored, stamped);
            }
            prop_assert_eq!(bytes(&restored), bytes(&machine.state));
        }
    }

    #[test]
    fn no_bytes_make_the_decoders_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = codec::decode_batch(&bytes);
        let mut snapshot = b"pgconvoy\x01".to_vec();
        snapshot.extend(&bytes);
        prop_assert!(State::restore([&snapshot]).is_err());
    }
}
