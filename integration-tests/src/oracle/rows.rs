//! Are the rows the same?
//!
//! A row is its columns' text in the order of their names, and its md5 stands for it. A table is 256 buckets by the
//! md5's first byte; a bucket is its count and, for each quarter of the md5s, their sum. So the order of rows, the order
//! of columns and the presence of a key do not matter, two equal rows count twice, nothing has to be sorted, and where
//! two tables differ only the rows of the buckets that differ are fetched to be named.

use std::collections::BTreeMap;

use anyhow::Context;
use tokio_postgres::Client;

use super::{Differences, USER_SCHEMAS};
use crate::postgres::quoted;

/// Rows named per table and side; the rest is counted.
const NAMED_MAX: usize = 5;
/// Buckets looked into: one wrong row lies in one, and a table that is wholly different needs no more.
const BUCKETS_MAX: usize = 4;

type Buckets = BTreeMap<String, (i64, String)>;

struct Table {
    /// Columns by name; `None` for a materialized view that holds nothing yet.
    columns: Option<Vec<String>>,
}

pub(super) async fn compare(
    source: &Client,
    destination: &Client,
    differences: &mut Differences,
) -> anyhow::Result<()> {
    let (left, right) = tokio::try_join!(tables(source), tables(destination))?;
    for name in right.keys().filter(|name| !left.contains_key(*name)) {
        differences.note(format!("table {name} is only at the destination"));
    }
    for (name, table) in &left {
        match right.get(name) {
            None => differences.note(format!("table {name} is only at the source")),
            Some(other) if table.columns != other.columns => differences.note(format!(
                "table {name} has other columns: {:?} at the source, {:?} at the destination",
                table.columns, other.columns
            )),
            Some(_) => {
                if let Some(columns) = &table.columns {
                    compare_table(source, destination, name, columns, differences).await?;
                }
            }
        }
        differences.compared.tables += 1;
    }
    Ok(())
}

async fn tables(client: &Client) -> anyhow::Result<BTreeMap<String, Table>> {
    let query = format!(
        "select format('%I.%I', n.nspname, c.relname) as name, c.relispopulated,
                array(select a.attname::text from pg_catalog.pg_attribute a
                       where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                       order by a.attname::text collate \"C\") as columns
           from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
          where c.relkind in ('r', 'm') and {USER_SCHEMAS}"
    );
    let rows = client.query(&query, &[]).await.context("list tables")?;
    let table = |row: &tokio_postgres::Row| {
        let populated: bool = row.get("relispopulated");
        (row.get("name"), Table { columns: populated.then(|| row.get("columns")) })
    };
    Ok(rows.iter().map(table).collect())
}

async fn compare_table(
    source: &Client,
    destination: &Client,
    name: &str,
    columns: &[String],
    differences: &mut Differences,
) -> anyhow::Result<()> {
    let rows = rows_of(name, columns);
    let (left, right) = tokio::try_join!(buckets(source, &rows), buckets(destination, &rows))
        .with_context(|| format!("read table {name}"))?;
    let count = |buckets: &Buckets| buckets.values().map(|(count, _)| count).sum::<i64>();
    differences.compared.rows += u64::try_from(count(&left))?;
    let unequal: Vec<&String> = left
        .keys()
        .chain(right.keys().filter(|bucket| !left.contains_key(*bucket)))
        .filter(|bucket| left.get(*bucket) != right.get(*bucket))
        .collect();
    if unequal.is_empty() {
        return Ok(());
    }
    let looked_into: Vec<&String> = unequal.iter().copied().take(BUCKETS_MAX).collect();
    let (left_rows, right_rows) = tokio::try_join!(
        fetch(source, &rows, &looked_into),
        fetch(destination, &rows, &looked_into)
    )?;
    differences.note(format!(
        "table {name} has {} rows at the source and {} at the destination; {} of 256 buckets differ{}{}",
        count(&left),
        count(&right),
        unequal.len(),
        named("only at the source", &left_rows, &right_rows),
        named("only at the destination", &right_rows, &left_rows),
    ));
    Ok(())
}

/// A query of (md5, text) of each row. Without `offset 0` the planner would reckon the md5 anew wherever it is used.
fn rows_of(table: &str, columns: &[String]) -> String {
    let columns: Vec<String> = columns.iter().map(|column| quoted(column)).collect();
    format!(
        "select md5(line) as h, line from (select row({})::text as line from only {table}) as lines offset 0",
        columns.join(", ")
    )
}

async fn buckets(client: &Client, rows: &str) -> Result<Buckets, tokio_postgres::Error> {
    let quarter = |at: u32| format!("sum(('x' || substr(h, {at}, 8))::bit(32)::bigint)");
    let sums = [1, 9, 17, 25].map(quarter).join(", ");
    let query = format!(
        "select substr(h, 1, 2), count(*), concat_ws(' ', {sums}) from ({rows}) as r group by 1"
    );
    let rows = client.query(&query, &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect())
}

/// The rows of some buckets, each with how often it is there.
async fn fetch(
    client: &Client,
    rows: &str,
    buckets: &[&String],
) -> Result<BTreeMap<String, i64>, tokio_postgres::Error> {
    let query = format!(
        "select left(line, 300), count(*) from ({rows}) as r where substr(h, 1, 2) = any($1) group by h, 1"
    );
    let rows = client.query(&query, &[&buckets]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

fn named(title: &str, here: &BTreeMap<String, i64>, there: &BTreeMap<String, i64>) -> String {
    let only: Vec<String> = here
        .iter()
        .filter(|(line, count)| there.get(*line).unwrap_or(&0) < count)
        .map(|(line, count)| match there.get(line) {
            None => line.clone(),
            Some(other) => format!("{line} ({count} times, there {other})"),
        })
        .collect();
    match only.len() {
        0 => String::new(),
        n => {
            let more = if n > NAMED_MAX {
                format!("\n      and {} more", n - NAMED_MAX)
            } else {
                String::new()
            };
            let some: String =
                only.iter().take(NAMED_MAX).map(|line| format!("\n      {line}")).collect();
            format!("\n    {title}:{some}{more}")
        }
    }
}
