//! What a precheck found.

use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::precheck::{PrecheckItem, Severity};

use super::{WireError, optional_enum, required_enum, wire_enum};
use crate::v1;

wire_enum!(Side { Source, Destination });
wire_enum!(Severity { Info, Warning, Error });

impl From<PrecheckItem> for v1::PrecheckItem {
    fn from(item: PrecheckItem) -> Self {
        Self {
            code: item.code,
            side: item.side.map_or(v1::Side::Unspecified, v1::Side::from).into(),
            object: item.object,
            severity: v1::Severity::from(item.severity).into(),
            observed: item.observed,
            required: item.required,
            remedy: item.remedy,
        }
    }
}

impl TryFrom<v1::PrecheckItem> for PrecheckItem {
    type Error = WireError;
    fn try_from(wire: v1::PrecheckItem) -> Result<Self, WireError> {
        Ok(Self {
            code: wire.code,
            side: optional_enum(wire.side, "side")?,
            object: wire.object,
            severity: required_enum(wire.severity, "severity")?,
            observed: wire.observed,
            required: wire.required,
            remedy: wire.remedy,
        })
    }
}
