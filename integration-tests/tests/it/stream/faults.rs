//! Whoever follows the source dies: another one goes on from where the destination is, and nothing is lost or doubled.

use std::time::{Duration, Instant};

use pgconvoy_integration_tests::wait;
use pgconvoy_shared::lsn::Lsn;

use super::live::{Load, SCHEMA};
use super::{FOLLOWED, applied, caught_up, followed, follower, log_of};
use crate::world::{DATABASE, Fleet, LIMIT, Pair};

/// Twice the lease time of a cluster, and what a loaded machine takes.
const TAKEOVER: Duration = Duration::from_secs(25);

#[tokio::test]
async fn cluster_a_killed_follower_and_a_killed_leader_lose_and_double_nothing() {
    let pair = Pair::new(SCHEMA).await;
    let fleet = Fleet::of_three(&["anna", "bert"]).await;
    let load = Load::begin(&pair.source).await;
    let job = fleet.begin(&pair.task_file("shop", FOLLOWED)).await;
    let task = followed(&job).await;

    // The agent, in the middle of its work.
    let first = follower(&task).unwrap().clone();
    fleet.convoy.agent(&first.agent).kill().unwrap();
    let since = Instant::now();
    let task = job
        .until("another agent to follow", |task| {
            follower(task).is_some_and(|unit| unit.agent != first.agent) && applied(task) > 0
        })
        .await;
    assert!(since.elapsed() < TAKEOVER, "{:?}", since.elapsed());
    assert!(follower(&task).unwrap().epoch > first.epoch);

    // The leader, while the other one works.
    let leader = fleet.convoy.leader().await.unwrap();
    fleet.convoy.coordinator(leader).process().kill().unwrap();
    caught_up(&job, &pair).await;

    // Stopped in good order and begun again, it goes on.
    fleet.ok(&["task", "pause", "shop"]).await;
    job.until("it to be paused", |task| follower(task).is_none()).await;
    fleet.ok(&["task", "resume", "shop"]).await;
    let turns = load.end().await;
    assert!(turns > 10, "{turns}");
    caught_up(&job, &pair).await;

    fleet.ok(&["task", "cancel", "shop"]).await;
    job.until("nothing of it to be left", |task| task.cleaned_up).await;
    pair.same().await;
}

/// What is read ahead of a destination that stands still is not the source's to forget (law O7).
#[tokio::test]
async fn cluster_what_was_read_and_not_applied_is_read_again_by_whoever_comes_next() {
    let pair = Pair::new(SCHEMA).await;
    let fleet = Fleet::of_three(&["anna", "bert"]).await;
    let job = fleet.begin(&pair.task_file("shop", FOLLOWED)).await;
    let task = followed(&job).await;

    let holder = pair.destination.client(DATABASE).await.unwrap();
    holder.batch_execute("begin; lock table account in access exclusive mode").await.unwrap();
    for turn in 0..20 {
        let change = format!("update account set balance = {turn} where id = 1 + {turn} % 7");
        pair.source.sql(DATABASE, &change).await.unwrap();
    }
    let written = log_of(&pair.source).await;
    let sender = "from pg_stat_replication where application_name like 'pgconvoy/%/stream/%'";
    let sent = format!("select sent_lsn >= '{}' {sender}", Lsn(written));
    says_yes(&pair, "the changes to be sent", &sent).await;
    let now = pair.source.value(DATABASE, "select now()::text").await.unwrap().unwrap();
    let heard = format!("select reply_time > '{now}'::timestamptz {sender}");
    says_yes(&pair, "the follower to be heard of after that", &heard).await;

    fleet.convoy.agent(&follower(&task).unwrap().agent).kill().unwrap();
    holder.batch_execute("rollback").await.unwrap();
    caught_up(&job, &pair).await;
    fleet.ok(&["task", "cancel", "shop"]).await;
    job.until("nothing of it to be left", |task| task.cleaned_up).await;
    pair.same().await;
}

/// All of it is sent, and waits at the destination; its owner stands still, and another one applies the same (laws O3, O5).
#[tokio::test]
async fn cluster_a_transaction_that_stands_still_is_not_committed_beside_the_next_owners() {
    let schema = "create table log (words text); alter table log replica identity full";
    let pair = Pair::new(schema).await;
    let fleet = Fleet::of_three(&["anna", "bert"]).await;
    let job = fleet.begin(&pair.task_file("shop", FOLLOWED)).await;
    followed(&job).await;
    // From here on the statement is known to the destination, so nothing is waited for before it is run.
    pair.source.sql(DATABASE, "insert into log values ('before')").await.unwrap();
    caught_up(&job, &pair).await;
    let first = follower(&job.task().await).unwrap().clone();

    let holder = pair.destination.client(DATABASE).await.unwrap();
    holder.batch_execute("begin; lock table log in access exclusive mode").await.unwrap();
    pair.source.sql(DATABASE, "insert into log values ('once')").await.unwrap();
    let waiting = async |whose: &str| {
        let query = format!(
            "select count(*) from pg_locks join pg_stat_activity using (pid)
             where relation = 'log'::regclass and not granted and application_name {whose}"
        );
        wait::until(LIMIT, "the change to wait", async || match pair.count(&query).await {
            1 => Ok(()),
            other => Err(other),
        })
        .await
        .unwrap();
    };
    let of_first = format!("like 'pgconvoy/%/stream/%.{}'", first.epoch);
    waiting(&of_first).await;
    let frozen = fleet.convoy.agent(&first.agent);
    frozen.pause().await.unwrap();
    waiting(&format!("like 'pgconvoy/%/stream/%' and application_name not {of_first}")).await;
    holder.batch_execute("rollback").await.unwrap();
    frozen.go_on().unwrap();
    caught_up(&job, &pair).await;
    fleet.ok(&["task", "cancel", "shop"]).await;
    job.until("nothing of it to be left", |task| task.cleaned_up).await;
    pair.same().await;
}

/// Waits until a query at the source gives true.
pub(super) async fn says_yes(pair: &Pair, what: &str, query: &str) {
    wait::until(LIMIT, what, async || match pair.source.value(DATABASE, query).await {
        Ok(Some(answer)) if answer == "t" => Ok(()),
        Ok(answer) => Err(format!("{answer:?}")),
        Err(error) => Err(format!("{error:#}")),
    })
    .await
    .unwrap();
}
