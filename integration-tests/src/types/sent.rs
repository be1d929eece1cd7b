//! Are values the same as the bytes that their types' own functions send? A judge beside that of texts, for it sees
//! what a text may hide: the sign of a zero, the digits of a number, the bits of a float.

use anyhow::{Context, ensure};
use tokio_postgres::Client;

use crate::oracle::End;
use crate::postgres::quoted;

/// The columns of a table whose built-in types send no object id of the database's own.
const COLUMNS: &str = r"
    select format('%I.%I', n.nspname, c.relname), array_agg(a.attname::text order by a.attnum),
        array_agg(format('%I.%I', f.pronamespace::regnamespace, f.proname) order by a.attnum)
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    join pg_type t on t.oid = a.atttypid left join pg_type e on e.oid = t.typelem and t.typcategory = 'A'
    join pg_proc f on f.oid = t.typsend
    where c.relkind = 'r' and n.nspname not in ('pg_catalog', 'information_schema')
    and t.typnamespace = 'pg_catalog'::regnamespace and t.typtype in ('b', 'r', 'm')
    and t.typname <> 'refcursor' -- a text by another name, for which there is no function
    and coalesce(e.typsend, 1) <> 0 and coalesce(e.typname, t.typname) !~ '^reg'
    and exists (select from pg_attribute id where id.attrelid = c.oid and id.attname = 'id')
    group by 1 order by 1";

/// Fails if a column of a table with a column `id` differs; tells how many were compared.
pub async fn compare(source: End<'_>, destination: End<'_>) -> anyhow::Result<usize> {
    let (left, right) = tokio::try_join!(source.snapshot(), destination.snapshot())?;
    let (left, right) = tokio::try_join!(digests(&left), digests(&right))?;
    let differ: Vec<&(String, Option<String>)> =
        left.iter().filter(|digest| !right.contains(digest)).collect();
    ensure!(left.len() == right.len() && differ.is_empty(), "sent differently: {differ:#?}");
    Ok(left.len())
}

async fn digests(client: &Client) -> anyhow::Result<Vec<(String, Option<String>)>> {
    let mut digests = Vec::new();
    for table in client.query(COLUMNS, &[]).await.context("list columns")? {
        let (name, columns, send): (String, Vec<String>, Vec<String>) =
            (table.get(0), table.get(1), table.get(2));
        let digest = |(column, send): (&String, &String)| {
            format!("md5(string_agg(encode({send}({}), 'hex'), ',' order by id))", quoted(column))
        };
        let asked: Vec<String> = columns.iter().zip(&send).map(digest).collect();
        let query = format!("select {} from only {name}", asked.join(", "));
        let row = client.query_one(&query, &[]).await.with_context(|| format!("read {name}"))?;
        let told = columns
            .iter()
            .enumerate()
            .map(|(at, column)| (format!("{name}.{column}"), row.get(at)));
        digests.extend(told);
    }
    Ok(digests)
}
