//! The coordinator cluster.

use pgconvoy_proto::v1;
use serde::Serialize;

use super::non_empty;
use crate::output::human;
use crate::output::table::{fields, table};

/// The cluster as one node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ClusterView {
    cluster_id: Option<String>,
    node_id: u64,
    role: String,
    term: u64,
    leader_id: Option<u64>,
    leader_address: Option<String>,
    last_log_index: u64,
    applied_index: u64,
    snapshot_index: u64,
    log_bytes: u64,
    members: Vec<MemberView>,
    version: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct MemberView {
    id: u64,
    address: String,
    voter: bool,
    matched_index: Option<u64>,
    last_heard_ms_ago: Option<u64>,
}

impl From<v1::GetStatusResponse> for ClusterView {
    fn from(status: v1::GetStatusResponse) -> Self {
        let members = status.members.into_iter().map(|member| MemberView {
            id: member.id,
            address: member.address,
            voter: member.voter,
            matched_index: member.matched_index,
            last_heard_ms_ago: member.last_heard_ms_ago,
        });
        Self {
            cluster_id: non_empty(&status.cluster_id),
            node_id: status.node_id,
            role: status.role,
            term: status.term,
            leader_id: (status.leader_id != 0).then_some(status.leader_id),
            leader_address: non_empty(&status.leader_address),
            last_log_index: status.last_log_index,
            applied_index: status.applied_index,
            snapshot_index: status.snapshot_index,
            log_bytes: status.log_bytes,
            members: members.collect(),
            version: status.version,
        }
    }
}

impl ClusterView {
    pub(crate) fn to_text(&self) -> String {
        let leader = match (self.leader_id, &self.leader_address) {
            (Some(id), Some(address)) => format!("node {id} at {address}"),
            (Some(id), None) => format!("node {id}"),
            (None, _) => "none".into(),
        };
        let removed = match self.role.as_str() {
            "removed" => "this node belongs to the cluster no more, and what it shows is old; stop it and name the others \
                          with --coordinators; to use it again, empty its data directory and `cluster add-node`"
                .to_owned(),
            _ => String::new(),
        };
        let head = fields([
            ("cluster", self.cluster_id.clone().unwrap_or_else(|| "none yet".into())),
            (
                "answered by",
                format!("node {} ({}), version {}", self.node_id, self.role, self.version),
            ),
            ("leader", leader),
            ("removed", removed),
            ("term", self.term.to_string()),
            (
                "log",
                format!(
                    "last {}, applied {}, snapshot {}, {}",
                    self.last_log_index,
                    self.applied_index,
                    self.snapshot_index,
                    human::bytes(self.log_bytes)
                ),
            ),
        ]);
        if self.members.is_empty() {
            return head;
        }
        let dash = |value: Option<u64>| value.map_or_else(|| "-".into(), |value| value.to_string());
        let rows = self.members.iter().map(|member| {
            [
                member.id.to_string(),
                member.address.clone(),
                if member.voter { "voter" } else { "learner" }.to_owned(),
                dash(member.matched_index),
                dash(member.last_heard_ms_ago),
            ]
        });
        let members = table(&[">node", "address", "kind", ">matched", ">heard ms ago"], rows);
        format!("{head}\n\n{members}")
    }
}
