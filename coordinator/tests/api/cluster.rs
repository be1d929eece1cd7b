//! Three nodes: any of them answers, and the loss of the leader costs no lease.

use pgconvoy_proto::v1;
use pgconvoy_runtime::tls::Security;
use tonic::Code;

use super::script::{Agent, hello, is_copy};
use super::world::{Node, SOURCE_PASSWORD, Trio, request};

#[tokio::test]
async fn cluster_followers_hand_calls_on_and_name_the_leader_to_streams() {
    let trio = Trio::start().await;
    let leader = trio.leader().await;
    let follower = &trio.nodes[(leader + 1) % 3];
    let task = follower.create(request("shop")).await;
    // Each node answers with what the other just took in.
    for node in &trio.nodes {
        assert_eq!(node.task("shop").await.id, task);
    }
    let watch = v1::WatchTaskRequest { task, tables_max: 0 };
    let status = follower.tasks().watch_task(watch).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let named = status.metadata().get("pgconvoy-leader").unwrap().to_str().unwrap();
    assert_eq!(named, trio.nodes[leader].handle.address().unwrap().to_string());
    let session = Agent::connect(follower.handle.channel(), hello("a", 1)).await;
    assert_eq!(session.err().unwrap().code(), Code::Unavailable);
}

#[tokio::test]
async fn cluster_a_new_leader_goes_on_with_the_leases_of_the_old_one() {
    let mut trio = Trio::start().await;
    let leader = trio.leader().await;
    let old = trio.nodes.remove(leader);
    let task = old.create(request("shop")).await;
    let mut agent = Agent::connect(old.handle.channel(), hello("a", 1)).await.unwrap();
    let copy = agent.work_until(is_copy).await;
    old.handle.stop().await;

    let leader = &trio.nodes[trio.leader().await];
    let again = v1::Hello { running: agent.running.clone(), ..hello("a", 1) };
    let mut agent = Agent::connect(leader.handle.channel(), again).await.unwrap();
    agent.work(&copy).await;
    let after = leader.task(&task).await;
    assert_eq!(after.rows_done, super::script::ROWS);
    let events = leader.events(&task).await;
    assert!(!events.iter().any(|event| event.kind == "unit_moved"), "{events:?}");
}

#[tokio::test]
async fn cluster_status_and_a_planned_change_of_the_leader() {
    let trio = Trio::start().await;
    let leader = trio.leader().await;
    let follower = &trio.nodes[(leader + 1) % 3];
    let status = follower.cluster().get_status(v1::GetStatusRequest {}).await.unwrap();
    let status = status.into_inner();
    assert_eq!(status.role, "follower");
    assert_eq!((status.members.len(), status.leader_id), (3, leader as u64 + 1));
    let to = status.node_id;
    follower.lead(to).await;
    assert!(follower.handle.leads());
}

#[tokio::test]
async fn cluster_a_node_that_joins_can_open_what_was_sealed_before() {
    let first = Node::listening(1, Security::Plaintext).await;
    let init = v1::InitClusterRequest { nodes: vec![first.id_and_address(1)] };
    first.cluster().init_cluster(init).await.unwrap();
    first.handle.ready().await.unwrap();
    first.create(request("shop")).await;
    let second = Node::listening(2, Security::Plaintext).await;
    let add = v1::AddNodeRequest { node: Some(second.id_and_address(2)) };
    first.cluster().add_node(add).await.unwrap();
    second.lead(2).await;
    let mut agent = Agent::connect(second.handle.channel(), hello("a", 1)).await.unwrap();
    assert_eq!(agent.lease().await.source_password, SOURCE_PASSWORD);
}

#[tokio::test]
async fn cluster_a_node_in_no_cluster_says_so() {
    let node = Node::listening(1, Security::Plaintext).await;
    let status = node.cluster().get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.role.as_str(), status.leader_id), ("uninitialized", 0));
    let wrong = v1::InitClusterRequest {
        nodes: vec![v1::Node { id: 2, address: "127.0.0.1:1".to_owned() }],
    };
    let refused = node.cluster().init_cluster(wrong).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
}
