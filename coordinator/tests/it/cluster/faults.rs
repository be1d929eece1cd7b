//! Nodes that fail and links that are cut: nothing acknowledged is lost, and nobody is disturbed
//! longer than need be.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgconvoy_coordinator::raft::{Peer, ProposeError, ReadError, Role};
use pgconvoy_coordinator::store::OpenOptions;
use pgconvoy_coordinator::store::durability::Durability;
use pgconvoy_shared::ids::NodeId;
use tokio::time::Instant;

use super::{Cluster, LIMIT, Write1, peer, timings};
use crate::wait::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_elect_a_leader_and_agree() {
    let cluster = Cluster::of([1, 2, 3]).await;
    cluster.write_all(0..50).await;
    assert_eq!(cluster.agreed().await.len(), 50);
    let leader = cluster.leader().await;
    cluster.node(leader).linearize().await.expect("the leader may read");

    let follower = (1..=3).find(|&id| id != leader).expect("there are three");
    let at_leader = Some(peer(leader));
    let refused = cluster.node(follower).propose(Write1::encode(0, Vec::new())).await;
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: at_leader.clone() }));
    let refused = cluster.node(follower).linearize().await;
    assert_eq!(refused, Err(ReadError::NotLeader { leader: at_leader }));

    let too_large = cluster.node(leader).propose(vec![0; 256 * 1024 + 1]).await;
    assert!(matches!(too_large, Err(ProposeError::TooLarge { .. })));
    let largest = Write1::encode(7, vec![1; 256 * 1024 - 16]);
    cluster.node(leader).propose(largest).await.expect("the largest is taken");

    let status = cluster.node(leader).status().await;
    assert_eq!(status.role, Role::Leader);
    assert!(status.steady());
    assert_eq!(status.members.len(), 3);
    assert!(status.members.iter().all(|member| member.voter && member.matched_index.is_some()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_follower_is_missed_by_nobody_and_catches_up() {
    let mut cluster = Cluster::of([1, 2, 3]).await;
    let leader = cluster.leader().await;
    let lost = (1..=3).find(|&id| id != leader).expect("there are three");
    cluster.write_all(0..20).await;
    cluster.stop(lost).await;
    cluster.write_all(20..60).await;
    assert_eq!(cluster.leader().await, leader);
    cluster.start(lost).await;
    cluster.assert_written(0..60).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_leader_is_replaced_and_nothing_acknowledged_goes_with_it() {
    let mut cluster = Cluster::of([1, 2, 3]).await;
    for round in 0..3 {
        let (from, to) = (round * 40, round * 40 + 40);
        cluster.write_all(from..to).await;
        let leader = cluster.leader().await;
        cluster.stop(leader).await;
        cluster.write_all(to..to + 1).await;
        cluster.start(leader).await;
    }
    cluster.assert_written(0..121).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_at_once_come_back_with_everything() {
    let mut cluster = Cluster::of([1, 2, 3]).await;
    cluster.write_all(0..50).await;
    for id in 1..=3 {
        cluster.stop(id).await;
    }
    for id in 1..=3 {
        cluster.start(id).await;
    }
    cluster.leader().await;
    cluster.write_all(50..60).await;
    cluster.assert_written(0..60).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_leader_knows_all_that_it_answered_before_it_leads_again() {
    let mut cluster = Cluster::of([1]).await;
    for round in 0..5 {
        cluster.write_all(round * 10..round * 10 + 10).await;
        let term = cluster.node(1).leadership().borrow().term;
        cluster.stop(1).await;
        cluster.start(1).await;
        cluster.leader().await;
        // At once: what is not applied yet would be missing from a read.
        assert_eq!(cluster.nodes[&1].ledger.state().len() as u64, round * 10 + 10);
        assert!(cluster.node(1).leadership().borrow().term > term, "it was elected anew");
    }
}

/// Ten times the longest election timeout: what 30 s are with the timings of a network.
fn long() -> Duration {
    timings().election.end * 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_cut_off_long_disturbs_nobody_when_it_is_back() {
    let cluster = Cluster::of([1, 2, 3]).await;
    let leader = cluster.leader().await;
    let cut = (1..=3).find(|&id| id != leader).expect("there are three");
    let before = cluster.node(leader).leadership().borrow().clone();
    cluster.isolate(cut);

    // Writes go on all the time. Somebody who disturbs does so by a term of its own, which the leader would have to follow.
    let began = Instant::now();
    let (mut key, mut healed) = (0, None);
    while healed.is_none_or(|at: Instant| at.elapsed() < timings().election.end * 5) {
        if healed.is_none() && began.elapsed() > long() {
            assert_eq!(
                cluster.node(cut).leadership().borrow().leader,
                None,
                "it knows of no leader"
            );
            cluster.heal(cut);
            healed = Some(Instant::now());
        }
        cluster.write(key, key.to_be_bytes().to_vec()).await;
        key += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(*cluster.node(leader).leadership().borrow(), before, "same leader, same term");
    cluster.assert_written(0..key).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_stops_leading_and_another_one_takes_over() {
    let cluster = Cluster::of([1, 2, 3]).await;
    cluster.write_all(0..10).await;
    let old = cluster.leader().await;
    cluster.isolate(old);
    // Its proposal is in nobody else's log, and it must not wait for ever for what becomes of it.
    let stranded = cluster.node(old).propose(Write1::encode(1_000, Vec::new())).await;
    assert_eq!(stranded, Err(ProposeError::OutcomeUnknown));
    let now = cluster.node(old).leadership().borrow().clone();
    assert!(!now.is_self && now.leader.is_none(), "{now:?}");
    let refused = cluster.node(old).propose(Write1::encode(1_001, Vec::new())).await;
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: None }));
    assert_eq!(cluster.node(old).linearize().await, Err(ReadError::NotLeader { leader: None }));

    let new = cluster.leader_among(|id| id != old).await;
    cluster.write_all(10..20).await;
    cluster.heal(old);
    until(LIMIT, "the old leader follows the new one", async || {
        let now = cluster.node(old).leadership().borrow().clone();
        if now.leader == Some(peer(new)) { Ok(()) } else { Err(now) }
    })
    .await;
    cluster.assert_written(0..20).await;
    assert!(!cluster.agreed().await.contains_key(&1_000), "the stranded write was given up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_heard_but_hears_nobody_is_replaced() {
    let cluster = Cluster::of([1, 2, 3]).await;
    let old = cluster.leader().await;
    for other in (1..=3).filter(|&id| id != old) {
        cluster.links.cut_way(other, old);
    }
    // No quorum answers it, so it grants nothing any more; whether the others replace it depends on
    // whether they still hear it. Once they do not, they do.
    until(LIMIT, "it stops leading", async || {
        let now = cluster.node(old).leadership().borrow().clone();
        if now.is_self { Err(now) } else { Ok(()) }
    })
    .await;
    cluster.isolate(old);
    cluster.leader_among(|id| id != old).await;
    cluster.heal(old);
    cluster.write_all(0..10).await;
    cluster.assert_written(0..10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_and_breaking_links_lose_nothing() {
    let cluster = Arc::new(Cluster::of([1, 2, 3]).await);
    let stop = Arc::new(AtomicBool::new(false));
    let (trouble, stopped) = (Arc::clone(&cluster), Arc::clone(&stop));
    let trouble = pgconvoy_runtime::tasks::owned("trouble", async move {
        while !stopped.load(Ordering::Relaxed) {
            let a = rand::random_range(1..=3_u64);
            let b = a % 3 + 1;
            match rand::random_range(0..4) {
                0 => trouble.links.cut(a, b),
                1 => trouble.links.reset(a, b),
                2 => trouble.links.slow(a, b, Duration::from_millis(rand::random_range(0..40))),
                _ => trouble.links.heal(a, b),
            }
            tokio::time::sleep(Duration::from_millis(rand::random_range(20..300))).await;
            if rand::random_bool(0.5) {
                (1..=3).for_each(|id| trouble.heal(id));
            }
        }
        (1..=3_u64).for_each(|id| {
            trouble.heal(id);
            trouble.links.slow(id, id % 3 + 1, Duration::ZERO);
        });
    });
    cluster.write_all(0..300).await;
    stop.store(true, Ordering::Relaxed);
    trouble.await.expect("ends");
    cluster.assert_written(0..300).await;
}

/// Syncs until it is told to fail.
struct Failing(Arc<AtomicBool>);

impl Durability for Failing {
    fn make_durable(&mut self) -> io::Result<()> {
        if self.0.load(Ordering::Relaxed) {
            Err(io::Error::other("the disk is gone"))
        } else {
            Ok(())
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_fails_stops_whole() {
    let mut cluster = Cluster::of_strangers([]).await;
    let fail = Arc::new(AtomicBool::new(false));
    for id in 1..=3 {
        let failing = Failing(Arc::clone(&fail));
        let options = OpenOptions::new(NodeId(id));
        let options = if id == 1 { options.durability(|_| Box::new(failing)) } else { options };
        cluster.try_start(id, options).await.expect("starts");
    }
    cluster.initialize().await;
    until(LIMIT, "node 1 leads", async || match cluster.leader().await {
        1 => Ok(()),
        other => {
            let moved = cluster.node(other).transfer_leader(Some(NodeId(1))).await;
            Err(moved.map(|Peer { id, .. }| id).map_err(|error| error.to_string()))
        }
    })
    .await;
    fail.store(true, Ordering::Relaxed);
    let refused = cluster.node(1).propose(Write1::encode(1, Vec::new())).await;
    assert!(
        matches!(refused, Err(ProposeError::Stopped | ProposeError::OutcomeUnknown)),
        "{refused:?}"
    );
    let cause = tokio::time::timeout(LIMIT, cluster.node(1).stopped()).await.expect("it stops");
    assert!(cause.contains("the disk is gone"), "{cause}");
    assert_eq!(cluster.node(1).status().await.role, Role::Stopped);
    let refused = cluster.node(1).propose(Write1::encode(2, Vec::new())).await;
    assert_eq!(refused, Err(ProposeError::Stopped));
    cluster.leader_among(|id| id != 1).await;
}
