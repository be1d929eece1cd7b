//! An agent's answer on a unit.

use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::parking::Parking;
use pgconvoy_shared::stream::StreamNote;
use pgconvoy_shared::unit::{Checkpoint, Ended, ResultPart};

use super::{WireError, agent_id, required};
use crate::v1;
use crate::v1::unit_report::Body;

/// What a report says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReportBody {
    /// A piece of a large result.
    Part {
        /// Its number within the lease, from 0.
        no: u32,
        part: ResultPart,
    },
    /// A stream is so far, and goes on.
    Checkpoint(Checkpoint),
    /// A stream has a table in another way from now on.
    Parking(Box<Parking>),
    /// A stream has something to tell, and goes on.
    Note(StreamNote),
    /// The end of the lease.
    Ended {
        /// How many pieces went before; told by a done unit only, 0 otherwise.
        parts: u32,
        ended: Ended,
    },
}

impl From<ReportBody> for Body {
    fn from(body: ReportBody) -> Self {
        match body {
            ReportBody::Part { no, part } => Self::Part(v1::ResultPart::numbered(no, part)),
            ReportBody::Checkpoint(checkpoint) => Self::Checkpoint(checkpoint.into()),
            ReportBody::Parking(parking) => Self::Parking((*parking).into()),
            ReportBody::Note(note) => Self::Note(note.into()),
            ReportBody::Ended { parts, ended } => Self::from_ended(ended, parts),
        }
    }
}

impl Body {
    /// The end of a lease, after this many pieces of its result.
    #[must_use]
    pub fn from_ended(ended: Ended, parts: u32) -> Self {
        match ended {
            Ended::Done(result) => Self::Done(v1::Done { parts, result: Some(result.into()) }),
            Ended::Failed(failure) => Self::Failed(failure.into()),
            Ended::Released => Self::Released(v1::Released {}),
            Ended::SnapshotLost { round, gone } => Self::SnapshotLost(v1::SnapshotLost {
                round,
                gone: gone.into_iter().map(String::from).collect(),
            }),
            Ended::TableChanged { table, failure } => Self::TableChanged(v1::TableChanged {
                table: table.0,
                failure: Some(failure.into()),
            }),
            Ended::TableGone { table, system_identifier } => {
                Self::TableGone(v1::TableGone { table: table.0, system_identifier })
            }
        }
    }
}

impl TryFrom<Body> for ReportBody {
    type Error = WireError;
    fn try_from(wire: Body) -> Result<Self, WireError> {
        let (parts, ended) = match wire {
            Body::Part(part) => {
                return Ok(Self::Part { no: part.no, part: required(Some(part), "part")? });
            }
            Body::Checkpoint(checkpoint) => return Ok(Self::Checkpoint(checkpoint.into())),
            Body::Parking(parking) => {
                return Ok(Self::Parking(Box::new(required(Some(parking), "parking")?)));
            }
            Body::Note(note) => return Ok(Self::Note(required(Some(note), "note")?)),
            Body::Done(done) => (done.parts, Ended::Done(required(done.result, "done")?)),
            Body::Failed(failure) => (0, Ended::Failed(required(Some(failure), "failed")?)),
            Body::Released(v1::Released {}) => (0, Ended::Released),
            Body::SnapshotLost(lost) => {
                let gone = lost.gone.iter().map(|agent| agent_id(agent, "snapshot_lost.gone"));
                let gone = gone.collect::<Result<_, _>>()?;
                (0, Ended::SnapshotLost { round: lost.round, gone })
            }
            Body::TableChanged(changed) => {
                let failure = required(changed.failure, "table_changed.failure")?;
                (0, Ended::TableChanged { table: TableNo(changed.table), failure })
            }
            Body::TableGone(v1::TableGone { table, system_identifier }) => {
                (0, Ended::TableGone { table: TableNo(table), system_identifier })
            }
        };
        Ok(Self::Ended { parts, ended })
    }
}
