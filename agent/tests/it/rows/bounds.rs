//! However rows and bytes lie in a table and its key: shards are of the size that was asked for, within a factor of four.

use pgconvoy_flow::sql;
use pgconvoy_shared::unit::{Part, PlannedShard, SnapshotMode, TablePlan};

use super::{Rows, is_blocks, is_range, of};
use crate::world::DATABASE;

const SHARD_BYTES: u64 = 256 << 10;

const TABLES: &str = "
    create table crowded (id bigint primary key, t text);
    create table heavy_head (name text primary key, t text, b bytea);
    create table two_columns (a int, b int, t text, primary key (a, b));
    create table stale (id int primary key, t text);
";

/// Nine tenths of the keys in one hundredth of their range; one row in a hundred with most of the bytes, side by side, in
/// TOAST (and wide enough that no block holds many of them, for blocks are not cut); one value in the key's first column for nearly all rows; statistics of a table that was nearly empty.
const SKEWED: &str = "
    alter table heavy_head alter t set storage external, alter b set storage external;
    insert into crowded select case when i % 10 > 0 then 500000 + i else i * 100 end, repeat('x', 150) from generate_series(1, 30000) i;
    insert into heavy_head select to_char(i, 'FM00000'), case when i between 4000 and 4150 then repeat('x', 40000) end,
        case when i between 4000 and 4150 then decode(repeat('00', 1800), 'hex') end
        from generate_series(1, 15000) i;
    insert into two_columns select case when i < 200 then i else 7777 end, i, repeat('x', 150) from generate_series(1, 30000) i;
    insert into stale values (0, 'x');
    analyze stale;
    insert into stale select i, repeat('x', 150) from generate_series(1, 30000) i;
";

/// Bytes that the source holds of a shard.
async fn bytes(rows: &Rows, plan: &TablePlan, shard: &PlannedShard) -> u64 {
    let read = sql::copy_out(plan, &shard.part);
    let (_, rest) = read.split_once(" from only").expect("a query, for it is a part of a table");
    let (selected, _) = rest.rsplit_once(") to stdout").expect("a query");
    let sizes: Vec<String> =
        plan.columns.iter().map(|name| format!("coalesce(pg_column_size({name}), 0)")).collect();
    let query =
        format!("select coalesce(sum(28 + {}), 0)::text from only{selected}", sizes.join(" + "));
    rows.world.source.value(DATABASE, &query).await.unwrap().unwrap().parse().unwrap()
}

async fn all_are_of_the_size_asked_for(mode: SnapshotMode, is_cut: fn(&Part) -> bool) {
    let rows = Rows::new(mode, SHARD_BYTES, TABLES, SKEWED).await;
    let planned = rows.migrate().await;
    for table in ["crowded", "heavy_head", "two_columns", "stale"] {
        let (plan, shards) = of(&planned, &format!("public.{table}"));
        assert!(shards.len() > 8 && shards.iter().all(|shard| is_cut(&shard.part)), "{shards:?}");
        for shard in shards {
            let bytes = bytes(&rows, plan, shard).await;
            assert!(bytes <= 4 * SHARD_BYTES, "{table}: {:?} has {bytes} bytes", shard.part);
        }
    }
    rows.compare().await;
}

#[tokio::test]
async fn ranges_of_a_skewed_key_are_of_the_size_asked_for() {
    all_are_of_the_size_asked_for(SnapshotMode::Shard, is_range).await;
}

#[tokio::test]
async fn ranges_of_blocks_are_of_the_size_asked_for_wherever_the_bytes_are() {
    all_are_of_the_size_asked_for(SnapshotMode::Task, is_blocks).await;
}
