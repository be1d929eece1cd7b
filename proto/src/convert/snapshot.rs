//! The task's snapshot.

use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::unit::{Export, SharedSnapshot};

use super::{WireError, agent_id, list, wire_list};
use crate::v1;

impl From<SharedSnapshot> for v1::SharedSnapshot {
    fn from(shared: SharedSnapshot) -> Self {
        Self {
            round: shared.round,
            snapshot: shared.snapshot,
            noted_lsn: shared.noted_lsn.0,
            exports: wire_list(shared.exports),
        }
    }
}

impl TryFrom<v1::SharedSnapshot> for SharedSnapshot {
    type Error = WireError;
    fn try_from(wire: v1::SharedSnapshot) -> Result<Self, WireError> {
        Ok(Self {
            round: wire.round,
            snapshot: wire.snapshot,
            noted_lsn: Lsn(wire.noted_lsn),
            exports: list(wire.exports, "exports")?,
        })
    }
}

impl From<Export> for v1::Export {
    fn from(export: Export) -> Self {
        Self { agent: export.agent.into(), id: export.id }
    }
}

impl TryFrom<v1::Export> for Export {
    type Error = WireError;
    fn try_from(wire: v1::Export) -> Result<Self, WireError> {
        Ok(Self { agent: agent_id(&wire.agent, "agent")?, id: wire.id })
    }
}
