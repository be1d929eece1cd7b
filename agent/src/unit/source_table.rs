//! A table at the source, locked and looked at: what planning, copying and comparing have in common (law S4).

use pgconvoy_flow::{fingerprint, sql};
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{AgentId, TableNo};
use pgconvoy_shared::name::{QualifiedName, quote_literal};
use pgconvoy_shared::unit::SharedSnapshot;

use super::{UnitContext, UnitEnd};
use crate::keeper::{NoSnapshot, is_gone, set_snapshot};
use crate::pg::wire::Wire;
use crate::pg::{About, Access, PgError};

const BEGIN: &str = "begin isolation level repeatable read read only";

/// Begins a transaction that sees the task's moment, or one of its own.
pub(super) async fn begin(
    ctx: &UnitContext,
    access: &Access,
    wire: &mut Wire,
    shared: Option<&SharedSnapshot>,
) -> Result<(), UnitEnd> {
    let Some(shared) = shared else {
        return Ok(wire.query(BEGIN).await.map(drop).about(access)?);
    };
    // Twice: the agent's own keeper may turn out to have lost its session, and is opened anew.
    for _ in 0..2 {
        let export = match ctx.means.keepers.export(access, &ctx.task, shared).await {
            Ok(export) => export,
            Err(NoSnapshot::Gone(gone)) => return Err(lost(shared, gone)),
            Err(NoSnapshot::Failed(failure)) => return Err(failure.into()),
        };
        match wire.query(&format!("{BEGIN}; {}", set_snapshot(&export))).await {
            Ok(_) => return Ok(()),
            Err(error) if is_gone(&error) => {
                ctx.means.keepers.forget(&ctx.task, shared.round, &export);
                wire.query("rollback").await.about(access)?;
            }
            Err(error) => return Err(access.failure(&error).into()),
        }
    }
    Err(lost(shared, Vec::new()))
}

fn lost(shared: &SharedSnapshot, gone: Vec<AgentId>) -> UnitEnd {
    UnitEnd::SnapshotLost { round: shared.round, gone }
}

/// Begins a transaction that sees the present, from its first statement but a lock on: what plans are made in (law S3).
pub(super) async fn begin_now(wire: &mut Wire) -> Result<(), PgError> {
    wire.query(BEGIN).await.map(drop)
}

/// Locks a table in the current transaction, so that neither its columns nor its file change until that ends. Names are
/// looked up in the present, also under an imported snapshot.
pub(super) async fn lock(wire: &mut Wire, table: &QualifiedName) -> Result<(), PgError> {
    wire.query(&sql::lock_table(table)).await.map(drop)
}

/// The same for a table that is to be moved. One that is not there any more ends the unit, with the identity of the server
/// that says so: a name that leads to another server by now must not make tables look dropped.
pub(super) async fn lock_to_move(
    wire: &mut Wire,
    no: TableNo,
    table: &QualifiedName,
) -> Result<(), UnitEnd> {
    match lock(wire, table).await {
        Ok(()) => Ok(()),
        Err(error) if is_absent(&error) => {
            let access = wire.access().clone();
            wire.query("rollback").await.about(&access)?;
            let ask = "select system_identifier from pg_catalog.pg_control_system()";
            let said = wire.value(ask).await.about(&access)?;
            let signed: i64 = said
                .parse()
                .map_err(|_| PgError::protocol(format!("system identifier {said}")))
                .about(&access)?;
            // It uses all 64 bits; PostgreSQL has no unsigned type to show it in.
            Err(UnitEnd::TableGone { table: no, system_identifier: signed.cast_unsigned() })
        }
        Err(error) => Err(error.failure(table.to_string()).into()),
    }
}

/// No such table, or no such schema.
pub(super) fn is_absent(error: &PgError) -> bool {
    matches!(error.sqlstate(), Some("42P01" | "3F000"))
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
