use super::super::message::RelationColumn;
use super::*;

fn table() -> Table {
    let column = |name: &str| SourceColumn { name: name.into(), type_oid: 23, type_modifier: -1 };
    Table {
        no: TableNo(0),
        relation: RelationId(1),
        name: QualifiedName::new("s", "t"),
        columns: ["id", "a", "b"].map(column).into(),
        target: 0,
        window: Window::Keyless { copied: "1:1:".parse().unwrap() },
        parked: false,
    }
}

fn target(key: &[usize]) -> Target {
    let column = |name: &str| TargetColumn {
        name: name.into(),
        type_name: r#"pg_catalog."int4""#.into(),
        identity_always: false,
    };
    let equals = || "operator(pg_catalog.=)".into();
    Target {
        name: QualifiedName::new("s", "t"),
        only: true,
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

#[test]
fn columns_are_known_by_name_in_whatever_order_they_come() {
    let order = |columns: &[&str]| table().order_in(&target(&[0]), &relation(columns));
    assert_eq!(order(&["id", "a", "b"]), Ok(None));
    assert_eq!(order(&["b", "id", "a"]), Ok(Some([1, 2, 0].into())));
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
