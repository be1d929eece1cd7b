use std::sync::Arc;

use super::super::message::{Change, Relation, RelationId, ReplicaIdentity};
use super::super::snapshot::FullXid;
use super::super::table::{KeyColumn, TargetColumn};
use super::*;
use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::name::QualifiedName;

/// `"1 a -"`: a key, a value, a value that is not told.
fn row(text: &str) -> Tuple {
    let fields: Vec<Field<'_>> = text
        .split(' ')
        .map(|word| if word == "-" { Field::Unchanged } else { Field::Text(word.as_bytes()) })
        .collect();
    Tuple::from_fields(fields.into_iter())
}

fn target(key: &[usize], identity_always: bool) -> Target {
    let column = |name: &str| TargetColumn {
        name: name.into(),
        type_name: r#"pg_catalog."text""#.into(),
        cast_of_its_own: false,
        identity_always: identity_always && name == "b",
    };
    let equals = || "operator(pg_catalog.=)".into();
    Target {
        name: QualifiedName::new("s", "t"),
        only: true,
        has_rules: false,
        columns: ["id", "a", "b"].map(column).into(),
        key: key.iter().map(|column| KeyColumn { column: *column, equals: equals() }).collect(),
    }
}

fn entries(mode: Mode, acts: &[Act]) -> Vec<Entry> {
    let relation = Arc::new(Relation {
        id: RelationId(1),
        name: QualifiedName::new("s", "t"),
        replica_identity: ReplicaIdentity::Default,
        columns: [].into(),
    });
    let entry = |(ordinal, act): (usize, &Act)| Entry {
        place: Place { commit_lsn: Lsn(1), ordinal: ordinal as u64, xid: FullXid(1) },
        table: TableNo(0),
        target: 0,
        mode,
        act: act.clone(),
        change: Change::Delete {
            relation: RelationId(1),
            old: super::super::message::OldRow::Key(row("1")),
        },
        relation: Arc::clone(&relation),
    };
    acts.iter().enumerate().map(entry).collect()
}

fn strict(acts: &[Act]) -> Result<Vec<Operation>, Contradiction> {
    fold(&entries(Mode::Strict, acts), &[target(&[0], false)])
}

fn converging(acts: &[Act]) -> Vec<Operation> {
    fold(&entries(Mode::Converging, acts), &[target(&[0], false)]).unwrap()
}

fn insert(text: &str) -> Act {
    Act::Insert(row(text))
}

fn update(text: &str) -> Act {
    let row = row(text);
    Act::Update { key: row.project([0].into_iter()), row }
}

fn delete(key: &str) -> Act {
    Act::Delete(row(key))
}

fn moved(from: &str, text: &str) -> Act {
    Act::Move { from: row(from), row: row(text) }
}

fn remove(keys: &[&str], expect: Expect) -> Operation {
    Operation::Remove { target: 0, keys: keys.iter().map(|key| row(key)).collect(), expect }
}

fn set(columns: &[usize], rows: &[(&str, &str)], expect: Expect) -> Operation {
    let rows = rows.iter().map(|(key, text)| (row(key), row(text))).collect();
    Operation::Update { target: 0, columns: columns.into(), rows, expect }
}

fn put(rows: &[&str], in_the_way: InTheWay) -> Operation {
    let rows = rows.iter().map(|text| row(text)).collect();
    Operation::Insert { target: 0, rows, in_the_way }
}

fn carry(rows: &[(&str, &str)], in_the_way: InTheWay) -> Operation {
    let moved = |(from, text): &(&str, &str)| Moved { from: row(from), row: row(text) };
    let rows = rows.iter().map(moved).collect();
    Operation::Move { target: 0, rows, expect: Expect::Each, in_the_way }
}

use Expect::{Any, Each};
use InTheWay::{Fails, IsRemoved, IsReplaced};

#[test]
fn what_came_and_went_within_a_batch_leaves_nothing() {
    assert_eq!(strict(&[insert("1 a x"), update("1 b y"), delete("1")]), Ok(vec![]));
    let converges = [insert("1 a x"), delete("1")];
    assert_eq!(converging(&converges), [remove(&["1"], Any)], "the copy may have it");
}

#[test]
fn many_changes_of_a_row_become_one() {
    assert_eq!(
        strict(&[update("1 a x"), update("1 b -"), insert("2 a x"), update("2 c -")]),
        Ok(vec![set(&[1, 2], &[("1", "1 b x")], Each), put(&["2 c x"], Fails)])
    );
    assert_eq!(
        strict(&[delete("1"), insert("1 a x")]),
        Ok(vec![set(&[1, 2], &[("1", "1 a x")], Each)])
    );
}

#[test]
fn while_it_converges_a_whole_row_is_put_and_part_of_one_is_set_where_it_is() {
    assert_eq!(
        converging(&[update("1 a x"), update("2 a -"), delete("3"), insert("4 a x")]),
        [
            remove(&["3"], Any),
            set(&[1], &[("2", "2 a -")], Any),
            put(&["1 a x", "4 a x"], IsReplaced)
        ]
    );
}

#[test]
fn a_row_that_was_changed_and_then_put_goes_with_its_delete() {
    let changes = [update("1 a -"), update("1 b x"), delete("1")];
    assert_eq!(converging(&changes), [remove(&["1"], Any)]);
}

#[test]
fn rows_that_swap_their_keys_take_what_was_not_told_along() {
    let swap = [moved("1", "3 a -"), moved("2", "1 b -"), moved("3", "2 c -")];
    assert_eq!(strict(&swap), Ok(vec![carry(&[("2", "1 b -"), ("1", "2 c -")], Fails)]));
    assert_eq!(
        converging(&swap),
        [remove(&["3"], Any), carry(&[("2", "1 b -"), ("1", "2 c -")], IsReplaced)]
    );
}

#[test]
fn a_moved_row_that_is_deleted_goes_from_where_it_was() {
    assert_eq!(strict(&[moved("1", "2 a -"), delete("2")]), Ok(vec![remove(&["1"], Each)]));
    assert_eq!(
        strict(&[delete("2"), moved("1", "2 a -"), insert("1 b y")]),
        Ok(vec![remove(&["2"], Each), carry(&[("1", "2 a -")], Fails), put(&["1 b y"], Fails)])
    );
}

#[test]
fn changes_that_do_not_fit_together_are_told() {
    let first_misfit = |acts: &[Act]| strict(acts).unwrap_err().place.ordinal;
    assert_eq!(first_misfit(&[insert("1 a x"), insert("1 a x")]), 1);
    assert_eq!(first_misfit(&[delete("1"), update("1 a x")]), 1);
    assert_eq!(first_misfit(&[update("1 a x"), delete("1"), delete("1")]), 2);
    assert_eq!(first_misfit(&[moved("1", "2 a -"), moved("1", "3 a -")]), 1);
    let truncate = Act::Truncate { restart_identity: false };
    assert_eq!(first_misfit(&[truncate, delete("1")]), 1);
}

#[test]
fn truncating_forgets_what_was_before() {
    let truncate = Act::Truncate { restart_identity: true };
    let emptied = Operation::Truncate { targets: [0].into(), restart_identity: true };
    assert_eq!(
        strict(&[insert("1 a x"), update("2 a x"), truncate, insert("2 b x")]),
        Ok(vec![emptied, put(&["2 b x"], Fails)])
    );
}

#[test]
fn columns_that_no_update_may_set_are_put_again() {
    let identity = [target(&[0], true)];
    let acts = [update("1 a -"), insert("2 a x")];
    let again = |expect, in_the_way| Operation::Move {
        target: 0,
        rows: vec![Moved { from: row("1"), row: row("1 a -") }],
        expect,
        in_the_way,
    };
    assert_eq!(
        fold(&entries(Mode::Strict, &acts), &identity),
        Ok(vec![again(Each, Fails), put(&["2 a x"], Fails)])
    );
    assert_eq!(
        fold(&entries(Mode::Converging, &acts), &identity),
        Ok(vec![again(Any, IsRemoved), put(&["2 a x"], IsRemoved)])
    );
}

#[test]
fn rows_without_a_key_are_counted() {
    let (add, take) = (|text| Act::Add(row(text)), |text| Act::Take(row(text)));
    let acts = [add("a"), add("a"), take("b"), take("b"), add("c"), take("c"), add("b")];
    assert_eq!(
        fold(&entries(Mode::Strict, &acts), &[target(&[], false)]),
        Ok(vec![
            Operation::RemoveAlike { target: 0, rows: vec![(row("b"), 1)] },
            put(&["a", "a"], Fails)
        ])
    );
}

#[test]
fn a_table_that_becomes_strict_within_a_batch_is_finished_first() {
    let mut both = entries(Mode::Converging, &[insert("1 a x")]);
    both.extend(entries(Mode::Strict, &[update("1 b y")]));
    assert_eq!(
        fold(&both, &[target(&[0], false)]),
        Ok(vec![put(&["1 a x"], IsReplaced), set(&[1, 2], &[("1", "1 b y")], Each)])
    );
}

#[test]
fn a_row_of_which_nothing_is_set_must_be_there_all_the_same() {
    let looked_for = |operations: Vec<Operation>| {
        operations.iter().any(|operation| {
            matches!(operation, Operation::Update { columns, expect: Expect::Each, .. } if columns.is_empty())
        })
    };
    assert!(looked_for(strict(&[update("1 - -")]).unwrap()));
    assert!(converging(&[update("1 - -")]).is_empty());
}
