//! The interfaces that automation relies on: reflection, health, metrics, forwarding, exit codes of nobody there.

use pgconvoy_integration_tests::net::page;
use pgconvoy_integration_tests::process::Program;
use pgconvoy_integration_tests::wait;
use pgconvoy_proto::v1::{GetTaskRequest, ListTasksRequest};
use pgconvoy_runtime::tls::{Dialer, Security, TlsFiles};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::world::{Fleet, Gate, Pair, SOON, told};

#[tokio::test]
async fn cluster_every_node_answers_for_the_leader_and_tells_its_health() {
    let pair = Pair::new(Gate::SCHEMA).await;
    let fleet = Fleet::of_three(&["anna"]).await;
    let id = fleet.begin(&pair.task_file("shop", "")).await.id;
    let leader = fleet.convoy.leader().await.unwrap();
    for node in fleet.convoy.coordinators() {
        // A follower passes on what only the leader can answer, as recent as the leader has it.
        let mut tasks = fleet.convoy.tasks_at(node).unwrap();
        let request = GetTaskRequest { task: "shop".to_owned(), tables_max: 1 };
        let task = tasks.get_task(request).await.unwrap().into_inner().task.unwrap();
        assert_eq!(task.id, id);
        assert_eq!(
            tasks.list_tasks(ListTasksRequest {}).await.unwrap().into_inner().tasks.len(),
            1
        );
        let none = GetTaskRequest { task: "nobody".to_owned(), tables_max: 1 };
        assert_eq!(tasks.get_task(none).await.unwrap_err().code(), tonic::Code::NotFound);

        for path in ["/healthz", "/readyz"] {
            wait::until(SOON, path, async || match page(None, node.http(), path).await {
                Ok((200, _)) => Ok(()),
                other => Err(format!("{other:?}")),
            })
            .await
            .unwrap();
        }
        let (status, metrics) = page(None, node.http(), "/metrics").await.unwrap();
        assert_eq!(status, 200);
        assert!(
            metrics.contains("pgconvoy_") && metrics.trim_end().ends_with("# EOF"),
            "{metrics}"
        );
        assert_eq!(page(None, node.http(), "/").await.unwrap().0, 200);
        assert_eq!(page(None, node.http(), "/no-such-page").await.unwrap().0, 404);
    }
    // With two of three gone the third one cannot know: it lives, and is not ready.
    let third = fleet.convoy.coordinators().iter().find(|node| node.id() != leader).unwrap();
    for node in fleet.convoy.coordinators().iter().filter(|node| node.id() != third.id()) {
        node.process().kill().unwrap();
    }
    wait::until(SOON, "the node alone to be not ready", async || {
        match page(None, third.http(), "/readyz").await {
            Ok((503, _)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    assert_eq!(page(None, third.http(), "/healthz").await.unwrap().0, 200);
    let finished = fleet.run(&["task", "list"]).await;
    assert_eq!(finished.code(), Some(5), "{}", told(&finished));
}

#[tokio::test]
async fn cluster_nobody_gets_in_without_a_certificate_of_the_right_role() {
    let fleet = Fleet::start(1, &["anna"]).await;
    let address = fleet.convoy.coordinator(1).address();
    let plain = Program::pgconvoy().unwrap().args(["task", "list", "--coordinators", &address]);
    let finished = plain.run(SOON).await.unwrap();
    assert_eq!(finished.code(), Some(5), "{}", told(&finished));
    // A certificate of another authority.
    let folder = fleet.convoy.folder().join("strangers");
    let certs =
        |arguments: &[&str]| Program::pgconvoy().unwrap().arg("certs").args(arguments).run(SOON);
    let stranger = folder.to_str().unwrap();
    certs(&["init", stranger]).await.unwrap().success().unwrap();
    let issue = ["issue", stranger, "--role", "client", "--name", "eve", "--host", "127.0.0.1"];
    certs(&issue).await.unwrap().success().unwrap();
    let file = |name: &str| folder.join(name);
    let finished = Program::pgconvoy()
        .unwrap()
        .args(["task", "list", "--coordinators", &address, "--tls-ca"])
        .arg(fleet.convoy.folder().join("tls/ca.crt"))
        .arg("--tls-cert")
        .arg(file("eve.crt"))
        .arg("--tls-key")
        .arg(file("eve.key"))
        .run(SOON)
        .await
        .unwrap();
    assert_eq!(finished.code(), Some(5), "{}", told(&finished));
}

#[tokio::test]
async fn cluster_a_generic_client_finds_the_services_and_their_health() {
    let fleet = Fleet::start(1, &["anna"]).await;
    let tls = fleet.convoy.folder().join("tls");
    let [ca, cert, key] = ["ca.crt", "test.crt", "test.key"].map(|name| tls.join(name));
    let dialer = Dialer::new(&Security::Mutual(TlsFiles { ca, cert, key })).unwrap();
    let channel = dialer.channel(&fleet.convoy.coordinator(1).address()).unwrap();

    let mut reflection = ServerReflectionClient::new(channel.clone());
    let mut ask = async |message| {
        let request =
            ServerReflectionRequest { host: String::new(), message_request: Some(message) };
        let asked = futures::stream::iter([request]);
        let mut answers = reflection.server_reflection_info(asked).await.unwrap().into_inner();
        answers.message().await.unwrap().unwrap().message_response.unwrap()
    };
    let MessageResponse::ListServicesResponse(listed) =
        ask(MessageRequest::ListServices(String::new())).await
    else {
        panic!("services were asked for")
    };
    let names: Vec<String> = listed.service.into_iter().map(|service| service.name).collect();
    for service in ["TaskService", "AgentService", "ClusterService"] {
        let name = format!("pgconvoy.v1.{service}");
        assert!(names.contains(&name), "{name} in {names:?}");
        let described = ask(MessageRequest::FileContainingSymbol(name)).await;
        assert!(matches!(described, MessageResponse::FileDescriptorResponse(_)), "{described:?}");
    }

    let request = HealthCheckRequest { service: String::new() };
    let health = HealthClient::new(channel).check(request).await.unwrap().into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);
}
