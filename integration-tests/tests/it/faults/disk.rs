//! The destination's disk is full.

use pgconvoy_integration_tests::postgres::{Disk, Options};
use pgconvoy_proto::v1::{Task, TaskStatus};

use crate::world::{DATABASE, Fleet, Gate, Pair};

#[tokio::test]
async fn cluster_a_full_disk_stops_the_task_with_its_cause_and_space_lets_it_go_on() {
    let disk = match Disk::of(64 << 20) {
        Ok(disk) => disk,
        Err(error) => {
            eprintln!("not tested: {error:#}");
            return;
        }
    };
    let pair = Pair::of(Options::default(), Options::default().disk(disk), Gate::KEYLESS).await;
    fill_but_for_a_megabyte(&pair).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let file = pair.task_file("shop", &format!("{}\nretry: {{ other: 3s }}", Gate::COPY));
    let job = fleet.begin(&file).await;
    let stopped = |task: &Task| task.status() == TaskStatus::Failed;
    let task = job.until("the task to stop", stopped).await;
    let cause = task.cause.unwrap();
    assert_eq!(cause.code, "disk_full", "{cause:?}");
    assert!(cause.remedy.contains("resume") && cause.subject.contains("gated"), "{cause:?}");

    pair.destination.sql("postgres", "drop table filling").await.unwrap();
    fleet.ok(&["task", "resume", &job.id]).await;
    job.done(&pair).await;
}

/// The database is on a disk that somebody else's table fills.
async fn fill_but_for_a_megabyte(pair: &Pair) {
    let statements = [
        format!("create tablespace little location '{}'", pair.destination.disk().display()),
        format!("alter database {DATABASE} set tablespace little"),
        "create table room tablespace little as select repeat('x', 1000) from generate_series(1, 1000)".to_owned(),
        "create table filling (words text) tablespace little".to_owned(),
        "do $$ begin loop begin
             insert into filling select repeat('x', 1000) from generate_series(1, 100);
         exception when disk_full then exit; end; end loop; end $$"
            .to_owned(),
        "drop table room".to_owned(),
    ];
    for statement in statements {
        pair.destination.sql("postgres", &statement).await.unwrap();
    }
}
