//! A source that only agents of one site reach, a destination that only agents of another one reach: all goes through
//! pairs of agents, and what fails between them costs no row.

use pgconvoy_integration_tests::net::{Proxy, Weather};
use pgconvoy_integration_tests::wait;
use pgconvoy_proto::v1::PrecheckItem;

use crate::world::{
    ASTRAY, AT_DESTINATION, AT_SOURCE, DATABASE, Dialled, Gate, LIMIT, TwoSites, told,
};

#[tokio::test]
async fn cluster_two_sites_migrate_and_compare_through_agents_near_the_source() {
    everything_works(Dialled::Source).await;
}

#[tokio::test]
async fn cluster_two_sites_migrate_and_compare_through_agents_that_can_only_dial_out() {
    everything_works(Dialled::Destination).await;
}

/// Made after the rows, in several sessions at once.
const MADE_LATE: &str = "
    create table public.near (no int references public.gated (no), free int references public.free (no));
    create table public.far (no int references public.gated (no), check (no > 0));
    insert into public.near select no, no from generate_series(1, 900) no;
    insert into public.far select no from generate_series(1, 900) no;
    create materialized view public.counted as select count(*) as n from public.gated;
    create materialized view public.doubled as select n * 2 as n from public.counted;";

/// Schema, rows, sequences, what comes after the rows, comparison.
async fn everything_works(dialled: Dialled) {
    let sites = TwoSites::start(dialled, &[Gate::SCHEMA, MADE_LATE].concat()).await;
    let job = sites.fleet.begin(&sites.task_file("shop", Gate::COPY)).await;
    let task = job.ended().await;
    assert_eq!(task.rows_done, 20_000 + 1000 + 2 * 900);
    assert_eq!(sites.pair.same().await.rows, task.rows_done + 2, "the views' rows besides");
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

#[tokio::test]
async fn cluster_an_agent_that_does_not_reach_its_database_is_told_of_and_passed_over() {
    let sites = TwoSites::start_with_one_astray(Gate::SCHEMA).await;
    let job = sites.fleet.begin(&sites.task_file("shop", Gate::COPY)).await;
    let task = job.done(&sites.pair).await;
    let about = |agent: &str| -> Vec<_> {
        let items = task.precheck.iter().filter(|item| item.object == agent);
        items.map(|item| (item.code.as_str(), item.observed.as_str())).collect()
    };
    let [(code, observed)] = about(ASTRAY)[..] else { panic!("{:?}", task.precheck) };
    assert_eq!(code, "agent_does_not_reach", "{observed}");
    assert!(observed.contains("refused"), "{observed}");
    for agent in AT_SOURCE {
        assert_eq!(about(agent)[0].0, "reached_through_agent", "{:?}", task.precheck);
    }
    assert!(job.events("unit_failed").await.is_empty(), "others are asked in its stead");
}

#[tokio::test]
async fn cluster_a_comparison_of_two_sites_sends_hashes_and_no_rows() {
    let sites = TwoSites::start(Dialled::Source, Gate::LARGE).await;
    let (fleet, pair) = (&sites.fleet, &sites.pair);
    fleet.begin(&sites.task_file("shop", Gate::COPY_LARGE)).await.done(pair).await;
    let verified = async |exit| {
        let before = sites.relayed().await;
        let finished = fleet.run(&["task", "verify", "shop"]).await;
        assert_eq!(finished.code(), Some(exit), "{}", told(&finished));
        let after = sites.relayed().await;
        (after.0 - before.0, after.1 - before.1)
    };
    let (read, sent) = verified(0).await;
    assert!(read > 64_000_000, "all rows were read: {read} bytes");
    assert!(sent * 25 < read, "{sent} bytes were sent for {read}");

    let change = "update public.gated set words = 'other' where no = 4711;
                  delete from public.gated where no = 4712";
    pair.destination.sql(DATABASE, change).await.unwrap();
    let (read, sent) = verified(4).await;
    let task = fleet.job("shop-verify-2").task().await;
    assert_eq!(task.verification.map(|found| found.differences), Some(3), "no key: one is two");
    assert!(read > 128_000_000, "rows are looked at in a second reading: {read} bytes");
    assert!(sent * 25 < read, "{sent} bytes were sent for {read}");
}
