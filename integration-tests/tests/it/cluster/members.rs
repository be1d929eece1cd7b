//! The cluster grows, shrinks and changes its leader while rows move.

use std::net::TcpListener;

use pgconvoy_integration_tests::net::page;
use pgconvoy_integration_tests::process::{Process, Program};
use pgconvoy_integration_tests::wait;
use serde_json::Value;

use crate::world::{Fleet, Gate, LIMIT, Pair, SOON, told};

#[tokio::test]
async fn cluster_nodes_lead_leave_and_come_while_rows_move() {
    let pair = Pair::new(Gate::SCHEMA).await;
    let fleet = Fleet::of_three(&["anna", "bert"]).await;
    let gate = Gate::shut(&pair.destination).await;
    let job = fleet.begin(&pair.task_file("shop", Gate::COPY)).await;
    gate.waiting(4, LIMIT).await;

    // The leader hands over, to whom it is told to.
    let next = fleet.convoy.leader().await.unwrap() % 3 + 1;
    fleet.ok(&["cluster", "transfer-leader", &next.to_string()]).await;
    wait::until(LIMIT, "the other node to lead", async || match fleet.convoy.leader().await {
        Ok(now) if now == next => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();

    // A follower leaves.
    let gone = next % 3 + 1;
    fleet.ok(&["cluster", "remove-node", &gone.to_string()]).await;
    knows_that_it_was_removed(&fleet, gone).await;
    fleet.convoy.coordinator(gone).process().kill().unwrap();
    assert!(members(&fleet).await.iter().all(|member| member["id"] != gone));
    fleet.refused(&["cluster", "remove-node", "9"], 2, "not_member").await;
    fleet.refused(&["cluster", "transfer-leader", "9"], 2, "not_member").await;

    // A new, empty one takes its place: it gets all that the others know, and then votes.
    let (_fourth, address) = fourth_node(&fleet).await;
    wait::until(LIMIT, "the new node to be taken in", async || {
        let added = fleet.run(&["cluster", "add-node", &format!("4={address}")]).await;
        if added.code() == Some(0) { Ok(()) } else { Err(told(&added)) }
    })
    .await
    .unwrap();
    let members = members(&fleet).await;
    let fourth = members.iter().find(|member| member["id"] == 4).unwrap();
    assert_eq!((&fourth["voter"], &fourth["address"]), (&true.into(), &address.clone().into()));
    let running = job.task().await.running;
    assert!(running.len() >= 4 && running.iter().all(|unit| unit.epoch == 1), "{running:?}");
    gate.open().await;
    job.done(&pair).await;
    assert!(job.events("agent_lost").await.is_empty());
}

/// A removed node learns it from the others, says it wherever it is asked, and is in nobody's way.
async fn knows_that_it_was_removed(fleet: &Fleet, gone: u64) {
    let node = fleet.convoy.coordinator(gone);
    let at = usize::try_from(gone - 1).unwrap();
    wait::until(LIMIT, "the node to know that it was removed", async || {
        let said = fleet.convoy.statuses().await.swap_remove(at)?;
        if said.role == "removed" { Ok(()) } else { Err(said.role) }
    })
    .await
    .unwrap();
    let (status, why) = page(None, node.http(), "/readyz").await.unwrap();
    assert!(status == 503 && why.contains("removed"), "{status} {why}");
    assert!(node.process().log().contains("was removed from its cluster"), "its log tells");

    let at = async |addresses: &str, command: &[&'static str]| {
        let program = fleet.convoy.cli_at(addresses, command.iter().copied()).unwrap();
        program.run(SOON).await.unwrap()
    };
    let alone = node.address();
    let status = at(&alone, &["cluster", "status"]).await;
    assert!(status.stdout.contains("stop it"), "{}", told(&status));
    let tasks = at(&alone, &["task", "list"]).await;
    assert!(tasks.code() == Some(5) && tasks.log.contains("node_removed"), "{}", told(&tasks));

    // Named first, beside the others: their answer counts.
    let others = fleet.convoy.coordinators().iter().filter(|node| node.id() != gone);
    let all = others.fold(alone, |all, node| format!("{all},{}", node.address()));
    let status = at(&all, &["cluster", "status", "-o", "json"]).await.success().unwrap();
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["role"], "leader");
    at(&all, &["task", "list"]).await.success().unwrap();
}

async fn members(fleet: &Fleet) -> Vec<Value> {
    let status = fleet.ok(&["cluster", "status", "-o", "json"]).await;
    let status: Value = serde_json::from_str(&status).unwrap();
    status["members"].as_array().unwrap().clone()
}

/// One more node, set up as an operator does it, with a certificate of the cluster's authority.
async fn fourth_node(fleet: &Fleet) -> (Process, String) {
    let folder = fleet.convoy.folder();
    let tls = folder.join("tls");
    let issue = Program::pgconvoy().unwrap().args(["certs", "issue"]).arg(&tls);
    let issue = issue.args(["--role", "coordinator", "--name", "node-4", "--host", "127.0.0.1"]);
    issue.run(SOON).await.unwrap().success().unwrap();
    // Let go of before the node takes it.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let program = Program::pgconvoy()
        .unwrap()
        .args(["coordinator", "--node-id", "4", "--listen", &address, "--data-dir"])
        .arg(folder.join("node-4"))
        .arg("--tls-ca")
        .arg(tls.join("ca.crt"))
        .arg("--tls-cert")
        .arg(tls.join("node-4.crt"))
        .arg("--tls-key")
        .arg(tls.join("node-4.key"));
    (Process::start("node-4", program, &folder).unwrap(), address)
}
