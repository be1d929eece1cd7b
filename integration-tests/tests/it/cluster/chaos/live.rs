//! Long runs over a source that is written to all the time, from before the copy until the cutover: whatever happens, in whatever
//! order, what was acknowledged is at the destination in the end, each write once and nothing else.
//!
//! Scribes write and keep account; agents, nodes, networks and servers fail by a random schedule, and tables are copied anew
//! meanwhile. Then all heals, and a cutover is asked for while they still write; in every other run something fails again while
//! it is under way. Who judges is their books, at both ends, and
//! the comparison of all rows; neither asks anything of pgconvoy.
//!
//! Ways and scribes go on while the test waits for a server to stop: the source waits until its follower has confirmed all, which
//! it does by one of the ways.
//!
//! `PGCONVOY_CHAOS_SEED`, `_RUNS` and `_SECS` replay a schedule (as far as time can be replayed), and say how many run and for
//! how long at least.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use pgconvoy_integration_tests::logs::Expected;
use pgconvoy_integration_tests::postgres::{Options, PASSWORD};
use pgconvoy_proto::v1::{CutoverStep, Phase, Task, TaskStatus};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Notify;

use super::fault::Fault;
use super::from_environment;
use super::stage::{self, AGENTS, Stage};
use super::tally::{Run, Tally};
use crate::stream::{FOLLOWED, caught_up};
use crate::world::{DATABASE, Fleet, Job, Pair, Roads, Scribes, told};

/// What a run must have seen before it counts; it goes on until it has.
#[derive(Debug, Clone, Copy)]
struct Minima {
    time: Duration,
    faults: usize,
    kinds: usize,
    writes: u64,
}

/// As a sceptic wants it.
const LONG: Minima = Minima { time: Duration::from_secs(60), faults: 8, kinds: 4, writes: 20_000 };
/// As much as each run of the tests can bear.
const SHORT: Minima = Minima { time: Duration::from_secs(15), faults: 6, kinds: 4, writes: 2_000 };

/// A source on which nobody can write any more ends no run.
const PATIENCE: u32 = 5;

/// After the last fault: what was held up is read and applied, in a debug build.
const PEACE: Duration = Duration::from_secs(240);

/// Those that are copied anew now and then. Leaves too: rows move into them and out of them meanwhile.
const TABLES: [&str; 8] = [
    "public.account",
    "public.seat",
    "public.paper",
    "public.kind",
    "public.part_a",
    "public.same",
    "public.badge",
    "public.scratch_1",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_live_what_was_acknowledged_is_there_after_the_cutover() {
    let first =
        from_environment("PGCONVOY_CHAOS_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    let runs = from_environment("PGCONVOY_CHAOS_RUNS").unwrap_or(1);
    let time = from_environment("PGCONVOY_CHAOS_SECS").map_or(LONG.time, Duration::from_secs);
    let minima = Minima { time: time.max(LONG.time), ..LONG };
    let mut tally = Tally::default();
    for seed in first..first + runs {
        tally.add(run(seed, minima).await);
        eprintln!("{tally}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_live_faults_of_one_seed_lose_and_double_nothing() {
    run(1, SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_live_faults_of_another_seed_lose_and_double_nothing() {
    run(2, SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_live_faults_of_any_seed_lose_and_double_nothing() {
    run(rand::random::<u32>().into(), SHORT).await;
}

/// One schedule, to its good end.
async fn run(seed: u64, minima: Minima) -> Run {
    let begin = Instant::now();
    eprintln!("PGCONVOY_CHAOS_SEED={seed}, at least {minima:?}");
    let say = |what: &str| eprintln!("{:6.1} s  {what}", begin.elapsed().as_secs_f64());
    let mut random = StdRng::seed_from_u64(seed);
    // A large transaction is told before it is committed.
    let source = Options::default().setting("logical_decoding_work_mem", "64kB");
    let schema = Scribes::schema();
    let (pair, fleet) =
        tokio::join!(Pair::of(source, Options::default(), &schema), Fleet::of_three(&AGENTS));
    let roads = Roads::to(&pair).await;
    let way = Roads::one(&pair.source).await;
    let scribes = Scribes::begin(&way, seed).await;
    let job = fleet.begin(&roads.task_file(&pair, "live", FOLLOWED)).await;
    // Transactions that are prepared for a moment are in nobody's way.
    job.until("rows to be copied", |task| task.phase() >= Phase::Copy).await;

    let stage = Stage::new(&pair, &roads, &fleet, &job.id, None).with_writers(&way);
    let struck = strike(&stage, &mut random, minima, &scribes, &say).await;
    say(&format!("{} faults, {} writes; peace", struck.len(), scribes.writes()));
    let peace = Instant::now();
    stage.peace().await;
    healed(&job, &pair).await;
    let recovery = peace.elapsed();
    say("healed");

    let (undone, stopped) = cut_over(&stage, &mut random, &job, &pair, &say).await;
    say("cut over");
    let written = scribes.end().await;
    // First the source: what is not there was lost before anybody could move it.
    for (end, server) in [("source", &pair.source), ("destination", &pair.destination)] {
        if let Err(wrong) = written.prove(server).await {
            panic!("what was acknowledged is not at the {end}: {wrong}");
        }
    }
    let compared = pair.same().await;
    let ahead =
        "select nextval('drawn') > max(drawn) and nextval('backwards') < min(low) from receipt";
    let ahead = pair.destination.value(DATABASE, ahead).await.unwrap();
    assert_eq!(ahead.as_deref(), Some("t"), "sequences give numbers again that were given");
    tells_no_password(&pair, &fleet);
    say("all is there, once");
    let done = vec![
        ("rows at the end", compared.rows),
        ("writes acknowledged", written.writes),
        ("rows written by them", written.rows),
        ("writes whose answer was lost, found written", written.unheard),
        ("cutovers undone before the one that was done", undone),
    ];
    let took =
        vec![("recovery", recovery), ("the writers' stop", stopped), ("a run", begin.elapsed())];
    let run = Run { struck, done, took };
    let mut alone = Tally::default();
    alone.add(run.clone());
    eprintln!("{alone}");
    run
}

/// Faults, one after the other or two at once, until all minima are met.
async fn strike(
    stage: &Stage<'_>,
    random: &mut StdRng,
    minima: Minima,
    scribes: &Scribes,
    say: &impl Fn(&str),
) -> Vec<Fault> {
    let since = Instant::now();
    let mut struck: Vec<Fault> = Vec::new();
    let mut faults = Vec::new();
    loop {
        let kinds = struck.iter().map(|fault| fault.kind()).collect::<BTreeSet<_>>().len();
        let enough = since.elapsed() >= minima.time && scribes.writes() >= minima.writes;
        if enough && struck.len() >= minima.faults && kinds >= minima.kinds {
            return struck;
        }
        assert!(
            since.elapsed() < minima.time * PATIENCE,
            "{} writes and {} faults are too few for this time",
            scribes.writes(),
            struck.len()
        );
        if faults.len() < 2 {
            faults.extend(Fault::round(random, &TABLES));
        }
        let fault = faults.pop().expect("there are two at least");
        // Some strike while another one lasts.
        let both = random.random_bool(0.4) && fault.is_apart_from(faults[faults.len() - 1]);
        let second = if both { faults.pop() } else { None };
        say(&second.map_or(fault.to_string(), |second| format!("{fault} + {second}")));
        struck.extend(stage.strike_with(fault, second).await);
        stage::pass(Duration::from_millis(random.random_range(0..1_500))).await;
    }
}

/// Told first by the books; by what the product finds itself, where that comes before.
const NOT_THERE: &str = "what was acknowledged is not at the destination";

/// Waits until every table is followed, and what the source had by then is at the destination. No table was ever parked: nobody
/// but the task has been there.
async fn healed(job: &Job<'_>, pair: &Pair) {
    let followed = |task: &Task| {
        task.phase() == Phase::Stream
            && task.status() == TaskStatus::Running
            && task.tables.iter().all(|table| table.status == "streaming")
    };
    let parked = |task: &Task| task.tables.iter().any(|table| table.status == "parked");
    let settled = |task: &Task| followed(task) || parked(task);
    let convoy = &job.fleet.convoy;
    convoy.task_until(&job.id, PEACE, "every table to be followed", settled).await.unwrap();
    nothing_was_parked(job).await;
    caught_up(job, pair).await;
    nothing_was_parked(job).await;
}

async fn nothing_was_parked(job: &Job<'_>) {
    let parked = job.events("table_parked").await;
    assert!(
        parked.is_empty(),
        "{NOT_THERE}, as a change tells that could not be applied: {parked:?}"
    );
}

/// Why no cutover may be undone: writers are fenced off, and nobody but the task has been at the destination.
const GRAVE: [&str; 6] = [
    "cutover_writers",
    "cutover_sequences_moved",
    "cutover_tables_parked",
    "verification_differs",
    "cutover_rows_differ",
    "cutover_schema_differs",
];

/// Asks for a cutover until it is done; how often it was undone before, and how long it stopped the writers. Something may fail while it is under way: then it is done
/// or undone all the same. Else only what passes may undo it: prepared transactions that come and go, lag.
async fn cut_over(
    stage: &Stage<'_>,
    random: &mut StdRng,
    job: &Job<'_>,
    pair: &Pair,
    say: &impl Fn(&str),
) -> (u64, Duration) {
    let mut fault = random.random_bool(0.5).then(|| Fault::at_cutover(random));
    // While both ends are compared, or writers are stopped.
    let behind_the_fence = random.random_bool(0.5);
    let delay = if behind_the_fence { 0..500 } else { 0..3_000 };
    let delay = Duration::from_millis(random.random_range(delay));
    let from = if behind_the_fence { "the fence" } else { "its beginning" };
    for undone in 0..TRIES {
        say(&fault.map_or("cutover".to_owned(), |fault| {
            format!("cutover, {delay:?} after {from} {fault}")
        }));
        let over = Notify::new();
        let struck = async {
            if let Some(fault) = fault.take() {
                if behind_the_fence {
                    // One that was refused stops nobody.
                    tokio::select! {
                        _task = job.until("the fence", is_fenced) => {}
                        () = over.notified() => {}
                    }
                }
                stage::pass(delay).await;
                stage.strike_with(fault, None).await;
            }
        };
        let cutover = ["task", "cutover", &job.id, "--fence"];
        let asked = async {
            let asked = job.fleet.run(&cutover).await;
            over.notify_one();
            asked
        };
        let (asked, ()) = tokio::join!(asked, struck);
        let over = job.until("the cutover to be over", |task| {
            task.cutover.as_ref().is_none_or(|cutover| !cutover.outcome.is_empty())
        });
        let cutover = over.await.cutover;
        if let Some(done) = cutover.as_ref().filter(|cutover| cutover.outcome == "done") {
            job.ended().await;
            return (undone, Duration::from_millis(done.stopped_ms));
        }
        let cause = cutover.and_then(|cutover| cutover.cause).map(|cause| cause.code);
        say(&format!("it is undone: {}", cause.as_deref().unwrap_or("it was not begun")));
        let is_grave = cause.as_deref().is_some_and(|cause| GRAVE.contains(&cause));
        let differs =
            matches!(cause.as_deref(), Some("verification_differs" | "cutover_rows_differ"));
        if differs {
            let shown = job.fleet.ok(&["task", "show", &job.id]).await;
            panic!("{NOT_THERE}, as the cutover's comparison tells: {}\n{shown}", told(&asked));
        }
        assert!(!is_grave, "the cutover failed: {}", told(&asked));
        healed(job, pair).await;
    }
    panic!("{TRIES} cutovers were undone");
}

fn is_fenced(task: &Task) -> bool {
    let cutover = task.cutover.as_ref();
    cutover
        .is_some_and(|cutover| cutover.steps.iter().any(|step| step.step() == CutoverStep::Fence))
}

/// A transaction that is prepared at that very moment undoes one now and then.
const TRIES: u64 = 10;

fn tells_no_password(pair: &Pair, fleet: &Fleet) {
    // What went wrong is told; nothing else is looked for here.
    let secret = Expected::nothing().allow("").secret(PASSWORD);
    fleet.convoy.check_logs(&secret).unwrap();
    for server in [&pair.source, &pair.destination] {
        secret.check(&server.log()).unwrap();
    }
}
