//! Which rows a batch changes, by their keys: so that they can be looked up again at both ends.
//!
//! A key is kept as COPY's text has it, columns in the order of their names, separated by tabs: as a comparison shows it. Where
//! a row goes to another key, or comes by one that only looks different (`2.0` and `2.00`), both are kept.

use std::collections::BTreeSet;

use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::verify::LISTED_BYTES_MAX;

use super::entry::{Act, Entry};
use super::table::{Key, Target};
use super::tuple::Field;

/// What is changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// Keys of rows that come, go, or become others.
    pub keys: BTreeSet<(TableNo, String)>,
    /// Tables some of whose changed rows no key tells: they have none, it is too long to be kept, or all rows went at once.
    pub untold: BTreeSet<TableNo>,
}

impl Changed {
    /// Nothing is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.untold.is_empty()
    }
}

/// The rows that these changes are about.
#[must_use]
pub fn changed(entries: &[Entry], targets: &[Target]) -> Changed {
    let mut changed = Changed::default();
    for Entry { table, target, act, .. } in entries {
        let target = &targets[*target];
        let keys = match act {
            Act::Insert(row) => vec![target.key_of(row)],
            Act::Update { key, row } | Act::Move { from: key, row } => {
                vec![key.clone(), target.key_of(row)]
            }
            Act::Delete(key) => vec![key.clone()],
            Act::Add(_) | Act::Take(_) | Act::Truncate { .. } => vec![],
        };
        let is_told = !keys.is_empty();
        let texts: Option<Vec<String>> = keys.iter().map(|key| text(key, target)).collect();
        match texts.filter(|_| is_told) {
            Some(texts) => changed.keys.extend(texts.into_iter().map(|key| (*table, key))),
            None => drop(changed.untold.insert(*table)),
        }
    }
    changed
}

/// A key as COPY's text has it; none = it is no text, or too long to be kept.
fn text(key: &Key, target: &Target) -> Option<String> {
    let mut columns: Vec<(&str, Field<'_>)> = target
        .key
        .iter()
        .zip(key.fields())
        .map(|(column, field)| (&*target.columns[column.column].name, field))
        .collect();
    columns.sort_unstable_by_key(|(name, _)| *name);
    let mut text = String::new();
    for (nth, (_, field)) in columns.into_iter().enumerate() {
        let Field::Text(value) = field else { return None };
        if nth > 0 {
            text.push('\t');
        }
        escape(std::str::from_utf8(value).ok()?, &mut text);
    }
    (text.len() < LISTED_BYTES_MAX).then_some(text)
}

/// Writes a value as COPY does.
fn escape(value: &str, text: &mut String) {
    for each in value.chars() {
        let escaped = match each {
            '\x08' => 'b',
            '\x0c' => 'f',
            '\n' => 'n',
            '\r' => 'r',
            '\t' => 't',
            '\x0b' => 'v',
            '\\' => '\\',
            plain => {
                text.push(plain);
                continue;
            }
        };
        text.extend(['\\', escaped]);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pgconvoy_shared::lsn::Lsn;
    use pgconvoy_shared::name::QualifiedName;

    use super::super::entry::Place;
    use super::super::message::{Change, OldRow, Relation, RelationId, ReplicaIdentity};
    use super::super::snapshot::FullXid;
    use super::super::table::{KeyColumn, TargetColumn};
    use super::super::tuple::Tuple;
    use super::super::window::Mode;
    use super::*;
    use crate::digest::key_values;

    /// Columns `b`, `a` and `x`, of which the first two are the key; or no key at all.
    fn target(keyed: bool) -> Target {
        let column = |name: &str| TargetColumn {
            name: name.into(),
            type_name: "pg_catalog.text".into(),
            cast_of_its_own: false,
            identity_always: false,
        };
        let equals = || "operator(pg_catalog.=)".into();
        let key =
            [KeyColumn { column: 0, equals: equals() }, KeyColumn { column: 1, equals: equals() }];
        Target {
            name: QualifiedName::new("public", "t"),
            only: true,
            has_rules: false,
            columns: ["b", "a", "x"].map(column).into(),
            key: if keyed { key.into() } else { Box::default() },
        }
    }

    fn row(fields: &[&str]) -> Tuple {
        Tuple::from_fields(fields.iter().map(|field| Field::Text(field.as_bytes())))
    }

    fn entry(act: Act) -> Entry {
        let relation = Relation {
            id: RelationId(1),
            name: QualifiedName::new("public", "t"),
            replica_identity: ReplicaIdentity::Full,
            columns: Box::default(),
        };
        Entry {
            place: Place { commit_lsn: Lsn(1), ordinal: 0, xid: FullXid(7) },
            table: TableNo(4),
            target: 0,
            mode: Mode::Strict,
            act,
            change: Change::Delete { relation: RelationId(1), old: OldRow::Key(row(&[])) },
            relation: Arc::new(relation),
        }
    }

    fn keys(acts: Vec<Act>) -> Vec<String> {
        let entries: Vec<Entry> = acts.into_iter().map(entry).collect();
        let changed = changed(&entries, &[target(true)]);
        assert!(changed.untold.is_empty());
        changed.keys.into_iter().map(|(_, key)| key).collect()
    }

    #[test]
    fn every_key_that_a_row_had_or_gets_is_told() {
        assert_eq!(keys(vec![Act::Insert(row(&["2", "1", "x"]))]), ["1\t2"]);
        assert_eq!(keys(vec![Act::Delete(row(&["2", "1"]))]), ["1\t2"]);
        let moved = Act::Move { from: row(&["2", "1"]), row: row(&["3", "1", "x"]) };
        assert_eq!(keys(vec![moved.clone(), moved]), ["1\t2", "1\t3"], "each once");
        let update = Act::Update { key: row(&["2.0", "1"]), row: row(&["2.00", "1", "x"]) };
        assert_eq!(keys(vec![update]), ["1\t2.0", "1\t2.00"]);
    }

    #[test]
    fn a_key_is_read_again_as_it_was() {
        let odd = "tab\t line\n back\\slash \u{8}\u{b}\u{c}\r ü";
        let told = keys(vec![Act::Delete(row(&[odd, "1"]))]);
        assert_eq!(key_values(&told[0], 2), Some(vec!["1".to_owned(), odd.to_owned()]));
    }

    #[test]
    fn rows_without_a_key_that_can_be_kept_are_not_told() {
        let long = "x".repeat(LISTED_BYTES_MAX);
        let nothing = Tuple::from_fields([Field::Null, Field::Text(b"1")].into_iter());
        for (act, keyed) in [
            (Act::Truncate { restart_identity: false }, true),
            (Act::Add(row(&["1", "2", "3"])), false),
            (Act::Delete(row(&[&long, "1"])), true),
            (Act::Delete(nothing), true),
        ] {
            let changed = changed(&[entry(act)], &[target(keyed)]);
            assert_eq!((changed.keys.len(), changed.untold.len()), (0, 1));
        }
        assert!(changed(&[], &[]).is_empty());
    }
}
