//! Tables and columns that the source got after its schema was read.

use pgconvoy_shared::failure::FailureClass;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::spec::MigrationType;
use pgconvoy_shared::unit::{
    CopyShard, Ended, PlannedShard, ResultPart, SharedSnapshot, SnapshotMode, TablePlan,
    VerifyRows, Work, WorkResult,
};
use pgconvoy_shared::verify::{RowsCompared, Sample};

use super::Rows;
use crate::world::DATABASE;

/// A name of two lines, a partition tree; the source gets them after the server began.
const SCHEMA: &str = "create table t (id int primary key); insert into t values (1);
    create table \"two\nlines\" (id int); insert into \"two\nlines\" values (2);
    create table p (id int) partition by range (id);
    create table p_monday partition of p for values from (0) to (10); insert into p values (3)";

/// The schema is moved by the task.
async fn rows(mode: SnapshotMode) -> Rows {
    let mut rows = Rows::new(mode, 1 << 20, "select", SCHEMA).await;
    rows.world.spec.types = [MigrationType::Schema, MigrationType::Full].into();
    let moved = rows.world.done(4, Work::SchemaPre).await;
    assert!(matches!(moved, WorkResult::SchemaPre { .. }), "{moved:#?}");
    rows
}

#[tokio::test]
async fn a_table_made_after_the_schema_was_read_is_left_out_and_told() {
    for mode in [SnapshotMode::Task, SnapshotMode::Shard] {
        let rows = rows(mode).await;
        let later = "create table p_tuesday partition of p for values from (10) to (20); \
                     insert into p values (11); create table later (id int)";
        rows.world.source.sql(DATABASE, later).await.unwrap();
        let (done, tables) = rows.survey().await;
        let named = |name| QualifiedName::new("public", name);
        let found: Vec<_> = tables.iter().map(|table| table.name.clone()).collect();
        assert_eq!(found, [named("p_monday"), named("t"), named("two\nlines")]);
        assert_eq!(done.left_out_names, [named("later"), named("p_tuesday")]);
        assert_eq!(done.left_out, 2);
        // The rest goes on.
        rows.migrate().await;
        assert_eq!(rows.at_destination("select string_agg(id::text, ' ') from p").await, "3");
    }
}

#[tokio::test]
async fn a_column_added_after_the_schema_was_read_can_be_mended_at_the_destination() {
    let rows = rows(SnapshotMode::Shard).await;
    let add = "alter table t add more int default 7";
    rows.world.source.sql(DATABASE, add).await.unwrap();
    let (_, tables) = rows.survey().await;
    let (ended, _) = rows.end_of(2, Work::Plan(Rows::to_plan(&tables))).await;
    let Ended::Failed(failure) = ended else { panic!("{ended:#?}") };
    assert_eq!(
        (failure.code.as_str(), failure.class),
        ("undefined_column", FailureClass::Definite)
    );
    assert!(failure.remedy.contains("add the column"), "{}", failure.remedy);
    rows.world.destination.sql(DATABASE, add).await.unwrap();
    rows.migrate().await;
    assert_eq!(rows.at_destination("select more::text from t").await, "7");
}

#[tokio::test]
async fn a_generated_column_that_became_a_plain_one_at_the_destination_stops_its_table() {
    let rows = rows(SnapshotMode::Shard).await;
    let add = "alter table t add twice int generated always as (id * 2) stored";
    for server in [&rows.world.source, &rows.world.destination] {
        server.sql(DATABASE, add).await.unwrap();
    }
    let plain = "alter table t alter twice drop expression";
    rows.world.destination.sql(DATABASE, plain).await.unwrap();
    let (_, tables) = rows.survey().await;
    let (ended, _) = rows.end_of(2, Work::Plan(Rows::to_plan(&tables))).await;
    let Ended::Failed(failure) = ended else { panic!("{ended:#?}") };
    assert_eq!(
        (failure.code.as_str(), failure.class, failure.subject.as_str()),
        ("structure_differs", FailureClass::Definite, "public.t")
    );
    assert!(failure.message.contains("`twice` is generated"), "{}", failure.message);
    let mend = format!("alter table t drop twice; {add}");
    rows.world.destination.sql(DATABASE, &mend).await.unwrap();
    rows.migrate().await;
}

#[tokio::test]
async fn tables_that_come_with_an_extension_are_of_the_schema() {
    // Any extension will do: that the table is a member is what counts.
    let rows = rows(SnapshotMode::Shard).await;
    for server in [&rows.world.source, &rows.world.destination] {
        server.sql(DATABASE, "create table settings (name text)").await.unwrap();
        server.sql(DATABASE, "alter extension plpgsql add table settings").await.unwrap();
    }
    let config = "update pg_extension set extconfig = array['settings'::regclass::oid], extcondition = '{\"\"}' \
                  where extname = 'plpgsql'";
    rows.world.source.sql(DATABASE, config).await.unwrap();
    let (done, tables) = rows.survey().await;
    assert_eq!(done.left_out, 0);
    assert!(tables.iter().any(|table| &*table.name.name == "settings"), "{tables:#?}");
}

#[tokio::test]
async fn a_table_dropped_before_its_comparison_is_planned_is_told_and_the_others_are_compared() {
    let schema = "create table a (id int primary key); create table b (id int primary key)";
    let rows = Rows::new(SnapshotMode::Shard, 1 << 20, schema, "insert into b values (1)").await;
    let (_, tables) = rows.survey().await;
    rows.world.source.sql(DATABASE, "drop table a").await.unwrap();
    let (ended, parts) = rows.end_of(2, Work::VerifyPlan(Rows::to_plan(&tables))).await;
    assert_eq!(ended, Ended::Done(WorkResult::VerifyPlan));
    let [ResultPart::NotCompared { why, .. }, ResultPart::Plan(plan), ..] = &parts[..] else {
        panic!("{parts:#?}")
    };
    assert!(why.differs && why.reason.contains("no such table at the source"), "{why:?}");
    assert_eq!(&*plan.name.name, "b");
}

/// How the one table of a database, all of whose rows one unit compares, is found.
async fn compared(rows: &Rows, planned: &[ResultPart]) -> RowsCompared {
    let [ResultPart::Plan(table), ResultPart::Shards(shards)] = planned else {
        panic!("{planned:#?}")
    };
    compared_with(rows, table, &shards[0], None).await
}

async fn compared_with(
    rows: &Rows,
    table: &TablePlan,
    shard: &PlannedShard,
    snapshot: Option<SharedSnapshot>,
) -> RowsCompared {
    let part = shard.part.clone();
    let (table, bytes) = (table.clone(), 0);
    let shard = CopyShard { table, shard: 0, part, snapshot, barrier: None, bytes };
    let order = Work::VerifyRows(Box::new(VerifyRows { shard, sample: Sample::ALL }));
    match rows.end_of(3, order).await.0 {
        Ended::Done(WorkResult::VerifyRows(compared)) => compared,
        other => panic!("{other:#?}"),
    }
}

async fn planned(rows: &Rows) -> Vec<ResultPart> {
    let (_, tables) = rows.survey().await;
    let (ended, parts) = rows.end_of(2, Work::VerifyPlan(Rows::to_plan(&tables))).await;
    assert_eq!(ended, Ended::Done(WorkResult::VerifyPlan));
    parts
}

#[tokio::test]
async fn a_column_dropped_before_its_rows_are_compared_is_told() {
    let schema = "create table a (id int primary key, t text); insert into a select generate_series(1, 1000)";
    let rows = Rows::new(SnapshotMode::Shard, 1 << 20, schema, "select").await;
    let planned = planned(&rows).await;
    rows.world.source.sql(DATABASE, "alter table a drop t").await.unwrap();
    let why = compared(&rows, &planned).await.not_compared.expect("nothing to compare with");
    assert!(why.differs && why.reason.contains("changed the table's columns"), "{why:?}");
}

#[tokio::test]
async fn rows_too_long_to_be_written_as_text_are_not_compared() {
    // Bytes are copied in their binary form; as text, two digits each, these are more than the server can hold.
    let schema = "create table a (id int primary key, b bytea);
        insert into a select 1, b || b || b from (select decode(repeat('00', 200000000), 'hex') as b) as third";
    let rows = Rows::new(SnapshotMode::Shard, 1 << 30, schema, "select").await;
    let planned = planned(&rows).await;
    let why = compared(&rows, &planned).await.not_compared.expect("it cannot be read");
    assert!(!why.differs && why.reason.contains("too long"), "{why:?}");
}

#[tokio::test]
async fn partitions_that_changed_since_the_moment_are_not_compared_through_their_root() {
    let schema = "create type mood as enum ('a', 'b'); create table root (m mood, n int) partition by hash (m);
        create table leaf_0 partition of root for values with (modulus 2, remainder 0);
        create table leaf_1 partition of root for values with (modulus 2, remainder 1);
        insert into root select m, n from unnest(enum_range(null::mood)) m, generate_series(1, 100) n";
    let changes = [
        ("truncate leaf_0", "public.leaf_0"),
        ("vacuum full leaf_1", "public.leaf_1"),
        ("alter table root detach partition leaf_1", "public.leaf_1"),
        ("drop table leaf_0", "public.leaf_0"),
        (
            "create table leaf_1_0 (m mood, n int); alter table root detach partition leaf_1;
          alter table root attach partition leaf_1_0 for values with (modulus 4, remainder 1)",
            "public.leaf_1, public.leaf_1_0",
        ),
    ];
    for (change, told) in changes {
        let rows = Rows::new(SnapshotMode::Task, 1 << 20, schema, "select").await;
        let (done, tables) = rows.survey().await;
        let (ended, parts) = rows.end_of(2, Work::VerifyPlan(Rows::to_plan(&tables))).await;
        assert_eq!(ended, Ended::Done(WorkResult::VerifyPlan));
        let [ResultPart::Plan(root), ResultPart::Shards(shards), ..] = &parts[..] else {
            panic!("{parts:#?}")
        };
        assert_eq!(root.write_to.to_string(), "public.root");
        let compare = async || compared_with(&rows, root, &shards[0], done.snapshot.clone()).await;
        assert_eq!(compare().await.compared, 200);
        rows.world.source.sql(DATABASE, change).await.unwrap();
        let why = compare().await.not_compared.expect("the moment shows other rows");
        assert!(!why.differs && why.reason.ends_with(told), "{why:?}");
    }
}
