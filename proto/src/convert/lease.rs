//! A lease as the agent gets it.

use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::ids::UnitId;
use pgconvoy_shared::secret::Secret;
use pgconvoy_shared::spec::TaskSpec;
use pgconvoy_shared::unit::Work;
use pgconvoy_shared::verify::Purpose;

use super::verify::purpose;
use super::{WireError, non_empty, required, unit_id};
use crate::v1;

/// A lease and all that its unit needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leased {
    pub unit: UnitId,
    pub epoch: Epoch,
    pub spec: TaskSpec,
    pub source_password: Option<Secret>,
    pub destination_password: Option<Secret>,
    pub work: Work,
    /// What the task is there for.
    pub purpose: Purpose,
}

impl From<Leased> for v1::Lease {
    fn from(leased: Leased) -> Self {
        let exposed = |secret: Option<Secret>| {
            secret.as_ref().map(Secret::expose).unwrap_or_default().to_owned()
        };
        Self {
            task_id: leased.unit.task.into(),
            unit: leased.unit.no.0,
            epoch: leased.epoch.0,
            spec: Some(leased.spec.into()),
            source_password: exposed(leased.source_password),
            destination_password: exposed(leased.destination_password),
            work: Some(leased.work.into()),
            purpose: match leased.purpose {
                // What agents of any version take it for.
                Purpose::Migrate => v1::Purpose::Unspecified.into(),
                other => v1::Purpose::from(other).into(),
            },
        }
    }
}

impl TryFrom<v1::Lease> for Leased {
    type Error = WireError;
    fn try_from(wire: v1::Lease) -> Result<Self, WireError> {
        Ok(Self {
            unit: unit_id(&wire.task_id, wire.unit)?,
            epoch: Epoch(wire.epoch),
            spec: required(wire.spec, "spec")?,
            source_password: non_empty(wire.source_password).map(Secret::new),
            destination_password: non_empty(wire.destination_password).map(Secret::new),
            work: required(wire.work, "work")?,
            purpose: purpose(wire.purpose)?,
        })
    }
}
