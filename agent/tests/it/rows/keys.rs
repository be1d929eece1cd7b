//! Tables are cut by keys of every ordered type, in the order of whichever server, collation or direction: evenly, and
//! without a row that is in two shards or in none. Nothing was analyzed, so there are no statistics to go by.

use pgconvoy_integration_tests::postgres::{Major, Options};
use pgconvoy_shared::epoch::Generation;
use pgconvoy_shared::unit::{Ended, Part, SnapshotMode};

use super::{Rows, is_range, of};
use crate::world::{DATABASE, World};

const KIB: u64 = 1024;
const SHARD_BYTES: u64 = 64 * KIB;
/// Of some 300 bytes each, so about six shards.
const ROWS: u32 = 1200;

const TYPES: &str = r#"
    create schema k;
    create extension citext schema k;
    create type k.mood as enum ('z', 'y', 'it''s \ "x"', 'a');
    create domain k.short as varchar(40) collate "C";
    create domain k.number as bigint check (value > -1000000);
    create type k.pair as (a int, b text);
    create collation k.upper_first (provider = icu, locale = 'en-u-kf-upper');
    create collation k.any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
"#;

/// A key, and its values in row `n`, scrambled and skewed.
struct Key {
    name: &'static str,
    /// Types of its columns, which are called `k1`, `k2` and so on.
    types: &'static [&'static str],
    values: &'static str,
    /// Anything else than the primary key over all columns.
    index: Option<&'static str>,
    cuts: bool,
}

const fn key(name: &'static str, types: &'static [&'static str], values: &'static str) -> Key {
    Key { name, types, values, index: None, cuts: true }
}

const fn by_index(
    name: &'static str,
    types: &'static [&'static str],
    values: &'static str,
    index: &'static str,
) -> Key {
    Key { index: Some(index), ..key(name, types, values) }
}

const fn uncut(key: Key) -> Key {
    Key { cuts: false, ..key }
}

const KEYS: &[Key] = &[
    key("int2", &["int2"], "n * 7919 % 1201 - 600"),
    key("int4_at_one_end", &["int4"], "case when n < 1100 then 2147483647 - n else -n end"),
    key("int8", &["int8"], "(n * 7919 % 1201 - 600)::int8 * 9000000000000000"),
    key("oid", &["oid"], "(4294967295 - n)::oid"),
    key("numeric_growing", &["numeric"], "round(1.5 ^ (n / 4.0), n % 7)::text::numeric + n % 4"),
    key("numeric_of_scales", &["numeric"], "case n when 1 then 'NaN' else round(n, n % 5) end"),
    key("numeric_fixed", &["numeric(12, 2)"], "n / 7.0"),
    key(
        "float4",
        &["float4"],
        "case n when 1 then 'NaN' when 2 then 'Infinity' when 3 then '-0' else n / 7.0 end",
    ),
    key(
        "float8",
        &["float8"],
        "case n when 1 then 'NaN' when 2 then '-Infinity' else 5e-324 * n end",
    ),
    key("money", &["money"], "(n - 600) * '0.01'::money"),
    key("bool_int", &["bool", "int"], "n % 10 > 0, n"),
    key("text_of_database", &["text"], "chr(65 + n % 57) || E'\\'\\\\ ' || n"),
    key("text_c", &["text collate \"C\""], "'the same beginning for most of them ' || n"),
    key("text_glibc", &["text collate \"C.utf8\""], "chr(200 + n % 900) || n"),
    key(
        "text_icu",
        &["text collate \"de-x-icu\""],
        "(array['ä', 'a', 'Z', 'ß', 'É', '-', ''])[1 + n % 7] || n",
    ),
    key(
        "text_upper_first",
        &["text collate k.upper_first"],
        "(array['a', 'A', 'b', 'B'])[1 + n % 4] || n",
    ),
    key(
        "text_any_case",
        &["text collate k.any_case"],
        "(array['a', 'A', 'b', 'B'])[1 + n % 4] || n",
    ),
    key("varchar", &["varchar(20)"], "md5(n::text)::varchar(16)"),
    key("char_padded", &["char(12)"], "repeat(' ', n % 3) || n || repeat(' ', n % 4)"),
    key("name", &["name"], "'n' || md5(n::text)"),
    key("char_int", &["\"char\"", "int"], "chr(33 + n % 90)::\"char\", n"),
    key("bytea", &["bytea"], "decode(md5(n::text), 'hex')"),
    key("bit", &["bit(16)"], "(n * 53)::bit(16)"),
    key("varbit", &["varbit"], "substring(n::bit(20) from 1 + n % 5) || n::bit(11)"),
    key("uuid", &["uuid"], "md5(n::text)::uuid"),
    key(
        "date",
        &["date"],
        "case n when 1 then 'infinity' when 2 then '4713-01-01 BC' else date '2024-01-01' - n end",
    ),
    key("time", &["time"], "time '00:00' + n * interval '71 s'"),
    key(
        "timetz",
        &["timetz"],
        "(time '00:00' + n * interval '13 s') at time zone (n % 12 * interval '-1 h')",
    ),
    key("timestamp", &["timestamp"], "timestamp '2024-01-01' + n * interval '1 us'"),
    key(
        "timestamptz",
        &["timestamptz"],
        "case n when 1 then '-infinity' else timestamptz '2024-10-27 00:00Z' + n * interval '7 s' end",
    ),
    key("interval", &["interval"], "n * interval '1 mon -29 days 01:00:00.000001'"),
    key("inet", &["inet"], "inet '10.0.0.0/8' + n * 65537"),
    key("cidr", &["cidr"], "(inet '2001:db8::/128' + n)::cidr"),
    key("macaddr", &["macaddr"], "left(md5(n::text), 12)::macaddr"),
    key("macaddr8", &["macaddr8"], "left(md5(n::text), 16)::macaddr8"),
    key("pg_lsn", &["pg_lsn"], "'16/0'::pg_lsn + n"),
    key("tid", &["tid"], "format('(%s,%s)', n % 100, n)::tid"),
    key("enum_int", &["k.mood", "int"], "(enum_range(null::k.mood))[1 + n % 4], n"),
    key("domain_number", &["k.number"], "n * 7919 % 1201"),
    key("domain_text", &["k.short"], "md5(n::text)"),
    key("array_int", &["int[]"], "array[n % 7, n, null]"),
    key("array_text", &["text[] collate \"C\""], "array[md5(n::text), '\"\\', '']"),
    key("range_int", &["int4range"], "int4range(n % 100, n + 200)"),
    key(
        "range_time",
        &["tsrange"],
        "tsrange(timestamp '2024-01-01' + n * interval '1 us', null, '(]')",
    ),
    key("composite", &["k.pair"], "row(n % 9, 'b,\" ' || n)::k.pair"),
    key("jsonb", &["jsonb"], "jsonb_build_object('k', n)"),
    key("tsvector", &["tsvector"], "to_tsvector('simple', 'word' || n)"),
    key("text_and_int", &["text", "int"], "repeat('same ', 3), n"),
    key(
        "three",
        &["k.mood", "uuid", "varchar(10) collate \"C\""],
        "'y'::k.mood, md5((n / 3)::text)::uuid, n",
    ),
    by_index(
        "falling",
        &["int not null", "text not null"],
        "n % 50, n",
        "unique index on {t} (k1 desc, k2 desc)",
    ),
    by_index(
        "falling_nulls_last",
        &["int not null"],
        "n",
        "unique index on {t} (k1 desc nulls last)",
    ),
    by_index(
        "including",
        &["int not null", "int"],
        "n, n",
        "unique index on {t} (k1) include (k2)",
    ),
    // What no comparison of rows follows: directions that differ, an order or a collation that is the index's own, operators
    // that an empty search_path does not find, nulls.
    uncut(by_index(
        "two_ways",
        &["int not null", "int not null"],
        "n % 50, n",
        "unique index on {t} (k1, k2 desc)",
    )),
    uncut(by_index(
        "by_pattern",
        &["text not null"],
        "n",
        "unique index on {t} (k1 text_pattern_ops)",
    )),
    uncut(by_index(
        "other_collation",
        &["text not null"],
        "n",
        "unique index on {t} (k1 collate \"de-x-icu\")",
    )),
    uncut(by_index("with_nulls", &["int"], "nullif(n, 7)", "unique index on {t} (k1)")),
    uncut(by_index("of_some", &["int not null"], "n", "unique index on {t} (k1) where k1 > 0")),
    uncut(key("citext", &["k.citext"], "md5(n::text)")),
];

#[tokio::test]
async fn tables_are_cut_evenly_by_keys_of_every_type() {
    let mut schema = TYPES.to_owned();
    let mut inserts = String::new();
    for Key { name, types, values, index, .. } in KEYS {
        let table = format!("k.by_{name}");
        let names: Vec<String> = (1..=types.len()).map(|nth| format!("k{nth}")).collect();
        let columns: Vec<String> =
            names.iter().zip(*types).map(|(name, of)| format!("{name} {of}")).collect();
        schema += &format!("create table {table} ({}, filler text);\n", columns.join(", "));
        schema += &match index {
            Some(index) => format!("create {};\n", index.replace("{t}", &table)),
            None => format!("alter table {table} add primary key ({});\n", names.join(", ")),
        };
        inserts += &format!(
            "insert into {table} select {values}, repeat(md5(n::text), 1 + n % 16) from generate_series(1, {ROWS}) n;\n"
        );
    }
    let rows = Rows::new(SnapshotMode::Shard, SHARD_BYTES, &schema, &inserts).await;
    let (done, tables) = rows.survey().await;
    let planned = rows.plan(Rows::to_plan(&tables)).await;
    let mut unit = 10;
    for table in &planned {
        let (plan, shards) = table;
        let key = KEYS.iter().find(|key| plan.name.to_string() == format!("k.by_{}", key.name));
        let cuts = key.unwrap_or_else(|| panic!("{}", plan.name)).cuts;
        let ranges = shards.len() >= 4 && shards.iter().all(|shard| is_range(&shard.part));
        assert_eq!(ranges, cuts, "{}: {shards:#?}", plan.name);
        let mut copied = 0;
        for shard in Rows::to_copy(&done, table) {
            let done = rows.copy(unit, &shard).await.unwrap();
            assert!(!cuts || done.bytes <= 4 * SHARD_BYTES, "{}: {done:?}", plan.name);
            copied += done.rows;
            unit += 1;
        }
        assert_eq!(copied, u64::from(ROWS), "{}", plan.name);
    }
    assert_eq!(planned.len(), KEYS.len());
    rows.compare().await;
}

/// A key that is unique and no primary one: nulls may be allowed, or never have been looked for.
const NULLABLE: &str = "create table t (k int not null unique, filler text)";
const MANY: &str = "insert into t select n, repeat('x', 300) from generate_series(1, 1200) n";

#[tokio::test]
async fn a_row_whose_key_became_null_after_the_plan_is_not_lost() {
    let rows = Rows::new(SnapshotMode::Shard, SHARD_BYTES, NULLABLE, MANY).await;
    let (done, tables) = rows.survey().await;
    let planned = rows.plan(Rows::to_plan(&tables)).await;
    let later =
        "alter table t alter k drop not null; insert into t values (null, 'no range holds it')";
    rows.world.source.sql(DATABASE, later).await.unwrap();
    let shards = Rows::to_copy(&done, of(&planned, "public.t"));
    assert!(shards.len() >= 4 && shards.iter().all(|shard| is_range(&shard.part)));
    for (unit, shard) in (10..).zip(&shards) {
        let ended = rows.copy(unit, shard).await.unwrap_err();
        assert!(matches!(ended, Ended::TableChanged { .. }), "{ended:#?}");
    }
    let mut again = Rows::to_plan(&tables);
    again[0].generation = Generation(2);
    rows.world.destination.sql(DATABASE, "alter table t alter k drop not null").await.unwrap();
    let planned = rows.plan(again).await;
    let [shard] = &Rows::to_copy(&done, of(&planned, "public.t"))[..] else {
        panic!("{planned:#?}")
    };
    assert_eq!(shard.part, Part::Whole);
    assert_eq!(rows.copy(50, shard).await.unwrap().rows, 1201);
    rows.compare().await;
}

#[tokio::test]
async fn a_key_whose_rows_were_never_looked_at_for_nulls_cuts_nothing() {
    let Some(major) = Major::fetched(18) else { return };
    let options = Options::default().major(major);
    let schema = "create table t (k int unique, filler text)";
    let never = format!(
        "{MANY}; insert into t values (null, 'no range holds it'); alter table t add constraint n not null k not valid"
    );
    let world = World::with(options.clone(), options).await.unwrap();
    let rows = Rows::of(world, SnapshotMode::Shard, SHARD_BYTES, schema, &never).await;
    let planned = rows.migrate().await;
    let (_, shards) = of(&planned, "public.t");
    assert!(matches!(&shards[..], [whole] if whole.part == Part::Whole), "{shards:#?}");
    rows.compare().await;
}
