//! What `migrate --until …` says of tables that are not followed as the others are: those that are copied anew, and those that
//! nobody follows.

use pgconvoy_integration_tests::process::{Process, Program};
use pgconvoy_integration_tests::wait;
use pgconvoy_shared::lsn::Lsn;
use serde_json::Value;

use super::live::{cancel, in_sync};
use super::log_of;
use super::parked::{cause, resume, sync, task};
use crate::world::{DATABASE, Gate, LIMIT, Pair, told};

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

#[tokio::test]
async fn a_command_tells_which_tables_are_not_followed_until_there_is_none() {
    let tables =
        "create table z (id int primary key); insert into z select generate_series(1, 100);
        create table p (id int primary key) partition by range (id);
        create table p1 partition of p for values from (0) to (10); insert into p values (1)";
    let pair = Pair::new(tables).await;
    sync(&pair, 0).await;
    let made = "drop table z; create table z (id int primary key); insert into z values (1000);
        create table p2 partition of p for values from (10) to (20); insert into p values (11)";
    pair.source.sql(DATABASE, made).await.unwrap();
    let finished = sync(&pair, 1).await;
    for words in ["2 tables of the source are not followed", ": public.p2, public.z. "] {
        assert!(finished.log.contains(words), "{words} is not in\n{}", told(&finished));
    }
    let shown = task(&pair, &["show", "-o", "json"]).await;
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    let mut tables = shown["tables"].as_array().unwrap().iter();
    let z = tables.find(|table| table["name"] == "public.z").unwrap();
    assert_eq!(z["status"], "not_followed", "{shown}");

    // As it says, in two steps.
    assert!(finished.log.contains("`pgconvoy task resync "), "{}", told(&finished));
    let publication = "select pubname from pg_publication";
    let publication = pair.source.value(DATABASE, publication).await.unwrap().unwrap();
    let published = format!("alter publication {publication} add table only z; drop table p2");
    pair.source.sql(DATABASE, &published).await.unwrap();
    let resync = task(&pair, &["resync", "public.z"]).await;
    assert_eq!(resync.code(), Some(0), "{}", told(&resync));
    sync(&pair, 0).await;
    assert_eq!(pair.count("select count(*) from z where id = 1000").await, 1);
    cancel(&pair).await;
    pair.same().await;
}

#[tokio::test]
async fn a_table_that_is_gone_when_it_is_to_be_copied_anew_is_told_and_in_no_way_any_more() {
    let tables = "create table x (id int primary key); insert into x values (1);
        create table y (id int primary key); insert into y values (1)";
    let pair = Pair::new(tables).await;
    sync(&pair, 0).await;
    pair.source.sql(DATABASE, "drop table y").await.unwrap();
    let resync = task(&pair, &["resync", "public.y"]).await;
    assert_eq!(resync.code(), Some(0), "{}", told(&resync));
    let finished = sync(&pair, 0).await;
    let words = "tables_gone: dropped or renamed at the source: public.y. ";
    assert!(finished.log.contains(words), "{}", told(&finished));
    pair.destination.sql(DATABASE, "drop table y").await.unwrap();
    let until = ["--types", "schema,full,incremental", "--until", "cutover", "--fence"];
    let finished = pair.migrate().args(until).run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    pair.same().await;
}

/// What is committed while its rows are copied is of the new table, and whoever kept changes before knew the old one.
#[tokio::test]
async fn a_table_that_was_made_again_misses_nothing_that_is_changed_while_it_is_copied() {
    let pair = Pair::new(Gate::SCHEMA).await;
    sync(&pair, 0).await;
    let publication = "select pubname from pg_publication";
    let publication = pair.source.value(DATABASE, publication).await.unwrap().unwrap();
    let made = format!(
        "create table other (like gated including all); insert into other select * from gated; drop table gated;
         alter table other rename to gated; alter publication {publication} add table only gated"
    );
    pair.source.sql(DATABASE, &made).await.unwrap();
    let resync = task(&pair, &["resync", "public.gated"]).await;
    assert_eq!(resync.code(), Some(0), "{}", told(&resync));
    let gate = Gate::shut(&pair.destination).await;
    let process = Process::start("migrate", in_sync(&pair), &pair.path("")).unwrap();
    gate.waiting(1, LIMIT).await;
    let late =
        "insert into gated values (50001, 'late'); update gated set words = 'late' where no = 1";
    pair.source.sql(DATABASE, late).await.unwrap();
    let target = log_of(&pair.source).await;
    let passed = format!("select lsn >= '{}' from pgconvoy.apply_progress", Lsn(target));
    wait::until(LIMIT, "the stream to be past it", async || {
        match pair.destination.value(DATABASE, &passed).await {
            Ok(Some(answer)) if answer == "t" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    gate.open().await;
    let status = process.wait(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(0), "{}", process.log());
    assert_eq!(pair.count("select count(*) from gated where words = 'late'").await, 2);
    cancel(&pair).await;
}

/// The destination has no such table, or refuses a row of it: nothing of that is the other tables'.
#[tokio::test]
async fn a_table_that_cannot_be_copied_anew_is_parked_alone_and_copied_when_that_is_mended() {
    let tables = "create table gen (id int primary key, n int);
        insert into gen select i, i from generate_series(1, 100) i;
        create table t1 (id int primary key, v int); insert into t1 select i, i from generate_series(1, 100) i;
        create table other (id int primary key); insert into other values (1)";
    let pair = Pair::new(tables).await;
    sync(&pair, 0).await;
    let meddled = "drop table gen; alter table t1 add constraint no5 check (v < 0) not valid";
    pair.destination.sql(DATABASE, meddled).await.unwrap();
    let write = async |turn: i32| {
        let changes = format!(
            "update gen set n = -n where id > {turn}; update t1 set v = v + 1 where id > {turn};
             delete from t1 where id = {turn}; insert into gen values (1000 + {turn}, 0);
             insert into other values (1000 + {turn})"
        );
        pair.source.sql(DATABASE, &changes).await.unwrap();
    };
    write(1).await;
    sync(&pair, 1).await;

    for turn in [2, 3] {
        for table in ["public.gen", "public.t1"] {
            resync(&pair, table).await;
        }
        write(turn).await;
        let finished = sync(&pair, 1).await;
        assert!(finished.log.contains("2 tables are parked"), "{}", told(&finished));
        for (table, code) in
            [("public.gen", "undefined_table"), ("public.t1", "constraint_violation")]
        {
            let failure = &cause(&pair, table).await["failure"];
            assert_eq!(failure["code"], code, "{failure}");
            let remedy = failure["remedy"].as_str().unwrap();
            let again = format!(" {table}` copies it again");
            assert!(remedy.contains("task resync ") && remedy.ends_with(&again), "{remedy}");
        }
        let came = format!("select count(*) from other where id = 1000 + {turn}");
        assert_eq!(pair.count(&came).await, 1);
    }
    let until = ["--types", "schema,full,incremental", "--until", "cutover", "--fence"];
    let finished = pair.migrate().args(until).run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(1), "{}", told(&finished));
    assert!(finished.log.contains("cutover_tables_parked"), "{}", told(&finished));

    let mended = "create table gen (id int primary key, n int); alter table t1 drop constraint no5";
    pair.destination.sql(DATABASE, mended).await.unwrap();
    resync(&pair, "public.gen").await;
    // It has not its rows: what was kept is of no use without them.
    resume(&pair, "public.t1").await;
    write(4).await;
    sync(&pair, 0).await;
    cancel(&pair).await;
    pair.same().await;
}

async fn resync(pair: &Pair, table: &str) {
    let resync = task(pair, &["resync", table]).await;
    assert_eq!(resync.code(), Some(0), "{}", told(&resync));
}

/// In sync but for these tables, which are parked as replaced.
async fn replaced(pair: &Pair, tables: &[&str]) {
    let finished = sync(pair, 1).await;
    let words = format!("{} tables are parked", tables.len());
    assert!(finished.log.contains(&words), "{}", told(&finished));
    for table in tables {
        let cause = cause(pair, table).await;
        assert_eq!(cause["failure"]["code"], "table_replaced", "{table}: {cause}");
        // What was not kept cannot be resumed.
        resume(pair, table).await;
    }
    let finished = sync(pair, 1).await;
    assert!(finished.log.contains(&words), "{}", told(&finished));
}

#[tokio::test]
async fn tables_that_were_renamed_in_turn_have_each_their_own_changes_or_are_parked() {
    let tables = "create table t1 (id int primary key, n int); insert into t1 select i, 1 from generate_series(1, 100) i;
        create table t2 (id int primary key, n int); insert into t2 select i, 2 from generate_series(1, 100) i;
        create table u1 (id int primary key, n int); insert into u1 select i, 3 from generate_series(1, 100) i;
        create table u2 (id int primary key, n int); insert into u2 select i, 4 from generate_series(1, 100) i";
    let pair = Pair::new(tables).await;
    sync(&pair, 0).await;
    let in_turn = "begin; alter table t1 rename to away; alter table t2 rename to t1; commit;
        begin; alter table u1 rename to away_too; alter table u2 rename to u1; alter table away_too rename to u2; commit";
    pair.source.sql(DATABASE, in_turn).await.unwrap();
    let change = async |round: u32| {
        let change = format!(
            "insert into t1 values (1000 + {round}, 5); delete from t1 where id = {round};
             update u1 set n = {round} + 100 where id % 3 = 0; update u2 set n = {round} + 200 where id % 5 = 0"
        );
        pair.source.sql(DATABASE, &change).await.unwrap();
    };
    // Not by their dumps: indexes keep the names that they had.
    let alike = async |tables: &[&str]| {
        for table in tables {
            let rows =
                format!("select string_agg(of::text, ' ' order by of::text) from {table} of");
            let at_source = pair.source.value(DATABASE, &rows).await.unwrap();
            assert!(at_source.is_some());
            assert_eq!(
                pair.destination.value(DATABASE, &rows).await.unwrap(),
                at_source,
                "{table}"
            );
        }
    };
    // Each takes the changes of the one that followed them.
    resync(&pair, "public.t1").await;
    resync(&pair, "public.u1").await;
    replaced(&pair, &["public.t2", "public.u2"]).await;
    change(1).await;
    replaced(&pair, &["public.t2", "public.u2"]).await;
    alike(&["t1", "u1"]).await;
    resync(&pair, "public.u2").await;
    resync(&pair, "public.t2").await;
    change(2).await;
    pair.source.sql(DATABASE, "drop table away").await.unwrap();
    let finished = sync(&pair, 0).await;
    assert!(finished.log.contains("tables_gone"), "{}", told(&finished));
    change(3).await;
    sync(&pair, 0).await;
    alike(&["t1", "u1", "u2"]).await;
    cancel(&pair).await;
    pair.left_nothing().await;
}

#[tokio::test]
async fn a_table_that_is_made_again_after_its_changes_began_to_be_kept_is_not_taken_for_the_other()
{
    let tables = "create table t (id int primary key, n int); insert into t select i, 1 from generate_series(1, 100) i";
    let pair = Pair::new(tables).await;
    sync(&pair, 0).await;
    let publication = "select pubname from pg_publication";
    let publication = pair.source.value(DATABASE, publication).await.unwrap().unwrap();
    let locker = pair.source.client(DATABASE).await.unwrap();
    locker.batch_execute("begin; lock table t").await.unwrap();
    resync(&pair, "public.t").await;
    let process = Process::start("migrate", in_sync(&pair), &pair.path("")).unwrap();
    let waiting = "select count(*) from pg_locks where not granted and relation = 't'::regclass";
    wait::until(LIMIT, "the plan to wait for the table", async || {
        match pair.source.value(DATABASE, waiting).await {
            Ok(Some(count)) if count != "0" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    let made = format!(
        "drop table t; create table t (id int primary key, n int); insert into t select i, 2 from generate_series(1, 100) i;
         alter publication {publication} add table only t; commit"
    );
    locker.batch_execute(&made).await.unwrap();
    let status = process.wait(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(1), "{}", process.log());
    pair.source.sql(DATABASE, "update t set n = 3 where id <= 50").await.unwrap();
    replaced(&pair, &["public.t"]).await;
    resync(&pair, "public.t").await;
    pair.source.sql(DATABASE, "update t set n = 4 where id <= 10").await.unwrap();
    sync(&pair, 0).await;
    cancel(&pair).await;
    pair.same().await;
}

#[tokio::test]
async fn a_table_that_was_made_again_as_unlogged_is_copied_and_waited_for_by_nobody() {
    let tables = "create table x (id int primary key); create table y (id int primary key); insert into y values (1)";
    let pair = Pair::new(tables).await;
    sync(&pair, 0).await;
    let made = "drop table y; create unlogged table y (id int primary key); insert into y values (1), (2), (3)";
    pair.source.sql(DATABASE, made).await.unwrap();
    resync(&pair, "public.y").await;
    sync(&pair, 0).await;
    assert_eq!(pair.count("select count(*) from y").await, 3);
    assert_eq!(pair.count("select count(*) from pgconvoy.copied_anew").await, 0);
    cancel(&pair).await;
    pair.left_nothing().await;
}
