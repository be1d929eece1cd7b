//! A source that only agents of one site reach, a destination that only agents of another one reach: all goes through
//! pairs of agents, and what fails between them costs no row.

use pgconvoy_integration_tests::net::{Proxy, Weather};
use pgconvoy_integration_tests::wait;
use pgconvoy_proto::v1::PrecheckItem;

use crate::world::{AT_DESTINATION, AT_SOURCE, Dialled, Gate, LIMIT, TwoSites};

#[tokio::test]
async fn cluster_two_sites_migrate_and_compare_through_agents_near_the_source() {
    everything_works(Dialled::Source).await;
}

#[tokio::test]
async fn cluster_two_sites_migrate_and_compare_through_agents_that_can_only_dial_out() {
    everything_works(Dialled::Destination).await;
}

/// Schema, rows, sequences, comparison.
async fn everything_works(dialled: Dialled) {
    let sites = TwoSites::start(dialled, Gate::SCHEMA).await;
    let job = sites.fleet.begin(&sites.task_file("shop", Gate::COPY)).await;
    let task = job.done(&sites.pair).await;
    assert!(task.rows_done > 20_000);
    for agent in AT_SOURCE {
        let ways =
            |item: &PrecheckItem| item.code == "reached_through_agent" && item.object == agent;
        let way = task.precheck.iter().find(|item| ways(item));
        let way = &way.unwrap_or_else(|| panic!("{agent}: {:?}", task.precheck)).observed;
        let expected = match dialled {
            Dialled::Source => format!("dials agent {agent}, which reaches"),
            Dialled::Destination => format!("agent {agent} dials agent c"),
        };
        assert!(way.contains(&expected), "{way}");
    }
    let events = job.events("unit_failed").await;
    assert!(events.is_empty(), "nothing failed on the way: {events:?}");
    sites.fleet.ok(&["task", "verify", "shop"]).await;
    sites.pair.left_nothing().await;
}

#[tokio::test]
async fn cluster_a_way_between_sites_that_breaks_costs_no_row() {
    the_way_fails(Dialled::Source, Proxy::cut).await;
}

#[tokio::test]
async fn cluster_a_way_between_sites_that_breaks_behind_an_agent_that_dialled_costs_no_row() {
    the_way_fails(Dialled::Destination, Proxy::cut).await;
}

#[tokio::test]
async fn cluster_a_way_between_sites_that_only_one_end_forgets_costs_no_row() {
    the_way_fails(Dialled::Destination, Proxy::forget).await;
}

#[tokio::test]
async fn cluster_a_way_between_sites_that_swallows_everything_costs_no_row() {
    the_way_fails(Dialled::Source, |way| way.set(Weather::BlackHole)).await;
}

/// While all shards stand half-way, with bytes on both sides of what breaks.
async fn the_way_fails(dialled: Dialled, fails: impl Fn(&Proxy)) {
    let sites = TwoSites::start(dialled, Gate::LARGE).await;
    let gate = Gate::shut(&sites.pair.destination).await;
    let job = sites.fleet.begin(&sites.task_file("shop", Gate::COPY_LARGE)).await;
    gate.waiting(4, LIMIT).await;
    sites.ways().into_iter().for_each(fails);
    gate.open().await;
    wait::until(LIMIT, "units to fail", async || match job.events("unit_failed").await.len() {
        0 => Err("none did"),
        _ => Ok(()),
    })
    .await
    .unwrap();
    sites.ways().into_iter().for_each(|way| way.set(Weather::Clear));
    job.done(&sites.pair).await;
    assert!(job.events("agent_lost").await.is_empty(), "agents are not to blame");
}

#[tokio::test]
async fn cluster_owners_and_partners_that_are_killed_cost_no_row() {
    let sites = TwoSites::start(Dialled::Source, Gate::LARGE).await;
    let convoy = &sites.fleet.convoy;
    let gate = Gate::shut(&sites.pair.destination).await;
    let job = sites.fleet.begin(&sites.task_file("shop", Gate::COPY_LARGE)).await;
    gate.waiting(4, LIMIT).await;
    let owner = job.holders().await.pop_first().unwrap();
    assert!(AT_DESTINATION.contains(&owner.as_str()), "{owner} runs at the destination");
    convoy.agent(AT_SOURCE[0]).kill().unwrap();
    convoy.agent(&owner).kill().unwrap();
    job.until("its units to be with the other", |task| {
        let mut copies = task.running.iter().filter(|unit| unit.kind == "copy");
        copies.clone().count() == 4 && copies.all(|unit| unit.agent != owner)
    })
    .await;
    gate.open().await;
    job.done(&sites.pair).await;
    assert!(!job.events("unit_moved").await.is_empty());
}
