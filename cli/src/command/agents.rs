//! `pgconvoy agents`.

use clap::{Args, Subcommand};
use pgconvoy_proto::v1;
use serde_json::json;

use crate::client::AgentClient;
use crate::connect::Reach;
use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::view::agent::{AgentView, agents_table};

/// Look at agents, and take them out of work
#[derive(Debug, Args)]
pub(super) struct Agents {
    #[command(subcommand)]
    command: AgentsCommand,
}

#[derive(Debug, Subcommand)]
enum AgentsCommand {
    /// List the agents that the cluster knows
    #[command(after_help = "Example:\n  pgconvoy agents list -o json")]
    List {
        #[command(flatten)]
        reach: Reach,
    },
    /// Let an agent finish what it runs, and give it nothing new
    #[command(after_help = "Example:\n  pgconvoy agents drain a1")]
    Drain {
        /// The agent's id
        id: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// Give a drained agent work again
    #[command(after_help = "Example:\n  pgconvoy agents undrain a1")]
    Undrain {
        /// The agent's id
        id: String,
        #[command(flatten)]
        reach: Reach,
    },
}

impl Agents {
    pub(super) async fn run(self, format: Format) -> Result<Exit, Problem> {
        match self.command {
            AgentsCommand::List { reach } => list(reach, format).await,
            AgentsCommand::Drain { id, reach } => set_draining(id, true, reach, format).await,
            AgentsCommand::Undrain { id, reach } => set_draining(id, false, reach, format).await,
        }
    }
}

async fn list(reach: Reach, format: Format) -> Result<Exit, Problem> {
    let answer = reach
        .with(async |cluster| {
            cluster
                .agents(async |mut client| client.list_agents(v1::ListAgentsRequest {}).await)
                .await
        })
        .await?;
    let agents: Vec<AgentView> = answer.agents.into_iter().map(AgentView::from).collect();
    output::data(format, &agents, |agents| agents_table(agents))?;
    Ok(Exit::Done)
}

async fn set_draining(
    id: String,
    draining: bool,
    reach: Reach,
    format: Format,
) -> Result<Exit, Problem> {
    let ask = async |mut client: AgentClient| {
        let agent_id = id.clone();
        if draining {
            let answer = client.drain_agent(v1::DrainAgentRequest { agent_id }).await?;
            Ok(answer.map(|answer| answer.changed))
        } else {
            let answer = client.undrain_agent(v1::UndrainAgentRequest { agent_id }).await?;
            Ok(answer.map(|answer| answer.changed))
        }
    };
    let changed = reach.with(async |cluster| cluster.agents(ask).await).await?;
    let value = json!({ "agent_id": id, "draining": draining, "changed": changed });
    output::data(format, &value, |_| {
        let state = if draining { "draining" } else { "takes work" };
        format!("{id}: {state}{}", if changed { "" } else { " already" })
    })?;
    Ok(Exit::Done)
}
