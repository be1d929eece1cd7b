//! Large objects, seen as the rows of a table.
//!
//! A large object is no row: it is bytes under a number, with an owner, grants and a comment. To a task they are the rows of
//! one table all the same, so that what holds for rows holds for them: shards, snapshots, generations, `shard_progress`.
//!
//! - At the source that table is the catalogue of them, which everybody may read. Its shards are ranges of numbers.
//! - What travels are pieces of [`PIECE_BYTES`], a row each; the first one of an object says what else there is to say.
//!   They are read by `lo_get`, which asks for the right to read the object, and for no right on the catalogue.
//! - At the destination they are written into the view `pgconvoy.large_object`, whose trigger puts objects together.
//!   Nothing can be truncated there: a shard first removes what an older plan left in its range.
//!
//! The same pieces, without what is said of owners, are compared when a migration is verified.

use pgconvoy_shared::name::{QualifiedName, quote_identifier};
use pgconvoy_shared::unit::{KeyColumn, Part, TablePlan};

use crate::sql::predicate;

/// Bytes of an object that travel as one row.
pub const PIECE_BYTES: u32 = 256 << 10;

/// Objects in a shard, at most. Giving one to its owner locks it, and a server has room for some thousand locks.
const OBJECTS_PER_SHARD: u64 = 250;

/// What names an object's pieces.
const KEY: [(&str, &str); 2] = [("oid", "oid"), ("piece_at", "bigint")];

/// The columns of the view.
const COLUMNS: [&str; 6] = ["oid", "piece_at", "bytes", "owner", "grants", "comment"];

/// How the table is called: the catalogue.
#[must_use]
pub fn table() -> QualifiedName {
    QualifiedName::new("pg_catalog", "pg_largeobject_metadata")
}

/// Where the destination takes pieces.
#[must_use]
pub fn view() -> QualifiedName {
    QualifiedName::new("pgconvoy", "large_object")
}

/// The columns that travel.
#[must_use]
pub fn columns() -> Vec<String> {
    COLUMNS.map(str::to_owned).into()
}

/// The columns that are compared: those of the key, and the bytes.
#[must_use]
pub fn columns_compared() -> Vec<String> {
    COLUMNS[..=KEY.len()].iter().map(|name| (*name).to_owned()).collect()
}

/// The key by which shards are cut.
#[must_use]
pub fn key() -> Vec<KeyColumn> {
    key_compared().into_iter().take(1).collect()
}

/// The key by which pieces are known.
#[must_use]
pub fn key_compared() -> Vec<KeyColumn> {
    KEY.map(|(name, type_name)| KeyColumn { name: name.into(), type_name: type_name.into() }).into()
}

/// Objects in each shard, of so many of this size in all.
#[must_use]
pub fn objects_per_shard(objects: u64, bytes: u64, shard_bytes: u64) -> u64 {
    let shards = bytes.div_ceil(shard_bytes.max(1)).max(1);
    objects.div_ceil(shards).clamp(1, OBJECTS_PER_SHARD)
}

/// Picks bounds: every so-many-th number. The catalogue holds no bytes of objects, so reading all of it is little.
#[must_use]
pub fn bounds(objects_per_shard: u64) -> String {
    format!(
        "select oid from (select oid, row_number() over (order by oid) - 1 as nth from {}) as numbered \
         where nth > 0 and nth % {objects_per_shard} = 0 order by oid",
        table().quoted()
    )
}

/// Reads a shard.
pub(crate) fn copy_out(plan: &TablePlan, part: &Part) -> String {
    let said = "case when piece_at = 0 then pg_catalog.pg_get_userbyid(lomowner)::text end, \
        case when piece_at = 0 and lomacl is not null then array( \
            select array[case grantee when 0 then null else pg_catalog.pg_get_userbyid(grantee)::text end, \
                privilege_type, is_grantable::text] \
            from pg_catalog.aclexplode(lomacl)) end, \
        case when piece_at = 0 then pg_catalog.obj_description(oid, 'pg_largeobject') end";
    format!("copy ({}) to stdout (format binary)", pieces(plan, part, &format!(", {said}")))
}

/// Reads the pieces of a shard for comparing them, at either end.
pub(crate) fn copy_out_compared(plan: &TablePlan, part: &Part) -> String {
    format!("copy ({}) to stdout", pieces(plan, part, ""))
}

/// Removes what an older plan left in a shard's range.
pub(crate) fn clear(plan: &TablePlan, part: &Part) -> String {
    format!("delete from {}{}", view().quoted(), condition(plan, part))
}

/// An object's length is told by a descriptor at its end.
fn pieces(plan: &TablePlan, part: &Part, said: &str) -> String {
    const FOR_READING: u32 = 0x0004_0000;
    const FROM_END: u32 = 2;
    format!(
        "select oid, piece_at, pg_catalog.lo_get(oid, piece_at, {PIECE_BYTES}){said} from ( \
            select oid, lomowner, lomacl, pg_catalog.lo_lseek64(descriptor, 0, {FROM_END}) as bytes, \
                pg_catalog.lo_close(descriptor) as closed from ( \
                    select oid, lomowner, lomacl, pg_catalog.lo_open(oid, {FOR_READING}) as descriptor \
                    from {}{} offset 0) as opened offset 0) as measured, \
            generate_series(0, greatest(bytes - 1, 0), {PIECE_BYTES}) as piece_at",
        table().quoted(),
        condition(plan, part)
    )
}

/// Ranges are of the number alone, whatever else the plan's key has.
fn condition(plan: &TablePlan, part: &Part) -> String {
    debug_assert_eq!(
        plan.key.first().map(|column| quote_identifier(&column.name)),
        Some("\"oid\"".into())
    );
    predicate(&plan.key[..1], part).map(|range| format!(" where {range}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_have_neither_too_many_objects_nor_too_many_bytes() {
        assert_eq!(objects_per_shard(1_000_000, 1, 1 << 20), OBJECTS_PER_SHARD);
        assert_eq!(objects_per_shard(100, 10 << 20, 1 << 20), 10);
        assert_eq!(objects_per_shard(3, 1 << 40, 1 << 20), 1);
        assert_eq!(objects_per_shard(0, 0, 0), 1);
    }

    #[test]
    fn the_key_comes_first_among_the_columns() {
        let key: Vec<String> = key_compared().into_iter().map(|column| column.name).collect();
        assert_eq!(columns_compared()[..2], key);
        assert_eq!(columns()[..3], columns_compared());
    }
}
