//! The network between agents and a database.

use pgconvoy_integration_tests::net::{Proxy, Weather};
use pgconvoy_integration_tests::wait;

use super::COPY;
use crate::world::{Fleet, Gate, LIMIT, Pair, Roads};

#[tokio::test]
async fn cluster_ways_to_the_source_that_break_forget_swallow_and_stall_cost_no_row() {
    a_way_fails(|roads| &roads.source).await;
}

#[tokio::test]
async fn cluster_ways_to_the_destination_that_break_forget_swallow_and_stall_cost_no_row() {
    a_way_fails(|roads| &roads.destination).await;
}

/// Each time all shards are about to begin their rows, with a transaction open behind them.
async fn a_way_fails(which: impl Fn(&Roads) -> &Proxy) {
    let pair = Pair::new(Gate::KEYLESS).await;
    let fleet = Fleet::start(1, &["anna", "bert"]).await;
    let roads = Roads::to(&pair).await;
    let way = which(&roads);
    let first = way.hold_at(COPY, 4);
    let job = fleet.begin(&roads.task_file(&pair, "shop", Gate::COPY)).await;
    first.has_caught(4, LIMIT).await.unwrap();

    let after_the_cut = way.hold_at(COPY, 4);
    way.cut();
    after_the_cut.has_caught(4, LIMIT).await.unwrap();

    // The server hears nothing of the end of these: what the old owner left there is ended by the new one (law O5).
    let after_forgetting = way.hold_at(COPY, 4);
    way.forget();
    after_forgetting.has_caught(4, LIMIT).await.unwrap();

    way.set(Weather::BlackHole);
    let before = way.struck();
    after_forgetting.open();
    struck(way, before + 4).await;
    let after_the_hole = way.hold_at(COPY, 4);
    way.set(Weather::Clear);
    after_the_hole.has_caught(4, LIMIT).await.unwrap();

    way.set(Weather::Stalled);
    let before = way.struck();
    after_the_hole.open();
    struck(way, before + 4).await;
    way.set(Weather::Clear);
    job.done(&pair).await;
    assert!(job.events("agent_lost").await.is_empty(), "agents are not to blame");
}

async fn struck(way: &Proxy, count: u64) {
    wait::until(LIMIT, "the weather to strike", async || match way.struck() {
        struck if struck >= count => Ok(()),
        struck => Err(struck),
    })
    .await
    .unwrap();
}
