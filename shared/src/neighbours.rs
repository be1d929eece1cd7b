//! Agents of other sites with which an agent carries sessions of databases.

use serde::{Deserialize, Serialize};

use crate::ids::AgentId;

/// Whom tasks with two sites bring together with one agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbours {
    /// Through whom it opens sessions with databases of their sites.
    pub partners: Vec<Neighbour>,
    /// For whom it opens sessions with databases of its own site.
    pub owners: Vec<Neighbour>,
}

/// An agent of another site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Its name.
    pub agent: AgentId,
    /// Where it is.
    pub site: String,
    /// Where it can be dialled, `host:port`; empty = nowhere.
    pub address: String,
}
