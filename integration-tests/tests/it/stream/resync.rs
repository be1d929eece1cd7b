//! A table that is copied anew while the others are followed, and what was left by those who wrote it before.

use std::ops::Range;

use futures::SinkExt;
use pgconvoy_integration_tests::wait;

use super::live::{Load, SCHEMA};
use super::{FOLLOWED, caught_up, followed};
use crate::world::{DATABASE, Fleet, Gate, Job, LIMIT, Pair};

/// Unique values and keys move, rows come and go.
async fn write(pair: &Pair, turns: Range<u32>) {
    let turn = "update wide set mark = -mark where id between $n * 100 and $n * 100 + 50;
        delete from wide where id = 20000 + $n; insert into wide values (40000 + $n, 40000 + $n, 'new');
        update wide set id = -id where id = 10000 + $n;";
    for n in turns {
        pair.source.sql(DATABASE, &turn.replace("$n", &n.to_string())).await.unwrap();
    }
}

#[tokio::test]
async fn cluster_a_table_is_copied_anew_while_the_rest_streams_and_agents_die() {
    let pair = Pair::new(SCHEMA).await;
    let more = "
        create table owner (id int primary key, seat int references seat);
        insert into owner select i, i from generate_series(1, 50) i;
        create table wide (id int primary key, mark int unique, body text);
        insert into wide select i, i, repeat(md5(i::text), 50) from generate_series(1, 30000) i;
        create function refuse() returns trigger language plpgsql as $$begin raise exception 'fired'; end$$;
        create trigger never after delete on wide for each row when (old.id < 0) execute function refuse();
        alter table wide enable always trigger never";
    pair.source.sql(DATABASE, more).await.unwrap();
    let fleet = Fleet::of_three(&["anna", "bert"]).await;
    let job = fleet.begin(&pair.task_file("shop", FOLLOWED)).await;
    followed(&job).await;
    fleet.refused(&["task", "resync", "shop", "public.nothing"], 2, "unknown_table").await;

    // Somebody has been at the destination: at a table with a further unique value, one that a foreign key points at, one
    // without a key, and a leaf, out of which and into which rows move.
    let meddled = "delete from wide where id % 3 = 0; update seat set place = place + 1000;
        insert into log values (now(), 'nobody said so'); delete from part_a where id % 3 = 0";
    let replica = format!("set session_replication_role = replica; {meddled}");
    pair.destination.sql(DATABASE, &replica).await.unwrap();
    let load = Load::begin(&pair.source).await;
    write(&pair, 1..20).await;
    for table in ["public.wide", "public.seat", "public.log", "public.part_a"] {
        fleet.ok(&["task", "resync", "shop", table]).await;
    }
    // Whoever copies or follows dies, now and then.
    for n in 1..4 {
        let task = job.until("somebody to work", |task| !task.running.is_empty()).await;
        let agent = task.running.last().unwrap().agent.clone();
        fleet.convoy.agent(&agent).kill().unwrap();
        write(&pair, n * 20..n * 20 + 20).await;
        fleet.convoy.agent(&agent).start_again().unwrap();
    }
    go_on(&job, 4).await;
    write(&pair, 80..100).await;
    let turns = load.end().await;
    assert!(turns > 10, "{turns}");
    caught_up(&job, &pair).await;
    let task = job.task().await;
    let wide = task.tables.iter().find(|table| table.name == "public.wide").unwrap();
    assert!(wide.generation > 1 && wide.status == "streaming", "{wide:?}");
    fleet.ok(&["task", "cancel", "shop"]).await;
    job.until("nothing of it to be left", |task| task.cleaned_up).await;
    pair.same().await;
}

/// Waits until so many tables are followed again.
async fn go_on(job: &Job<'_>, tables: usize) {
    wait::until(LIMIT, "tables to be followed again", async || {
        let went_on = job.events("table_goes_on").await.len();
        if went_on >= tables { Ok(()) } else { Err(went_on) }
    })
    .await
    .unwrap();
}

/// A writer of the first plan stands still within its COPY, under its fence, when the table is to be planned anew; and so does one
/// of the new plan, whose agent is frozen (laws O1, O4, O5).
#[tokio::test]
async fn cluster_writers_that_were_left_write_nothing_into_a_table_that_is_copied_anew() {
    let pair = Pair::new(Gate::SCHEMA).await;
    let fleet = Fleet::of_three(&["anna", "bert"]).await;
    let job = fleet.begin(&pair.task_file("shop", FOLLOWED)).await;
    followed(&job).await;

    let left = pair.destination.client(DATABASE).await.unwrap();
    let plan = "select task, table_no from pgconvoy.table_state where write_table = 'gated'";
    let plan = left.query_one(plan, &[]).await.unwrap();
    let (task, no): (&str, i64) = (plan.get(0), plan.get(1));
    let fenced = format!(
        "set application_name = 'pgconvoy/{task}/copy/1000000.1'; begin; select pgconvoy.fence('{task}', {no}, 1)"
    );
    left.batch_execute(&fenced).await.unwrap();
    let rows = left.copy_in("copy gated (no, words) from stdin").await.unwrap();
    let mut rows = Box::pin(rows);
    rows.send(&b"30001\tof an old plan\n"[..]).await.unwrap();
    rows.flush().await.unwrap();

    let gate = Gate::shut(&pair.destination).await;
    fleet.ok(&["task", "resync", "shop", "public.gated"]).await;
    let first = gate.waiting(1, LIMIT).await;
    rows.as_mut().finish().await.unwrap_err();
    let again = fleet.ok(&["task", "resync", "shop", "public.gated"]).await;
    assert!(again.contains("already"), "{again}");
    let changes = "update gated set words = 'changed' where no % 100 = 7; delete from gated where no % 100 = 8;
        update gated set no = -no where no % 100 = 9; insert into gated values (40001, 'new')";
    pair.source.sql(DATABASE, changes).await.unwrap();

    let holders = job.holders().await;
    let frozen = fleet.convoy.agent(holders.first().unwrap());
    frozen.pause().await.unwrap();
    gate.waiting_besides(&first, 1, LIMIT).await;
    pair.source.sql(DATABASE, "update gated set words = 'twice' where no % 100 = 7").await.unwrap();
    frozen.go_on().unwrap();
    gate.open().await;
    go_on(&job, 1).await;
    pair.source.sql(DATABASE, "update gated set words = 'at last' where no = 7").await.unwrap();
    caught_up(&job, &pair).await;
    fleet.ok(&["task", "cancel", "shop"]).await;
    job.until("nothing of it to be left", |task| task.cleaned_up).await;
    pair.same().await;
}
