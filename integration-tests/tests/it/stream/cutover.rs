//! Cutovers: what was acknowledged is at the destination and nothing else, or all is as before.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use pgconvoy_integration_tests::postgres::Postgres;
use pgconvoy_proto::v1::{Phase, Task, TaskStatus};

use crate::world::{DATABASE, Fleet, Job, Pair, told};

const SCHEMA: &str = "
    create table ledger (id bigint generated always as identity primary key, amount int not null);
    create table balance (id int primary key, amount bigint not null);
    insert into balance select i, 0 from generate_series(1, 50) i;
    create sequence backwards increment -3;
    select nextval('backwards'), nextval('backwards');";

const TURN: &str = "with paid as (insert into ledger (amount) values (1) returning id)
    update balance set amount = amount + 1 where id = 1 + (select id from paid) % 50";

/// Works at the source until it is refused, and counts what was acknowledged.
struct Writer {
    acknowledged: Arc<AtomicI64>,
    work: tokio::task::JoinHandle<String>,
}

impl Writer {
    async fn begin(server: &Postgres) -> Self {
        let client = server.client(DATABASE).await.unwrap();
        let acknowledged = Arc::new(AtomicI64::new(0));
        let count = Arc::clone(&acknowledged);
        let work = tokio::spawn(async move {
            loop {
                match client.batch_execute(TURN).await {
                    Ok(()) => drop(count.fetch_add(1, Ordering::SeqCst)),
                    Err(error) => return format!("{error:?}"),
                }
            }
        });
        Self { acknowledged, work }
    }

    fn count(&self) -> i64 {
        self.acknowledged.load(Ordering::SeqCst)
    }
}

async fn following<'f>(fleet: &'f Fleet, pair: &Pair) -> Job<'f> {
    let job = fleet.begin(&pair.task_file("shop", "types: [schema, full, incremental]")).await;
    job.until("the source to be followed", is_followed).await;
    job
}

fn is_followed(task: &Task) -> bool {
    task.phase() == Phase::Stream && task.running.iter().any(|unit| unit.kind == "stream")
}

async fn read_only_by_default(server: &Postgres) -> bool {
    let ask = "select current_setting('default_transaction_read_only')";
    server.value(DATABASE, ask).await.unwrap().unwrap() == "on"
}

#[tokio::test]
async fn cluster_a_cutover_under_load_loses_nothing_and_ends_the_task() {
    let pair = Pair::new(SCHEMA).await;
    let fleet = Fleet::of_three(&["anna", "bert"]).await;
    let job = following(&fleet, &pair).await;
    let writer = Writer::begin(&pair.source).await;
    job.until("somebody to have written", |_| writer.count() > 200).await;

    fleet.ok(&["task", "cutover", "shop", "--fence", "--dry-run"]).await;
    let before = writer.count();
    job.until("the writer to go on", |_| writer.count() > before + 50).await;

    let finished = fleet.run(&["task", "cutover", "shop", "--fence"]).await;
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    assert!(finished.stdout.contains("writes may start"), "{}", told(&finished));
    assert!(finished.stdout.contains("reset default_transaction_read_only"), "{}", told(&finished));
    let why = writer.work.await.unwrap();
    let acknowledged = writer.acknowledged.load(Ordering::SeqCst);
    let task =
        job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;

    // Each acknowledged write is there; at most the one that was cut off, too.
    let arrived = pair.count("select count(*) from ledger").await;
    assert!(
        (acknowledged..=acknowledged + 1).contains(&arrived),
        "{arrived} of {acknowledged}: {why}"
    );
    assert!(read_only_by_default(&pair.source).await);
    pair.same().await;
    let next = pair.count("insert into ledger (amount) values (0) returning id").await;
    assert!(next > arrived, "{next} after {arrived} rows");
    let cutover = task.cutover.unwrap();
    assert_eq!((cutover.outcome.as_str(), cutover.sequences), ("done", 2));
    assert!(cutover.fence > 0 && cutover.marker >= cutover.fence);
}

#[tokio::test]
async fn cluster_a_cutover_is_undone_where_somebody_still_writes() {
    let pair = Pair::new(SCHEMA).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = following(&fleet, &pair).await;
    let writer = Writer::begin(&pair.source).await;
    job.until("somebody to have written", |_| writer.count() > 200).await;
    let finished = fleet.run(&["task", "cutover", "shop", "--writers-stopped"]).await;
    assert_eq!(finished.code(), Some(1), "{}", told(&finished));
    assert!(finished.log.contains("cutover_writers"), "{}", told(&finished));
    assert!(finished.log.contains("harness from "), "{}", told(&finished));

    // It follows as before, and can be cut over once they have stopped.
    let before = writer.count();
    job.until("it to follow", |task| is_followed(task) && writer.count() > before + 50).await;
    assert!(!read_only_by_default(&pair.source).await);
    writer.work.abort();
    let finished = fleet
        .run(&["task", "cutover", "shop", "--writers-stopped", "--sequence-margin", "10"])
        .await;
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
    pair.left_nothing().await;
    let [here, there] = [&pair.source, &pair.destination].map(async |server| {
        let ask = "select last_value::text from backwards";
        server.value(DATABASE, ask).await.unwrap().unwrap().parse::<i64>().unwrap()
    });
    assert_eq!(there.await, here.await - 30, "in its own direction");
}

#[tokio::test]
async fn cluster_whoever_dies_a_cutover_is_done_or_undone() {
    for step in ["fence", "prove", "switch"] {
        let pair = Pair::new(SCHEMA).await;
        let fleet = Fleet::of_three(&["anna", "bert"]).await;
        let job = following(&fleet, &pair).await;
        let writer = Writer::begin(&pair.source).await;
        job.until("somebody to have written", |_| writer.count() > 100).await;
        let asked = tokio::join!(fleet.run(&["task", "cutover", "shop", "--fence"]), async {
            let task = job
                .until("the cutover to be under way", |task| {
                    let steps = task.cutover.as_ref().map_or(0, |cutover| cutover.steps.len());
                    steps
                        > ["fence", "prove", "switch"].iter().position(|s| *s == step).unwrap() + 1
                        || task.status() == TaskStatus::Done
                })
                .await;
            let at_work = task.running.iter().find(|unit| unit.kind == "cutover");
            let agent = at_work.map_or("anna", |unit| &unit.agent);
            fleet.convoy.agent(agent).kill().unwrap();
        });
        let task = job
            .until("the cutover to be over", |task| {
                task.cutover.as_ref().is_some_and(|cutover| !cutover.outcome.is_empty())
            })
            .await;
        let outcome = task.cutover.unwrap().outcome;
        match (outcome.as_str(), asked.0.code()) {
            ("done", Some(0)) => {
                job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done)
                    .await;
                assert!(read_only_by_default(&pair.source).await);
                writer.work.await.unwrap();
                let arrived = pair.count("select count(*) from ledger").await;
                let acknowledged = writer.acknowledged.load(Ordering::SeqCst);
                assert!((acknowledged..=acknowledged + 1).contains(&arrived), "{arrived}");
                pair.same().await;
            }
            ("undone", Some(1)) => {
                assert!(!read_only_by_default(&pair.source).await);
                job.until("it to follow", is_followed).await;
            }
            other => panic!("{other:?} at {step}: {}", told(&asked.0)),
        }
    }
}
