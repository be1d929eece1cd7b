//! Agents.

use pgconvoy_proto::v1;
use serde::Serialize;

use super::non_empty;
use crate::output::human;
use crate::output::table::table;

/// One agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct AgentView {
    id: String,
    site: Option<String>,
    status: String,
    draining: bool,
    slots: u32,
    running: u32,
    last_heard_at: Option<String>,
    version: String,
    pg_dump_majors: Vec<u32>,
    incarnation: String,
}

impl From<v1::Agent> for AgentView {
    fn from(agent: v1::Agent) -> Self {
        Self {
            id: agent.id,
            site: non_empty(&agent.site),
            status: agent.status,
            draining: agent.draining,
            slots: agent.slots,
            running: agent.running,
            last_heard_at: human::rfc3339(agent.last_heard_ms),
            version: agent.version,
            pg_dump_majors: agent.pg_dump_majors,
            incarnation: agent.incarnation,
        }
    }
}

pub(crate) fn agents_table(agents: &[AgentView]) -> String {
    let rows = agents.iter().map(|agent| {
        let status = if agent.draining {
            format!("{}, draining", agent.status)
        } else {
            agent.status.clone()
        };
        let majors: Vec<String> = agent.pg_dump_majors.iter().map(u32::to_string).collect();
        [
            agent.id.clone(),
            agent.site.clone().unwrap_or_else(|| "-".into()),
            status,
            format!("{}/{}", agent.running, agent.slots),
            agent.last_heard_at.clone().unwrap_or_else(|| "-".into()),
            agent.version.clone(),
            majors.join(","),
        ]
    });
    table(&["id", "site", "status", ">running", "last heard", "version", "pg_dump"], rows)
}
