//! What is seen of a source that is followed: how far it is, what changes, what the slot keeps, what nobody follows.

use pgconvoy_proto::v1::{self, SlotState, Task, WalStatus};
use pgconvoy_shared::stream::ChangeCounts;

use super::live::SCHEMA;
use super::{FOLLOWED, caught_up, followed};
use crate::world::{DATABASE, Fleet, Gate, LIMIT, Pair};

#[tokio::test]
async fn cluster_lag_changes_slot_and_new_tables_are_seen() {
    let pair = Pair::new(SCHEMA).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = fleet.begin(&pair.task_file("shop", FOLLOWED)).await;
    followed(&job).await;

    let changes = "insert into log select now(), 'word' from generate_series(1, 30);
        update account set balance = 0 where id <= 7; delete from account where id between 11 and 15;
        create table public.newcomer (id int primary key)";
    pair.source.sql(DATABASE, changes).await.unwrap();
    caught_up(&job, &pair).await;
    let task = job
        .until("the changes to be told", |task| {
            let progress = task.stream.as_ref().and_then(|stream| stream.progress.as_ref());
            progress
                .is_some_and(|now| ChangeCounts::from(now.changes.unwrap_or_default()).all() >= 42)
                && slot_of(task).is_some()
        })
        .await;
    let slot = slot_of(&task).unwrap();
    let progress = task.stream.unwrap().progress.unwrap();
    assert!(progress.received >= progress.applied && progress.applied >= progress.confirmed);
    let counted = progress.changes.unwrap();
    assert_eq!((counted.inserts, counted.updates, counted.deletes), (30, 7, 5));
    let of = |name: &str| {
        let mut tables = progress.tables.iter();
        let table = tables.find(|table| table.name.as_ref().is_some_and(|of| of.name == name));
        ChangeCounts::from(table.unwrap().changes.unwrap())
    };
    assert_eq!((of("log").inserts, of("account").updates, of("account").deletes), (30, 7, 5));
    assert_eq!((slot.status(), slot.left), (WalStatus::Reserved, None));

    let task = job
        .until("the new table to be told", |task| {
            task.stream.as_ref().is_some_and(|stream| !stream.tables_not_followed.is_empty())
        })
        .await;
    assert_eq!(task.stream.unwrap().tables_not_followed[0].name, "newcomer");
    let events = job.events("tables_not_followed").await;
    assert!(events.len() == 1 && events[0].message.contains("public.newcomer"), "{events:?}");

    for statement in ["alter system set max_slot_wal_keep_size = '10GB'", "select pg_reload_conf()"]
    {
        pair.source.sql(DATABASE, statement).await.unwrap();
    }
    job.until("the limit to be told", |task| slot_of(task).and_then(|slot| slot.left).is_some())
        .await;
    let shown = fleet.ok(&["task", "show", "shop"]).await;
    for words in
        ["behind", "below max_slot_wal_keep_size", "42 in all", "inserts/s", "public.newcomer"]
    {
        assert!(shown.contains(words), "{words} is not in\n{shown}");
    }
    let shown = fleet.ok(&["task", "show", "shop", "-o", "json"]).await;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert!(shown["stream"]["slot"]["left_bytes"].is_u64(), "{shown}");

    fleet.ok(&["task", "cancel", "shop"]).await;
    job.until("nothing of it to be left", |task| task.cleaned_up).await;
    pair.source.sql(DATABASE, "drop table newcomer").await.unwrap();
    pair.same().await;
}

fn slot_of(task: &Task) -> Option<SlotState> {
    task.stream.as_ref()?.slot
}

#[tokio::test]
async fn cluster_what_the_slot_keeps_is_told_while_rows_are_copied() {
    const GROWN: u64 = 3 << 20;
    let pair = Pair::new(Gate::SCHEMA).await;
    let gate = Gate::shut(&pair.destination).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = fleet.begin(&pair.task_file("shop", &format!("{FOLLOWED}\n{}", Gate::COPY))).await;
    gate.waiting(4, LIMIT).await;
    let task = job.until("the slot to be told", |task| slot_of(task).is_some()).await;
    assert_eq!(task.phase(), v1::Phase::Copy);
    let before = slot_of(&task).unwrap().kept;

    let more = "create table public.noise as select repeat(md5(no::text), 10) as words from generate_series(1, 20000) no";
    pair.source.sql(DATABASE, more).await.unwrap();
    let grown = |task: &Task| slot_of(task).is_some_and(|slot| slot.kept > before + GROWN);
    job.until("what it keeps to grow", grown).await;
    let shown = fleet.ok(&["task", "show", "shop"]).await;
    assert!(shown.contains("keeps"), "{shown}");

    let limit = "alter system set max_slot_wal_keep_size = '1MB'";
    for statement in [limit, "select pg_reload_conf()", "select pg_switch_wal()"] {
        pair.source.sql(DATABASE, statement).await.unwrap();
    }
    job.until("the slot to be at risk", |task| {
        slot_of(task).is_some_and(|slot| slot.status() != WalStatus::Reserved)
    })
    .await;
    assert_eq!(job.events("slot_at_risk").await.len(), 1);
    for statement in ["alter system reset max_slot_wal_keep_size", "select pg_reload_conf()"] {
        pair.source.sql(DATABASE, statement).await.unwrap();
    }
    gate.open().await;
    followed(&job).await;
    fleet.ok(&["task", "cancel", "shop"]).await;
    job.until("nothing of it to be left", |task| task.cleaned_up).await;
    pair.source.sql(DATABASE, "drop table noise").await.unwrap();
    pair.same().await;
}
