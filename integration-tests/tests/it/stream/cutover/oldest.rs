//! A source of PostgreSQL 13, whose streams tell of no messages: markers are rows there.

use std::sync::atomic::Ordering;

use pgconvoy_integration_tests::postgres::{Major, Options};
use pgconvoy_proto::v1::TaskStatus;

use super::{SCHEMA, Writer, following, is_followed, read_only_by_default};
use crate::world::{DATABASE, Fleet, Pair, major, told};

#[tokio::test]
async fn cluster_a_source_of_13_is_cut_over_once_nobody_writes() {
    let (Some(oldest), Some(usual)) = (major(13), major(15)) else { return };
    cut_over(oldest, usual).await;
}

#[tokio::test]
async fn cluster_from_13_to_13() {
    let Some(oldest) = major(13) else { return };
    cut_over(oldest.clone(), oldest).await;
}

async fn cut_over(oldest: Major, destination: Major) {
    let source = Options::default().major(oldest);
    let destination = Options::default().major(destination);
    let pair = Pair::of(source, destination, SCHEMA).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = following(&fleet, &pair, "shop").await;
    let writer = Writer::begin(&pair.source).await;
    job.until("somebody to have written", |_| writer.count() > 100).await;
    // Its subscribers would be told of our table.
    pair.source.sql(DATABASE, "create publication everything for all tables").await.unwrap();
    let refused = fleet.run(&["task", "cutover", "shop", "--fence"]).await;
    assert_eq!(refused.code(), Some(1), "{}", told(&refused));
    assert!(refused.log.contains("cutover_marker_published"), "{}", told(&refused));
    pair.source.sql(DATABASE, "drop publication everything").await.unwrap();
    job.until("it to follow", is_followed).await;
    let finished = fleet.run(&["task", "cutover", "shop", "--writers-stopped"]).await;
    assert_eq!(finished.code(), Some(1), "{}", told(&finished));
    assert!(finished.log.contains("cutover_writers"), "{}", told(&finished));
    let before = writer.count();
    job.until("it to follow", |task| is_followed(task) && writer.count() > before + 50).await;

    let shown = fleet.ok(&["task", "cutover", "shop", "--fence"]).await;
    assert!(shown.contains("changed since, and compared again"), "{shown}");
    job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
    assert!(read_only_by_default(&pair.source).await);
    writer.work.await.unwrap();
    let acknowledged = writer.acknowledged.load(Ordering::SeqCst);
    let arrived = pair.count("select count(*) from ledger").await;
    assert!((acknowledged..=acknowledged + 1).contains(&arrived), "{arrived} of {acknowledged}");
    let gone = "select count(*)::text from pg_namespace where nspname = 'pgconvoy'";
    assert_eq!(pair.source.value(DATABASE, gone).await.unwrap().unwrap(), "0");
    pair.left_nothing().await;
}
