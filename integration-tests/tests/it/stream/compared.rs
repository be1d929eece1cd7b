//! Both ends are compared while the source stays in use: what moves is looked at again, what differs is found.

use pgconvoy_integration_tests::process::{Process, Program};
use pgconvoy_integration_tests::wait;
use serde_json::Value;

use super::live::{Load, SCHEMA, in_sync};
use super::overlap::{settings, until_count};
use crate::world::{DATABASE, LIMIT, Pair, SOON, shown, told};

async fn compared(program: Program, exit: i32) -> Value {
    let finished = program.args(["-o", "json"]).run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(exit), "{}", told(&finished));
    shown(finished)
}

/// Compares both ends from elsewhere: nothing but the destination tells it that the source is followed.
async fn verify(pair: &Pair, exit: i32) -> Value {
    let (source, destination) = (pair.source_url(), pair.destination_url());
    let verify = pair.command_in("compare", "verify");
    compared(verify.args(["--source", &source, "--destination", &destination]), exit).await
}

/// Waits until all is applied that is committed by now.
async fn caught_up(pair: &Pair) {
    let now = "select pg_current_wal_flush_lsn()::text";
    let now = pair.source.value(DATABASE, now).await.unwrap().unwrap();
    let there = format!("select count(*) from pgconvoy.apply_progress where lsn >= '{now}'");
    wait::until(SOON, "the destination to have caught up", async || {
        match pair.count(&there).await {
            0 => Err("it is behind"),
            _ => Ok(()),
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_moves_is_no_difference_and_what_differs_is_found() {
    let untouched = "insert into account select -i, 1, 'untouched' from generate_series(1, 9) i;
        create schema x; create extension ltree schema x; create domain x.path as x.ltree;
        create table tree (path x.path, n int, primary key (path, n)); insert into tree select ('top.a' || i)::x.ltree, i from generate_series(1, 9) i;";
    let pair = Pair::new(&format!("{SCHEMA} {untouched}")).await;
    let load = Load::begin(&pair.source).await;
    let task = compared(in_sync(&pair).arg("--verify"), 0).await;
    let found = &task["verification"];
    assert_eq!((&found["differences"], &found["complete"]), (&0.into(), &true.into()), "{task:#}");
    assert_eq!(found["tables_different"], 0, "{task:#}");

    let goes_on = pair.migrate().args(["--types", "schema,full,incremental", "--verify"]);
    let follows = Process::start("follows", goes_on, &pair.path("")).unwrap();
    caught_up(&pair).await;
    let task = verify(&pair, 0).await;
    assert_eq!(task["verification"]["differences"], 0, "{task:#}");

    // Somebody has been at the destination.
    let meanwhile = "delete from account where id = -1; update account set note = 'other' where id = -2;
        update tree set path = 'top.b' where n = 1; insert into account values (-20, 1, null); insert into log select now(), 'more' from generate_series(1, 2)";
    pair.destination.sql(DATABASE, meanwhile).await.unwrap();
    let task = verify(&pair, 4).await;
    let tables = task["tables"].as_array().unwrap();
    let of = |name: &str| tables.iter().find(|table| table["name"] == name).unwrap();
    let account = &of("public.account")["verification"];
    let figures = ["missing", "extra", "different"].map(|figure| account[figure].as_u64());
    assert_eq!(figures, [Some(1); 3], "{task:#}");
    assert_eq!(of("public.log")["verification"]["extra"], 2, "{task:#}");
    // Its key's operators are where the extension is.
    let tree = &of("public.tree")["verification"];
    assert_eq!([&tree["missing"], &tree["extra"]], [1, 1], "{task:#}");
    assert_eq!(of("public.seat")["verification"]["different"], 0, "{task:#}");

    follows.kill().unwrap();
    let turns = load.end().await;
    assert!(turns > 10, "{turns}");
}

/// A commit that waits for a standby is in the log, and so is applied, before anybody sees it at the source.
#[tokio::test]
async fn what_is_applied_before_it_is_seen_is_no_difference() {
    let schema = "create table t (id int primary key, n int); insert into t select i, 0 from generate_series(1, 100) i";
    let pair = Pair::new(schema).await;
    let source = &pair.source;
    // Only who asks for it waits for a standby that never comes.
    let alone = [
        "alter system set synchronous_commit = local",
        "alter system set synchronous_standby_names = nobody",
    ];
    settings(source, &alone).await;
    compared(in_sync(&pair), 0).await;
    let goes_on = pair.migrate().args(["--types", "schema,full,incremental"]);
    let follows = Process::start("follows", goes_on, &pair.path("")).unwrap();
    let writer = source.client(DATABASE).await.unwrap();
    let writing = tokio::spawn(async move {
        writer.batch_execute("set synchronous_commit = on; update t set n = 1 where id = 7").await
    });
    until_count(&pair.destination, "the change to be applied", 1, "select sum(n) from t").await;
    assert_eq!(source.value(DATABASE, "select sum(n) from t").await.unwrap().unwrap(), "0");

    let seen_to_wait = async {
        let looks = "select count(*) from pg_stat_activity where application_name ~ '^pgconvoy/.*/verify_rows/' and query ~ 'pg_locks'";
        until_count(source, "the comparison to wait for the writer", 1, looks).await;
        settings(source, &["alter system reset synchronous_standby_names"]).await;
        writing.await.unwrap().unwrap();
    };
    let (task, ()) = tokio::join!(verify(&pair, 0), seen_to_wait);
    assert_eq!(task["verification"]["differences"], 0, "{task:#}");
    follows.kill().unwrap();
}
