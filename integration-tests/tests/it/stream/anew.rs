//! What `migrate --until …` says of tables that are not followed as the others are: those that are copied anew, and those that
//! nobody follows.

use pgconvoy_integration_tests::process::{Process, Program};
use pgconvoy_integration_tests::wait;
use serde_json::Value;

use super::live::in_sync;
use super::parked::{sync, task};
use crate::world::{DATABASE, LIMIT, Pair, told};

/// Asks for a table to be copied anew, and begins the command while the source keeps everybody from it; it must wait.
async fn waits_for_resync(pair: &Pair, name: &str, migrate: Program) -> String {
    let resync = task(pair, &["resync", "public.y"]).await;
    assert_eq!(resync.code(), Some(0), "{}", told(&resync));
    let locker = pair.source.client(DATABASE).await.unwrap();
    locker.batch_execute("begin; lock table y").await.unwrap();
    let process = Process::start(name, migrate, &pair.path("")).unwrap();
    process.wait_for_line("public.y copied anew", LIMIT).await.unwrap();
    let shown = task(pair, &["show", "-o", "json"]).await;
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(shown["stream"]["consistent"], false, "{shown}");
    locker.batch_execute("commit").await.unwrap();
    let status = process.wait(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(0), "{}", process.log());
    process.log()
}

#[tokio::test]
async fn a_command_waits_for_a_table_that_is_copied_anew_with_what_was_changed_before() {
    let tables = "create table x (id int primary key); insert into x values (1);
        create table y (id int primary key, n int not null); insert into y select i, 0 from generate_series(1, 1000) i";
    let pair = Pair::new(tables).await;
    sync(&pair, 0).await;
    let changed = "select count(*) from y where n = 1";
    pair.source.sql(DATABASE, "update y set n = 1").await.unwrap();
    waits_for_resync(&pair, "in-sync", in_sync(&pair)).await;
    assert_eq!(pair.count(changed).await, 1000);

    let until = ["--types", "schema,full,incremental", "--until", "cutover", "--fence"];
    let log = waits_for_resync(&pair, "cutover", pair.migrate().args(until)).await;
    assert!(!log.contains("not_in_sync"), "{log}");
    pair.same().await;
}
