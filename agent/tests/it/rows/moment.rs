//! Which moment of the source the rows show, and what is noticed when it cannot be shown.

use pgconvoy_shared::failure::FailureClass;
use pgconvoy_shared::ids::AgentId;
use pgconvoy_shared::unit::{Ended, Export, SnapshotMode, Work};

use super::Rows;
use crate::world::DATABASE;

const SCHEMA: &str = "create table t (id int primary key, t text); create table u (id int)";
const ROWS: &str = "insert into t select i, repeat('x', 100) from generate_series(1, 5000) i; insert into u values (1)";

async fn rows(mode: SnapshotMode) -> Rows {
    Rows::new(mode, 128 << 10, SCHEMA, ROWS).await
}

#[tokio::test]
async fn a_task_shows_one_moment_however_long_it_takes() {
    let rows = rows(SnapshotMode::Task).await;
    let (done, tables) = rows.survey().await;
    let change = "update t set t = 'changed'; delete from t where id % 2 = 0; \
                  insert into t select i, 'new' from generate_series(10001, 15000) i; insert into u values (2)";
    rows.world.source.sql(DATABASE, change).await.unwrap();
    rows.world.source.sql(DATABASE, "vacuum t").await.unwrap();
    let planned = rows.plan(Rows::to_plan(&tables)).await;
    let mut no = 10;
    for table in &planned {
        for shard in Rows::to_copy(&done, table) {
            let copied = rows.copy(no, &shard).await.unwrap();
            assert_eq!(copied.snapshot, done.snapshot.as_ref().unwrap().snapshot);
            no += 1;
        }
    }
    let seen = "select count(*) || ' ' || max(id) || ' ' || count(*) filter (where t = repeat('x', 100)) from t";
    assert_eq!(rows.at_destination(seen).await, "5000 5000 5000");
    assert_eq!(rows.at_destination("select count(*) from u").await, "1");
}

#[tokio::test]
async fn rows_rewritten_since_the_moment_are_not_read_as_none() {
    for change in ["truncate t", "alter table t alter id type bigint", "vacuum full t"] {
        let rows = rows(SnapshotMode::Task).await;
        let (done, tables) = rows.survey().await;
        let planned = rows.plan(Rows::to_plan(&tables)).await;
        rows.world.source.sql(DATABASE, change).await.unwrap();
        let shard = &Rows::to_copy(&done, &planned[0])[0];
        match rows.copy(10, shard).await.unwrap_err() {
            Ended::TableChanged { table, failure } => {
                assert_eq!((table, failure.code.as_str()), (planned[0].0.no, "table_rewritten"));
                assert_eq!(failure.class, FailureClass::Definite);
            }
            other => panic!("{change}: {other:#?}"),
        }
    }
}

#[tokio::test]
async fn a_table_that_was_dropped_is_told_by_the_source_itself() {
    for mode in [SnapshotMode::Task, SnapshotMode::Shard] {
        let rows = rows(mode).await;
        let (done, tables) = rows.survey().await;
        let planned = rows.plan(Rows::to_plan(&tables)).await;
        rows.world.source.sql(DATABASE, "drop table t").await.unwrap();
        let gone =
            Ended::TableGone { table: planned[0].0.no, system_identifier: done.system_identifier };
        let shard = &Rows::to_copy(&done, &planned[0])[0];
        assert_eq!(rows.copy(10, shard).await.unwrap_err(), gone);
        let (ended, _) = rows.end_of(11, Work::Plan(Rows::to_plan(&tables))).await;
        assert_eq!(ended, gone);
    }
}

#[tokio::test]
async fn other_columns_than_planned_are_noticed() {
    let rows = rows(SnapshotMode::Shard).await;
    let (done, tables) = rows.survey().await;
    let planned = rows.plan(Rows::to_plan(&tables)).await;
    rows.world.source.sql(DATABASE, "alter table t add more int").await.unwrap();
    let shard = &Rows::to_copy(&done, &planned[0])[0];
    let ended = rows.copy(10, shard).await.unwrap_err();
    let Ended::TableChanged { failure, .. } = ended else { panic!("{ended:#?}") };
    assert_eq!(failure.code, "columns_changed");
    assert_ne!(failure.class, FailureClass::Definite, "a new plan mends it");
}

#[tokio::test]
async fn a_lost_snapshot_is_told_with_those_who_lost_it() {
    let rows = rows(SnapshotMode::Task).await;
    let (done, tables) = rows.survey().await;
    let planned = rows.plan(Rows::to_plan(&tables)).await;
    let mut shard = Rows::to_copy(&done, &planned[0])[0].clone();
    let other: AgentId = "a2".parse().unwrap();
    let gone = Export { agent: other.clone(), id: "00000003-0000FFFF-1".to_owned() };
    shard.snapshot.as_mut().unwrap().exports.insert(0, gone);
    rows.copy(10, &shard).await.expect("the agent's own keeper has it");

    let kill = "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'pgconvoy/%/keeper/%'";
    rows.world.source.value(DATABASE, kill).await.unwrap();
    let next = &Rows::to_copy(&done, &planned[0])[1];
    let mut next = next.clone();
    next.snapshot = shard.snapshot.clone();
    let ended = rows.copy(11, &next).await.unwrap_err();
    let own = done.snapshot.as_ref().unwrap().exports[0].agent.clone();
    assert_eq!(ended, Ended::SnapshotLost { round: 1, gone: vec![other, own] });

    // Nothing happened since: another survey goes on from the same moment.
    let lost = done.snapshot.map(|shared| shared.snapshot);
    let mut rows = rows;
    rows.round = 2;
    let (again, _) = rows.survey_after(lost.clone()).await;
    assert!(again.continues);
    rows.world.source.sql(DATABASE, "insert into u values (3)").await.unwrap();
    rows.round = 3;
    let (again, _) = rows.survey_after(lost).await;
    assert!(!again.continues, "a transaction id was assigned");
}

#[tokio::test]
async fn another_agent_imports_the_snapshot_and_exports_it_again() {
    let rows = rows(SnapshotMode::Task).await;
    let (done, tables) = rows.survey().await;
    let planned = rows.plan(Rows::to_plan(&tables)).await;
    let keepers = "select count(*)::text from pg_stat_activity where application_name like 'pgconvoy/%/keeper/1'";
    let count = async || rows.world.source.value(DATABASE, keepers).await.unwrap().unwrap();
    assert_eq!(count().await, "1");
    rows.world.source.sql(DATABASE, "delete from t").await.unwrap();

    let other = crate::leader::Leader::start(crate::world::LEASE_MS);
    let coordinators = pgconvoy_agent::Coordinators::Channel(other.channel());
    let _agent = crate::world::agent("a2", coordinators, &rows.world.shutdown).await;
    let shard = Rows::to_copy(&done, &planned[0])[0].clone();
    let epoch = rows.world.next_epoch();
    let work = pgconvoy_shared::unit::Work::Copy(Box::new(shard));
    other.lease(rows.world.leased(10, epoch, work)).await;
    let ended = other.ended(&crate::world::unit(10), epoch).await;
    let Ended::Done(pgconvoy_shared::unit::WorkResult::Copy(copied)) = ended else {
        panic!("{ended:#?}")
    };
    assert!(copied.rows > 0, "rows that are deleted by now");
    assert_eq!(count().await, "2");
}

#[tokio::test]
async fn an_idle_source_whose_log_ends_in_a_page_header_is_not_waited_for() {
    let rows = rows(SnapshotMode::Shard).await;
    let (done, tables) = rows.survey().await;
    let planned = rows.plan(Rows::to_plan(&tables)).await;
    let shard = &Rows::to_copy(&done, &planned[0])[0];
    let behind = "select (pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn())::text from pg_switch_wal()";
    assert_eq!(rows.world.source.value(DATABASE, behind).await.unwrap().as_deref(), Some("true"));
    let begin = std::time::Instant::now();
    rows.copy(10, shard).await.unwrap();
    assert!(begin.elapsed() < std::time::Duration::from_secs(30), "{:?}", begin.elapsed());
}
