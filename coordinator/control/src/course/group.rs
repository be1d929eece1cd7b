//! Cutting tables into units: each large table has one to itself, small ones share.

use std::cmp::Reverse;

use pgconvoy_shared::ids::TableNo;

/// A table of at least this size has a unit to itself.
const LARGE_BYTES: u64 = 64 << 20;
/// More tables in a unit would make its loss dear; fewer would make a hundred thousand small tables slow.
const TABLES_MAX: usize = 200;

/// Groups of at most [`TABLES_MAX`] tables and [`LARGE_BYTES`], the largest tables first in all and in each.
pub(super) fn groups(mut tables: Vec<(u64, TableNo)>) -> Vec<Box<[TableNo]>> {
    tables.sort_unstable_by_key(|(bytes, no)| (Reverse(*bytes), *no));
    let mut groups = Vec::new();
    let mut group = Vec::new();
    let mut group_bytes = 0u64;
    for (bytes, no) in tables {
        let full = group.len() == TABLES_MAX || group_bytes.saturating_add(bytes) > LARGE_BYTES;
        if full && !group.is_empty() {
            groups.push(std::mem::take(&mut group).into_boxed_slice());
            group_bytes = 0;
        }
        group.push(no);
        group_bytes = group_bytes.saturating_add(bytes);
    }
    if !group.is_empty() {
        groups.push(group.into_boxed_slice());
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_tables_are_alone_and_small_ones_share() {
        let tables = vec![(1, 0), (LARGE_BYTES, 1), (40 << 20, 2), (30 << 20, 3), (5, 4)];
        let tables = tables.into_iter().map(|(bytes, no)| (bytes, TableNo(no))).collect();
        let numbers: Vec<Vec<u32>> =
            groups(tables).iter().map(|group| group.iter().map(|no| no.0).collect()).collect();
        assert_eq!(numbers, [vec![1], vec![2], vec![3, 4, 0]]);
    }

    #[test]
    fn no_group_has_too_many_tables() {
        let tables = (0..450).map(|no| (1, TableNo(no))).collect();
        let sizes: Vec<_> = groups(tables).iter().map(|group| group.len()).collect();
        assert_eq!(sizes, [200, 200, 50]);
    }
}
