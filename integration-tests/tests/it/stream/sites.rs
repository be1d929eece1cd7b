//! A source at one site that is followed from another one, through pairs of agents.

use super::live::{Load, SCHEMA};
use super::{FOLLOWED, applied, caught_up, followed, follower};
use crate::world::{AT_DESTINATION, AT_SOURCE, Dialled, TwoSites};

#[tokio::test]
async fn cluster_a_source_of_another_site_is_followed_through_killed_owners_and_partners() {
    let sites = TwoSites::start(Dialled::Source, SCHEMA).await;
    let (pair, convoy) = (&sites.pair, &sites.fleet.convoy);
    let load = Load::begin(&pair.source).await;
    let job = sites.fleet.begin(&sites.task_file("shop", FOLLOWED)).await;
    let task = followed(&job).await;
    let owner = follower(&task).unwrap().clone();
    assert!(AT_DESTINATION.contains(&owner.agent.as_str()), "{} runs it", owner.agent);

    // One partner after the other: each of them is the one that it goes through, or may be.
    for partner in AT_SOURCE {
        convoy.agent(partner).kill().unwrap();
        caught_up(&job, pair).await;
        convoy.agent(partner).start_again().unwrap();
        convoy.agent_known(partner).await.unwrap();
    }
    convoy.agent(&owner.agent).kill().unwrap();
    job.until("the other one to follow", |task| {
        follower(task).is_some_and(|unit| unit.agent != owner.agent) && applied(task) > 0
    })
    .await;
    let turns = load.end().await;
    assert!(turns > 10, "{turns}");
    caught_up(&job, pair).await;

    sites.fleet.ok(&["task", "cancel", "shop"]).await;
    job.until("nothing of it to be left", |task| task.cleaned_up).await;
    pair.same().await;
}
