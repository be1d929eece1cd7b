//! How the source's changes are followed.

use pgconvoy_shared::epoch::Generation;
use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::parking::{Cause, Changes, Parking};
use pgconvoy_shared::stream::{
    ChangeCounts, SlotState, StreamNote, StreamProgress, TableChanges, WalStatus,
};
use pgconvoy_shared::unit::{Checkpoint, StreamOpened, StreamOrder};

use super::{WireError, list, required, required_enum, wire_enum, wire_list};
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
        Self {
            opened: Some(order.opened.into()),
            checkpoint: Some(order.checkpoint.into()),
            resume: order.resume.into_iter().map(|table| table.0).collect(),
            hold: order.hold.into_iter().map(|table| table.0).collect(),
            gone: order.gone.into_iter().map(|table| table.0).collect(),
            cutovers_over: order.cutovers_over,
        }
    }
}

impl TryFrom<v1::StreamWork> for StreamOrder {
    type Error = WireError;
    fn try_from(wire: v1::StreamWork) -> Result<Self, WireError> {
        let missing = |field| move || WireError::missing(field);
        Ok(Self {
            opened: wire.opened.ok_or_else(missing("opened"))?.into(),
            checkpoint: wire.checkpoint.ok_or_else(missing("checkpoint"))?.into(),
            resume: wire.resume.into_iter().map(TableNo).collect(),
            hold: wire.hold.into_iter().map(TableNo).collect(),
            gone: wire.gone.into_iter().map(TableNo).collect(),
            cutovers_over: wire.cutovers_over,
        })
    }
}

impl From<Parking> for v1::Parking {
    fn from(parking: Parking) -> Self {
        Self {
            table: parking.table.0,
            generation: parking.generation.0,
            changes: match parking.changes {
                Changes::Applied => None,
                Changes::Parked(cause) => Some(v1::parking::Changes::Cause((*cause).into())),
                Changes::Held(barrier) => Some(v1::parking::Changes::Held(barrier)),
            },
        }
    }
}

impl TryFrom<v1::Parking> for Parking {
    type Error = WireError;
    fn try_from(wire: v1::Parking) -> Result<Self, WireError> {
        Ok(Self {
            table: TableNo(wire.table),
            generation: Generation(wire.generation),
            changes: match wire.changes {
                None => Changes::Applied,
                Some(v1::parking::Changes::Cause(cause)) => {
                    Changes::Parked(Box::new(required(Some(cause), "cause")?))
                }
                Some(v1::parking::Changes::Held(barrier)) => Changes::Held(barrier),
            },
        })
    }
}

impl From<Cause> for v1::ParkCause {
    fn from(cause: Cause) -> Self {
        Self {
            failure: Some(cause.failure.into()),
            operation: cause.operation,
            key: cause.key,
            commit_lsn: cause.commit_lsn.0,
            xid: cause.xid,
            ordinal: cause.ordinal,
            statement: cause.statement,
        }
    }
}

impl TryFrom<v1::ParkCause> for Cause {
    type Error = WireError;
    fn try_from(wire: v1::ParkCause) -> Result<Self, WireError> {
        Ok(Self {
            failure: required(wire.failure, "failure")?,
            operation: wire.operation,
            key: wire.key,
            commit_lsn: Lsn(wire.commit_lsn),
            xid: wire.xid,
            ordinal: wire.ordinal,
            statement: wire.statement,
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
            spilled: progress.spilled,
            changes: Some(progress.changes.into()),
            recent: Some(progress.recent.into()),
            recent_ms: progress.recent_ms,
            tables: wire_list(progress.tables),
        }
    }
}

impl TryFrom<v1::StreamProgress> for StreamProgress {
    type Error = WireError;
    fn try_from(wire: v1::StreamProgress) -> Result<Self, WireError> {
        Ok(Self {
            received: Lsn(wire.received),
            applied: Lsn(wire.applied),
            confirmed: Lsn(wire.confirmed),
            source: Lsn(wire.source),
            looks: wire.looks,
            lag_ms: wire.lag_ms,
            consistent: wire.consistent,
            parked: wire.parked,
            spilled: wire.spilled,
            changes: wire.changes.unwrap_or_default().into(),
            recent: wire.recent.unwrap_or_default().into(),
            recent_ms: wire.recent_ms,
            tables: list(wire.tables, "tables")?,
        })
    }
}

impl From<ChangeCounts> for v1::ChangeCounts {
    fn from(counts: ChangeCounts) -> Self {
        let ChangeCounts { inserts, updates, deletes, truncates } = counts;
        Self { inserts, updates, deletes, truncates }
    }
}

impl From<v1::ChangeCounts> for ChangeCounts {
    fn from(wire: v1::ChangeCounts) -> Self {
        let v1::ChangeCounts { inserts, updates, deletes, truncates } = wire;
        Self { inserts, updates, deletes, truncates }
    }
}

impl From<TableChanges> for v1::TableChanges {
    fn from(table: TableChanges) -> Self {
        let TableChanges { name, changes, recent } = table;
        Self { name: Some(name.into()), changes: Some(changes.into()), recent: Some(recent.into()) }
    }
}

impl TryFrom<v1::TableChanges> for TableChanges {
    type Error = WireError;
    fn try_from(wire: v1::TableChanges) -> Result<Self, WireError> {
        Ok(Self {
            name: required(wire.name, "name")?,
            changes: wire.changes.unwrap_or_default().into(),
            recent: wire.recent.unwrap_or_default().into(),
        })
    }
}

wire_enum!(WalStatus { Reserved, Extended, Unreserved, Lost });

impl From<SlotState> for v1::SlotState {
    fn from(slot: SlotState) -> Self {
        Self {
            status: v1::WalStatus::from(slot.status).into(),
            kept: slot.kept,
            left: slot.left,
            growth: slot.growth,
            source_spilled: slot.source_spilled,
        }
    }
}

impl TryFrom<v1::SlotState> for SlotState {
    type Error = WireError;
    fn try_from(wire: v1::SlotState) -> Result<Self, WireError> {
        Ok(Self {
            status: required_enum(wire.status, "status")?,
            kept: wire.kept,
            left: wire.left,
            growth: wire.growth,
            source_spilled: wire.source_spilled,
        })
    }
}

impl From<StreamNote> for v1::StreamNote {
    fn from(note: StreamNote) -> Self {
        use v1::stream_note::Note;
        Self {
            note: Some(match note {
                StreamNote::NotFollowed(tables) => {
                    Note::NotFollowed(v1::NotFollowed { tables: wire_list(tables) })
                }
                StreamNote::SlotAtRisk(slot) => Note::SlotAtRisk(slot.into()),
                StreamNote::SlotSafe(slot) => Note::SlotSafe(slot.into()),
            }),
        }
    }
}

impl TryFrom<v1::StreamNote> for StreamNote {
    type Error = WireError;
    fn try_from(wire: v1::StreamNote) -> Result<Self, WireError> {
        use v1::stream_note::Note;
        Ok(match wire.note.ok_or_else(|| WireError::missing("note"))? {
            Note::NotFollowed(told) => Self::NotFollowed(list(told.tables, "not_followed.tables")?),
            Note::SlotAtRisk(slot) => Self::SlotAtRisk(slot.try_into()?),
            Note::SlotSafe(slot) => Self::SlotSafe(slot.try_into()?),
        })
    }
}
