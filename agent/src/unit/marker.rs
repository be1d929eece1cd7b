//! Markers: places in the source's log that the stream tells of, and the destination notes.
//!
//! From 14 on a marker is a transaction with a logical message and no change. Before, a stream tells of changes alone; so there it is
//! a row of a table of ours at the source, published with the task's tables from its first use on, which no destination gets. The
//! table goes with the publication ([`remove`]).

use pgconvoy_shared::ids::TaskId;
use pgconvoy_shared::name::{QualifiedName, quote_identifier};

use super::open_stream;
use crate::pg::{PgError, Session};

/// The prefix of messages that are markers.
pub(super) const PREFIX: &str = "pgconvoy.marker";

/// Streams tell of messages from this major on.
const MESSAGES: u32 = 14;

/// At the source; what the destination's schema of that name has, no source's has.
const SCHEMA: &str = "pgconvoy";

/// The table of a task's markers, where they are rows: its one row has the last one.
pub(super) fn table(task: &TaskId) -> QualifiedName {
    QualifiedName::new(SCHEMA, open_stream::name(task))
}

/// Where the marker stands in the table's rows.
pub(super) const COLUMN: usize = 1;

/// Writes a marker, on disk when this returns. A source that is read-only by default is written to all the same.
pub(super) async fn write(session: &Session, task: &TaskId, marker: &str) -> Result<(), PgError> {
    if session.major() >= MESSAGES {
        let emit = "select pg_catalog.pg_logical_emit_message(true, $1, $2::text)";
        let prefix = PREFIX;
        session.query(emit, &[&prefix, &marker]).await?;
        return Ok(());
    }
    publish(session, task).await?;
    session.batch_execute("begin read write; set local synchronous_commit = on").await?;
    let put = format!(
        "insert into {} (only_row, marker) values (true, $1) on conflict (only_row) do update set marker = excluded.marker",
        table(task).quoted()
    );
    session.execute(&put, &[&marker]).await?;
    Ok(session.batch_execute("commit").await?)
}

/// Makes the table, and publishes it, where that is not done: in a transaction before that of the first marker.
async fn publish(session: &Session, task: &TaskId) -> Result<(), PgError> {
    let name = open_stream::name(task);
    let ask = "select from pg_catalog.pg_publication_tables where pubname = $1 and schemaname = $2 and tablename = $1";
    let schema = SCHEMA;
    if session.query_opt(ask, &[&name, &schema]).await?.is_some() {
        return Ok(());
    }
    let (publication, table) = (quote_identifier(&name), table(task).quoted());
    let make = format!(
        "begin read write; set local client_min_messages = warning; create schema if not exists {SCHEMA};
         create table if not exists {table} (only_row boolean primary key, marker text not null);
         alter publication {publication} add table {table}; commit"
    );
    Ok(session.batch_execute(&make).await?)
}

/// Removes the table, as far as it is there, and the schema with the last one.
pub(super) async fn remove(session: &Session, task: &TaskId) -> Result<(), PgError> {
    let table = table(task).quoted();
    let there = "select pg_catalog.to_regclass($1) is not null";
    if !session.query_one(there, &[&table]).await?.get::<_, bool>(0) {
        return Ok(());
    }
    let remove = format!(
        "begin read write; drop table {table}; do $$ begin drop schema {SCHEMA};
         exception when dependent_objects_still_exist then null; end $$; commit"
    );
    Ok(session.batch_execute(&remove).await?)
}
