//! Agents of other sites.

use pgconvoy_shared::neighbours::{Neighbour, Neighbours};

use super::{WireError, agent_id, list, wire_list};
use crate::v1;

impl From<Neighbours> for v1::Neighbours {
    fn from(neighbours: Neighbours) -> Self {
        Self { partners: wire_list(neighbours.partners), owners: wire_list(neighbours.owners) }
    }
}

impl TryFrom<v1::Neighbours> for Neighbours {
    type Error = WireError;
    fn try_from(wire: v1::Neighbours) -> Result<Self, WireError> {
        Ok(Self {
            partners: list(wire.partners, "partners")?,
            owners: list(wire.owners, "owners")?,
        })
    }
}

impl From<Neighbour> for v1::Neighbour {
    fn from(neighbour: Neighbour) -> Self {
        Self {
            agent_id: neighbour.agent.to_string(),
            site: neighbour.site,
            address: neighbour.address,
        }
    }
}

impl TryFrom<v1::Neighbour> for Neighbour {
    type Error = WireError;
    fn try_from(wire: v1::Neighbour) -> Result<Self, WireError> {
        Ok(Self {
            agent: agent_id(&wire.agent_id, "agent_id")?,
            site: wire.site,
            address: wire.address,
        })
    }
}
