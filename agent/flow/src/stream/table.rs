//! The tables whose changes are followed: as they were planned, and where their rows go.

use std::collections::BTreeSet;
use std::fmt;

use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::name::QualifiedName;

use super::message::{Relation, RelationId, ReplicaIdentity};
use super::tuple::Tuple;
use super::window::Window;

/// A table of the source.
#[derive(Debug, Clone)]
pub struct Table {
    /// Its number within the task.
    pub no: TableNo,
    /// Its object id, by which the stream names it: no two have the same, unless it is none.
    pub relation: RelationId,
    /// Its name, as planned.
    pub name: QualifiedName,
    /// Its columns as planned, in the order of its target's; generated ones are no part of either.
    pub columns: Box<[SourceColumn]>,
    /// Names of columns that it had when changes were made that were kept, and has no more: their values go nowhere.
    pub dropped: Box<[Box<str>]>,
    /// Where its rows go: an index into the targets. Leaves that are written through their root share one.
    pub target: usize,
    /// What the copy has seen of its changes.
    pub window: Window,
    /// Whether its changes are kept instead of being applied.
    pub parked: bool,
}

/// A column of a source's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceColumn {
    /// Its name.
    pub name: Box<str>,
    /// Object id of its type.
    pub type_oid: u32,
    /// Length, precision and the like of its type.
    pub type_modifier: i32,
    /// Which of the table's columns it was when that was planned, counted from 0: they keep their order as long as they live.
    pub place: usize,
}

/// A table of the destination.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its name.
    pub name: QualifiedName,
    /// Whether it is meant without what inherits from it: not so for the root of a partition tree.
    pub only: bool,
    /// Whether it has rules.
    pub has_rules: bool,
    /// The columns that are written.
    pub columns: Box<[TargetColumn]>,
    /// The apply key: the columns by which a change finds its row. Empty: rows are found by all of their values.
    pub key: Box<[KeyColumn]>,
}

/// A column of a destination's table.
#[derive(Debug, Clone)]
pub struct TargetColumn {
    /// Its name.
    pub name: Box<str>,
    /// Its type's qualified and quoted name, without length or precision: a cast to those would cut silently, an
    /// assignment raises.
    pub type_name: Box<str>,
    /// Whether a cast from text may read a value otherwise than the type itself does: then it is read as an element of an array,
    /// for which no cast is made.
    pub cast_of_its_own: bool,
    /// Whether it is `generated always as identity`, which no update may set.
    pub identity_always: bool,
}

/// A column of an apply key.
#[derive(Debug, Clone)]
pub struct KeyColumn {
    /// Its index among the target's columns.
    pub column: usize,
    /// The operator by which the key's index finds equal values, as SQL: `operator(pg_catalog.=)`.
    pub equals: Box<str>,
}

/// The columns of an apply key, as they came. Keys may differ here and be equal to the server: `2.0` and `2.00`.
pub type Key = Tuple;

impl Target {
    /// The key of one of its rows.
    #[must_use]
    pub fn key_of(&self, row: &Tuple) -> Key {
        row.project(self.key.iter().map(|key| key.column))
    }

    /// Whether rows are found by all of their values.
    #[must_use]
    pub fn is_keyless(&self) -> bool {
        self.key.is_empty()
    }
}

/// How the columns of a relation become those of a target: the place of each in the relation; none = the same order.
pub(super) type Order = Option<Box<[usize]>>;

/// What keeps a table's changes from being applied: it is not as it was planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// It has another name.
    Renamed(QualifiedName),
    /// A column came, or was renamed to this.
    ColumnAdded(Box<str>),
    /// A column is gone, or was renamed.
    ColumnGone(Box<str>),
    /// A column's type is another one.
    ColumnType(Box<str>),
    /// A column is gone, and another one of this name came, or others were given each other's names: what is told of the two
    /// cannot be told apart.
    ColumnMadeAnew(Box<str>),
    /// Its replica identity does not tell the columns by which changes find their rows.
    KeyNotTold(ReplicaIdentity),
    /// It was emptied, but others that are written through the same root were not, or their copies have it already.
    PartTruncated,
    /// A row of it that is to be read again cannot be: what the source says to its name, or to those of its columns.
    NotReadable(Box<str>),
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Renamed(name) => write!(f, "the table was renamed to {name}"),
            Self::ColumnAdded(column) => write!(f, "there is a new column {column}"),
            Self::ColumnGone(column) => write!(f, "column {column} is gone"),
            Self::ColumnType(column) => write!(f, "the type of column {column} was changed"),
            Self::ColumnMadeAnew(column) => {
                write!(f, "column {column} is another one now: it was dropped and made again, or others were renamed")
            }
            Self::KeyNotTold(identity) => {
                write!(f, "replica identity {identity} does not tell which rows are changed")
            }
            Self::PartTruncated => f.write_str(
                "a partition was truncated, and others that are written through the same root were not, or not yet",
            ),
            Self::NotReadable(why) => {
                write!(f, "a row whose key changed cannot be read again at the source: {why}")
            }
        }
    }
}

impl Table {
    /// How its columns come, or what is not as planned.
    pub(super) fn order_in(&self, target: &Target, is: &Relation) -> Result<Order, Mismatch> {
        if is.name != self.name {
            return Err(Mismatch::Renamed(is.name.clone()));
        }
        let expected = |name: &str| {
            let planned = self.columns.iter().any(|column| *column.name == *name);
            planned || self.dropped.iter().any(|dropped| **dropped == *name)
        };
        if let Some(added) = is.columns.iter().find(|column| !expected(&column.name)) {
            return Err(Mismatch::ColumnAdded(added.name.clone()));
        }
        let mut order = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            let place = is.columns.iter().position(|each| each.name == column.name);
            let place = place.ok_or_else(|| Mismatch::ColumnGone(column.name.clone()))?;
            let found = &is.columns[place];
            if (found.type_oid, found.type_modifier) != (column.type_oid, column.type_modifier) {
                return Err(Mismatch::ColumnType(column.name.clone()));
            }
            order.push(place);
        }
        let mut places: Vec<_> =
            self.columns.iter().zip(&order).map(|(c, now)| (c.place, now)).collect();
        places.sort_unstable();
        if let Some(out) = places.windows(2).find(|pair| pair[0].1 > pair[1].1) {
            return Err(Mismatch::ColumnMadeAnew(is.columns[*out[0].1].name.clone()));
        }
        let told = match is.replica_identity {
            // Under `nothing` there are no updates and deletes.
            ReplicaIdentity::Full | ReplicaIdentity::Nothing => true,
            ReplicaIdentity::Default | ReplicaIdentity::Index => {
                // One that is parked may lack columns of its target.
                let place = |key: &KeyColumn| order.get(key.column).copied();
                target.key.iter().all(|key| place(key).is_some_and(|at| is.columns[at].in_identity))
            }
        };
        if !told {
            return Err(Mismatch::KeyNotTold(is.replica_identity));
        }
        let same = order.iter().copied().eq(0..is.columns.len());
        Ok((!same).then(|| order.into()))
    }

    /// As the last of these relations has it, by which changes of it were kept, in their order: what it had before and has
    /// no more may be told by the earlier ones. None of them: as it was planned.
    pub fn reshape(&mut self, kept: &[Relation]) -> Result<(), Mismatch> {
        let Some(last) = kept.last() else { return Ok(()) };
        let has = |relation: &Relation, name: &str| {
            relation.columns.iter().any(|column| *column.name == *name)
        };
        for column in &last.columns {
            let without = kept.iter().rposition(|relation| !has(relation, &column.name));
            let before = without.map_or(&[][..], |without| &kept[..without]);
            if before.iter().any(|relation| has(relation, &column.name)) {
                return Err(Mismatch::ColumnMadeAnew(column.name.clone()));
            }
        }
        let told = kept.iter().flat_map(|relation| &relation.columns);
        let gone = told.filter(|column| !has(last, &column.name)).map(|column| column.name.clone());
        self.dropped = gone.collect::<BTreeSet<_>>().into_iter().collect();
        let now = last.columns.iter().enumerate().map(|(place, column)| SourceColumn {
            name: column.name.clone(),
            type_oid: column.type_oid,
            type_modifier: column.type_modifier,
            place,
        });
        self.columns = now.collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
