//! The two sites: agents and source of `dc1`, agents and destination of `cloud`.
//!
//! Each is a network of its own, and what leads from one to the other is a way for agents only: those of `dc1` dial those of
//! `cloud`, and nobody dials back, as behind a firewall. So that neither database is reached from the other site is the
//! kernel's word. Where such networks cannot be made, which takes root, all are in one, and it is the agents that keep to
//! their own site's database; the run says so.

use crate::convoy::Builder;
use crate::net::Namespace;
use crate::postgres::Options;

pub(super) const SOURCE: &str = "dc1";
pub(super) const DESTINATION: &str = "cloud";

/// Agents near the source: they pass sessions on.
pub(super) const AT_SOURCE: [&str; 2] = ["dc1-1", "dc1-2"];
/// Agents near the destination: they run the units.
pub(super) const AT_DESTINATION: [&str; 3] = ["cloud-1", "cloud-2", "cloud-3"];

pub(super) struct Sites {
    /// The source's and the destination's; or why there are none.
    networks: Result<[Namespace; 2], String>,
}

impl Sites {
    pub(super) fn make() -> Sites {
        let make = || anyhow::Ok([Namespace::make()?, Namespace::make()?]);
        Sites { networks: make().map_err(|error| format!("{error:#}")) }
    }

    /// Puts the source's and the destination's server where they belong.
    pub(super) fn place(&self, [source, destination]: [Options; 2]) -> [Options; 2] {
        match &self.networks {
            Ok([dc1, cloud]) => [source.inside(dc1), destination.inside(cloud)],
            Err(_) => [source, destination],
        }
    }

    /// All agents.
    pub(super) fn agents(&self, builder: Builder) -> Builder {
        let Ok([dc1, cloud]) = &self.networks else {
            let builder = AT_SOURCE.iter().fold(builder, |b, name| b.agent_at(name, SOURCE));
            return AT_DESTINATION.iter().fold(builder, |b, name| b.agent_at(name, DESTINATION));
        };
        let near_source = |b: Builder, name: &&str| b.agent_inside(name, SOURCE, dc1, None);
        let near_destination =
            |b: Builder, name: &&str| b.agent_inside(name, DESTINATION, cloud, Some(dc1));
        let builder = AT_SOURCE.iter().fold(builder, near_source);
        AT_DESTINATION.iter().fold(builder, near_destination)
    }

    /// What keeps the sites apart.
    pub(super) fn told(&self) -> String {
        match &self.networks {
            Ok(_) => format!(
                "two networks without a route between them: {SOURCE} with the source, {DESTINATION} with the \
                 destination; agents of {SOURCE} dial those of {DESTINATION}"
            ),
            Err(why) => format!(
                "{SOURCE} and {DESTINATION} share one network ({why}): only the agents themselves keep to their \
                 site's database"
            ),
        }
    }
}
