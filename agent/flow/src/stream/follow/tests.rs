use pgconvoy_shared::name::QualifiedName;

use super::super::decode::Decoder;
use super::super::message::{CommitTime, Message, OldRow, RelationColumn, ReplicaIdentity, Xid};
use super::super::table::{KeyColumn, SourceColumn, TargetColumn};
use super::super::tuple::Field;
use super::super::window::Window;
use super::*;

const COLUMNS: [&str; 2] = ["id", "long"];

/// Tables 0 and 1 by themselves; 2 and 3 are leaves that share a target.
fn follower() -> Follower {
    let target = |no: u32| Target {
        name: name(no),
        only: true,
        has_rules: false,
        columns: COLUMNS
            .iter()
            .map(|column| TargetColumn {
                name: (*column).into(),
                type_name: r#"pg_catalog."text""#.into(),
                cast_of_its_own: false,
                identity_always: false,
            })
            .collect(),
        key: [KeyColumn { column: 0, equals: "operator(pg_catalog.=)".into() }].into(),
    };
    let table = |no: u32| Table {
        no: TableNo(no),
        relation: RelationId(1 + no),
        name: name(no),
        columns: COLUMNS
            .iter()
            .enumerate()
            .map(|(place, column)| SourceColumn {
                name: (*column).into(),
                type_oid: 25,
                type_modifier: -1,
                place,
            })
            .collect(),
        target: no.min(2) as usize,
        window: Window::Keyed {
            plan: "50:50:".parse().unwrap(),
            until: Lsn(1_000),
            shards: ["60:60:".parse().unwrap()].into(),
        },
        dropped: [].into(),
        parked: false,
    };
    let targets: Vec<Target> = (0..3).map(target).collect();
    Follower::new(targets.into(), (0..4).map(table), [], Lsn(0), FullXid(100))
}

fn name(no: u32) -> QualifiedName {
    QualifiedName::new("s", format!("t{no}"))
}

fn relation(no: u32, columns: &[&str]) -> Item {
    let column = |column: &&str| RelationColumn {
        in_identity: *column == "id",
        name: (*column).into(),
        type_oid: 25,
        type_modifier: -1,
    };
    Item::Relation(Arc::new(Relation {
        id: RelationId(1 + no),
        name: name(no),
        replica_identity: ReplicaIdentity::Default,
        columns: columns.iter().map(column).collect(),
    }))
}

fn row(values: &[&str]) -> Tuple {
    let field = |value: &&str| match *value {
        "-" => Field::Unchanged,
        "1" => Field::Text(b"1"),
        "2" => Field::Text(b"2"),
        _ => Field::Null,
    };
    Tuple::from_fields(values.iter().map(field).collect::<Vec<_>>().into_iter())
}

fn insert(no: u32, values: &[&str]) -> Item {
    Item::Change(Change::Insert { relation: RelationId(1 + no), new: row(values) })
}

/// Row 1 becomes row 2, and its long value is not told.
fn moved(no: u32) -> Item {
    let old = Some(OldRow::Key(row(&["1", "null"])));
    Item::Change(Change::Update { relation: RelationId(1 + no), old, new: row(&["2", "-"]) })
}

impl Follower {
    /// A transaction, whole.
    fn transaction(&mut self, xid: u32, commit_lsn: u64, items: Vec<Item>) {
        self.started(xid, commit_lsn);
        for item in items {
            assert_eq!(self.item(item), Ok(None));
        }
        self.ended(commit_lsn);
    }

    fn started(&mut self, xid: u32, commit_lsn: u64) {
        let (commit_lsn, committed_at) = (Lsn(commit_lsn), CommitTime(0));
        self.begin(Begin { commit_lsn, committed_at, xid: Xid(xid) }).unwrap();
    }

    fn ended(&mut self, commit_lsn: u64) {
        let (commit_lsn, end_lsn) = (Lsn(commit_lsn), Lsn(commit_lsn + 8));
        self.commit(Commit { commit_lsn, end_lsn, committed_at: CommitTime(0) }).unwrap();
    }
}

fn tables(entries: &[Entry]) -> Vec<u32> {
    entries.iter().map(|entry| entry.table.0).collect()
}

#[test]
fn what_the_plan_shows_is_skipped_and_n_divides_the_rest() {
    let mut follower = follower();
    let change = || insert(0, &["1", "1"]);
    follower.transaction(40, 100, vec![relation(0, &COLUMNS), change()]);
    follower.transaction(70, 992, vec![change()]);
    follower.transaction(71, 1_000, vec![change()]);
    let batch = follower.cut();
    let modes: Vec<Mode> = batch.entries.iter().map(|entry| entry.mode).collect();
    assert_eq!(modes, [Mode::Converging, Mode::Strict], "what ends at N is before it");
    assert_eq!(batch.commit.unwrap().end_lsn, Lsn(1_008));
}

#[test]
fn what_is_applied_is_skipped_but_its_relations_are_not() {
    let mut follower = follower();
    follower.applied = Lsn(208);
    follower.transaction(70, 200, vec![relation(0, &COLUMNS), insert(0, &["1", "1"])]);
    assert!(follower.cut().commit.is_none());
    follower.transaction(71, 208, vec![insert(0, &["1", "1"])]);
    assert_eq!(follower.cut().entries.len(), 1);
}

#[test]
fn a_table_that_changed_is_parked_and_others_go_on() {
    let mut follower = follower();
    let (both, wider) = (COLUMNS, ["id", "long", "new"]);
    follower.transaction(
        70,
        200,
        vec![
            relation(0, &both),
            insert(0, &["1", "1"]),
            relation(1, &both),
            relation(0, &wider),
            insert(0, &["2", "2", "2"]),
            insert(1, &["1", "1"]),
            insert(0, &["1", "2", "2"]),
        ],
    );
    let batch = follower.cut();
    assert_eq!(tables(&batch.entries), [0, 1]);
    let [Notice::Parked { table: TableNo(0), place, change, mismatch }] = &batch.notices[..] else {
        panic!("{:?}", batch.notices)
    };
    assert_eq!((place.ordinal, mismatch), (1, &Mismatch::ColumnAdded("new".into())));
    assert_eq!((change.operation, &*change.key), ("insert", "(id)=(2)"));
    assert_eq!(tags(&batch), *b"RII", "its columns, by which the changes are read again, and they");
}

fn tags(batch: &Batch) -> Vec<u8> {
    batch.parked.iter().map(|parked| parked.message[0]).collect()
}

#[test]
fn what_was_kept_is_decided_on_anew_in_its_old_place() {
    let mut first = follower();
    let items = vec![relation(0, &COLUMNS), insert(0, &["1", "1"]), insert(0, &["2", "1"])];
    first.transaction(70, 2_000, items);
    first.park(TableNo(0));
    first.transaction(71, 2_100, vec![insert(0, &["3", "1"])]);
    let batch = first.cut();
    assert_eq!(tags(&batch), *b"RIIRI", "each behind the relation by which it is read");

    let mut again = follower();
    for parked in &batch.parked {
        let received = Decoder::default().decode(parked.message.clone()).unwrap();
        let item = match received.message {
            Message::Relation(relation) => Item::Relation(Arc::new(relation)),
            Message::Change(change) => Item::Change(change),
            other => panic!("{other:?}"),
        };
        assert_eq!(again.kept(parked.place, item), Ok(None));
    }
    again.kept_ends();
    let decided = again.cut();
    assert!(decided.at_boundary);
    let places = |batch: &Batch| batch.parked.iter().map(|kept| kept.place).collect::<Vec<_>>();
    let mut kept = places(&batch);
    kept.dedup();
    let entries: Vec<Place> = decided.entries.iter().map(|entry| entry.place).collect();
    assert_eq!(entries, kept);
    assert!(decided.entries.iter().all(|entry| entry.mode == Mode::Strict));
}

#[test]
fn what_is_taken_out_later_is_kept_before_what_comes_after_it() {
    let mut follower = follower();
    let wider = ["id", "long", "new"];
    let items = vec![relation(0, &COLUMNS), insert(0, &["1", "1"])];
    follower.transaction(70, 200, items);
    follower.transaction(71, 208, vec![relation(0, &wider), insert(0, &["2", "1", "1"])]);
    follower.park(TableNo(0));
    let batch = follower.cut();
    assert_eq!(tags(&batch), *b"RIRI");
    assert!(batch.parked.is_sorted_by_key(|parked| parked.place));
}

#[test]
fn a_change_of_shape_that_the_plan_has_seen_parks_nothing() {
    let mut follower = follower();
    follower.transaction(40, 100, vec![relation(0, &["id"]), insert(0, &["1"])]);
    follower.transaction(70, 200, vec![relation(0, &COLUMNS), insert(0, &["1", "1"])]);
    let batch = follower.cut();
    assert_eq!((batch.entries.len(), batch.notices.len()), (1, 0));
}

#[test]
fn a_table_can_be_taken_out_of_a_batch_that_was_cut() {
    let mut follower = follower();
    let items = vec![
        relation(0, &COLUMNS),
        relation(1, &COLUMNS),
        insert(0, &["1", "1"]),
        insert(1, &["1", "1"]),
    ];
    follower.transaction(70, 200, items);
    follower.transaction(71, 208, vec![insert(0, &["2", "1"])]);
    let mut batch = follower.cut();
    let from = batch.entries[2].place;
    batch.park(TableNo(0), from);
    assert_eq!(tables(&batch.entries), [0, 1]);
    assert_eq!(tags(&batch), *b"RI");
    assert_eq!(batch.parked[0].place, from);
    follower.park(TableNo(0));
    follower.transaction(72, 216, vec![insert(0, &["2", "1"]), insert(1, &["2", "1"])]);
    let batch = follower.cut();
    assert_eq!((tables(&batch.entries), &*tags(&batch)), (vec![1], &b"RI"[..]));
}

#[test]
fn leaves_of_one_root_are_truncated_together_or_parked() {
    let truncate = |relations: &[u32]| {
        let relations = relations.iter().copied().map(RelationId).collect();
        Item::Change(Change::Truncate { relations, cascade: false, restart_identity: false })
    };
    let told = || vec![relation(0, &COLUMNS), relation(2, &COLUMNS), relation(3, &COLUMNS)];
    let mut together = follower();
    together.transaction(70, 200, [told(), vec![truncate(&[0, 2, 3])]].concat());
    assert_eq!(tables(&together.cut().entries), [0, 2, 3]);
    let mut alone = follower();
    alone.transaction(70, 200, [told(), vec![truncate(&[0, 3])]].concat());
    let batch = alone.cut();
    assert_eq!(tables(&batch.entries), [0]);
    assert!(matches!(
        batch.notices[..],
        [Notice::Parked { table: TableNo(3), mismatch: Mismatch::PartTruncated, .. }]
    ));
}

#[test]
fn tables_that_nobody_planned_are_told_once() {
    let mut follower = follower();
    let items = || vec![relation(9, &COLUMNS), insert(9, &["1", "1"])];
    follower.transaction(70, 200, items());
    follower.transaction(71, 208, items());
    assert_eq!(follower.cut().notices, [Notice::NotFollowed(name(9))]);
}

#[test]
fn a_row_that_is_read_again_counts_with_its_long_values() {
    let mut follower = follower();
    follower.transaction(60, 200, vec![relation(0, &COLUMNS)]);
    follower.cut();
    follower.started(59, 300);
    follower.item(moved(0)).unwrap().expect("it is to be read again");
    let long = [b'x'; 1 << 16];
    let read = Tuple::from_fields([Field::Text(b"2"), Field::Text(&long)].into_iter());
    let snapshot: Snapshot = "80:80:".parse().unwrap();
    let answer = RereadAnswer { row: Some(read), snapshot, noted: Lsn(2_000) };
    follower.answer(answer).unwrap();
    let bytes = follower.uncut().bytes;
    assert!(bytes > 1 << 16, "{bytes}: else a batch of such rows is cut too late");
}

#[test]
fn a_row_that_cannot_be_read_again_parks_its_table_at_that_change() {
    let mut follower = follower();
    follower.transaction(60, 200, vec![relation(0, &COLUMNS)]);
    follower.started(59, 300);
    follower.item(moved(0)).unwrap().expect("it is to be read again");
    follower.cannot_answer("no such table".into()).unwrap();
    assert!(follower.cannot_answer("again".into()).is_err(), "nothing is asked any more");
    assert_eq!(follower.item(moved(0)).unwrap(), None, "it is kept like all that follows");
    follower.ended(300);
    let batch = follower.cut();
    assert!(batch.entries.is_empty() && batch.rereads.is_empty(), "{batch:?}");
    assert_eq!(batch.parked.len(), 3, "a relation and two changes: {batch:?}");
    let [Notice::Parked { mismatch, place, .. }] = &batch.notices[..] else { panic!("{batch:?}") };
    assert_eq!(mismatch, &Mismatch::NotReadable("no such table".into()));
    assert_eq!((place.ordinal, batch.parked[2].place.ordinal), (0, 1));
}

#[test]
fn a_moved_row_is_taken_from_the_destination_only_where_no_copy_saw_it_moved() {
    let mut follower = follower();
    follower.transaction(60, 200, vec![relation(0, &COLUMNS), moved(0)]);
    assert!(matches!(follower.cut().entries[..], [Entry { act: Act::Move { .. }, .. }]));

    follower.started(59, 300);
    let wanted = follower.item(moved(0)).unwrap().unwrap();
    assert_eq!((wanted.key.clone(), wanted.xid), (row(&["2"]), FullXid(59)));
    assert!(follower.item(moved(0)).is_err(), "before it is answered nothing else comes");
    let snapshot: Snapshot = "80:80:".parse().unwrap();
    let answer = RereadAnswer { row: Some(row(&["2", "1"])), snapshot, noted: Lsn(2_000) };
    follower.answer(answer).unwrap();
    follower.ended(300);
    let batch = follower.cut();
    let [Act::Delete(old), Act::Insert(new)] = [&batch.entries[0].act, &batch.entries[1].act]
    else {
        panic!("{:?}", batch.entries)
    };
    assert_eq!((old, new), (&row(&["1"]), &row(&["2", "1"])));
    assert_eq!(batch.rereads[0].noted, Lsn(2_000));

    follower.transaction(90, 1_500, vec![insert(0, &["1", "1"])]);
    assert_eq!(follower.cut().entries[0].mode, Mode::Converging, "N was raised");
    let back = Change::Update {
        relation: RelationId(1),
        old: Some(OldRow::Key(row(&["2", "null"]))),
        new: row(&["1", "-"]),
    };
    follower.started(79, 1_600);
    let wanted = follower.item(Item::Change(back.clone())).unwrap();
    assert!(wanted.is_some(), "the row that was read again may be younger");
    let answer = RereadAnswer { row: None, snapshot: "80:80:".parse().unwrap(), noted: Lsn(0) };
    follower.answer(answer).unwrap();
    follower.ended(1_600);
    follower.transaction(85, 1_700, vec![Item::Change(back)]);
    let last = follower.cut().entries.pop().unwrap();
    assert!(matches!(last.act, Act::Move { .. }), "it is older than this change");
    assert!(!follower.reread.is_empty());
    follower.transaction(95, 2_000, vec![insert(0, &["3", "1"])]);
    assert!(follower.reread.is_empty(), "behind N nobody asks for them");
}

#[test]
fn of_tables_that_one_statement_emptied_each_keeps_its_own_part() {
    let mut follower = follower();
    let relations = [0, 1].map(RelationId).into();
    let truncate = Change::Truncate { relations, cascade: true, restart_identity: false };
    let items = vec![relation(0, &COLUMNS), relation(1, &COLUMNS), Item::Change(truncate)];
    follower.transaction(70, 2_000, items);
    follower.park(TableNo(0));
    let batch = follower.cut();
    assert_eq!((tables(&batch.entries), &*tags(&batch)), (vec![1], &b"RT"[..]));
    let received = Decoder::default().decode(batch.parked[1].message.clone()).unwrap();
    let Message::Change(kept) = received.message else { panic!("a change") };
    assert_eq!(kept.relations(), [RelationId(1)]);
}
