//! A cutover after a table was copied anew.

use pgconvoy_integration_tests::wait;
use pgconvoy_proto::v1::TaskStatus;

use super::{SCHEMA, following};
use crate::stream::caught_up;
use crate::world::{DATABASE, Fleet, Job, LIMIT, Pair, told};

/// What is made of rows is made of those that came anew, and triggers that waited for the end are made all the same.
#[tokio::test]
async fn cluster_a_cutover_after_a_resync_fills_views_and_makes_what_fires_always() {
    let view = "create materialized view turns as select count(*) from ledger;";
    let pair = Pair::new(&format!("{SCHEMA}{view}")).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = following(&fleet, &pair, "shop").await;
    let fill = "insert into ledger (amount) select i from generate_series(1, 9) i";
    pair.source.sql(DATABASE, fill).await.unwrap();
    fleet.ok(&["task", "resync", "shop", "public.ledger"]).await;
    goes_on(&job).await;
    caught_up(&job, &pair).await;
    fleet.ok(&["task", "cutover", "shop", "--fence"]).await;
    job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
    assert_eq!(pair.count("select count from turns").await, 9);
    let refresh = "begin read write; refresh materialized view turns; commit";
    pair.source.sql(DATABASE, refresh).await.unwrap();
    pair.same().await;
}

/// It is published, and has the name of one that was followed: nobody takes its changes, nor has anybody copied it.
#[tokio::test]
async fn cluster_a_table_that_took_the_name_of_another_is_in_a_cutovers_way_until_it_is_copied() {
    let pair = Pair::new(SCHEMA).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = following(&fleet, &pair, "shop").await;
    let again = "drop table still; create table still (id int primary key); insert into still values (1), (2);
        do $$ begin execute format('alter publication %I add table only still', (select pubname from pg_publication)); end $$";
    pair.source.sql(DATABASE, again).await.unwrap();
    let cutover = ["task", "cutover", "shop", "--fence", "--compare", "none"];
    let finished = fleet.run(&cutover).await;
    assert_eq!(finished.code(), Some(1), "{}", told(&finished));
    assert!(finished.log.contains("are not followed: public.still"), "{}", told(&finished));
    assert!(finished.log.contains("task resync"), "{}", told(&finished));

    fleet.ok(&["task", "resync", "shop", "public.still"]).await;
    goes_on(&job).await;
    caught_up(&job, &pair).await;
    fleet.ok(&cutover).await;
    job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
    assert_eq!(pair.count("select count(*) from still").await, 2);
    pair.same().await;
}

/// Waits until the one table that is copied anew is followed again.
async fn goes_on(job: &Job<'_>) {
    wait::until(LIMIT, "it to be followed again", async || {
        let went_on = job.events("table_goes_on").await.len();
        if went_on == 1 { Ok(()) } else { Err(went_on) }
    })
    .await
    .unwrap();
}
