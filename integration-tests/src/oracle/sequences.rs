//! Do the sequences stand at the same value?

use std::collections::BTreeMap;

use anyhow::Context;
use tokio_postgres::Client;

use super::{Differences, USER_SCHEMAS};

pub(super) async fn compare(
    source: &Client,
    destination: &Client,
    differences: &mut Differences,
) -> anyhow::Result<()> {
    let (left, right) = tokio::try_join!(values(source), values(destination))?;
    for name in right.keys().filter(|name| !left.contains_key(*name)) {
        differences.note(format!("sequence {name} is only at the destination"));
    }
    for (name, value) in &left {
        match right.get(name) {
            None => differences.note(format!("sequence {name} is only at the source")),
            Some(other) if other != value => differences.note(format!(
                "sequence {name} stands at {} at the source and {} at the destination",
                show(*value),
                show(*other)
            )),
            Some(_) => {}
        }
    }
    differences.compared.sequences = left.len();
    Ok(())
}

/// Last value and whether it was handed out, for each sequence.
async fn values(client: &Client) -> anyhow::Result<BTreeMap<String, (i64, bool)>> {
    let query = format!(
        "select format('%I.%I', n.nspname, c.relname)
           from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
          where c.relkind = 'S' and {USER_SCHEMAS}"
    );
    let mut values = BTreeMap::new();
    for row in client.query(&query, &[]).await.context("list sequences")? {
        let name: String = row.get(0);
        let row = client
            .query_one(&format!("select last_value, is_called from {name}"), &[])
            .await
            .with_context(|| format!("read sequence {name}"))?;
        values.insert(name, (row.get(0), row.get(1)));
    }
    Ok(values)
}

fn show((last, called): (i64, bool)) -> String {
    format!("{last} ({})", if called { "handed out" } else { "not handed out" })
}
