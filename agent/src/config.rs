//! What an agent has to be told.

use std::path::PathBuf;

use pgconvoy_runtime::tls::{Listener, Security};
use pgconvoy_shared::ids::AgentId;
use tonic::transport::Channel;

/// How an agent is set up. All is asked for: what is a sensible value depends on the machine, not on this crate.
#[derive(Debug)]
pub struct AgentConfig {
    /// Its name, the same over restarts.
    pub id: AgentId,
    /// Its network location; none = it touches only endpoints that are of no site.
    pub site: Option<String>,
    /// Units it runs at once, whatever their tasks allow.
    pub slots: u32,
    /// Where it serves agents of other sites, and gRPC's health service; none = nowhere.
    pub listener: Option<Listener>,
    /// Where other agents dial it, `host:port`; none = where it listens.
    pub advertise: Option<String>,
    /// How it reaches the leader, and by the same certificate other agents.
    pub coordinators: Coordinators,
    /// Where units that compare rows write every row that differs, a file of JSON lines each; none = nowhere.
    pub differences: Option<PathBuf>,
}

/// The way to the coordinators.
#[derive(Debug, Clone)]
pub enum Coordinators {
    /// In this process, or any channel that is there already.
    Channel(Channel),
    /// Over the network: any of these, `host:port` or `https://host:port`; followers tell who leads.
    Addresses {
        /// At least one.
        addresses: Vec<String>,
        /// The agent's certificate, or plain text.
        security: Security,
    },
}
