use super::super::message::RelationColumn;
use super::*;

fn table() -> Table {
    let column = |(place, name): (usize, &str)| SourceColumn {
        name: name.into(),
        type_oid: 23,
        type_modifier: -1,
        place,
    };
    Table {
        no: TableNo(0),
        relation: RelationId(1),
        name: QualifiedName::new("s", "t"),
        columns: [(0, "id"), (1, "a"), (2, "b")].map(column).into(),
        target: 0,
        window: Window::OneSnapshot { copied: "1:1:".parse().unwrap() },
        dropped: [].into(),
        parked: false,
    }
}

fn target(key: &[usize]) -> Target {
    let column = |name: &str| TargetColumn {
        name: name.into(),
        type_name: r#"pg_catalog."int4""#.into(),
        cast_of_its_own: false,
        identity_always: false,
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

fn relation(columns: &[&str]) -> Relation {
    let column = |name: &&str| RelationColumn {
        in_identity: *name == "id",
        name: (*name).into(),
        type_oid: 23,
        type_modifier: -1,
    };
    Relation {
        id: RelationId(1),
        name: QualifiedName::new("s", "t"),
        replica_identity: ReplicaIdentity::Default,
        columns: columns.iter().map(column).collect(),
    }
}

/// The target's order is its own.
#[test]
fn columns_are_known_by_name_in_the_order_of_the_source() {
    let mut table = table();
    let order = |table: &Table, columns: &[&str]| table.order_in(&target(&[0]), &relation(columns));
    assert_eq!(order(&table, &["id", "a", "b"]), Ok(None));
    for (column, place) in table.columns.iter_mut().zip([1, 2, 0]) {
        column.place = place;
    }
    assert_eq!(order(&table, &["b", "id", "a"]), Ok(Some([1, 2, 0].into())));
}

/// A column that is dropped and made again is the last one; columns that change names change places.
#[test]
fn a_column_in_another_place_is_another_column() {
    let order = |columns: &[&str]| table().order_in(&target(&[0]), &relation(columns));
    assert_eq!(order(&["id", "b", "a"]), Err(Mismatch::ColumnMadeAnew("a".into())));
    assert_eq!(order(&["a", "b", "id"]), Err(Mismatch::ColumnMadeAnew("id".into())));
}

#[test]
fn what_is_not_as_planned_is_told() {
    let told = |is: &Relation| table().order_in(&target(&[0]), is).unwrap_err();
    assert_eq!(told(&relation(&["id", "a"])), Mismatch::ColumnGone("b".into()));
    assert_eq!(told(&relation(&["id", "a", "b", "c"])), Mismatch::ColumnAdded("c".into()));
    let renamed = Relation { name: QualifiedName::new("s", "u"), ..relation(&["id", "a", "b"]) };
    assert_eq!(told(&renamed), Mismatch::Renamed(QualifiedName::new("s", "u")));
    let mut other_type = relation(&["id", "a", "b"]);
    other_type.columns[2].type_oid = 20;
    assert_eq!(told(&other_type), Mismatch::ColumnType("b".into()));
}

#[test]
fn a_key_must_be_told() {
    let told = |identity, key: &[usize]| {
        let is = Relation { replica_identity: identity, ..relation(&["id", "a", "b"]) };
        table().order_in(&target(key), &is)
    };
    assert_eq!(
        told(ReplicaIdentity::Default, &[1]),
        Err(Mismatch::KeyNotTold(ReplicaIdentity::Default))
    );
    assert_eq!(told(ReplicaIdentity::Full, &[1]), Ok(None));
    assert_eq!(told(ReplicaIdentity::Default, &[]), Ok(None), "without a key, inserts alone");
}

#[test]
fn a_reshaped_table_reads_what_was_kept_before() {
    let mut table = table();
    let kept = [relation(&["id", "a", "b"]), relation(&["id", "b"]), relation(&["c", "id", "b"])];
    assert_eq!(table.reshape(&kept), Ok(()));
    let names: Vec<&str> = table.columns.iter().map(|column| &*column.name).collect();
    assert_eq!((names, &*table.dropped), (vec!["c", "id", "b"], &["a".into()][..]));

    // Its target in the same shape; changes made before c came do not say what it is.
    let mut target = target(&[1]);
    target.columns[0].name = "c".into();
    target.columns[1].name = "id".into();
    let order = |relation: &Relation| table.order_in(&target, relation);
    assert_eq!(order(&kept[2]), Ok(None));
    assert_eq!(order(&relation(&["a", "c", "id", "b"])), Ok(Some([1, 2, 3].into())));
    assert_eq!(order(&kept[0]), Err(Mismatch::ColumnGone("c".into())));
}

#[test]
fn two_columns_of_one_name_are_not_taken_for_one() {
    let kept = [relation(&["id", "a"]), relation(&["id"]), relation(&["id", "a"])];
    let made_anew = Mismatch::ColumnMadeAnew("a".into());
    assert_eq!(table().reshape(&kept), Err(made_anew));
    assert_eq!(table().reshape(&kept[1..]), Ok(()));
}
