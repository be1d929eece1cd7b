//! What is compared, and what came of it.

use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::unit::{ResultPart, VerifyRows};
use pgconvoy_shared::verify::{
    Difference, NotCompared, ObjectDifference, ObjectSkipped, ObjectsCompared, Purpose,
    RowDifference, RowsCompared, Sample, VerifySettings,
};

use super::{
    Problem, WireError, list, optional, optional_enum, required, required_enum, wire_enum,
    wire_list,
};
use crate::v1;

wire_enum!(Difference { Missing, Extra, Different });
wire_enum!(Purpose { Migrate, Precheck, Verify });

/// Unspecified = to migrate.
pub(super) fn purpose(number: i32) -> Result<Purpose, WireError> {
    Ok(optional_enum(number, "purpose")?.unwrap_or_default())
}

impl From<VerifySettings> for v1::VerifySettings {
    fn from(settings: VerifySettings) -> Self {
        let sample_hundredths = match settings.sample {
            Sample::ALL => 0,
            part => part.as_hundredths(),
        };
        Self { sample_hundredths }
    }
}

impl TryFrom<v1::VerifySettings> for VerifySettings {
    type Error = WireError;
    fn try_from(wire: v1::VerifySettings) -> Result<Self, WireError> {
        let sample = match wire.sample_hundredths {
            0 => Sample::ALL,
            part => Sample::hundredths(part)
                .map_err(|bad| WireError::new("sample_hundredths", Problem::Sample(bad)))?,
        };
        Ok(Self { sample })
    }
}

impl From<VerifyRows> for v1::VerifyRowsWork {
    fn from(work: VerifyRows) -> Self {
        let settings = VerifySettings { sample: work.sample };
        Self { shard: Some(work.shard.into()), settings: Some(settings.into()) }
    }
}

impl TryFrom<v1::VerifyRowsWork> for VerifyRows {
    type Error = WireError;
    fn try_from(wire: v1::VerifyRowsWork) -> Result<Self, WireError> {
        let VerifySettings { sample } = required(wire.settings, "settings")?;
        Ok(Self { shard: required(wire.shard, "shard")?, sample })
    }
}

impl From<ObjectsCompared> for v1::ObjectsCompared {
    fn from(compared: ObjectsCompared) -> Self {
        let ObjectsCompared { objects, differences, listed, went_on, skipped } = compared;
        let (listed, skipped) = (wire_list(listed), wire_list(skipped));
        Self { objects, differences, listed, skipped, went_on }
    }
}

impl TryFrom<v1::ObjectsCompared> for ObjectsCompared {
    type Error = WireError;
    fn try_from(wire: v1::ObjectsCompared) -> Result<Self, WireError> {
        let v1::ObjectsCompared { objects, differences, listed, skipped, went_on } = wire;
        let skipped = skipped.into_iter().map(Into::into).collect();
        Ok(Self { objects, differences, listed: list(listed, "listed")?, went_on, skipped })
    }
}

impl From<ObjectSkipped> for v1::ObjectSkipped {
    fn from(skipped: ObjectSkipped) -> Self {
        let ObjectSkipped { object, reason } = skipped;
        Self { object, reason }
    }
}

impl From<v1::ObjectSkipped> for ObjectSkipped {
    fn from(wire: v1::ObjectSkipped) -> Self {
        let v1::ObjectSkipped { object, reason } = wire;
        Self { object, reason }
    }
}

impl From<ObjectDifference> for v1::ObjectDifference {
    fn from(difference: ObjectDifference) -> Self {
        Self {
            difference: v1::Difference::from(difference.difference).into(),
            object: difference.object,
            source: difference.source,
            destination: difference.destination,
        }
    }
}

impl TryFrom<v1::ObjectDifference> for ObjectDifference {
    type Error = WireError;
    fn try_from(wire: v1::ObjectDifference) -> Result<Self, WireError> {
        Ok(Self {
            difference: required_enum(wire.difference, "difference")?,
            object: wire.object,
            source: wire.source,
            destination: wire.destination,
        })
    }
}

impl From<RowsCompared> for v1::RowsCompared {
    fn from(compared: RowsCompared) -> Self {
        Self {
            source_rows: compared.source_rows,
            destination_rows: compared.destination_rows,
            bytes: compared.bytes,
            compared: compared.compared,
            missing: compared.missing,
            extra: compared.extra,
            different: compared.different,
            moving: compared.moving,
            at_least: compared.at_least,
            listed: wire_list(compared.listed),
            lists: compared.lists,
            not_compared: compared.not_compared.map(Into::into),
            through: compared.through.map(Into::into),
        }
    }
}

impl TryFrom<v1::RowsCompared> for RowsCompared {
    type Error = WireError;
    fn try_from(wire: v1::RowsCompared) -> Result<Self, WireError> {
        Ok(Self {
            source_rows: wire.source_rows,
            destination_rows: wire.destination_rows,
            bytes: wire.bytes,
            compared: wire.compared,
            missing: wire.missing,
            extra: wire.extra,
            different: wire.different,
            moving: wire.moving,
            at_least: wire.at_least,
            listed: list(wire.listed, "listed")?,
            lists: wire.lists,
            not_compared: optional(wire.not_compared, "not_compared")?,
            through: optional(wire.through, "through")?,
        })
    }
}

impl From<RowDifference> for v1::RowDifference {
    fn from(row: RowDifference) -> Self {
        let RowDifference { difference, key, count } = row;
        Self { difference: v1::Difference::from(difference).into(), key, count }
    }
}

impl TryFrom<v1::RowDifference> for RowDifference {
    type Error = WireError;
    fn try_from(wire: v1::RowDifference) -> Result<Self, WireError> {
        let difference = required_enum(wire.difference, "difference")?;
        Ok(Self { difference, key: wire.key, count: wire.count })
    }
}

impl From<NotCompared> for v1::NotCompared {
    fn from(why: NotCompared) -> Self {
        let NotCompared { reason, differs } = why;
        Self { reason, differs }
    }
}

impl TryFrom<v1::NotCompared> for NotCompared {
    type Error = WireError;
    fn try_from(wire: v1::NotCompared) -> Result<Self, WireError> {
        let v1::NotCompared { reason, differs } = wire;
        Ok(Self { reason, differs })
    }
}

/// A table that cannot be compared, as a piece of a result.
pub(super) fn not_compared(wire: v1::TableNotCompared) -> Result<ResultPart, WireError> {
    let why = required(wire.why, "not_compared.why")?;
    Ok(ResultPart::NotCompared { table: TableNo(wire.table), why })
}
