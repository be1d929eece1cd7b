//! A shop to move: a database that holds a bit of everything PostgreSQL has, of any size.
//!
//! Scale 1 is about 1 GB; tests take 0.01. The rows follow from their numbers alone, so that two shops of one scale
//! are equal. Made as a dump is restored, rows before keys before references, several sections at a time.

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, stream};

use crate::postgres::Postgres;

const TABLES: &str = include_str!("1_tables.sql");
const ROWS: &str = include_str!("2_rows.sql");
const KEYS: &str = include_str!("3_keys.sql");
const GRAPH: &str = include_str!("4_graph.sql");

/// Counts at scale 1, by the name they have in the sections. Every customer has an address, so there are more of them.
const COUNTS: &[(&str, u32)] = &[
    ("orders", 1_000_000),
    ("customers", 300_000),
    ("addresses", 400_000),
    ("products", 40_000),
    ("reviews", 200_000),
    ("views", 1_200_000),
    ("documents", 16_000),
    ("moves", 300_000),
    ("tickets", 5_000),
];

/// Sections at a time: what two cores can do.
const AT_A_TIME: usize = 3;

/// Makes a database and fills it.
pub async fn build(server: &Postgres, database: &str, scale: f64) -> anyhow::Result<()> {
    server.create_database(database).await?;
    run(server, database, "tables", TABLES).await?;
    for part in [ROWS, KEYS] {
        sections(server, database, &scaled(part, scale)).await?;
    }
    run(server, database, "graph", GRAPH).await?;
    server.sql(database, "vacuum").await?;
    server.sql(database, "analyze").await
}

async fn sections(server: &Postgres, database: &str, script: &str) -> anyhow::Result<()> {
    let sections =
        script.split("-- section: ").skip(1).filter_map(|section| section.split_once('\n'));
    stream::iter(sections)
        .map(|(name, statements)| run(server, database, name, statements))
        .buffer_unordered(AT_A_TIME)
        .try_collect()
        .await
}

async fn run(
    server: &Postgres,
    database: &str,
    name: &str,
    statements: &str,
) -> anyhow::Result<()> {
    let client = server.client(database).await?;
    client
        .batch_execute("set timezone = 'UTC'; set maintenance_work_mem = '256MB'; set synchronous_commit = off")
        .await?;
    client.batch_execute(statements).await.with_context(|| format!("make the shop's {name}"))
}

/// Puts the counts in.
fn scaled(script: &str, scale: f64) -> String {
    COUNTS.iter().fold(script.to_owned(), |script, (name, count)| {
        // The smallest shop still has each kind of row.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small positive number"
        )]
        let count = ((f64::from(*count) * scale) as u64).max(300);
        script.replace(&format!("{{{name}}}"), &count.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_has_a_place_and_every_place_a_count() {
        let script = scaled(ROWS, 0.5);
        assert!(script.contains("500000"));
        for (name, _) in COUNTS {
            assert!(ROWS.contains(&format!("{{{name}}}")), "{name} is not used");
            assert!(!script.contains(&format!("{{{name}}}")), "{name} is not replaced");
        }
    }
}
