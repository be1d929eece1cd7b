//! Whatever happens, in whatever order: a shop moves while things are killed, frozen, cut off and crash by a random
//! schedule, and arrives.
//!
//! `PGCONVOY_CHAOS_SEED` replays a schedule (as far as time can be replayed), `PGCONVOY_CHAOS_SECS` says how long faults
//! go on before the convoy is left in peace.

use std::fmt;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pgconvoy_integration_tests::net::Weather;
use pgconvoy_integration_tests::postgres::{Options, Postgres};
use pgconvoy_integration_tests::{shop, wait};
use pgconvoy_proto::v1::{Phase, Task, TaskStatus};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::world::{DATABASE, Fleet, Ledger, Pair, SOON};

/// After the last fault; many of them leave retries with a back-off behind.
const PEACE: Duration = Duration::from_secs(300);

/// One thing that goes wrong. All of them heal at once or after a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    KillAgent(usize),
    EndAgent(usize),
    FreezeAgent(usize, Duration),
    KillNode(u64),
    KillLeader,
    FreezeNode(u64, Duration),
    CutNode(u64, Duration),
    HandOver,
    CrashSource,
    CrashDestination,
    EndSessions,
    PauseTask,
}

const AGENTS: [&str; 3] = ["anna", "bert", "carl"];

impl Fault {
    fn any(random: &mut StdRng) -> Fault {
        let agent = random.random_range(0..AGENTS.len());
        let node = random.random_range(1..=3);
        // Sometimes within a lease of 10 s, sometimes beyond it.
        let while_ = Duration::from_millis(random.random_range(200..14_000));
        let faults = [
            Fault::KillAgent(agent),
            Fault::KillAgent(agent),
            Fault::EndAgent(agent),
            Fault::FreezeAgent(agent, while_),
            Fault::FreezeAgent(agent, while_),
            Fault::KillNode(node),
            Fault::KillLeader,
            Fault::FreezeNode(node, while_),
            Fault::CutNode(node, while_),
            Fault::HandOver,
            Fault::CrashSource,
            Fault::CrashDestination,
            Fault::EndSessions,
            Fault::EndSessions,
            Fault::PauseTask,
        ];
        *faults.choose(random).expect("there are some")
    }

    async fn strike(self, pair: &Pair, fleet: &Fleet, task: &str) {
        let convoy = &fleet.convoy;
        match self {
            Fault::KillAgent(agent) => {
                convoy.agent(AGENTS[agent]).kill().unwrap();
                convoy.agent(AGENTS[agent]).start_again().unwrap();
            }
            Fault::EndAgent(agent) => {
                let agent = convoy.agent(AGENTS[agent]);
                agent.terminate(Signal::SIGTERM, SOON).await.unwrap();
                agent.start_again().unwrap();
            }
            Fault::FreezeAgent(agent, time) => {
                let agent = convoy.agent(AGENTS[agent]);
                agent.pause().await.unwrap();
                pass(time).await;
                agent.go_on().unwrap();
            }
            Fault::KillNode(node) => {
                convoy.coordinator(node).process().kill().unwrap();
                convoy.coordinator(node).process().start_again().unwrap();
            }
            Fault::KillLeader => {
                let leader = convoy.leader().await.unwrap();
                convoy.coordinator(leader).process().kill().unwrap();
                convoy.coordinator(leader).process().start_again().unwrap();
            }
            Fault::FreezeNode(node, time) => {
                let node = convoy.coordinator(node).process();
                node.pause().await.unwrap();
                pass(time).await;
                node.go_on().unwrap();
            }
            Fault::CutNode(node, time) => {
                let link = convoy.coordinator(node).link();
                link.set(Weather::BlackHole);
                pass(time).await;
                link.set(Weather::Clear);
            }
            Fault::HandOver => {
                // May be refused while a node is away.
                fleet.run(&["cluster", "transfer-leader"]).await;
            }
            Fault::CrashSource => crash(&pair.source).await,
            Fault::CrashDestination => crash(&pair.destination).await,
            Fault::EndSessions => {
                let all = "select pg_terminate_backend(pid) from pg_stat_activity
                            where application_name like 'pgconvoy/%' and random() < 0.7";
                for server in [&pair.source, &pair.destination] {
                    server.sql(DATABASE, all).await.unwrap();
                }
            }
            Fault::PauseTask => {
                // Both may be refused when the task has just ended.
                fleet.run(&["task", "pause", task]).await;
                fleet.run(&["task", "resume", task]).await;
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, out)
    }
}

async fn crash(server: &Postgres) {
    server.stop_immediate().unwrap();
    server.start_again().await.unwrap();
}

/// Lets a time pass: what is tested is that it may.
async fn pass(time: Duration) {
    let since = Instant::now();
    let passed = async || if since.elapsed() >= time { Ok(()) } else { Err("not yet") };
    wait::until(time + SOON, "time to pass", passed).await.unwrap();
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

#[tokio::test]
async fn soak_a_shop_arrives_whatever_happens() {
    let seed = from_environment("PGCONVOY_CHAOS_SEED").unwrap_or_else(rand::random);
    let limit = Duration::from_secs(from_environment("PGCONVOY_CHAOS_SECS").unwrap_or(90));
    eprintln!("PGCONVOY_CHAOS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);

    let durable = || Options::default().durable();
    let pair = Pair::bare(durable(), durable()).await;
    shop::build(&pair.source, DATABASE, 0.03).await.unwrap();
    pair.source.sql(DATABASE, Ledger::SCHEMA).await.unwrap();
    let fleet = Fleet::of_three(&AGENTS).await;
    let job = fleet.begin(&pair.task_file("shop", "copy: { jobs: 6, shard_size: 1MiB }")).await;
    // An end that cannot be reached then is an answer, not a fault to wait out.
    job.until("the precheck to be over", |task| task.phase() > Phase::Precheck).await;
    let begin = Instant::now();
    while begin.elapsed() < limit {
        let fault = Fault::any(&mut random);
        eprintln!("{:6.1} s  {fault}", begin.elapsed().as_secs_f64());
        fault.strike(&pair, &fleet, &job.id).await;
        pass(Duration::from_millis(random.random_range(0..2500))).await;
        let Ok(task) = fleet.convoy.task(&job.id).await else { continue };
        if task.status() == TaskStatus::Done {
            break;
        }
        assert_ne!(task.status(), TaskStatus::Failed, "{:?}", task.cause);
    }
    eprintln!("{:6.1} s  peace", begin.elapsed().as_secs_f64());
    // A pause may have outlived its resume.
    fleet.run(&["task", "resume", &job.id]).await;
    let done = |task: &Task| task.status() == TaskStatus::Done;
    fleet.convoy.task_until(&job.id, PEACE, "the task to be done", done).await.unwrap();
    eprintln!("{:6.1} s  done", begin.elapsed().as_secs_f64());
    pair.same().await;
}
