//! Who may call what, and which node answers: one table, read before any service is reached.
//!
//! A call that is in no row is refused: a method added to a contract is closed until somebody says
//! here who may use it.

use pgconvoy_proto::v1::agent_service_server::SERVICE_NAME as AGENTS;
use pgconvoy_proto::v1::cluster_service_server::SERVICE_NAME as CLUSTER;
use pgconvoy_proto::v1::raft_service_server::SERVICE_NAME as RAFT;
use pgconvoy_proto::v1::task_service_server::SERVICE_NAME as TASKS;
use pgconvoy_runtime::tls::{Peer, Role};
use pgconvoy_shared::failure::Failure;

use super::error::ApiError;

/// Which node answers a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The one that was asked.
    Here,
    /// The leader; another node hands the call on.
    Leader,
    /// The leader; another node says who that is, for a stream would hold both nodes' memory.
    LeaderStream,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Callers {
    /// Nodes of the cluster.
    Coordinators,
    /// Processes that run units.
    Agents,
    /// Users; and coordinators, which hand their calls on.
    Users,
    /// Whoever proved to belong to this installation.
    Anyone,
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) place: Place,
    callers: Callers,
}

impl Access {
    /// What holds for `/package.Service/Method`.
    pub(super) fn of(path: &str) -> Option<Access> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        let (place, callers) = match (service, method) {
            (TASKS, "WatchTask") => (Place::LeaderStream, Callers::Users),
            (TASKS, _) => (Place::Leader, Callers::Users),
            (AGENTS, "Session") => (Place::LeaderStream, Callers::Agents),
            (AGENTS, _) => (Place::Leader, Callers::Users),
            (CLUSTER, "InstallKey") => (Place::Here, Callers::Coordinators),
            (CLUSTER, "InitCluster" | "GetStatus") => (Place::Here, Callers::Users),
            (CLUSTER, "AddNode" | "RemoveNode" | "TransferLeader") => {
                (Place::Leader, Callers::Users)
            }
            (RAFT, _) => (Place::Here, Callers::Coordinators),
            ("grpc.health.v1.Health", _) => (Place::Here, Callers::Anyone),
            (reflection, _) if reflection.starts_with("grpc.reflection.") => {
                (Place::Here, Callers::Anyone)
            }
            _ => return None,
        };
        Some(Access { place, callers })
    }

    /// Refuses a peer that may not make this call. A peer without an identity got in over loopback,
    /// over a socket of this user, or because the operator asked for plain text: it may all.
    pub(super) fn allow(self, peer: &Peer) -> Result<(), ApiError> {
        let Some(identity) = &peer.identity else { return Ok(()) };
        let allowed: &[Role] = match self.callers {
            Callers::Coordinators => &[Role::Coordinator],
            Callers::Agents => &[Role::Agent],
            Callers::Users => &[Role::Client, Role::Coordinator],
            Callers::Anyone => &Role::ALL,
        };
        if allowed.contains(&identity.role) {
            return Ok(());
        }
        let needed = allowed[0];
        let message =
            format!("{identity} may not do this: it takes a certificate of role {needed}");
        let failure = Failure::definite("role_not_allowed", message)
            .about(identity.to_string())
            .remedy(format!("use a certificate made by `certs issue --role {needed}`"));
        Err(ApiError::Forbidden(failure.into()))
    }
}

#[cfg(test)]
mod tests {
    use pgconvoy_proto::DESCRIPTORS;
    use pgconvoy_runtime::tls::Identity;
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    fn peer(role: Role) -> Peer {
        let identity = Identity { role, name: "x".to_owned() };
        Peer { address: None, identity: Some(identity), local: false }
    }

    fn allowed(path: &str) -> Vec<Role> {
        let access = Access::of(path).unwrap();
        Role::ALL.into_iter().filter(|role| access.allow(&peer(*role)).is_ok()).collect()
    }

    #[test]
    fn every_method_of_the_contracts_this_node_serves_is_in_the_table() {
        let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap().file;
        for file in files {
            for service in file.service {
                let name = format!("{}.{}", file.package.as_deref().unwrap(), service.name());
                if ![TASKS, AGENTS, CLUSTER, RAFT].contains(&name.as_str()) {
                    continue;
                }
                for method in service.method {
                    let path = format!("/{name}/{}", method.name());
                    let access = Access::of(&path).unwrap_or_else(|| panic!("{path}"));
                    let streams = method.server_streaming() || method.client_streaming();
                    if access.place == Place::Leader {
                        assert!(!streams, "{path} is a stream and cannot be handed on");
                    }
                }
            }
        }
    }

    #[test]
    fn each_role_may_make_its_own_calls_and_no_others() {
        use Role::{Agent, Client, Coordinator};
        assert_eq!(allowed("/pgconvoy.v1.RaftService/Vote"), [Coordinator]);
        assert_eq!(allowed("/pgconvoy.v1.ClusterService/InstallKey"), [Coordinator]);
        assert_eq!(allowed("/pgconvoy.v1.AgentService/Session"), [Agent]);
        assert_eq!(allowed("/pgconvoy.v1.TaskService/CreateTask"), [Coordinator, Client]);
        assert_eq!(allowed("/grpc.health.v1.Health/Check"), [Coordinator, Agent, Client]);
        assert_eq!(Access::of("/pgconvoy.v1.Unheard/Of"), None);
    }

    #[test]
    fn a_peer_without_tls_may_all_that_its_transport_lets_it_reach() {
        let peer = Peer { address: None, identity: None, local: true };
        let access = Access::of("/pgconvoy.v1.RaftService/Vote").unwrap();
        assert_eq!(access.allow(&peer), Ok(()));
    }
}
