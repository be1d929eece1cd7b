//! What is seen of a source that is followed: how far it is, what changes, what the slot keeps, what nobody follows.

use pgconvoy_proto::v1::WalStatus;
use pgconvoy_shared::stream::ChangeCounts;

use super::live::SCHEMA;
use super::{FOLLOWED, caught_up, followed};
use crate::world::{DATABASE, Fleet, Pair};

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
            progress.is_some_and(|now| {
                ChangeCounts::from(now.changes.unwrap_or_default()).all() >= 42
                    && now.slot.is_some()
            })
        })
        .await;
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
    let slot = progress.slot.unwrap();
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
    job.until("the limit to be told", |task| {
        let progress = task.stream.as_ref().and_then(|stream| stream.progress.as_ref());
        progress.and_then(|now| now.slot?.left).is_some()
    })
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
