//! A table at the source, locked and looked at: what planning and copying have in common (law S4).

use pgconvoy_flow::{fingerprint, sql};
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::name::{QualifiedName, quote_literal};

use super::UnitEnd;
use crate::pg::wire::Wire;
use crate::pg::{About, PgError};

/// Locks a table in the current transaction, so that neither its columns nor its file change until that ends.
pub(super) async fn lock(wire: &mut Wire, table: &QualifiedName) -> Result<(), PgError> {
    wire.query(&sql::lock_table(table)).await.map(drop)
}

/// The digest of its columns as the server describes them.
pub(super) async fn fingerprint(wire: &mut Wire, table: &QualifiedName) -> Result<String, PgError> {
    let described = wire.describe(&sql::describe_table(table)).await?;
    Ok(fingerprint::fingerprint(&described))
}

/// Ends the unit if the locked table's file is not the one noted before the task's snapshot was taken: its rows were
/// rewritten or truncated since, and that snapshot shows none.
pub(super) async fn check_filenode(
    wire: &mut Wire,
    no: TableNo,
    table: &QualifiedName,
    noted: Option<u32>,
) -> Result<(), UnitEnd> {
    let Some(noted) = noted else { return Ok(()) };
    let ask = format!(
        "select pg_catalog.pg_relation_filenode({}::pg_catalog.regclass)",
        quote_literal(&table.quoted())
    );
    let now = wire.value(&ask).await.about(table)?;
    if now == noted.to_string() {
        return Ok(());
    }
    let failure = Failure::definite(
        "table_rewritten",
        format!("its rows were rewritten or truncated after the task's snapshot was taken (file {noted}, now {now})"),
    )
    .about(table.to_string())
    .remedy(
        "let TRUNCATE, VACUUM FULL, CLUSTER and rewriting ALTER TABLE rest, cancel the task and create it again; \
         copy.snapshot: shard does not need that rest",
    );
    Err(UnitEnd::TableChanged { table: no, failure })
}
