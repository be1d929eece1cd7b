//! Making, growing and shrinking a cluster, and moving its leader.

use std::fs;

use pgconvoy_coordinator::raft::{ChangeError, Peer, Role, VOTERS_MAX};
use pgconvoy_shared::ids::NodeId;

use super::{Cluster, LIMIT, peer};
use crate::wait::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_made_once_of_one_three_or_five_empty_nodes() {
    let cluster = Cluster::of_strangers([1, 2, 3]).await;
    let node = cluster.node(1);
    assert_eq!(node.status().await.role, Role::Uninitialized);
    let init = async |ids: &[u64]| {
        node.initialize(&ids.iter().map(|&id| peer(id)).collect::<Vec<_>>()).await
    };
    assert!(matches!(init(&[1, 2]).await, Err(ChangeError::Size { count: 2 })));
    assert!(matches!(init(&[1, 2, 2]).await, Err(ChangeError::Twice { .. })));
    assert!(matches!(init(&[2]).await, Err(ChangeError::WithoutMe { .. })));
    assert!(matches!(init(&[1, 2, 9]).await, Err(ChangeError::Unreachable { .. })));
    let wrong = [peer(1), peer(2), Peer { id: NodeId(4), address: peer(3).address }];
    assert!(matches!(node.initialize(&wrong).await, Err(ChangeError::OtherNode { .. })));

    let made = init(&[1, 2, 3]).await.expect("is made");
    let leader = cluster.leader().await;
    for id in 1..=3 {
        assert_eq!(cluster.node(id).status().await.cluster, Some(made));
        let peers = [peer(1), peer(2), peer(3)];
        let again = cluster.node(id).initialize(&peers).await;
        assert!(matches!(again, Err(ChangeError::AlreadyInitialized)), "{again:?}");
    }
    let status = cluster.node(leader).status().await;
    assert_eq!(status.members.iter().filter(|member| member.voter).count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_grows_from_one_to_five_and_no_further() {
    let mut cluster = Cluster::of([1]).await;
    cluster.write_all(0..20).await;
    for id in 2..=6 {
        cluster.start(id).await;
    }
    for id in 2..=VOTERS_MAX as u64 {
        cluster.node(1).add_node(&peer(id)).await.expect("is added");
        // Again is no harm.
        cluster.node(1).add_node(&peer(id)).await.expect("is there");
        let status = cluster.node(1).status().await;
        assert_eq!(status.steady(), id % 2 == 1, "with {id} nodes");
    }
    assert!(matches!(cluster.node(1).add_node(&peer(6)).await, Err(ChangeError::TooMany)));
    let elsewhere = Peer { id: NodeId(6), address: peer(2).address };
    let taken = cluster.node(2).add_node(&elsewhere).await;
    assert!(matches!(taken, Err(ChangeError::NotLeader { leader: Some(_) })), "{taken:?}");
    cluster.stop(6).await;
    cluster.assert_written(0..20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_removed_but_never_the_leader_the_last_or_the_quorum() {
    let mut cluster = Cluster::of([1, 2, 3]).await;
    cluster.write_all(0..10).await;
    let leader = cluster.leader().await;
    let [gone, kept]: [u64; 2] =
        (1..=3).filter(|&id| id != leader).collect::<Vec<_>>().try_into().expect("two");
    let node = cluster.node(leader).clone();
    let leads = node.remove_node(NodeId(leader)).await;
    assert!(matches!(leads, Err(ChangeError::Leads { .. })), "{leads:?}");
    let unknown = node.remove_node(NodeId(9)).await;
    assert!(matches!(unknown, Err(ChangeError::NotMember { .. })), "{unknown:?}");

    cluster.stop(gone).await;
    until(LIMIT, "the removal of the other one would cost the quorum", async || {
        match node.remove_node(NodeId(kept)).await {
            Err(ChangeError::LosesQuorum { missing, .. }) if missing == [NodeId(gone)] => Ok(()),
            other => Err(other),
        }
    })
    .await;
    node.remove_node(NodeId(gone)).await.expect("the dead one may go");
    assert!(!node.status().await.steady());
    node.remove_node(NodeId(kept)).await.expect("so may this one");
    cluster.stop(kept).await;
    assert!(matches!(node.remove_node(NodeId(leader)).await, Err(ChangeError::Last { .. })));
    cluster.write_all(10..20).await;
    cluster.assert_written(0..20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leadership_moves_where_it_is_sent() {
    let cluster = Cluster::of([1, 2, 3]).await;
    cluster.write_all(0..10).await;
    for round in 0..3 {
        let from = cluster.leader().await;
        let to = from % 3 + 1;
        let moved = cluster.node(from).transfer_leader(Some(NodeId(to))).await;
        assert_eq!(moved.expect("is taken over"), peer(to), "round {round}");
        assert_eq!(cluster.leader().await, to);
        cluster.write_all(10 + round..11 + round).await;
    }
    let from = cluster.leader().await;
    let anybody = cluster.node(from).transfer_leader(None).await.expect("is taken over");
    assert_ne!(anybody.id, NodeId(from));
    let unknown = cluster.node(cluster.leader().await).transfer_leader(Some(NodeId(9))).await;
    assert!(matches!(unknown, Err(ChangeError::NotMember { .. })), "{unknown:?}");
    cluster.assert_written(0..13).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_handover_leaves_the_leader_where_it_was() {
    let cluster = Cluster::of([1, 2, 3]).await;
    let leader = cluster.leader().await;
    let cut = leader % 3 + 1;
    cluster.isolate(cut);
    let failed = cluster.node(leader).transfer_leader(Some(NodeId(cut))).await;
    assert!(failed.is_err(), "{failed:?}");
    cluster.heal(cut);
    cluster.write_all(0..10).await;
    cluster.assert_written(0..10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_node_is_a_stranger_until_it_is_removed_and_added() {
    let mut cluster = Cluster::of([1, 2, 3]).await;
    cluster.write_all(0..10).await;
    let leader = cluster.leader().await;
    let emptied = leader % 3 + 1;
    cluster.stop(emptied).await;
    fs::remove_dir_all(cluster.data_dir(emptied)).expect("is emptied");
    cluster.start(emptied).await;

    until(LIMIT, "the leader sees that it is another store", async || {
        let status = cluster.node(leader).status().await;
        let member = status.members.into_iter().find(|member| member.id == NodeId(emptied));
        match member.and_then(|member| member.refusal) {
            Some(refusal) if refusal.contains("remove-node") => Ok(()),
            other => Err(other),
        }
    })
    .await;
    // It helps nobody to a quorum: with the third node gone there is none.
    let third = (1..=3).find(|&id| id != leader && id != emptied).expect("there are three");
    cluster.stop(third).await;
    let refused = cluster.node(leader).propose(super::Write1::encode(99, Vec::new())).await;
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(cluster.node(emptied).status().await.role, Role::Uninitialized);
    let again = cluster.node(emptied).initialize(&[peer(emptied), peer(leader), peer(third)]).await;
    assert!(again.is_err(), "{again:?}");

    cluster.start(third).await;
    let leader = cluster.leader_among(|id| id != emptied).await;
    let again = cluster.node(leader).add_node(&peer(emptied)).await;
    assert!(matches!(again, Err(ChangeError::AlreadyMember { .. })), "{again:?}");
    cluster.node(leader).remove_node(NodeId(emptied)).await.expect("is removed");
    cluster.node(leader).add_node(&peer(emptied)).await.expect("is added");
    cluster.assert_written(0..10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_cluster_is_not_taken_over() {
    let mut cluster = Cluster::of([1]).await;
    cluster.start(2).await;
    cluster.node(2).initialize(&[peer(2)]).await.expect("a cluster of its own");
    let taken = cluster.node(1).add_node(&peer(2)).await;
    assert!(matches!(taken, Err(ChangeError::NotEmpty { node: NodeId(2) })), "{taken:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_learns_it_also_if_it_was_down_and_forgets_it_when_it_is_added_again() {
    let mut cluster = Cluster::of([1, 2, 3, 4, 5]).await;
    cluster.write_all(0..10).await;
    let leader = cluster.leader().await;
    let [up, down, ..] = (1..=5).filter(|&id| id != leader).collect::<Vec<_>>()[..] else {
        panic!("four others");
    };
    cluster.stop(down).await;
    for gone in [up, down] {
        cluster.node(leader).remove_node(NodeId(gone)).await.expect("is removed");
    }
    cluster.start(down).await;
    for gone in [up, down] {
        until(LIMIT, "it knows that it was removed", async || {
            match cluster.node(gone).status().await.role {
                Role::Removed => Ok(()),
                other => Err(other),
            }
        })
        .await;
        assert!(cluster.node(gone).leadership().borrow().removed);
    }
    let ones = cluster.node(leader).status().await;
    assert!(ones.role == Role::Leader && ones.members.len() == 3, "{ones:?}");

    // It comes back as any other: empty.
    cluster.stop(up).await;
    fs::remove_dir_all(cluster.data_dir(up)).expect("is emptied");
    cluster.start(up).await;
    cluster.node(leader).add_node(&peer(up)).await.expect("is added");
    until(LIMIT, "it follows", async || match cluster.node(up).status().await.role {
        Role::Follower => Ok(()),
        other => Err(other),
    })
    .await;
    cluster.stop(down).await;
    cluster.write_all(10..20).await;
    cluster.assert_written(0..20).await;
}
