//! Exactly once, whoever dies, stands still or comes back.

use std::time::Duration;

use pgconvoy_integration_tests::postgres::PASSWORD;
use pgconvoy_integration_tests::wait;
use pgconvoy_shared::epoch::Generation;
use pgconvoy_shared::failure::{Failure, FailureClass};
use pgconvoy_shared::spec::MigrationType;
use pgconvoy_shared::unit::{AuditTable, Ended, SnapshotMode, Work, WorkResult};

use super::{Rows, of};
use crate::world::{DATABASE, task_id};

const LIMIT: Duration = Duration::from_secs(60);

async fn rows() -> Rows {
    let schema = "create table t (id int primary key, t text)";
    let inserts = "insert into t select i, repeat('x', 100) from generate_series(1, 5000) i";
    Rows::new(SnapshotMode::Task, 128 << 10, schema, inserts).await
}

fn failure(ended: Ended) -> Failure {
    match ended {
        Ended::Failed(failure) => failure,
        other => panic!("{other:#?}"),
    }
}

#[tokio::test]
async fn a_shard_that_is_done_is_found_and_not_copied_again() {
    let rows = rows().await;
    let (done, tables) = rows.survey().await;
    let planned = rows.plan(Rows::to_plan(&tables)).await;
    let shard = &Rows::to_copy(&done, &planned[0])[0];
    let first = rows.copy(10, shard).await.unwrap();
    let again = rows.copy(10, shard).await.unwrap();
    assert!(again.found_done && !first.found_done);
    assert_eq!(
        (again.rows, again.bytes, again.noted_lsn),
        (first.rows, first.bytes, first.noted_lsn)
    );
    assert_eq!(rows.at_destination("select count(*) from t").await, first.rows.to_string());

    let audit = AuditTable {
        no: planned[0].0.no,
        generation: Generation(1),
        shards: u32::try_from(planned[0].1.len()).unwrap(),
    };
    let (ended, _) = rows.end_of(3, Work::Audit(vec![audit.clone()])).await;
    let missing = (1..audit.shards).map(|shard| (audit.no, shard)).collect();
    assert_eq!(ended, Ended::Done(WorkResult::Audit { missing }));
}

#[tokio::test]
async fn a_destination_with_rows_is_refused_and_left_alone() {
    let rows = rows().await;
    rows.world.destination.sql(DATABASE, "insert into t values (-1, 'mine')").await.unwrap();
    let (_, tables) = rows.survey().await;
    let (ended, _) = rows.end_of(2, Work::Plan(Rows::to_plan(&tables))).await;
    assert_eq!(failure(ended).code, "destination_not_empty");
    assert_eq!(rows.at_destination("select t from t").await, "mine");
}

#[tokio::test]
async fn a_new_plan_voids_the_old_one_and_its_rows() {
    let rows = rows().await;
    let (done, tables) = rows.survey().await;
    let old = rows.plan(Rows::to_plan(&tables)).await;
    let old_shards = Rows::to_copy(&done, &old[0]);
    rows.copy(10, &old_shards[0]).await.unwrap();

    let mut anew = Rows::to_plan(&tables);
    anew[0].generation = Generation(2);
    let new = rows.plan(anew.clone()).await;
    assert_eq!(rows.at_destination("select count(*) from t").await, "0");
    assert_eq!(failure(rows.copy(11, &old_shards[1]).await.unwrap_err()).code, "superseded");

    let new_shards = Rows::to_copy(&done, &new[0]);
    let copied = rows.copy(12, &new_shards[0]).await.unwrap();
    // The same plan again, by a later owner: nothing is lost.
    rows.plan(anew.clone()).await;
    assert_eq!(rows.at_destination("select count(*) from t").await, copied.rows.to_string());
    // An older one: refused.
    anew[0].generation = Generation(1);
    let (ended, _) = rows.end_of(2, Work::Plan(anew)).await;
    assert_eq!(failure(ended).code, "superseded");
}

#[tokio::test]
async fn a_task_that_lost_its_table_is_told_so_and_one_that_has_ended_is_not() {
    let rows = rows().await;
    let (done, tables) = rows.survey().await;
    let shards = Rows::to_copy(&done, &rows.plan(Rows::to_plan(&tables)).await[0]);
    for (gone, code) in [("table_state", "table_of_another_task"), ("task", "superseded")] {
        rows.world
            .destination
            .sql(DATABASE, &format!("delete from pgconvoy.{gone}"))
            .await
            .unwrap();
        assert_eq!(failure(rows.copy(10, &shards[0]).await.unwrap_err()).code, code);
    }
    assert_eq!(rows.at_destination("select count(*) from t").await, "0");
}

#[tokio::test]
async fn an_old_owner_in_the_middle_of_its_transaction_is_ended() {
    let rows = rows().await;
    let (done, tables) = rows.survey().await;
    let planned = rows.plan(Rows::to_plan(&tables)).await;
    // Stands still with rows written, the fence held, and a row in shard_progress that is not committed.
    let zombie = rows.world.destination.client(DATABASE).await.unwrap();
    let name = format!("pgconvoy/{}/copy/10.0", task_id());
    zombie
        .batch_execute(&format!(
            "set application_name = '{name}'; begin; select pgconvoy.fence('{}', 0, 1); \
             insert into t select 100000 + i from generate_series(1, 10) i; \
             insert into pgconvoy.shard_progress values ('{}', 0, 1, 0, 0, 's', '0/1', 10, 10)",
            task_id(),
            task_id()
        ))
        .await
        .unwrap();
    let shard = &Rows::to_copy(&done, &planned[0])[0];
    let copied = rows.copy(10, shard).await.unwrap();
    assert!(!copied.found_done);
    assert_eq!(rows.at_destination("select count(*) from t").await, copied.rows.to_string());
    assert!(zombie.batch_execute("commit").await.is_err());
}

#[tokio::test]
async fn planning_anew_ends_a_copy_of_the_old_plan_that_stands_still() {
    let rows = rows().await;
    let (_, tables) = rows.survey().await;
    rows.plan(Rows::to_plan(&tables)).await;
    let zombie = rows.world.destination.client(DATABASE).await.unwrap();
    zombie
        .batch_execute(&format!(
            "set application_name = 'pgconvoy/{0}/copy/10.7'; begin; select pgconvoy.fence('{0}', 0, 1)",
            task_id()
        ))
        .await
        .unwrap();
    let mut anew = Rows::to_plan(&tables);
    anew[0].generation = Generation(2);
    rows.plan(anew).await;
    assert!(zombie.batch_execute("commit").await.is_err());
}

#[tokio::test]
async fn a_unit_that_is_revoked_leaves_nothing_behind() {
    let rows = rows().await;
    let (done, tables) = rows.survey().await;
    let planned = rows.plan(Rows::to_plan(&tables)).await;
    let shard = Rows::to_copy(&done, &planned[0])[0].clone();
    // The copy waits for this lock in the middle of its transaction.
    let lock = rows.world.destination.client(DATABASE).await.unwrap();
    lock.batch_execute("begin; lock table t in access exclusive mode").await.unwrap();
    let epoch = rows.world.next_epoch();
    let work = Work::Copy(Box::new(shard.clone()));
    rows.world.leader.lease(rows.world.leased(10, epoch, work)).await;
    let sessions = format!(
        "select count(*)::text from pg_stat_activity where application_name like 'pgconvoy/{}/copy/10.%'",
        task_id()
    );
    // A request to cancel that comes before the statement has begun is lost; then the next owner ends the session.
    let waiting = format!("{sessions} and wait_event_type = 'Lock'");
    let at = async |asked: &str, count: &str| {
        let seen = rows.at_destination(asked).await;
        if seen == count { Ok(()) } else { Err(seen) }
    };
    wait::until(LIMIT, "the copy to wait for the lock", async || at(&waiting, "1").await)
        .await
        .unwrap();
    rows.world.leader.revoke(&crate::world::unit(10), epoch).await;
    assert_eq!(rows.world.leader.ended(&crate::world::unit(10), epoch).await, Ended::Released);
    wait::until(LIMIT, "its session to end", async || at(&sessions, "0").await).await.unwrap();
    lock.batch_execute("rollback").await.unwrap();
    assert!(!rows.copy(10, &shard).await.unwrap().found_done);
}

#[tokio::test]
async fn rows_of_unlogged_tables_that_a_crash_of_the_destination_took_are_copied_again() {
    let schema = "create table kept (id int primary key); create unlogged table lost (id int primary key, t text)";
    let filled = "insert into kept values (1); insert into lost select n, repeat('x', 100) from generate_series(1, 2000) n";
    let rows = Rows::new(SnapshotMode::Shard, 64 << 10, schema, filled).await;
    let (done, tables) = rows.survey().await;
    let planned = rows.plan(Rows::to_plan(&tables)).await;
    let kept = Rows::to_copy(&done, of(&planned, "public.kept"));
    let lost = Rows::to_copy(&done, of(&planned, "public.lost"));
    assert!(lost.len() > 2, "{lost:#?}");
    let (before, after) = lost.split_at(2);
    for (unit, shard) in (10..).zip(kept.iter().chain(before)) {
        rows.copy(unit, shard).await.unwrap();
    }
    rows.world.destination.stop_immediate().unwrap();
    rows.world.destination.start_again().await.unwrap();
    for (unit, shard) in (20..).zip(after) {
        rows.copy(unit, shard).await.unwrap();
    }
    let all = planned.iter().map(|(plan, shards)| AuditTable {
        no: plan.no,
        generation: plan.generation,
        shards: u32::try_from(shards.len()).unwrap(),
    });
    let all: Vec<_> = all.collect();
    let (ended, _) = rows.end_of(3, Work::Audit(all.clone())).await;
    let no = lost[0].table.no;
    let expected = WorkResult::Audit { missing: vec![(no, 0), (no, 1)] };
    assert_eq!(ended, Ended::Done(expected));
    for (unit, shard) in (30..).zip(&lost) {
        let copied = rows.copy(unit, shard).await.unwrap();
        assert_eq!(copied.found_done, shard.shard > 1, "{shard:#?}");
    }
    let (ended, _) = rows.end_of(4, Work::Audit(all)).await;
    assert_eq!(ended, Ended::Done(WorkResult::Audit { missing: Vec::new() }));
    rows.compare().await;
}

/// What they set off, and were checked for, was done at the source; so a role that cannot leave that out is told, and nothing written.
#[tokio::test]
async fn rows_that_a_crash_took_come_again_only_where_triggers_can_be_left_out() {
    let schema = "create unlogged table lost (id int primary key, t text);
        create function shout() returns trigger language plpgsql as 'begin new.t := upper(new.t); return new; end';
        create trigger shout before insert on lost for each row execute function shout()";
    let filled = "set session_replication_role = replica; insert into lost values (1, 'quiet')";
    let mut rows = Rows::new(SnapshotMode::Shard, 1 << 20, schema, filled).await;
    let mover = format!(
        "create role mover login password '{PASSWORD}'; alter database {DATABASE} owner to mover; alter table lost owner to mover"
    );
    rows.world.destination.sql(DATABASE, &mover).await.unwrap();
    rows.world.spec.destination.user = "mover".to_owned();
    let (done, tables) = rows.survey().await;
    let planned = rows.plan(Rows::to_plan(&tables)).await;
    let shard = &Rows::to_copy(&done, &planned[0])[0];

    rows.world.spec.types.insert(MigrationType::Schema);
    let Ended::Failed(failure) = rows.copy(10, shard).await.unwrap_err() else {
        panic!("it may not leave out the trigger")
    };
    assert_eq!(
        (failure.code.as_str(), failure.class, failure.subject.as_str()),
        ("unlogged_rows_lost", FailureClass::Definite, "public.lost")
    );
    assert!(failure.remedy.contains("session_replication_role"), "{}", failure.remedy);
    assert_eq!(rows.at_destination("select count(*) from lost").await, "0");

    let allow = "grant set on parameter session_replication_role to mover";
    rows.world.destination.sql(DATABASE, allow).await.unwrap();
    rows.copy(10, shard).await.unwrap();
    rows.compare().await;
}
