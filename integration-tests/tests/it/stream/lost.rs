//! What the stream goes on from is not there any more: the slot, the source's history, what the destination had. Each is told
//! by its code, nothing is applied beyond the gap, and no slot is made in place of the old one.

use pgconvoy_integration_tests::postgres::Postgres;
use pgconvoy_integration_tests::process::Process;
use pgconvoy_integration_tests::wait;

use super::faults::says_yes;
use super::live::{cancel, in_sync};
use super::parked::task;
use super::{FOLLOWED, ONE_AFTER_THE_OTHER};
use crate::world::{DATABASE, Gate, LIMIT, Pair, told};

const SCHEMA: &str = "
    create table account (id int primary key, balance bigint not null);
    insert into account select i, 1000 from generate_series(1, 200) i;";

const DROP: &str = "select pg_drop_replication_slot(slot_name) from pg_replication_slots";

const SLOTS: &str = "select count(*) from pg_replication_slots";

/// A pair that is in sync.
async fn followed() -> Pair {
    let pair = Pair::new(SCHEMA).await;
    synced(&pair).await;
    pair
}

async fn synced(pair: &Pair) {
    let finished = in_sync(pair).run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
}

async fn change(server: &Postgres, account: u32) {
    let change = format!("update account set balance = 0 where id = {account}");
    server.sql(DATABASE, &change).await.unwrap();
}

const CHANGED: &str = "select count(*) from account where balance = 0";

/// The task ends with this code, however often it is tried, and what came since is not there.
async fn ends_with(pair: &Pair, code: &str, changed: i64) {
    let slots = pair.source.value(DATABASE, SLOTS).await.unwrap();
    for _ in 0..2 {
        let finished = in_sync(pair).run(LIMIT).await.unwrap();
        assert_eq!(finished.code(), Some(1), "{}", told(&finished));
        assert!(finished.log.contains(code), "{code} is not told: {}", told(&finished));
    }
    assert_eq!(pair.count(CHANGED).await, changed);
    assert_eq!(pair.source.value(DATABASE, SLOTS).await.unwrap(), slots, "no slot is made anew");
    cancel(pair).await;
    pair.left_nothing().await;
}

#[tokio::test]
async fn a_slot_that_was_dropped_is_told_and_not_made_again() {
    let pair = followed().await;
    pair.source.sql(DATABASE, DROP).await.unwrap();
    change(&pair.source, 1).await;
    ends_with(&pair, "slot_lost", 0).await;
}

/// Somebody else has read from it.
#[tokio::test]
async fn a_slot_that_was_moved_on_by_others_is_told() {
    let pair = followed().await;
    change(&pair.source, 1).await;
    let moved = "select pg_replication_slot_advance(slot_name, pg_current_wal_flush_lsn()) from pg_replication_slots";
    pair.source.sql(DATABASE, moved).await.unwrap();
    change(&pair.source, 2).await;
    ends_with(&pair, "slot_lost", 0).await;
}

/// What is changed while a table is not published is not sent, and nothing in the stream tells of that.
#[tokio::test]
async fn a_publication_that_somebody_changed_is_told_though_it_is_as_before_until_its_table_is_copied_anew()
 {
    let pair = followed().await;
    let alter = |how| alter_publication(&pair, how);
    change(&pair.source, 1).await;
    alter("drop table account").await;
    change(&pair.source, 2).await;
    alter("add table account").await;
    change(&pair.source, 3).await;
    is_told_until_resynced(&pair, 3).await;
    // Its new plan counts from then on, as the first one did.
    alter("drop table account").await;
    change(&pair.source, 4).await;
    alter("add table account").await;
    ends_with(&pair, "publication_changed", 3).await;
}

/// So are kinds of changes that it does not publish for a while.
#[tokio::test]
async fn a_publication_that_left_out_kinds_of_changes_is_told_until_its_table_is_copied_anew() {
    let pair = followed().await;
    alter_publication(&pair, "set (publish = 'insert')").await;
    change(&pair.source, 1).await;
    alter_publication(&pair, "set (publish = 'insert, update, delete, truncate')").await;
    change(&pair.source, 2).await;
    is_told_until_resynced(&pair, 2).await;
    cancel(&pair).await;
    pair.same().await;
}

async fn alter_publication(pair: &Pair, how: &str) {
    let publication = "select pubname from pg_publication";
    let publication = pair.source.value(DATABASE, publication).await.unwrap().unwrap();
    let alter = format!("alter publication {publication} {how}");
    pair.source.sql(DATABASE, &alter).await.unwrap();
}

/// The task ends however often it is tried, and has applied nothing, until the table is copied anew with all that was changed.
async fn is_told_until_resynced(pair: &Pair, changed: i64) {
    for _ in 0..2 {
        let finished = in_sync(pair).run(LIMIT).await.unwrap();
        assert_eq!(finished.code(), Some(1), "{}", told(&finished));
        assert!(finished.log.contains("publication_changed"), "{}", told(&finished));
    }
    assert_eq!(pair.count(CHANGED).await, 0);
    let resync = task(pair, &["resync", "public.account"]).await;
    assert_eq!(resync.code(), Some(0), "{}", told(&resync));
    synced(pair).await;
    assert_eq!(pair.count(CHANGED).await, changed);
}

/// While it is followed, too.
#[tokio::test]
async fn a_table_that_is_taken_out_of_the_publication_ends_the_stream() {
    let pair = followed().await;
    let follow = pair.migrate().args(["--types", "schema,full,incremental"]);
    let process = Process::start("migrate", follow, &pair.path("")).unwrap();
    says_yes(&pair, "the slot to be read", "select bool_or(active) from pg_replication_slots")
        .await;
    let drop = "do $$ begin execute (select format('alter publication %I drop table account', pubname) from pg_publication); end $$";
    pair.source.sql(DATABASE, drop).await.unwrap();
    let status = process.wait(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(1), "{}", process.log());
    ends_with(&pair, "publication_changed", 0).await;
}

#[tokio::test]
async fn a_slot_that_is_dropped_while_it_is_read_ends_the_task() {
    let pair = followed().await;
    let follow = pair.migrate().args(["--types", "schema,full,incremental"]);
    let process = Process::start("migrate", follow, &pair.path("")).unwrap();
    // As soon as it is read, and before its reader is back.
    let drop = "select pg_terminate_backend(active_pid) from pg_replication_slots where active;
        select pg_drop_replication_slot(slot_name) from pg_replication_slots where not active";
    let active = "select count(*) from pg_replication_slots where active";
    wait::until(LIMIT, "the slot to be read", async || {
        match pair.source.value(DATABASE, active).await {
            Ok(Some(count)) if count == "1" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    wait::until(LIMIT, "the slot to be dropped", async || {
        pair.source.sql(DATABASE, drop).await.map_err(|error| format!("{error:#}"))?;
        match pair.source.value(DATABASE, SLOTS).await {
            Ok(Some(count)) if count == "0" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    let status = process.wait(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(1), "{}", process.log());
    assert!(process.log().contains("slot_lost"), "{}", process.log());
    ends_with(&pair, "slot_lost", 0).await;
}

#[tokio::test]
async fn a_slot_that_is_lost_while_rows_are_copied_ends_the_copy() {
    let pair = Pair::new(Gate::SCHEMA).await;
    let gate = Gate::shut(&pair.destination).await;
    let file = pair.task_file("shop", &format!("{FOLLOWED}\n{ONE_AFTER_THE_OTHER}"));
    let migrate = pair.command("migrate").args(["--yes", "-f"]).arg(&file);
    let process = Process::start("migrate", migrate, &pair.path("")).unwrap();
    gate.waiting(1, LIMIT).await;
    pair.source.sql(DATABASE, DROP).await.unwrap();
    gate.open().await;
    let status = process.wait(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(1), "{}", process.log());
    assert!(process.log().contains("slot_lost"), "{}", process.log());
    assert_eq!(pair.count("select count(*) from free").await, 0, "the next shard is not copied");
    cancel(&pair).await;
    pair.left_nothing().await;
}

#[tokio::test]
async fn a_slot_that_the_source_gave_up_is_told() {
    let pair = followed().await;
    change(&pair.source, 1).await;
    for statement in [
        "alter system set max_slot_wal_keep_size = '1MB'",
        "select pg_reload_conf()",
        "create table noise (words text)",
    ] {
        pair.source.sql(DATABASE, statement).await.unwrap();
    }
    wait::until(LIMIT, "the source to give the slot up", async || {
        // A segment of its log each, and a checkpoint, which is when it is looked at.
        for statement in
            ["insert into noise values ('more')", "select pg_switch_wal()", "checkpoint"]
        {
            pair.source.sql(DATABASE, statement).await.map_err(|error| format!("{error:#}"))?;
        }
        let status = "select wal_status from pg_replication_slots";
        match pair.source.value(DATABASE, status).await {
            Ok(Some(status)) if status == "lost" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    ends_with(&pair, "slot_lost", 0).await;
}

#[tokio::test]
async fn a_source_that_is_another_cluster_is_told_and_the_one_it_was_is_followed_again() {
    let pair = followed().await;
    let (own, other) =
        (pair.source.back_up().await.unwrap(), pair.destination.back_up().await.unwrap());
    pair.source.restore(&other).await.unwrap();
    change(&pair.source, 1).await;
    let finished = in_sync(&pair).run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(1), "{}", told(&finished));
    assert!(finished.log.contains("source_changed"), "{}", told(&finished));
    assert_eq!(pair.count(CHANGED).await, 0);

    pair.source.restore(&own).await.unwrap();
    change(&pair.source, 2).await;
    synced(&pair).await;
    cancel(&pair).await;
    pair.same().await;
}

#[tokio::test]
async fn a_promoted_standby_that_had_not_everything_is_told() {
    let pair = followed().await;
    let behind = pair.source.back_up().await.unwrap();
    change(&pair.source, 1).await;
    synced(&pair).await;
    pair.source.restore_promoted(&behind).await.unwrap();
    change(&pair.source, 2).await;
    ends_with(&pair, "source_history_differs", 1).await;
}

#[tokio::test]
async fn a_promoted_standby_that_had_everything_is_followed_on_its_new_timeline() {
    let pair = followed().await;
    change(&pair.source, 1).await;
    synced(&pair).await;
    let all = pair.source.back_up().await.unwrap();
    pair.source.restore_promoted(&all).await.unwrap();
    change(&pair.source, 2).await;
    synced(&pair).await;
    assert_eq!(pair.count(CHANGED).await, 2);
    cancel(&pair).await;
    pair.same().await;
}

#[tokio::test]
async fn a_destination_that_went_back_is_told() {
    let pair = followed().await;
    let behind = pair.destination.back_up().await.unwrap();
    change(&pair.source, 1).await;
    synced(&pair).await;
    // Recorded and confirmed: the source has let it go.
    change(&pair.source, 2).await;
    synced(&pair).await;
    pair.destination.restore(&behind).await.unwrap();
    change(&pair.source, 3).await;
    ends_with(&pair, "destination_lost_progress", 0).await;
}

#[tokio::test]
async fn a_destination_that_forgot_what_was_applied_is_told() {
    let pair = followed().await;
    pair.destination.sql(DATABASE, "drop schema pgconvoy cascade").await.unwrap();
    change(&pair.source, 1).await;
    ends_with(&pair, "destination_lost_progress", 0).await;
}
