//! What the destination itself says of the rows on their way into it.
//!
//! The server's own view of running COPY commands tells how many bytes of a shard it took in that no transaction
//! committed yet: that is what "bytes in flight" means here, and pgconvoy has no say in it. Which unit a session serves
//! stands in its `application_name`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use tokio_postgres::Client;

use crate::wait;

/// Bytes taken in and not committed, by unit.
pub(super) type InFlight = BTreeMap<u32, u64>;

/// A session at the destination that watches the others.
pub(super) struct Witness {
    client: Client,
    task: String,
}

impl Witness {
    pub(super) fn new(client: Client, task: &str) -> Witness {
        Witness { client, task: task.to_owned() }
    }

    /// What is in flight at this moment.
    pub(super) async fn in_flight(&self) -> anyhow::Result<InFlight> {
        let rows = self
            .client
            .query(
                "select split_part(split_part(a.application_name, '/', 4), '.', 1)::int8, p.bytes_processed
                   from pg_catalog.pg_stat_progress_copy p join pg_catalog.pg_stat_activity a using (pid)
                  where p.command = 'COPY FROM' and p.bytes_processed > 0
                    and a.application_name ~ '^pgconvoy/[^/]+/copy/[0-9]+[.]'
                    and split_part(a.application_name, '/', 2) = $1",
                &[&self.task],
            )
            .await
            .context("ask the destination for running COPY commands")?;
        rows.iter()
            .map(|row| {
                let (unit, bytes): (i64, i64) = (row.get(0), row.get(1));
                Ok((u32::try_from(unit)?, u64::try_from(bytes)?))
            })
            .collect()
    }

    /// What is in flight once nothing arrives any more, for senders that stand still: what they sent before may
    /// still be on its way, and may be the end of a shard.
    pub(super) async fn settled(&self) -> anyhow::Result<InFlight> {
        let mut before = self.in_flight().await?;
        let mut same = 0;
        wait::until(
            Duration::from_secs(10),
            "the destination to take in what was sent",
            async || {
                let now = self.in_flight().await.map_err(|error| format!("{error:#}"))?;
                same = if now == before { same + 1 } else { 0 };
                before = now;
                // The pauses between the looks grow: five equal ones are 0.3 s without a byte.
                if same >= 5 { Ok(before.clone()) } else { Err(format!("{before:?}")) }
            },
        )
        .await
        .map_err(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use futures::SinkExt;

    use super::*;
    use crate::postgres::{Options, Postgres};

    #[tokio::test]
    async fn a_shard_on_its_way_is_seen_until_it_is_rolled_back() {
        let server = Postgres::start(Options::default()).await.unwrap();
        server.sql("postgres", "create table t (line text)").await.unwrap();
        let witness = Witness::new(server.client("postgres").await.unwrap(), "task1");
        assert_eq!(witness.in_flight().await.unwrap(), InFlight::new());

        let copy = async |name: &str| {
            let client = server.client("postgres").await.unwrap();
            client.batch_execute(&format!("set application_name = '{name}'")).await.unwrap();
            let sink = client.copy_in::<_, &'static [u8]>("copy t from stdin").await.unwrap();
            let mut sink = Box::pin(sink);
            sink.send(b"a row\nhalf a r").await.unwrap();
            sink.flush().await.unwrap();
            (client, sink)
        };
        let ours = copy("pgconvoy/task1/copy/17.2").await;
        let _another_task = copy("pgconvoy/task2/copy/18.1").await;
        let _no_copy_unit = copy("pgconvoy/task1/plan/19.1").await;
        wait::until(Duration::from_secs(10), "14 bytes of unit 17", async || {
            match witness.settled().await {
                Ok(seen) if seen == InFlight::from([(17, 14)]) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
        .unwrap();

        drop(ours);
        wait::until(Duration::from_secs(10), "nothing in flight", async || {
            match witness.in_flight().await {
                Ok(seen) if seen.is_empty() => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
        .unwrap();
    }
}
