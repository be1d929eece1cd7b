//! The HTTP listener.

use pgconvoy_coordinator::CoordinatorConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::world::{Node, request};

async fn get(node: &Node, path: &str) -> String {
    let mut stream = TcpStream::connect(node.handle.http_address().unwrap()).await.unwrap();
    let asked = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(asked.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn metrics_and_health_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let http = Some("127.0.0.1:0".parse().unwrap());
    let config = CoordinatorConfig { http, ..CoordinatorConfig::embedded(dir.path()) };
    let node = Node::start(config, dir).await;
    node.handle.ready().await.unwrap();
    assert!(get(&node, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get(&node, "/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(get(&node, "/").await.contains("pgconvoy"));
    node.create(request("shop")).await;
    let metrics = get(&node, "/metrics").await;
    for line in ["pgconvoy_raft_leads 1", "pgconvoy_tasks{status=\"running\"} 1"] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
}
