//! The network between an agent and the coordinators, while its ways to the databases are as good as ever.

use pgconvoy_integration_tests::net::Weather;
use pgconvoy_integration_tests::wait;

use crate::world::{Fleet, Gate, LIMIT, Pair};

#[tokio::test]
async fn cluster_an_agent_that_is_heard_again_within_its_lease_keeps_its_units() {
    let pair = Pair::new(Gate::KEYLESS).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let gate = Gate::shut(&pair.destination).await;
    let job = fleet.begin(&pair.task_file("shop", Gate::COPY)).await;
    let standing = gate.waiting(4, LIMIT).await;
    let link = fleet.convoy.agent_link("anna");

    link.cut();
    wait::until(LIMIT, "the agent to come back", async || match link.connections() {
        0 => Err("no connection"),
        _ => Ok(()),
    })
    .await
    .unwrap();
    fleet.convoy.agent_known("anna").await.unwrap();
    // A heartbeat is held, and comes late; one is lost with its connection.
    for weather in [Weather::Stalled, Weather::BlackHole] {
        let before = link.struck();
        link.set(weather);
        wait::until(LIMIT, "a heartbeat to be struck", async || match link.struck() {
            struck if struck > before => Ok(()),
            struck => Err(struck),
        })
        .await
        .unwrap();
        link.set(Weather::Clear);
        fleet.convoy.agent_known("anna").await.unwrap();
    }
    assert_eq!(gate.waiting(4, LIMIT).await.len(), standing.len());
    gate.open().await;
    job.done(&pair).await;
    assert!(job.events("agent_lost").await.is_empty());
}

#[tokio::test]
async fn cluster_an_agent_that_hears_nobody_has_stopped_before_others_run_its_units() {
    let pair = Pair::new(Gate::KEYLESS).await;
    let mut fleet = Fleet::start(1, &["anna"]).await;
    let gate = Gate::shut(&pair.destination).await;
    let id = fleet.begin(&pair.task_file("shop", Gate::COPY)).await.id;
    let of_anna = gate.waiting(4, LIMIT).await;

    fleet.convoy.agent_link("anna").set(Weather::BlackHole);
    let lost = wait::until(LIMIT, "the leader to give the agent up", async || {
        match fleet.job(&id).events("agent_lost").await.len() {
            0 => Err("not yet"),
            lost => Ok(lost),
        }
    });
    lost.await.unwrap();
    // Nobody who could have ended them is there yet.
    let left = gate.standing().await;
    fleet.convoy.add_agent("bert", None).await.unwrap();
    let job = fleet.job(&id);
    gate.waiting_besides(&of_anna, 4, LIMIT).await;
    gate.open().await;
    fleet.convoy.agent_link("anna").set(Weather::Clear);
    fleet.convoy.agent_known("anna").await.unwrap();
    job.done(&pair).await;
    assert!(left.is_empty(), "they write beyond their lease: {left:?}");
}
