//! Changes that meet the copy, the slot's beginning, or a commit that nobody waits for any more.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgconvoy_integration_tests::postgres::Postgres;
use pgconvoy_integration_tests::process::Process;
use pgconvoy_integration_tests::wait;
use tokio_postgres::Client;

use super::live::{cancel, in_sync};
use super::parked::{cause, resume};
use super::{FOLLOWED, ONE_AFTER_THE_OTHER, caught_up, followed};
use crate::world::{DATABASE, Fleet, Gate, LIMIT, Pair, Roads, told};

/// Waits until a query at a server answers with that many.
pub(super) async fn until_count(server: &Postgres, what: &str, wanted: i64, query: &str) {
    wait::until(LIMIT, what, async || match server.value(DATABASE, query).await {
        Ok(Some(count)) if count.parse() == Ok(wanted) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();
}

/// Gives a server other settings.
pub(super) async fn settings(server: &Postgres, statements: &[&str]) {
    for statement in statements.iter().chain(&["select pg_reload_conf()"]) {
        server.sql(DATABASE, statement).await.unwrap();
    }
}

/// A transaction that has an id and does nothing more.
async fn open_transaction(server: &Postgres) -> (Client, String) {
    let client = server.client(DATABASE).await.unwrap();
    client.batch_execute("begin").await.unwrap();
    let row = client.query_one("select pg_current_xact_id()::text", &[]).await.unwrap();
    let xid: String = row.get(0);
    (client, xid)
}

/// Waits until the slot's making waits for the end of a transaction.
async fn slot_waits_for(server: &Postgres, xid: &str) {
    let waits = format!(
        "select count(*) from pg_locks where locktype = 'transactionid' and not granted and transactionid::text = '{xid}'"
    );
    until_count(server, "the slot to wait for a transaction", 1, &waits).await;
}

/// The hole at a slot's beginning: a writer commits before the slot's consistent point, so the slot does not have it, and is
/// visible to nobody for as long as it waits for a standby. No snapshot may be taken before it is (law S2).
#[tokio::test]
async fn a_writer_that_waits_for_a_standby_across_the_slots_making_is_copied() {
    let pair = Pair::new("create table t (id int primary key); insert into t values (1)").await;
    let source = &pair.source;
    // Only who asks for it waits for a standby that never comes.
    settings(
        source,
        &[
            "alter system set synchronous_commit = local",
            "alter system set synchronous_standby_names = nobody",
        ],
    )
    .await;
    let (first, first_xid) = open_transaction(source).await;
    let process = Process::start("migrate", in_sync(&pair), &pair.path("")).unwrap();
    // The slot is made in steps, each of which waits for what was open when it began.
    slot_waits_for(source, &first_xid).await;
    let (second, second_xid) = open_transaction(source).await;
    first.batch_execute("rollback").await.unwrap();
    slot_waits_for(source, &second_xid).await;
    let writer = source.client(DATABASE).await.unwrap();
    let writing = tokio::spawn(async move {
        writer.batch_execute("set synchronous_commit = on; insert into t values (2)").await
    });
    until_count(
        source,
        "the writer to wait for a standby",
        1,
        "select count(*) from pg_stat_activity where wait_event = 'SyncRep'",
    )
    .await;
    second.batch_execute("rollback").await.unwrap();
    // The slot is there, and whoever reads tables waits.
    until_count(
        source,
        "somebody to wait for the writer",
        1,
        "select count(*) from (select from pg_stat_activity, pg_replication_slots
         where application_name ~ '^pgconvoy/.*/(plan|copy)/' and confirmed_flush_lsn is not null limit 1) as waiting",
    )
    .await;
    assert!(!writing.is_finished());
    assert_eq!(source.value(DATABASE, "select count(*) from t").await.unwrap().unwrap(), "1");

    settings(source, &["alter system reset synchronous_standby_names"]).await;
    writing.await.unwrap().unwrap();
    let status = process.wait(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(0), "{}", process.log());
    cancel(&pair).await;
    assert_eq!(pair.same().await.rows, 2);
}

/// Shards of one table are copied one after the other; the first one stands half-way while rows move between them.
#[tokio::test]
async fn rows_that_change_while_their_table_is_copied_arrive_as_they_are_at_last() {
    let schema = format!(
        "{} alter table gated add body text, alter body set storage external;
         update gated set body = repeat(md5(no::text), 100) where no % 1000 = 10",
        Gate::SCHEMA
    );
    let pair = Pair::new(&schema).await;
    let source = &pair.source;
    let gate = Gate::shut(&pair.destination).await;
    let file = pair.task_file("shop", &format!("{FOLLOWED}\n{ONE_AFTER_THE_OTHER}"));
    let migrate = || pair.command("migrate").args(["--yes", "--until", "in-sync", "-f"]).arg(&file);
    let process = Process::start("migrate", migrate(), &pair.path("")).unwrap();
    gate.waiting(1, LIMIT).await;
    for change in [
        // A key moves with a long value that is not told, and another row takes the old key: out of the shard that is being
        // read, into it, and within what is read later.
        "update gated set no = no + 90000 where no = 10; insert into gated values (10, 'new', 'short')",
        "update gated set no = 11 - 90000 where no = 19010; insert into gated values (19010, 'new', 'short')",
        "update gated set no = 18011 + 90000 where no = 18010; insert into gated values (18010, 'new', 'short')",
        // And back again, or on.
        "update gated set no = no + 90000 where no = 1010; update gated set no = 1010 where no = 91010",
        "update gated set no = no + 90000 where no = 17010; delete from gated where no = 107010",
        // The last word: later shards are read up to just behind it.
        "update gated set words = 'last' where no = 20000",
    ] {
        source.sql(DATABASE, change).await.unwrap();
    }
    let end =
        source.value(DATABASE, "select pg_current_wal_insert_lsn()::text").await.unwrap().unwrap();
    gate.open().await;
    let status = process.wait(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(0), "{}", process.log());
    let noted = format!("select count(*) from pgconvoy.shard_progress where noted_lsn >= '{end}'");
    assert!(pair.count(&noted).await > 0, "shards were read after the changes");

    // From here on each change must find its row.
    source
        .sql(DATABASE, "update gated set words = 'after' where no in (10, 19010, 18010)")
        .await
        .unwrap();
    let finished = migrate().run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    cancel(&pair).await;
    pair.same().await;
}

/// A column is gone by the time that the row is read: nothing tells of that before the change.
#[tokio::test]
async fn a_row_that_cannot_be_read_again_parks_its_table_until_that_is_changed_as_well() {
    let schema = format!(
        "{} alter table gated add body text, alter body set storage external;
         update gated set body = repeat(md5(no::text), 100) where no = 10",
        Gate::SCHEMA
    );
    let pair = Pair::new(&schema).await;
    let source = &pair.source;
    let gate = Gate::shut(&pair.destination).await;
    let file = pair.task_file("shop", &format!("{FOLLOWED}\n{ONE_AFTER_THE_OTHER}"));
    let migrate = || pair.command("migrate").args(["--yes", "--until", "in-sync", "-f"]).arg(&file);
    let process = Process::start("migrate", migrate(), &pair.path("")).unwrap();
    gate.waiting(1, LIMIT).await;
    // A later shard shows it.
    let moved = "update gated set no = no + 90000 where no = 10";
    source.sql(DATABASE, moved).await.unwrap();
    // The small table's copy comes after it, and the changes after that.
    let holder = source.client(DATABASE).await.unwrap();
    holder.batch_execute("begin; lock table free").await.unwrap();
    gate.open().await;
    let waits = "select count(*) from pg_locks where relation = 'free'::regclass and not granted";
    until_count(source, "the large table to be copied", 1, waits).await;
    let gone = "alter table gated drop column words; update gated set body = 'after' where no = 11";
    source.sql(DATABASE, gone).await.unwrap();
    holder.batch_execute("update free set words = 'after' where no = 1; commit").await.unwrap();
    let status = process.wait(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(1), "{}", process.log());
    let why = cause(&pair, "public.gated").await;
    assert_eq!(why["failure"]["code"], "table_reshaped", "{why}");
    let message = why["failure"]["message"].as_str().unwrap();
    assert!(message.contains("cannot be read again") && message.contains("words"), "{why}");
    assert_eq!(pair.count("select count(*) from free where words = 'after'").await, 1);

    pair.destination.sql(DATABASE, "alter table gated drop column words").await.unwrap();
    resume(&pair, "public.gated").await;
    let finished = migrate().run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    cancel(&pair).await;
    pair.same().await;
}

/// The usual case on a quiet source: the last transaction ends just where N is noted, and the copy shows it already.
#[tokio::test]
async fn a_transaction_that_ends_at_n_changes_nothing_that_the_copy_shows() {
    let pair = Pair::new(Gate::SCHEMA).await;
    let source = &pair.source;
    settings(
        source,
        &["alter system set autovacuum = off", "alter system set checkpoint_timeout = '1d'"],
    )
    .await;
    let gate = Gate::shut(&pair.destination).await;
    let file = pair.task_file("shop", &format!("{FOLLOWED}\n{ONE_AFTER_THE_OTHER}"));
    let migrate = pair.command("migrate").args(["--yes", "--until", "in-sync", "-f"]).arg(&file);
    let process = Process::start("migrate", migrate, &pair.path("")).unwrap();
    // The small table is planned, and copied after the large one.
    gate.waiting(1, LIMIT).await;
    let writer = "select pid::text from pg_stat_activity where backend_type = 'background writer'";
    let writer = source.value(DATABASE, writer).await.unwrap().unwrap();
    let writer = Pid::from_raw(writer.parse().unwrap());
    // It writes to the log by itself now and then.
    kill(writer, Signal::SIGSTOP).unwrap();
    let change = "begin; delete from free where no = 2; update free set no = 2001 where no = 3;
        insert into free values (3, 'new'); update free set words = 'last' where no = 1; commit";
    source.sql(DATABASE, change).await.unwrap();
    let end =
        source.value(DATABASE, "select pg_current_wal_insert_lsn()::text").await.unwrap().unwrap();
    gate.open().await;
    let status = process.wait(LIMIT).await.unwrap();
    kill(writer, Signal::SIGCONT).unwrap();
    assert_eq!(status.code(), Some(0), "{}", process.log());
    let noted = format!(
        "select count(*) from pgconvoy.shard_progress join pgconvoy.table_state using (task, table_no, generation)
         where write_table = 'free' and noted_lsn = '{end}'"
    );
    assert_eq!(pair.count(&noted).await, 1, "N of the small table is {end}");
    cancel(&pair).await;
    pair.same().await;
}

/// A commit at the destination hangs while its owner loses the connection; the same agent takes over from itself.
#[tokio::test]
async fn cluster_an_owner_that_comes_back_while_its_commit_is_in_flight_applies_nothing_twice() {
    let schema = "create table t (id int primary key, n int not null);
        insert into t select i, 0 from generate_series(1, 100) i;
        create table log (words text); alter table log replica identity full";
    let pair = Pair::new(schema).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let roads = Roads::to(&pair).await;
    let job = fleet.begin(&roads.task_file(&pair, "shop", FOLLOWED)).await;
    followed(&job).await;
    caught_up(&job, &pair).await;

    let destination = &pair.destination;
    settings(destination, &["alter system set synchronous_standby_names = nobody"]).await;
    let change = "update t set n = n + 1; insert into log values ('once')";
    pair.source.sql(DATABASE, change).await.unwrap();
    let in_flight = "select count(distinct pid) from pg_stat_activity
        where wait_event = 'SyncRep' and application_name ~ '^pgconvoy/.*/stream/'";
    until_count(destination, "a commit to hang", 1, in_flight).await;
    let owner = "select application_name from pg_stat_activity
        where wait_event = 'SyncRep' and application_name ~ '^pgconvoy/.*/stream/'";
    let owner = destination.value(DATABASE, owner).await.unwrap().unwrap();
    roads.destination.cut();
    let next = format!(
        "select count(*) from pg_stat_activity
         where application_name ~ '^pgconvoy/.*/stream/' and application_name <> '{owner}'"
    );
    until_count(destination, "its owner to be back", 1, &next).await;
    settings(destination, &["alter system reset synchronous_standby_names"]).await;
    caught_up(&job, &pair).await;
    assert!(!job.events("unit_failed").await.is_empty());
    assert_eq!(pair.count("select count(*) from log").await, 1);

    // The same where the commit is done and its answer lost.
    let trap = roads.destination.lose_answers_to(b"; commit\0", 1);
    pair.source.sql(DATABASE, change).await.unwrap();
    wait::until(LIMIT, "an answer to be lost", async || match trap.caught() {
        1 => Ok(()),
        caught => Err(caught),
    })
    .await
    .unwrap();
    caught_up(&job, &pair).await;
    fleet.ok(&["task", "cancel", "shop"]).await;
    job.until("nothing of it to be left", |task| task.cleaned_up).await;
    pair.same().await;
}
