//! Markers: places in the source's log that the stream tells of, and the destination notes.
//!
//! From 14 on a marker is a transaction with a logical message and no change. Before, a stream tells of changes alone; so there it is
//! a row of a table of ours at the source, published with the task's tables from a cutover's check on, which no destination gets. The
//! table goes with the publication ([`remove`]).

use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::TaskId;
use pgconvoy_shared::name::{QualifiedName, quote_identifier};

use super::open_stream;
use crate::pg::sqlstate::INSUFFICIENT_PRIVILEGE;
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

/// Makes everything ready for markers. What stands in their way.
pub(super) async fn prepare(session: &Session, task: &TaskId) -> Result<Option<Failure>, PgError> {
    if session.major() >= MESSAGES {
        return Ok(None);
    }
    let ask = "select pubname::text from pg_catalog.pg_publication where puballtables order by 1";
    let rows = session.query(ask, &[]).await?;
    if !rows.is_empty() {
        let names: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
        let message = format!(
            "a source of PostgreSQL 13 is given a table of ours, {}, which publications for all tables publish, too: {}",
            table(task),
            names.join(", ")
        );
        return Ok(Some(Failure::definite("cutover_marker_published", message).remedy(
            "a subscriber without that table would stop: if nobody subscribes, or it is made there, say --ignore cutover_marker_published",
        )));
    }
    match publish(session, task).await {
        Err(error) if error.sqlstate() == Some(INSUFFICIENT_PRIVILEGE) => {
            // What was begun is open still.
            session.batch_execute("rollback").await?;
            let message = format!(
                "the source's role may not make and publish table {}: {error}",
                table(task)
            );
            Ok(Some(Failure::definite("cutover_privilege", message).remedy(format!(
                "grant it `create` on the database, and let it own schema {SCHEMA} and the publication"
            ))))
        }
        Err(error) => Err(error),
        Ok(()) => Ok(None),
    }
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
         exception when dependent_objects_still_exist or insufficient_privilege then null; end $$; commit"
    );
    Ok(session.batch_execute(&remove).await?)
}
