//! A convoy comes up, survives its leader, and lets its nodes be taken off the network.

use std::time::Duration;

use pgconvoy_integration_tests::convoy::Convoy;
use pgconvoy_integration_tests::logs::Expected;
use pgconvoy_integration_tests::net::Weather;
use pgconvoy_integration_tests::postgres::PASSWORD;

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_single_node_in_plain_text_knows_its_agent_and_answers_the_command_line() {
    let convoy = Convoy::builder().coordinators(1).agent("anna").start().await.unwrap();
    assert_eq!(convoy.leader().await.unwrap(), 1);
    let agents = convoy.cli(["agents", "list", "-o", "json"]).unwrap().run(SOON).await.unwrap();
    assert!(agents.success().unwrap().contains("anna"));
    convoy.check_logs(&Expected::nothing().secret(PASSWORD)).unwrap();
}

#[tokio::test]
async fn cluster_of_three_with_tls_outlives_its_leader_and_a_cut_off_follower() {
    let convoy = Convoy::builder()
        .coordinators(3)
        .agent("anna")
        .agent_at("bert", "cloud")
        .tls()
        .start()
        .await
        .unwrap();
    let first = convoy.leader().await.unwrap();
    convoy.coordinator(first).process().kill().unwrap();
    let second = convoy.leader().await.unwrap();
    assert_ne!(first, second);
    for agent in ["anna", "bert"] {
        convoy.agent_known(agent).await.unwrap();
    }
    convoy.coordinator(first).process().start_again().unwrap();
    let follower = convoy.coordinators().iter().find(|node| node.id() != second).unwrap();
    follower.link().set(Weather::Stalled);
    assert_eq!(convoy.leader().await.unwrap(), second);
    follower.link().set(Weather::Clear);
    let status = convoy.cli(["cluster", "status", "-o", "json"]).unwrap().run(SOON).await.unwrap();
    assert!(status.success().unwrap().contains("leader"));
}
