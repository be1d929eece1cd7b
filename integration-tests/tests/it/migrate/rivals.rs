//! Two tasks that write to the same tables at the same time: each row is there once, and the one that gets no rows in says why.
//!
//! The tables have no key: no index would refuse a row that came twice. They are at the destination already, so that no
//! statement of the schema keeps the second task out.

use pgconvoy_integration_tests::process::{Process, Program};
use pgconvoy_integration_tests::wait;

use crate::world::{DATABASE, Gate, LIMIT, Pair, told};

const FREE: &str = "create table public.free (no int, words text);
    insert into public.free select no, 'free' from generate_series(1, 1000) no;";

/// What a first plan takes before it looks whose its tables are: `convclai` in ASCII.
const CLAIM: &str = "x'636f6e76636c6169'::bigint";

/// Rows only, in a data directory of its own.
fn rows_only(pair: &Pair, name: &str, rest: &str) -> Program {
    let file = pair.task_file(name, &format!("types: [full]\n{rest}\n"));
    pair.command_in(name, "migrate").args(["--yes", "-f"]).arg(file)
}

async fn empty_tables(pair: &Pair) {
    let schema = pair.source.pg_dump_schema(DATABASE).await.unwrap();
    // What is psql's own and not SQL.
    let sql: Vec<&str> = schema.lines().filter(|line| !line.starts_with('\\')).collect();
    pair.destination.sql(DATABASE, &sql.join("\n")).await.unwrap();
}

#[tokio::test]
async fn of_two_tasks_that_begin_at_once_one_fills_the_table() {
    let pair = Pair::new(FREE).await;
    empty_tables(&pair).await;
    // Both have found the table empty when they stand here, and none has said that it is its own.
    let keeper = pair.destination.client(DATABASE).await.unwrap();
    keeper.batch_execute(&format!("select pg_advisory_lock({CLAIM})")).await.unwrap();
    let tasks = ["left", "right"]
        .map(|name| Process::start(name, rows_only(&pair, name, ""), &pair.path("")).unwrap());
    let standing = "select count(*) from pg_locks where locktype = 'advisory' and not granted
        and classid = x'636f6e76'::int::oid and objid = x'636c6169'::int::oid";
    wait::until(LIMIT, "both to be about to take the table", async || {
        match pair.count(standing).await {
            2 => Ok(()),
            count => Err(count),
        }
    })
    .await
    .unwrap();
    keeper.batch_execute(&format!("select pg_advisory_unlock({CLAIM})")).await.unwrap();

    let mut done = 0;
    for task in tasks {
        let status = task.wait(LIMIT).await.unwrap();
        let log = task.log();
        let told = ["destination_not_empty", "table_of_another_task"];
        match status.code() {
            Some(0) => done += 1,
            Some(1) => assert!(told.iter().any(|code| log.contains(code)), "{log}"),
            code => panic!("{code:?}: {log}"),
        }
    }
    assert_eq!(done, 1, "one task has filled the table");
    assert_eq!(pair.count("select count(*) from public.free").await, 1000);
}

#[tokio::test]
async fn a_task_whose_table_was_taken_over_stops_at_once() {
    let pair = Pair::new(&[Gate::KEYLESS, FREE].concat()).await;
    empty_tables(&pair).await;
    // The large table comes first; the other one is planned, and nothing of it is written.
    let gate = Gate::shut(&pair.destination).await;
    let one_by_one = rows_only(&pair, "slow", "copy: { jobs: 1, shard_size: 1MiB }");
    let slow = Process::start("slow", one_by_one, &pair.path("")).unwrap();
    gate.waiting(1, LIMIT).await;

    let quick = rows_only(&pair, "quick", "objects: { include: [public.free] }");
    let finished = quick.run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));

    gate.open().await;
    let status = slow.wait(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(1), "{}", slow.log());
    assert!(slow.log().contains("table_of_another_task"), "{}", slow.log());
    assert_eq!(pair.count("select count(*) from public.free").await, 1000);
}
