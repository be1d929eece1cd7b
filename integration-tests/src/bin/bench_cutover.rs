//! For how long a cutover stops writers: `cargo x bench cutover`.
//!
//! Tables with rows, a key and a sequence each move between two throw-away servers that write durably, while writers change
//! them. `pgconvoy migrate --until cutover --fence` brings them to the destination's taking over; how long its writers were
//! stopped, step by step, is in the record. Each write that was acknowledged has to be at the destination then.
#![expect(clippy::print_stdout, reason = "figures for people are what it makes")]

use anyhow::{Context, ensure};
use clap::Parser;
use futures::future::try_join_all;
use pgconvoy_integration_tests::bench::Ends;
use serde_json::Value;
use tokio::task::JoinHandle;

const DATABASE: &str = "bench";

/// Times the cutover of databases with so many tables.
#[derive(Debug, Parser)]
#[command(name = "bench_cutover")]
struct Arguments {
    /// How many tables, in turn.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 1000])]
    tables: Vec<u32>,
    /// Rows of each table.
    #[arg(long, default_value_t = 1_000)]
    rows: u32,
    /// Writers at once.
    #[arg(long, default_value_t = 2)]
    writers: u32,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    tokio::runtime::Runtime::new()?.block_on(async {
        for tables in &arguments.tables {
            one(*tables, &arguments).await?;
        }
        Ok(())
    })
}

async fn one(tables: u32, arguments: &Arguments) -> anyhow::Result<()> {
    let ends = Ends::start(DATABASE).await?;
    let rows = arguments.rows;
    for no in 1..=tables {
        let table = format!(
            "create table t{no} (id bigint generated always as identity primary key, words text);
             insert into t{no} (words) select md5(i::text) from generate_series(1, {rows}) i"
        );
        ends.source.sql(DATABASE, &table).await?;
    }
    let writers = (0..arguments.writers).map(|_| writer(&ends, tables));
    let writers = try_join_all(writers).await?;
    let migrate = ends.pgconvoy("migrate", DATABASE)?.args([
        "--types",
        "schema,full,incremental",
        "--until",
        "cutover",
        "--fence",
        "--output",
        "json",
    ]);
    let timed = ends.timed(migrate).await?;
    let mut acknowledged = 0;
    for writer in writers {
        acknowledged += writer.await?;
    }
    let arrived = count(&ends, tables).await? - u64::from(tables) * u64::from(rows);
    // Of each writer one write may have been done and not acknowledged.
    let missing = acknowledged.saturating_sub(arrived);
    let more = arrived.saturating_sub(acknowledged + u64::from(arguments.writers));
    ensure!(missing + more == 0, "{arrived} writes arrived of {acknowledged} acknowledged");

    let task: Value = serde_json::from_str(&timed.finished.stdout).context("read the task")?;
    let cutover = &task["cutover"];
    let steps: Vec<String> = cutover["steps"]
        .as_array()
        .context("a cutover has steps")?
        .iter()
        .map(|step| format!("{} {} ms", step["step"].as_str().unwrap_or_default(), step["ms"]))
        .collect();
    println!(
        "{tables:5} tables: writers were stopped for {} ms ({}); {} bytes behind before; {acknowledged} writes, all of them arrived; \
         {:.1} s in all",
        cutover["stopped_ms"],
        steps.join(", "),
        cutover["lag_bytes"],
        timed.seconds
    );
    Ok(())
}

/// Writes to one table after the other until it is refused; tells how many writes were acknowledged.
async fn writer(ends: &Ends, tables: u32) -> anyhow::Result<JoinHandle<u64>> {
    let client = ends.source.client(DATABASE).await?;
    Ok(tokio::spawn(async move {
        let mut acknowledged = 0;
        loop {
            let table = acknowledged % u64::from(tables) + 1;
            let write = format!("insert into t{table} (words) values ('written')");
            if client.batch_execute(&write).await.is_err() {
                return acknowledged;
            }
            acknowledged += 1;
        }
    }))
}

/// Rows of all tables at the destination.
async fn count(ends: &Ends, tables: u32) -> anyhow::Result<u64> {
    let client = ends.destination.client(DATABASE).await?;
    let mut rows = 0;
    for no in 1..=tables {
        let row = client.query_one(&format!("select count(*) from t{no}"), &[]).await?;
        rows += u64::try_from(row.get::<_, i64>(0))?;
    }
    Ok(rows)
}
