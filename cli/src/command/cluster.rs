//! `pgconvoy cluster`.

use std::str::FromStr;

use clap::{Args, Subcommand};
use pgconvoy_proto::v1;
use serde_json::json;

use crate::connect::Coordinators;
use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::view::cluster::ClusterView;

/// Make a cluster of coordinators, look at it, change it
#[derive(Debug, Args)]
pub(super) struct Cluster {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Make a cluster of 1, 3 or 5 new nodes; once
    #[command(after_help = "\
Example:
  pgconvoy cluster init --coordinators c1:7411 --node 1=c1:7411 --node 2=c2:7411 --node 3=c3:7411")]
    Init {
        /// A node and the address under which the others reach it; for each node
        #[arg(long = "node", value_name = "ID=HOST:PORT", required = true, value_delimiter = ',')]
        nodes: Vec<NodeAt>,
        #[command(flatten)]
        coordinators: Coordinators,
    },
    /// Show who leads, who belongs to it, and how far each is
    #[command(after_help = "Example:\n  pgconvoy cluster status --coordinators c1:7411,c2:7411")]
    Status {
        #[command(flatten)]
        coordinators: Coordinators,
    },
    /// Take in a new, empty node; it gets all state before it votes
    #[command(after_help = "Example:\n  pgconvoy cluster add-node 4=c4:7411")]
    AddNode {
        /// The node and the address under which the others reach it
        #[arg(value_name = "ID=HOST:PORT")]
        node: NodeAt,
        #[command(flatten)]
        coordinators: Coordinators,
    },
    /// Take a node out
    #[command(after_help = "Example:\n  pgconvoy cluster remove-node 2")]
    RemoveNode {
        /// The node's number
        #[arg(value_name = "ID")]
        node_id: u64,
        #[command(flatten)]
        coordinators: Coordinators,
    },
    /// Let another node lead
    #[command(after_help = "\
Examples:
  pgconvoy cluster transfer-leader      # to any other that is up to date
  pgconvoy cluster transfer-leader 3")]
    TransferLeader {
        /// The node that is to lead [default: any other that is up to date]
        #[arg(value_name = "ID")]
        node_id: Option<u64>,
        #[command(flatten)]
        coordinators: Coordinators,
    },
}

/// `1=host:port`.
#[derive(Debug, Clone)]
struct NodeAt(v1::Node);

impl FromStr for NodeAt {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (id, address) = text.split_once('=').ok_or("write ID=HOST:PORT, such as 1=c1:7411")?;
        let id: u64 = id.parse().map_err(|_| format!("`{id}` is no node's number"))?;
        let has_port =
            address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        if id == 0 || !has_port {
            return Err("write ID=HOST:PORT with an ID from 1, such as 1=c1:7411".into());
        }
        Ok(Self(v1::Node { id, address: address.to_owned() }))
    }
}

impl Cluster {
    pub(super) async fn run(self, format: Format) -> Result<Exit, Problem> {
        match self.command {
            ClusterCommand::Init { nodes, coordinators } => {
                let nodes: Vec<v1::Node> = nodes.into_iter().map(|node| node.0).collect();
                let request = || v1::InitClusterRequest { nodes: nodes.clone() };
                let cluster = coordinators.cluster()?;
                let answer = cluster
                    .cluster(async |mut client| client.init_cluster(request()).await)
                    .await?;
                let value = json!({ "cluster_id": answer.cluster_id });
                output::data(format, &value, |_| answer.cluster_id.clone())?;
            }
            ClusterCommand::Status { coordinators } => {
                let answer = coordinators.cluster()?.status().await?;
                output::data(format, &ClusterView::from(answer), ClusterView::to_text)?;
            }
            ClusterCommand::AddNode { node: NodeAt(node), coordinators } => {
                let cluster = coordinators.cluster()?;
                let request = || v1::AddNodeRequest { node: Some(node.clone()) };
                cluster.cluster(async |mut client| client.add_node(request()).await).await?;
                let value = json!({ "node_id": node.id, "address": node.address });
                output::data(format, &value, |_| {
                    format!("node {} belongs to the cluster", node.id)
                })?;
            }
            ClusterCommand::RemoveNode { node_id, coordinators } => {
                let cluster = coordinators.cluster()?;
                let request = v1::RemoveNodeRequest { node_id };
                cluster.cluster(async |mut client| client.remove_node(request).await).await?;
                let value = json!({ "node_id": node_id });
                output::data(format, &value, |_| {
                    format!("node {node_id} belongs to the cluster no more")
                })?;
            }
            ClusterCommand::TransferLeader { node_id, coordinators } => {
                let cluster = coordinators.cluster()?;
                let request = v1::TransferLeaderRequest { node_id: node_id.unwrap_or(0) };
                let answer = cluster
                    .cluster(async |mut client| client.transfer_leader(request).await)
                    .await?;
                let value = json!({ "leader_id": answer.leader_id });
                output::data(format, &value, |_| format!("node {} leads", answer.leader_id))?;
            }
        }
        Ok(Exit::Done)
    }
}
