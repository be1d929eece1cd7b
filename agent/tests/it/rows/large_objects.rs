//! Large objects under the laws of rows.

use pgconvoy_shared::epoch::Generation;
use pgconvoy_shared::unit::{Ended, PlanTable, SnapshotMode, Work, WorkResult};

use super::Rows;
use crate::world::{DATABASE, task_id};

const ALL: &str = "select string_agg(oid || ' ' || encode(lo_get(oid), 'escape'), ', ' order by oid) from pg_largeobject_metadata";

#[tokio::test]
async fn planned_anew_they_leave_nothing_of_the_older_plan() {
    let objects = "select lo_from_bytea(n::oid, 'old') from generate_series(1000, 1600) n";
    let rows = Rows::new(SnapshotMode::Shard, 1 << 20, "select 1", objects).await;
    let (done, tables) = rows.survey().await;
    let first = Rows::to_plan(&tables);
    let planned = rows.plan(first.clone()).await;
    assert_eq!(planned.len(), 1);
    let old = Rows::to_copy(&done, &planned[0]);
    assert_eq!(old.len(), 3, "of 601 objects");
    for (no, shard) in (10..).zip(&old[..2]) {
        rows.copy(no, shard).await.unwrap();
    }

    let change = "select lo_unlink(1001), lo_put(1002, 0, 'new'), lo_from_bytea(5, 'first'), lo_from_bytea(4000000000, 'last')";
    rows.world.source.sql(DATABASE, change).await.unwrap();
    let anew = |table: PlanTable| PlanTable { generation: Generation(2), ..table };
    let planned = rows.plan(first.into_iter().map(anew).collect()).await;
    let superseded = rows.copy(20, &old[2]).await.expect_err("an older plan writes no more");
    assert!(
        matches!(superseded, Ended::Failed(ref failure) if failure.code == "superseded"),
        "{superseded:?}"
    );
    for (no, shard) in (30..).zip(Rows::to_copy(&done, &planned[0])) {
        rows.copy(no, &shard).await.unwrap();
        // Found done, it is not written again.
        assert!(rows.copy(no, &shard).await.unwrap().found_done);
    }
    let expected = rows.world.source.value(DATABASE, ALL).await.unwrap().unwrap();
    assert_eq!(rows.at_destination(ALL).await, expected);
}

/// As people set it where triggers of theirs shall not see what a migration writes.
#[tokio::test]
async fn they_come_and_a_task_goes_where_the_destinations_triggers_are_asleep() {
    let objects = "select lo_from_bytea(7, 'seven'), lo_from_bytea(8, '')";
    let rows = Rows::new(SnapshotMode::Shard, 1 << 20, "select 1", objects).await;
    let asleep = format!("alter database {DATABASE} set session_replication_role = replica");
    rows.world.destination.sql(DATABASE, &asleep).await.unwrap();
    rows.migrate().await;
    let expected = rows.world.source.value(DATABASE, ALL).await.unwrap().unwrap();
    assert_eq!(rows.at_destination(ALL).await, expected);

    let another = "insert into pgconvoy.task (id) values ('another')";
    rows.world.destination.sql(DATABASE, another).await.unwrap();
    let (ended, _) = rows.end_of(40, Work::Finish).await;
    assert_eq!(ended, Ended::Done(WorkResult::Finish));
    for table in ["task", "table_state", "shard_progress"] {
        let left = format!("select count(*) from pgconvoy.{table} where task = '{}'", task_id());
        let left = left.replace("task where task", "task where id");
        assert_eq!(rows.at_destination(&left).await, "0", "{table}");
    }
}
