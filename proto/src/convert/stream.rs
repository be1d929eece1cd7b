//! How the source's changes are followed.

use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::unit::{Checkpoint, StreamOpened, StreamOrder, StreamProgress};

use super::WireError;
use crate::v1;

impl From<StreamOpened> for v1::StreamOpened {
    fn from(opened: StreamOpened) -> Self {
        Self {
            start: opened.start.0,
            barrier: opened.barrier,
            system_identifier: opened.system_identifier,
            timeline: opened.timeline,
        }
    }
}

impl From<v1::StreamOpened> for StreamOpened {
    fn from(wire: v1::StreamOpened) -> Self {
        Self {
            start: Lsn(wire.start),
            barrier: wire.barrier,
            system_identifier: wire.system_identifier,
            timeline: wire.timeline,
        }
    }
}

impl From<Checkpoint> for v1::Checkpoint {
    fn from(checkpoint: Checkpoint) -> Self {
        Self { applied: checkpoint.applied.0, consistent: checkpoint.consistent }
    }
}

impl From<v1::Checkpoint> for Checkpoint {
    fn from(wire: v1::Checkpoint) -> Self {
        Self { applied: Lsn(wire.applied), consistent: wire.consistent }
    }
}

impl From<StreamOrder> for v1::StreamWork {
    fn from(order: StreamOrder) -> Self {
        Self { opened: Some(order.opened.into()), checkpoint: Some(order.checkpoint.into()) }
    }
}

impl TryFrom<v1::StreamWork> for StreamOrder {
    type Error = WireError;
    fn try_from(wire: v1::StreamWork) -> Result<Self, WireError> {
        let missing = |field| move || WireError::missing(field);
        Ok(Self {
            opened: wire.opened.ok_or_else(missing("opened"))?.into(),
            checkpoint: wire.checkpoint.ok_or_else(missing("checkpoint"))?.into(),
        })
    }
}

impl From<StreamProgress> for v1::StreamProgress {
    fn from(progress: StreamProgress) -> Self {
        Self {
            received: progress.received.0,
            applied: progress.applied.0,
            confirmed: progress.confirmed.0,
            source: progress.source.0,
            looks: progress.looks,
            lag_ms: progress.lag_ms,
            consistent: progress.consistent,
            parked: progress.parked,
        }
    }
}

impl From<v1::StreamProgress> for StreamProgress {
    fn from(wire: v1::StreamProgress) -> Self {
        Self {
            received: Lsn(wire.received),
            applied: Lsn(wire.applied),
            confirmed: Lsn(wire.confirmed),
            source: Lsn(wire.source),
            looks: wire.looks,
            lag_ms: wire.lag_ms,
            consistent: wire.consistent,
            parked: wire.parked,
        }
    }
}
