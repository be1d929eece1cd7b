//! A table that is one shard is written into a file of the shard's own transaction, its rows frozen; where that is not safe or not
//! possible, the plain way.

use pgconvoy_integration_tests::postgres::PASSWORD;
use pgconvoy_shared::unit::{CopyShard, SnapshotMode, SurveyDone};
use tokio_postgres::Client;

use super::{Planned, Rows, of};
use crate::world::{DATABASE, task_id};

/// A shard that is large enough, as the plan has it.
const LARGE: u64 = 1 << 30;

/// Tables that are alike but for what stands in the way.
const SCHEMA: &str = "
    create table plain (id int primary key, t text);
    create table parts (id int, t text) partition by range (id);
    create table leaf partition of parts for values from (0) to (1000000);
    create table pointed_at (id int primary key, t text);
    create table points (id int references pointed_at);
    create table guarded (id int, t text);
    create function refuse() returns trigger language plpgsql as $$ begin raise 'no truncate here'; end $$;
    create trigger guard before truncate on guarded execute function refuse();
    create table others (id int, t text);
    create table read (id int, t text);
    create table aside (id int, t text);
    create unlogged table unlogged (id int, t text);";

const ALIKE: [&str; 8] =
    ["plain", "leaf", "pointed_at", "guarded", "others", "read", "aside", "unlogged"];

async fn rows() -> Rows {
    let filled = ALIKE.map(|table| {
        format!("insert into {table} select i, 'text ' || i from generate_series(1, 2000) i; ")
    });
    Rows::new(SnapshotMode::Task, 1 << 30, SCHEMA, &filled.concat()).await
}

fn large(rows: &[Planned], done: &SurveyDone, table: &str) -> CopyShard {
    let mut shards = Rows::to_copy(done, of(rows, &format!("public.{table}")));
    assert_eq!(shards.len(), 1);
    CopyShard { bytes: LARGE, ..shards.remove(0) }
}

/// Somebody at the destination whose snapshot is older than all copies: sees the rows of a shard only if they are frozen.
async fn older(rows: &Rows) -> Client {
    let older = rows.world.destination.client(DATABASE).await.unwrap();
    let begin = "begin isolation level repeatable read; select count(*) from pg_catalog.pg_class";
    older.batch_execute(begin).await.unwrap();
    older
}

async fn seen_by(older: &Client, table: &str) -> i64 {
    let count = format!("select count(*) from {table}");
    older.query_one(&count, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_whole_table_is_written_frozen_where_nothing_stands_in_the_way() {
    let rows = rows().await;
    let (done, tables) = rows.survey().await;
    let planned = rows.plan(Rows::to_plan(&tables)).await;
    let older = older(&rows).await;
    let destination = &rows.world.destination;
    let noted = "insert into pgconvoy.copied_anew \
        select task, table_no, '0/1', 1 from pgconvoy.table_state where write_table = 'aside'";
    destination.sql(DATABASE, noted).await.unwrap();
    // Since the plan found the table empty.
    destination.sql(DATABASE, "insert into others values (-1, 'mine')").await.unwrap();
    let reader = destination.client(DATABASE).await.unwrap();
    reader.batch_execute("begin; select count(*) from read").await.unwrap();

    for (unit, table) in (10..).zip(ALIKE) {
        rows.copy(unit, &large(&planned, &done, table)).await.unwrap();
    }
    for table in ALIKE {
        let frozen = matches!(table, "plain" | "leaf");
        assert_eq!(seen_by(&older, table).await, if frozen { 2000 } else { 0 }, "{table}");
    }
    let mine = "delete from others where t = 'mine' returning id::text";
    assert_eq!(rows.at_destination(mine).await, "-1");
    rows.compare().await;
}

#[tokio::test]
async fn a_small_table_and_a_part_of_one_are_written_the_plain_way() {
    let schema = "create table small (id int, t text); create table cut (id int, t text)";
    let filled = "insert into small values (1, 'x'); insert into cut select i, repeat('x', 1000) from generate_series(1, 5000) i";
    let rows = Rows::new(SnapshotMode::Task, 2 << 20, schema, filled).await;
    let (done, tables) = rows.survey().await;
    let planned = rows.plan(Rows::to_plan(&tables)).await;
    let older = older(&rows).await;
    let small = Rows::to_copy(&done, of(&planned, "public.small"));
    let cut = Rows::to_copy(&done, of(&planned, "public.cut"));
    assert!(cut.len() > 1);
    for (unit, shard) in (10..).zip(small.iter().chain(&cut)) {
        let bytes = if &*shard.table.name.name == "cut" { LARGE } else { shard.bytes };
        rows.copy(unit, &CopyShard { bytes, ..shard.clone() }).await.unwrap();
    }
    assert_eq!((seen_by(&older, "small").await, seen_by(&older, "cut").await), (0, 0));
    rows.compare().await;
}

#[tokio::test]
async fn who_may_not_truncate_writes_the_plain_way() {
    let schema = "create table t (id int, t text)";
    let filled = "insert into t select i, 'text' from generate_series(1, 100) i";
    let mut rows = Rows::new(SnapshotMode::Task, 1 << 30, schema, filled).await;
    let mover = format!(
        "create role mover login password '{PASSWORD}'; grant create on database {DATABASE} to mover; \
         grant select, insert on t to mover"
    );
    rows.world.destination.sql(DATABASE, &mover).await.unwrap();
    rows.world.spec.destination.user = "mover".to_owned();
    let (done, tables) = rows.survey().await;
    let planned = rows.plan(Rows::to_plan(&tables)).await;
    let older = older(&rows).await;
    rows.copy(10, &large(&planned, &done, "t")).await.unwrap();
    assert_eq!(seen_by(&older, "t").await, 0);
    rows.compare().await;
}

#[tokio::test]
async fn a_later_owner_keeps_what_is_there_and_ends_who_stands_still() {
    let schema = "create table t (id int primary key, t text)";
    let filled = "insert into t select i, 'text' from generate_series(1, 2000) i";
    let rows = Rows::new(SnapshotMode::Task, 1 << 30, schema, filled).await;
    let (done, tables) = rows.survey().await;
    let planned = rows.plan(Rows::to_plan(&tables)).await;
    let shard = large(&planned, &done, "t");

    // In the middle of its transaction, with a new file, which nobody else can read or write.
    let zombie = rows.world.destination.client(DATABASE).await.unwrap();
    let make_fresh = format!("select pgconvoy.make_fresh('{}', 0, 't')", task_id());
    let name = format!("pgconvoy/{}/copy/10.0", task_id());
    let begin = format!(
        "set application_name = '{name}'; begin; select pgconvoy.fence('{}', 0, 1)",
        task_id()
    );
    zombie.batch_execute(&begin).await.unwrap();
    assert!(zombie.query_one(&make_fresh, &[]).await.unwrap().get::<_, bool>(0));
    zombie.batch_execute("insert into t values (-1, 'a row of nobody')").await.unwrap();

    let older = older(&rows).await;
    assert!(!rows.copy(10, &shard).await.unwrap().found_done);
    assert!(zombie.batch_execute("commit").await.is_err());
    assert_eq!(seen_by(&older, "t").await, 2000, "it was written frozen all the same");

    // One who comes later, and even one who would not look whether it is done.
    assert!(rows.copy(10, &shard).await.unwrap().found_done);
    assert_eq!(rows.at_destination(&make_fresh.replace("0, 't')", "0, 't')::text")).await, "false");
    rows.compare().await;
}
