//! A cutover after a table was copied anew.

use pgconvoy_integration_tests::wait;
use pgconvoy_proto::v1::TaskStatus;

use super::{SCHEMA, following};
use crate::stream::caught_up;
use crate::world::{DATABASE, Fleet, LIMIT, Pair};

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
    wait::until(LIMIT, "it to be followed again", async || {
        let went_on = job.events("table_goes_on").await.len();
        if went_on == 1 { Ok(()) } else { Err(went_on) }
    })
    .await
    .unwrap();
    caught_up(&job, &pair).await;
    fleet.ok(&["task", "cutover", "shop", "--fence"]).await;
    job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
    assert_eq!(pair.count("select count from turns").await, 9);
    let refresh = "begin read write; refresh materialized view turns; commit";
    pair.source.sql(DATABASE, refresh).await.unwrap();
    pair.same().await;
}
