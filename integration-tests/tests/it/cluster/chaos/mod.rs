//! Whatever happens, in whatever order: a database moves while things are killed, frozen, cut off and crash by a random
//! schedule, and arrives.
//!
//! A few shards cannot end before the last fault is over, so that all of them strike a running copy. `PGCONVOY_CHAOS_SEED`
//! replays a schedule (as far as time can be replayed); `PGCONVOY_CHAOS_RUNS` says how many run one after the other, each
//! with the next seed. What came of them is told at the end.

mod fault;
mod live;
mod stage;
mod tally;

use std::time::{Duration, Instant};

use pgconvoy_integration_tests::postgres::Options;
use pgconvoy_proto::v1::{Phase, Task, TaskStatus};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::world::{Fleet, Gate, LIMIT, Ledger, Pair, Roads};
use fault::Fault;
use stage::{AGENTS, Stage};
use tally::{Run, Tally};

/// After the last fault; many of them leave retries with a back-off behind.
const PEACE: Duration = Duration::from_secs(120);

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

#[tokio::test]
async fn chaos_all_rows_arrive_once_whatever_happens() {
    let first =
        from_environment("PGCONVOY_CHAOS_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    let runs = from_environment("PGCONVOY_CHAOS_RUNS").unwrap_or(1);
    let mut tally = Tally::default();
    for seed in first..first + runs {
        eprintln!("PGCONVOY_CHAOS_SEED={seed}");
        tally.add(run(seed).await);
    }
    eprintln!("{tally}");
}

/// Some of each: with a key and without, partitions, references, a view, a sequence. Small, for what is tested is what
/// happens to it.
fn schema() -> String {
    let more = "
        create table public.parts (id int, half int, words text, primary key (id, half)) partition by list (half);
        create table public.parts_0 partition of public.parts for values in (0);
        create table public.parts_1 partition of public.parts for values in (1);
        insert into public.parts select id, id % 2, repeat(md5(id::text), 4) from generate_series(1, 10000) id;
        create index on public.parts (words);
        create table public.notes (id serial primary key, account int references public.accounts, note text);
        insert into public.notes (account, note) select 1 + id % 12000, md5(id::text) from generate_series(1, 8000) id;
        create view public.rich as select * from public.accounts where balance > 1000;";
    [Gate::KEYLESS, Ledger::SCHEMA, more].concat()
}

/// One schedule, to its good end.
async fn run(seed: u64) -> Run {
    let begin = Instant::now();
    let mut random = StdRng::seed_from_u64(seed);
    let mut faults = Fault::schedule(&mut random).into_iter().peekable();
    let durable = || Options::default().durable();
    let schema = schema();
    let (pair, fleet) =
        tokio::join!(Pair::of(durable(), durable(), &schema), Fleet::of_three(&AGENTS));
    let roads = Roads::to(&pair).await;
    let gate = Gate::shut(&pair.destination).await;
    let job = fleet.begin(&roads.task_file(&pair, "chaos", Gate::COPY)).await;
    gate.waiting(1, LIMIT).await;

    let stage = Stage::new(&pair, &roads, &fleet, &job.id, Some(gate));
    let mut struck = Vec::new();
    while let Some(fault) = faults.next() {
        // Some strike while another one lasts.
        let second = faults.next_if(|next| random.random_bool(0.4) && fault.is_apart_from(*next));
        let at = begin.elapsed().as_secs_f64();
        eprintln!(
            "{at:6.1} s  {}",
            second.map_or(fault.to_string(), |second| format!("{fault} + {second}"))
        );
        struck.extend(stage.strike_with(fault, second).await);
        stage::pass(Duration::from_millis(random.random_range(0..1_500))).await;
    }
    // All of them struck a running copy, and it did not give up. (For a moment nobody may lead.)
    let copies = |task: &Task| task.phase() == Phase::Copy && task.status() != TaskStatus::Failed;
    job.until("the copy to run still", copies).await;

    eprintln!("{:6.1} s  peace", begin.elapsed().as_secs_f64());
    let peace = Instant::now();
    stage.peace().await;
    let done = |task: &Task| task.status() == TaskStatus::Done;
    fleet.convoy.task_until(&job.id, PEACE, "the task to be done", done).await.unwrap();
    let recovery = peace.elapsed();
    let compared = pair.same().await;
    eprintln!("{:6.1} s  done and the same", begin.elapsed().as_secs_f64());
    let done = vec![("rows moved", compared.rows)];
    let took = vec![("recovery", recovery), ("a run", begin.elapsed())];
    Run { struck, done, took }
}
