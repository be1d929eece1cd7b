//! The judge sees a lost row, a doubled row, a changed value, a sequence that stands elsewhere, another schema; and it
//! does not cry where nothing differs.

use pgconvoy_integration_tests::oracle::{self, End};
use pgconvoy_integration_tests::postgres::{Options, Postgres};

const SCHEMA: &str = r#"
    create schema "Odd Schema";
    create table "Odd Schema"."T" (id int generated always as identity primary key, "Name" text, at timestamptz, x float8);
    create table keyless (a int, b text);
    create table parted (k int, v text) partition by list (k);
    create table parted_1 partition of parted for values in (1);
    create materialized view sums as select count(*) from keyless;
    create materialized view later as select 1 as one with no data;
"#;
const ROWS: &str = r#"
    insert into "Odd Schema"."T" ("Name", at, x)
        select nullif('n' || i, 'n3'), timestamptz '2026-01-01 00:00Z' + i * interval '1 h', i / 3.0 from generate_series(1, 500) i;
    insert into keyless values (1, 'same'), (1, 'same'), (2, null), (2, '');
    insert into parted values (1, 'one');
    refresh materialized view sums;
"#;

/// Two databases of one server that are the same.
async fn twins() -> Postgres {
    let server = Postgres::start(Options::default()).await.unwrap();
    for database in ["one", "other"] {
        server.create_database(database).await.unwrap();
        server.sql(database, SCHEMA).await.unwrap();
        server.sql(database, ROWS).await.unwrap();
    }
    server
}

/// What the judge says after a change to one of them.
async fn verdict(server: &Postgres, change: &str) -> String {
    server.sql("other", change).await.unwrap();
    let differences =
        oracle::compare(End::new(server, "one"), End::new(server, "other")).await.unwrap();
    assert!(!differences.none(), "not seen: {change}");
    differences.to_string()
}

#[tokio::test]
async fn twins_do_not_differ_whatever_the_order_of_rows_columns_and_settings() {
    let server = twins().await;
    server
        .sql("other", "alter database other set datestyle = 'German'; alter database other set timezone = 'Asia/Tokyo'")
        .await
        .unwrap();
    server
        .sql("other", "begin; create temp table t as table keyless; delete from keyless; insert into keyless select * from t order by b desc; commit")
        .await
        .unwrap();
    let differences =
        oracle::compare(End::new(&server, "one"), End::new(&server, "other")).await.unwrap();
    assert!(differences.none(), "{differences}");
    let compared = differences.refuse().unwrap();
    assert_eq!((compared.tables, compared.rows, compared.sequences), (5, 506, 1));
    assert!(compared.schema_lines > 50);
}

#[tokio::test]
async fn a_lost_row_is_seen_and_named() {
    let server = twins().await;
    let verdict = verdict(&server, r#"delete from "Odd Schema"."T" where id = 77"#).await;
    assert!(
        verdict.contains(r#""Odd Schema"."T" has 500 rows at the source and 499"#),
        "{verdict}"
    );
    assert!(verdict.contains("n77"), "{verdict}");
}

#[tokio::test]
async fn a_changed_value_is_seen_even_null_for_empty() {
    let server = twins().await;
    let verdict = verdict(&server, "update keyless set b = '' where b is null").await;
    assert!(verdict.contains("keyless has 4 rows at the source and 4"), "{verdict}");
}

#[tokio::test]
async fn a_doubled_row_of_a_keyless_table_is_seen() {
    let server = twins().await;
    let verdict = verdict(&server, "insert into keyless values (1, 'same')").await;
    assert!(verdict.contains("(1,same) (3 times, there 2)"), "{verdict}");
}

#[tokio::test]
async fn a_sequence_that_stands_elsewhere_is_seen() {
    let server = twins().await;
    let verdict = verdict(&server, r#"select nextval('"Odd Schema"."T_id_seq"')"#).await;
    assert!(verdict.contains("stands at 500 (handed out) at the source and 501"), "{verdict}");
}

#[tokio::test]
async fn a_missing_index_a_missing_table_and_a_view_without_data_are_seen() {
    let server = twins().await;
    let index = r#"alter table "Odd Schema"."T" drop constraint "T_pkey""#;
    assert!(verdict(&server, index).await.contains("the schema differs"));
    assert!(
        verdict(&server, "drop table parted_1")
            .await
            .contains("table public.parted_1 is only at the source")
    );
    assert!(
        verdict(&server, "refresh materialized view later")
            .await
            .contains("public.later has other columns")
    );
}
