//! What runs and how far it is.

use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::ids::UnitId;
use pgconvoy_shared::unit::Progress;

use super::{WireError, optional, unit_id};
use crate::v1;

/// A unit that an agent says it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningUnit {
    pub unit: UnitId,
    pub epoch: Epoch,
    pub progress: Progress,
}

impl From<RunningUnit> for v1::UnitProgress {
    fn from(running: RunningUnit) -> Self {
        Self {
            task_id: running.unit.task.into(),
            unit: running.unit.no.0,
            epoch: running.epoch.0,
            rows: running.progress.rows,
            bytes: running.progress.bytes,
            stream: running.progress.stream.map(Into::into),
            slot: running.progress.slot.map(Into::into),
        }
    }
}

impl TryFrom<v1::UnitProgress> for RunningUnit {
    type Error = WireError;
    fn try_from(wire: v1::UnitProgress) -> Result<Self, WireError> {
        Ok(Self {
            unit: unit_id(&wire.task_id, wire.unit)?,
            epoch: Epoch(wire.epoch),
            progress: Progress {
                rows: wire.rows,
                bytes: wire.bytes,
                stream: optional(wire.stream, "stream")?,
                slot: optional(wire.slot, "slot")?,
            },
        })
    }
}
