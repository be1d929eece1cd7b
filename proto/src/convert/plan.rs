//! Plans of tables and their shards.

use pgconvoy_shared::epoch::Generation;
use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::unit::{CopyFormat, KeyColumn, Part, PlannedShard, TablePlan};

use super::{WireError, list, required, required_enum, wire_enum, wire_list};
use crate::v1;

wire_enum!(CopyFormat { Text, Binary });

impl From<TablePlan> for v1::TablePlan {
    fn from(plan: TablePlan) -> Self {
        Self {
            no: plan.no.0,
            generation: plan.generation.0,
            name: Some(plan.name.into()),
            write_to: Some(plan.write_to.into()),
            columns: plan.columns,
            fingerprint: plan.fingerprint,
            filenode: plan.filenode,
            format: v1::CopyFormat::from(plan.format).into(),
            key: wire_list(plan.key),
        }
    }
}

impl TryFrom<v1::TablePlan> for TablePlan {
    type Error = WireError;
    fn try_from(wire: v1::TablePlan) -> Result<Self, WireError> {
        Ok(Self {
            no: TableNo(wire.no),
            generation: Generation(wire.generation),
            name: required(wire.name, "name")?,
            write_to: required(wire.write_to, "write_to")?,
            columns: wire.columns,
            fingerprint: wire.fingerprint,
            filenode: wire.filenode,
            format: required_enum(wire.format, "format")?,
            key: list(wire.key, "key")?,
        })
    }
}

impl From<KeyColumn> for v1::KeyColumn {
    fn from(column: KeyColumn) -> Self {
        Self { name: column.name, type_name: column.type_name }
    }
}

impl TryFrom<v1::KeyColumn> for KeyColumn {
    type Error = WireError;
    fn try_from(wire: v1::KeyColumn) -> Result<Self, WireError> {
        Ok(Self { name: wire.name, type_name: wire.type_name })
    }
}

impl From<PlannedShard> for v1::PlannedShard {
    fn from(shard: PlannedShard) -> Self {
        Self { part: Some(shard.part.into()), bytes: shard.bytes, rows: shard.rows }
    }
}

impl TryFrom<v1::PlannedShard> for PlannedShard {
    type Error = WireError;
    fn try_from(wire: v1::PlannedShard) -> Result<Self, WireError> {
        Ok(Self { part: required(wire.part, "part")?, bytes: wire.bytes, rows: wire.rows })
    }
}

impl From<Part> for v1::Part {
    fn from(part: Part) -> Self {
        let part = match part {
            Part::Whole => v1::part::Part::Whole(v1::WholePart {}),
            Part::Range { from, to } => v1::part::Part::Range(v1::RangePart {
                from: from.map(wire_bound),
                to: to.map(wire_bound),
            }),
            Part::Blocks { from, to } => v1::part::Part::Blocks(v1::BlocksPart { from, to }),
        };
        Self { part: Some(part) }
    }
}

impl TryFrom<v1::Part> for Part {
    type Error = WireError;
    fn try_from(wire: v1::Part) -> Result<Self, WireError> {
        Ok(match wire.part.ok_or_else(|| WireError::missing("part"))? {
            v1::part::Part::Whole(v1::WholePart {}) => Self::Whole,
            v1::part::Part::Range(range) => {
                Self::Range { from: range.from.map(bound), to: range.to.map(bound) }
            }
            v1::part::Part::Blocks(blocks) => Self::Blocks { from: blocks.from, to: blocks.to },
        })
    }
}

fn wire_bound(values: Box<[Box<str>]>) -> v1::Bound {
    v1::Bound { values: values.into_iter().map(String::from).collect() }
}

fn bound(wire: v1::Bound) -> Box<[Box<str>]> {
    wire.values.into_iter().map(Box::from).collect()
}
