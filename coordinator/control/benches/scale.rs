//! A task of a million shards over a thousand agents, in memory: state machine and scheduler.
//!
//! Prints its figures, and fails when one of them is out of bounds: 1 GiB of memory, 5,000 completions a second on one
//! core (applied and planned), about the same cost of a completion at 10,000 and at 1,000,000 shards, and 100 ms to
//! freeze the state for a snapshot.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "a bench measures real time and prints"
)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

#[path = "../tests/it/fixtures.rs"]
mod fixtures;

use pgconvoy_control::command::{Command, Grant, Report, ReportBody, Stamped};
use pgconvoy_control::liveness::Liveness;
use pgconvoy_control::outcome::{Applied, Effect};
use pgconvoy_control::schedule::{self, Observed};
use pgconvoy_control::state::State;
use pgconvoy_control::{apply, work};
use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::ids::{AgentId, Incarnation, UnitId, UnitNo};
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::time::Timestamp;
use pgconvoy_shared::unit::{
    CopyDone, Ended, Export, ResultPart, SharedSnapshot, SnapshotMode, SurveyDone, Work, WorkResult,
};

const AGENTS: u32 = 1_000;
const SLOTS: u32 = 8;
const COMPLETIONS: u32 = 50_000;
/// Completions in an entry, as a busy leader batches them.
const BATCH: usize = 64;

struct Bench {
    state: State,
    liveness: Liveness,
    now: Timestamp,
    leased: Vec<(UnitId, AgentId, Epoch)>,
}

impl Bench {
    fn new() -> Self {
        let liveness = Liveness::new(u64::MAX / 2, 0);
        Self { state: State::new(), liveness, now: Timestamp(1_700_000_000_000), leased: vec![] }
    }

    fn apply(&mut self, command: Command) -> Applied {
        self.now = self.now.plus_ms(1);
        let applied = apply(&mut self.state, &Stamped { at: self.now, command });
        assert!(applied.outcome.is_ok(), "{:?}", applied.outcome);
        applied
    }

    fn report(&mut self, unit: &UnitId, agent: &AgentId, epoch: Epoch, bodies: Vec<ReportBody>) {
        let report = |body| Report {
            agent: agent.clone(),
            incarnation: Incarnation(1),
            unit: unit.clone(),
            epoch,
            body,
        };
        self.apply(Command::Reports(bodies.into_iter().map(report).collect()));
    }

    /// Everything up to the copy: all tables planned.
    fn prepare(&mut self, tables: u32, shards: u32) {
        for no in 0..AGENTS {
            let agent = fixtures::register(&format!("agent-{no}"), 1, SLOTS);
            self.liveness.registered(&agent.id, agent.incarnation, 0);
            self.apply(Command::RegisterAgent(Box::new(agent)));
        }
        let mut create = fixtures::create(0, SnapshotMode::Task);
        create.spec.copy.jobs = AGENTS * SLOTS;
        self.apply(Command::CreateTask(Box::new(create)));
        let agent = fixtures::agent_id("agent-0");
        for no in 0..3 + tables {
            let unit = UnitId { task: fixtures::task_id(0), no: UnitNo(no) };
            // Plans lie before the shards of their tables: number by number among the first units.
            let grant =
                Grant { unit: unit.clone(), agent: agent.clone(), incarnation: Incarnation(1) };
            self.apply(Command::GrantLeases(vec![grant]));
            let order = work::order(&self.state, &unit).expect("each unit is ready in its turn");
            let (parts, result) = match &order.work {
                Work::Survey(survey) => (survey_parts(tables), survey_done(survey.round)),
                work => fixtures::answer(work, &agent, shards),
            };
            let count = parts.len() as u32;
            let parts = (0u32..).zip(parts).map(|(no, part)| ReportBody::Part { no, part });
            let end = ReportBody::Ended { parts: count, ended: Ended::Done(result) };
            let bodies = parts.chain([end]).collect();
            self.report(&unit, &agent, order.epoch, bodies);
        }
    }

    fn plan(&mut self) {
        let observed = Observed { liveness: &self.liveness, now_ms: 1 };
        let plan = schedule::plan(&self.state, &observed, self.now);
        for command in plan.commands {
            let applied = self.apply(command);
            self.leased.extend(applied.effects.into_iter().filter_map(|effect| match effect {
                Effect::Lease { unit, agent, epoch, .. } => Some((unit, agent, epoch)),
                Effect::Revoke { .. } | Effect::Drain { .. } => None,
            }));
        }
    }

    /// Completes shards, and leases others in their place.
    fn complete(&mut self, count: u32) -> Duration {
        while self.leased.len() < (AGENTS * SLOTS) as usize {
            let before = self.leased.len();
            self.plan();
            if self.leased.len() == before {
                break;
            }
        }
        let start = Instant::now();
        let mut completed = 0;
        while completed < count {
            let batch = self.leased.drain(..BATCH.min(self.leased.len())).collect::<Vec<_>>();
            assert!(!batch.is_empty(), "shards are left");
            completed += batch.len() as u32;
            let reports = batch.into_iter().map(|(unit, agent, epoch)| Report {
                agent,
                incarnation: Incarnation(1),
                unit,
                epoch,
                body: ReportBody::Ended { parts: 0, ended: Ended::Done(copied()) },
            });
            self.apply(Command::Reports(reports.collect()));
            self.plan();
        }
        start.elapsed()
    }
}

fn copied() -> WorkResult {
    WorkResult::Copy(CopyDone {
        rows: 10,
        bytes: 1_000,
        snapshot: "10:10:".into(),
        noted_lsn: Lsn(8),
        found_done: false,
    })
}

fn survey_parts(tables: u32) -> Vec<ResultPart> {
    let tables: Vec<_> =
        (0..tables).map(|no| fixtures::surveyed(no, (100 << 20) + u64::from(no))).collect();
    tables.chunks(500).map(|some| ResultPart::Tables(some.to_vec())).collect()
}

fn survey_done(round: u32) -> WorkResult {
    let snapshot = SharedSnapshot {
        round,
        snapshot: "10:10:".into(),
        noted_lsn: Lsn(7),
        exports: vec![Export { agent: fixtures::agent_id("agent-0"), id: "export".into() }],
    };
    WorkResult::Survey(SurveyDone {
        system_identifier: 42,
        snapshot: Some(snapshot),
        continues: false,
        left_out: 0,
        left_out_names: vec![],
    })
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a Linux process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("has a VmRSS line");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("in KiB");
    kib * 1_024
}

/// Microseconds for a completion.
fn cost(bench: &mut Bench, count: u32) -> f64 {
    bench.complete(count).as_secs_f64() * 1e6 / f64::from(count)
}

fn main() -> ExitCode {
    // Of 10,000 shards 8,000 are leased at once: so many are completed as others can take their places.
    let small_costs = (0..5).map(|_| {
        let mut small = Bench::new();
        small.prepare(10, 1_000);
        cost(&mut small, 1_900)
    });
    let small_cost = small_costs.sum::<f64>() / 5.0;

    let mut large = Bench::new();
    let start = Instant::now();
    large.prepare(1_000, 1_000);
    let prepared = start.elapsed();
    let large_cost = cost(&mut large, COMPLETIONS);
    let memory = resident_bytes();
    let start = Instant::now();
    let frozen = large.state.freeze();
    let freeze = start.elapsed();
    let frozen_cost = cost(&mut large, COMPLETIONS);
    let start = Instant::now();
    let encoded: usize = frozen.encode(1 << 20).map(|chunk| chunk.len()).sum();
    let encode = start.elapsed();

    let rate = 1e6 / large_cost;
    let ratio = large_cost / small_cost;
    println!("1,000,000 shards, {AGENTS} agents");
    println!("  planned in               {:>10.2} s", prepared.as_secs_f64());
    println!("  memory                   {:>10} MiB   (limit 1,024)", memory >> 20);
    println!("  completions a second     {rate:>10.0}       (at least 5,000)");
    println!("  cost of one at 10,000    {small_cost:>10.2} us");
    println!("  cost of one at 1,000,000 {large_cost:>10.2} us    {ratio:.2} times (at most 2)");
    println!("  cost of one while frozen {frozen_cost:>10.2} us");
    println!("  freeze                   {:>10.3} ms    (at most 100)", freeze.as_secs_f64() * 1e3);
    println!(
        "  snapshot                 {:>10} MiB in {:.2} s",
        encoded >> 20,
        encode.as_secs_f64()
    );
    let good =
        memory < 1 << 30 && rate >= 5_000.0 && ratio <= 2.0 && freeze < Duration::from_millis(100);
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
