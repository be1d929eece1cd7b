//! Tables of all kinds arrive as they are.

use pgconvoy_shared::unit::{CopyFormat, Ended, Part, SnapshotMode, Work};

use super::{Rows, is_blocks, is_range, of};
use crate::world::DATABASE;

const KIB: u64 = 1024;

const ODD: &str = r#"
create schema "Odd ""schema"" é";
create type "Odd ""schema"" é"."Mood" as enum ('sad', 'ok', 'it''s \ fine');
create domain "Odd ""schema"" é".short as varchar(10) check (length(value) < 9);
create type "Odd ""schema"" é".pair as (a int, b text);
create table "Odd ""schema"" é"."Select ""x"" -- ; " (
    "Drop" int primary key, "a.b" "Odd ""schema"" é"."Mood", "c d" "Odd ""schema"" é".short,
    "é" "Odd ""schema"" é".pair[], e "Odd ""schema"" é"."Mood"[]);
create table dropped (a int, gone text, b text, gone_too int, c int default 7);
alter table dropped drop gone, drop gone_too;
create table generated (id bigint generated always as identity primary key, a int, twice int generated always as (a * 2) stored, b text);
create table only_generated (twice int generated always as (1 + 1) stored);
create table nothing ();
create table empty (a int primary key);
create table wide (id int primary key, t text, j jsonb, b bytea);
create table plain (i2 int2, i4 int4, i8 int8, f4 float4, f8 float8, n numeric, b bool, t text, v varchar(5), c char(5),
    by bytea, d date, ti time, tz timetz, ts timestamp, tstz timestamptz, iv interval, u uuid, js json, jb jsonb, ia int[], ta text[],
    ip inet, ci cidr, na name, p point);
create table moody (m money, x xml, tsv tsvector, r int4range, ma macaddr, bi bit(3), vb varbit, o oid, rc regclass);
create table parent (id int primary key, t text);
create table child (extra int, primary key (id)) inherits (parent);
create unlogged table unlogged (a int);
create table root (id int, at date, mood "Odd ""schema"" é"."Mood", primary key (id, at)) partition by range (at);
create table root_1 partition of root for values from ('2024-01-01') to ('2025-01-01');
create table root_2 partition of root for values from ('2025-01-01') to ('2026-01-01');
create table hashed (m "Odd ""schema"" é"."Mood", i int) partition by hash (m);
create table hashed_0 partition of hashed for values with (modulus 3, remainder 0);
create table hashed_1 partition of hashed for values with (modulus 3, remainder 1);
create table hashed_2 partition of hashed for values with (modulus 3, remainder 2);
create table int_hashed (i int) partition by hash (i);
create table int_hashed_0 partition of int_hashed for values with (modulus 2, remainder 0);
create table int_hashed_1 partition of int_hashed for values with (modulus 2, remainder 1);
create view seen as select * from parent;
"#;

const ODD_ROWS: &str = r#"
insert into "Odd ""schema"" é"."Select ""x"" -- ; " values
    (1, 'sad', 'x', array[(1, 'a,"b"')::"Odd ""schema"" é".pair, null], '{sad,null}'), (2, 'it''s \ fine', null, null, '[3:4]={ok,ok}');
insert into dropped (a, b) select i, 'b' || i from generate_series(1, 100) i;
insert into generated (a, b) select i, E'tab\tnew\nline\\N\\.' from generate_series(1, 100) i;
insert into only_generated default values; insert into only_generated default values;
insert into nothing default values; insert into nothing default values; insert into nothing default values;
alter table wide alter t set storage external;
insert into wide select i, repeat(md5(i::text), 20000), jsonb_build_object('k', repeat('v', i * 1000)), decode(repeat('00ff', i * 5000), 'hex')
    from generate_series(1, 20) i;
insert into plain values (-32768, 2147483647, -9223372036854775808, 'NaN', 0.1::float8 + 0.2, 'NaN', true, '', 'abc', 'ab', '\x00ff5c', '4713-01-01 BC',
    '24:00:00', '23:59:59.999999+15:59', 'infinity', '-infinity', '1 year 2 mons -3 days 04:05:06.789', gen_random_uuid(), '{"a" : 1, "a":2}', '{"b": [1, null]}',
    '[2:3]={1,null}', array['', null, 'NULL', E'\\', '"'], '10.0.0.1/8', '10.0.0.0/8', 'name', '(1.5,-0)');
insert into plain (n, t) values (1234567890.0987654321000, E'\\N'), ('-0.00', null), (1e100, repeat('é€😀', 1000));
insert into moody values ('-$12,345.67', '<a>&amp;</a>', 'a b:1A', '[1,5)', '08:00:2b:01:02:03', B'101', B'1', 42, 'pg_class');
insert into parent values (1, 'p'), (2, 'p'); insert into child values (2, 'c', 3), (4, 'c', null);
insert into unlogged select generate_series(1, 10);
insert into root select i, date '2024-01-01' + i, 'ok' from generate_series(1, 700) i;
insert into hashed select (array['sad', 'ok', 'it''s \ fine'])[1 + i % 3]::"Odd ""schema"" é"."Mood", i from generate_series(1, 300) i;
insert into int_hashed select generate_series(1, 300);
"#;

#[tokio::test]
async fn odd_tables_arrive_as_they_are() {
    let odd = format!("create type more_oids as enum ('so that oids differ'); {ODD}");
    let rows = Rows::new(SnapshotMode::Task, 256 * KIB * KIB, "select 1", "select 1").await;
    rows.world.source.sql(crate::world::DATABASE, ODD).await.unwrap();
    rows.world.destination.sql(crate::world::DATABASE, &odd).await.unwrap();
    rows.world.source.sql(crate::world::DATABASE, ODD_ROWS).await.unwrap();
    let planned = rows.migrate().await;
    // Rows do not move sequences; their own unit does.
    let (ended, _) = rows.end_of(4, Work::Sequences).await;
    assert!(matches!(ended, Ended::Done(_)), "{ended:#?}");

    let names: Vec<String> = planned.iter().map(|(plan, _)| plan.name.to_string()).collect();
    assert!(
        names.contains(&"public.root_1".to_owned()) && !names.contains(&"public.root".to_owned())
    );
    assert!(!names.iter().any(|name| name.contains("seen") || name.starts_with("pgconvoy.")));
    assert!(planned.iter().all(|(_, shards)| shards.len() == 1));
    assert_eq!(of(&planned, "public.plain").0.format, CopyFormat::Binary);
    assert_eq!(of(&planned, "public.moody").0.format, CopyFormat::Text);
    assert_eq!(of(&planned, "public.hashed_1").0.write_to.to_string(), "public.hashed");
    assert_eq!(of(&planned, "public.int_hashed_1").0.write_to.to_string(), "public.int_hashed_1");
    // Which leaf a row of `hashed` is in depends on object ids, so its leaves are compared by their root.
    let leaves = "alter table hashed detach partition hashed_0; alter table hashed detach partition hashed_1; \
                  alter table hashed detach partition hashed_2; create table hashed_rows as \
                  select * from hashed_0 union all select * from hashed_1 union all select * from hashed_2; \
                  drop table hashed_0, hashed_1, hashed_2";
    rows.world.source.sql(crate::world::DATABASE, leaves).await.unwrap();
    rows.world.destination.sql(crate::world::DATABASE, leaves).await.unwrap();
    rows.world.destination.sql(crate::world::DATABASE, "drop type more_oids").await.unwrap();
    rows.compare().await;
}

#[tokio::test]
async fn ranges_go_by_any_key_that_the_server_can_order() {
    let schema = r#"
        do $$ begin
            create collation turned (provider = icu, locale = 'en-u-kf-upper');
        exception when feature_not_supported then
            create collation turned (locale = 'C');
        end $$;
        create type mood as enum ('z', 'y', 'a', 'b');
        create table by_int (id int primary key, t text);
        create table by_text (k text collate turned primary key, t text);
        create table by_three (a mood, b uuid, "C" varchar(10) collate "C", t text, primary key (a, b, "C"));
        create table by_unique (n numeric(10, 2) not null, ts timestamptz not null, t text, unique (n, ts) include (t));
        create table by_char (c char(12) primary key, t text);
        create table deferred (id int primary key deferrable, t text);
        create table nullable (id int unique, t text);
        create table keyless (id int, t text);
    "#;
    let inserts = r#"
        insert into by_int select i * 1000 - 5000000, repeat('x', 100) from generate_series(1, 10000) i;
        insert into by_text select chr(65 + i % 26) || chr(97 + i % 25) || '''\ ' || md5(i::text), repeat('x', 50) from generate_series(1, 10000) i;
        insert into by_three select (array['z', 'y', 'a', 'b'])[1 + i % 4]::mood, md5(i::text)::uuid, i, repeat('x', 50) from generate_series(1, 10000) i;
        insert into by_unique select i / 7.0, timestamptz '2024-01-01' + i * interval '1 us', repeat('x', 50) from generate_series(1, 10000) i;
        insert into by_char select lpad(to_hex(i), 1 + i % 8, ' ') || chr(97 + i % 26), repeat('x', 100) from generate_series(1, 10000) i on conflict do nothing;
        insert into deferred select i, repeat('x', 100) from generate_series(1, 5000) i;
        insert into nullable select nullif(i, 7), repeat('x', 100) from generate_series(1, 5000) i;
        insert into keyless select i, repeat('x', 100) from generate_series(1, 5000) i;
    "#;
    let rows = Rows::new(SnapshotMode::Shard, 128 * KIB, schema, inserts).await;
    let planned = rows.migrate().await;
    for table in ["by_int", "by_text", "by_three", "by_unique", "by_char"] {
        let (plan, shards) = of(&planned, &format!("public.{table}"));
        assert!(
            shards.len() > 4 && shards.iter().all(|shard| is_range(&shard.part)),
            "{shards:#?}"
        );
        assert!(!plan.key.is_empty() && plan.filenode.is_none());
    }
    for table in ["deferred", "nullable", "keyless"] {
        let (_, shards) = of(&planned, &format!("public.{table}"));
        assert_eq!(shards.len(), 1, "{table} cannot be cut where each shard has its own moment");
        assert_eq!(shards[0].part, Part::Whole);
    }
    rows.compare().await;
}

#[tokio::test]
async fn blocks_cut_any_table_under_one_moment() {
    let schema = "create table t (id int, t text); create table k (id int primary key, t text)";
    let inserts = "insert into t select i, repeat('x', i % 500) from generate_series(1, 20000) i;
         insert into k select * from t; delete from k where id % 3 = 0; update k set t = t || 'y' where id % 5 = 0";
    let rows = Rows::new(SnapshotMode::Task, 256 * KIB, schema, inserts).await;
    let planned = rows.migrate().await;
    let (keyless, keyed) = (&of(&planned, "public.t").1, &of(&planned, "public.k").1);
    if rows.world.source.major().number() < 14 {
        // It would read the whole table for each range of blocks.
        assert_eq!(keyless.len(), 1);
        assert!(keyed.len() > 4 && keyed.iter().all(|shard| is_range(&shard.part)), "{keyed:#?}");
    } else {
        for shards in [keyless, keyed] {
            assert!(
                shards.len() > 4 && shards.iter().all(|shard| is_blocks(&shard.part)),
                "{shards:#?}"
            );
        }
    }
    rows.compare().await;
}

#[tokio::test]
async fn a_database_without_an_encoding_is_copied_byte_by_byte() {
    let rows = Rows::new(SnapshotMode::Task, KIB * KIB, "select 1", "select 1").await;
    let raw = "create database raw encoding 'SQL_ASCII' locale 'C' template template0";
    rows.world.source.sql("postgres", raw).await.unwrap();
    rows.world.destination.sql("postgres", raw).await.unwrap();
    let mut rows = rows;
    rows.world.spec.source.database = "raw".to_owned();
    rows.world.spec.destination.database = "raw".to_owned();
    let table = "create table t (i int, b text)";
    rows.world.source.sql("raw", table).await.unwrap();
    rows.world.destination.sql("raw", table).await.unwrap();
    let insert = r"insert into t values (1, E'\xe9\xff'), (2, 'plain')";
    rows.world.source.sql("raw", insert).await.unwrap();
    rows.migrate().await;
    let bytes = "select string_agg(encode(b::bytea, 'hex'), ' ' order by i) from t";
    let at = rows.world.destination.value("raw", bytes).await.unwrap();
    assert_eq!(at.as_deref(), Some("e9ff 706c61696e"));
}

#[tokio::test]
async fn settings_of_the_destinations_database_change_no_value() {
    // An enum has another number at each end, so these rows travel as text.
    let schema = "create type mood as enum ('glad'); \
                  create table t (id int primary key, moods mood[], at timestamptz, bytes bytea, amount money)";
    let filled = "insert into t values (1, array['glad', null]::mood[], '2020-02-03 04:05:06.789+02', '\\x00ff', 1234.5)";
    let rows = Rows::new(SnapshotMode::Task, 1 << 20, schema, filled).await;
    for set in [
        "array_nulls = off",
        "transform_null_equals = on",
        "\"DateStyle\" = 'German, DMY'",
        "\"TimeZone\" = 'Asia/Tokyo'",
        "bytea_output = 'escape'",
        "standard_conforming_strings = off",
    ] {
        let set = format!("alter database {DATABASE} set {set}");
        rows.world.destination.sql("postgres", &set).await.unwrap();
        rows.world.source.sql("postgres", &set).await.unwrap();
    }
    rows.migrate().await;
    let null = "select (moods[2] is null)::text from t";
    let there = rows.world.destination.value(DATABASE, null).await.unwrap();
    assert_eq!(there.as_deref(), Some("true"));
    rows.compare().await;
}
