//! Who may do what, by certificate.

use std::path::Path;

use pgconvoy_proto::v1;
use pgconvoy_proto::v1::cluster_service_client::ClusterServiceClient;
use pgconvoy_proto::v1::raft_service_client::RaftServiceClient;
use pgconvoy_proto::v1::task_service_client::TaskServiceClient;
use pgconvoy_runtime::certs;
use pgconvoy_runtime::tls::{Dialer, Role, Security, TlsFiles};
use tempfile::TempDir;
use tonic::Code;
use tonic::transport::Channel;

use super::script::{Agent, hello};
use super::world::{LIMIT, Node, request};

struct Certified {
    dir: TempDir,
    node: Node,
}

impl Certified {
    async fn start() -> Certified {
        let dir = tempfile::tempdir().unwrap();
        certs::init(dir.path()).unwrap();
        let security = issue(dir.path(), Role::Coordinator, "c1");
        let node = Node::listening(1, security).await;
        let certified = Certified { dir, node };
        let init = v1::InitClusterRequest { nodes: vec![certified.node.id_and_address(1)] };
        let mut client = ClusterServiceClient::new(certified.channel(Role::Client, "admin"));
        client.init_cluster(init).await.unwrap();
        tokio::time::timeout(LIMIT, certified.node.handle.ready()).await.unwrap().unwrap();
        certified
    }

    fn channel(&self, role: Role, name: &str) -> Channel {
        self.channel_to(&self.node, role, name)
    }

    fn channel_to(&self, node: &Node, role: Role, name: &str) -> Channel {
        let dialer = Dialer::new(&issue(self.dir.path(), role, name)).unwrap();
        dialer.channel(&node.handle.address().unwrap().to_string()).unwrap()
    }
}

fn issue(dir: &Path, role: Role, name: &str) -> Security {
    let hosts = ["127.0.0.1".to_owned()];
    let written = certs::issue(dir, role, name, &hosts, dir).unwrap();
    Security::Mutual(TlsFiles { ca: dir.join("ca.crt"), cert: written.cert, key: written.key })
}

#[tokio::test]
async fn each_role_does_its_own_and_nothing_else() {
    let certified = Certified::start().await;
    let agent = certified.channel(Role::Agent, "a");
    let client = certified.channel(Role::Client, "user");

    TaskServiceClient::new(client.clone()).create_task(request("shop")).await.unwrap();
    let denied = TaskServiceClient::new(agent.clone()).create_task(request("two")).await;
    assert_eq!(denied.unwrap_err().code(), Code::PermissionDenied);

    let identify = v1::RaftIdentifyRequest {};
    let denied = RaftServiceClient::new(client.clone()).identify(identify).await;
    assert_eq!(denied.unwrap_err().code(), Code::PermissionDenied);
    let key = v1::InstallKeyRequest { key: vec![0; 32].into() };
    let denied = ClusterServiceClient::new(client.clone()).install_key(key.clone()).await;
    assert_eq!(denied.unwrap_err().code(), Code::PermissionDenied);
    let other = certified.channel(Role::Coordinator, "c2");
    let refused = ClusterServiceClient::new(other).install_key(key).await;
    assert_eq!(refused.unwrap_err().code(), Code::FailedPrecondition);

    let denied = Agent::connect(client, hello("a", 1)).await.err().unwrap();
    assert_eq!(denied.code(), Code::PermissionDenied);
    let denied = Agent::connect(agent.clone(), hello("b", 1)).await.err().unwrap();
    assert_eq!(denied.code(), Code::PermissionDenied);
    let mut welcome = Agent::connect(agent, hello("a", 1)).await.unwrap();
    assert_eq!(welcome.lease().await.source_password, super::world::SOURCE_PASSWORD);
}

#[tokio::test]
async fn cluster_nodes_with_certificates_join_and_hand_calls_on() {
    let certified = Certified::start().await;
    let second = Node::listening(2, issue(certified.dir.path(), Role::Coordinator, "c2")).await;
    let add = v1::AddNodeRequest { node: Some(second.id_and_address(2)) };
    let mut admin = ClusterServiceClient::new(certified.channel(Role::Client, "admin-2"));
    admin.add_node(add).await.unwrap();
    tokio::time::timeout(LIMIT, second.handle.ready()).await.unwrap().unwrap();
    // The caller's role is asked for at the first node; the leader sees the node that hands it on.
    let user = certified.channel_to(&second, Role::Client, "user");
    TaskServiceClient::new(user).create_task(request("shop")).await.unwrap();
    let agent = certified.channel_to(&second, Role::Agent, "a");
    let denied = TaskServiceClient::new(agent).create_task(request("two")).await;
    assert_eq!(denied.unwrap_err().code(), Code::PermissionDenied);
}
