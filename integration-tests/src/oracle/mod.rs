//! The judge: are two databases the same? By plain SQL and pg_dump, with nothing of pgconvoy's own.
//!
//! Three questions, each answered in words a person can act on: are the rows the same (every table and materialized
//! view, by column name), are the sequences, is the schema as pg_dump writes it. Meant for databases that nobody
//! writes to while they are judged; each side is read in one snapshot.

mod rows;
mod schema;
mod sequences;

use std::fmt;

use anyhow::Context;
use tokio_postgres::Client;

use crate::postgres::Postgres;

/// One end of a comparison.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// The server.
    pub server: &'a Postgres,
    /// The database on it.
    pub database: &'a str,
}

impl<'a> End<'a> {
    /// A database of a server.
    pub fn new(server: &'a Postgres, database: &'a str) -> Self {
        End { server, database }
    }

    /// A session in one snapshot, in which values have one text form whatever the server's defaults are.
    pub(crate) async fn snapshot(&self) -> anyhow::Result<Client> {
        let client = self.server.client(self.database).await?;
        client
            .batch_execute(
                "begin isolation level repeatable read read only;
                 set local search_path = '';
                 set local datestyle = 'ISO, YMD';
                 set local intervalstyle = 'postgres';
                 set local timezone = 'UTC';
                 set local extra_float_digits = 3;
                 set local bytea_output = 'hex';
                 set local lc_monetary = 'C';
                 set local xmloption = 'content';
                 set local row_security = off;
                 set local statement_timeout = 0;
                 set local work_mem = '128MB'",
            )
            .await
            .context("begin to read a database for the comparison")?;
        Ok(client)
    }
}

/// What was found to differ, in words; empty when the databases are the same.
#[derive(Debug, Default)]
pub struct Differences {
    found: Vec<String>,
    /// What was compared, so that an empty comparison is not taken for a good one.
    pub compared: Compared,
}

/// How much was compared.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Compared {
    /// Tables and materialized views, each partition for itself.
    pub tables: usize,
    /// Rows at the source.
    pub rows: u64,
    /// Sequences.
    pub sequences: usize,
    /// Lines of the schema's dump.
    pub schema_lines: usize,
}

impl Differences {
    /// Whether the databases are the same.
    pub fn none(&self) -> bool {
        self.found.is_empty()
    }

    /// Fails with all differences, if there is one.
    pub fn refuse(self) -> anyhow::Result<Compared> {
        if self.none() {
            Ok(self.compared)
        } else {
            Err(anyhow::anyhow!("the databases differ:\n{self}"))
        }
    }

    fn note(&mut self, difference: String) {
        self.found.push(difference);
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.found.iter().try_for_each(|difference| writeln!(out, "- {difference}"))
    }
}

/// Compares rows alone.
pub async fn compare_rows(source: End<'_>, destination: End<'_>) -> anyhow::Result<Differences> {
    let mut differences = Differences::default();
    let (left, right) = tokio::try_join!(source.snapshot(), destination.snapshot())?;
    rows::compare(&left, &right, &mut differences).await?;
    Ok(differences)
}

/// Compares rows and sequences.
pub async fn compare_contents(
    source: End<'_>,
    destination: End<'_>,
) -> anyhow::Result<Differences> {
    let mut differences = Differences::default();
    let (left, right) = tokio::try_join!(source.snapshot(), destination.snapshot())?;
    rows::compare(&left, &right, &mut differences).await?;
    sequences::compare(&left, &right, &mut differences).await?;
    Ok(differences)
}

/// Compares rows, sequences and the schema.
pub async fn compare(source: End<'_>, destination: End<'_>) -> anyhow::Result<Differences> {
    let mut differences = compare_contents(source, destination).await?;
    schema::compare(source, destination, &mut differences).await?;
    Ok(differences)
}

/// Everything but the system's schemas and pgconvoy's own, as a condition on `pg_namespace n`.
const USER_SCHEMAS: &str = "n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgconvoy') and n.nspname !~ '^pg_(toast_)?temp_'";
