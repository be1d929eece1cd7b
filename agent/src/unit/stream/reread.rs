//! Reading a row of the source again (law S8).

use std::time::Duration;

use pgconvoy_flow::stream::follow::{RereadAnswer, RereadWanted};
use pgconvoy_flow::stream::table::Target;
use pgconvoy_flow::stream::tuple::{Field, Tuple};
use pgconvoy_shared::name::{QualifiedName, quote_identifier, quote_literal};

use super::takeover::snapshot;
use crate::pg::wire::{TextRow, Wire};
use crate::pg::{About, PgError};
use crate::unit::{UnitEnd, source_table};

/// How often it is looked whether the transaction can be seen by now: a commit may be read before it is visible.
const VISIBLE_PAUSE: Duration = Duration::from_millis(20);

/// Reads the row under a key, in a snapshot that shows the transaction that gave it this key.
pub(super) async fn read_again(
    wire: &mut Wire,
    table: &QualifiedName,
    target: &Target,
    wanted: &RereadWanted,
) -> Result<RereadAnswer, UnitEnd> {
    loop {
        source_table::begin_now(wire).await.about(table)?;
        source_table::lock(wire, table).await.about(table)?;
        let (text, noted) = source_table::note_moment(wire).await.about(table)?;
        let snapshot = snapshot(&text).about(table)?;
        if !snapshot.shows(wanted.xid) {
            wire.query("rollback").await.about(table)?;
            tokio::time::sleep(VISIBLE_PAUSE).await;
            continue;
        }
        let sql = select(table, target, &wanted.key).about(table)?;
        let rows = wire.query(&sql).await.about(table)?;
        source_table::wait_until_flushed(wire, noted).await?;
        return Ok(RereadAnswer { row: rows.first().map(tuple), snapshot, noted });
    }
}

/// Each column as the server prints it.
fn select(table: &QualifiedName, target: &Target, key: &Tuple) -> Result<String, PgError> {
    let columns: Vec<String> = target
        .columns
        .iter()
        .map(|column| format!("t.{}", quote_identifier(&column.name)))
        .collect();
    let mut conditions = Vec::new();
    for (of, value) in target.key.iter().zip(key.fields()) {
        let Field::Text(value) = value else {
            return Err(PgError::protocol("a key that is not told as text"));
        };
        let value = std::str::from_utf8(value)
            .map_err(|_| PgError::protocol("a key that is not in UTF-8"))?;
        let column = &target.columns[of.column];
        conditions.push(format!(
            "t.{} {} {}::{}",
            quote_identifier(&column.name),
            of.equals,
            quote_literal(value),
            column.type_name
        ));
    }
    Ok(format!(
        "select {} from only {} as t where {}",
        columns.join(", "),
        table.quoted(),
        conditions.join(" and ")
    ))
}

fn tuple(row: &TextRow) -> Tuple {
    Tuple::from_fields(row.iter().map(|value| match value {
        Some(value) => Field::Text(value.as_bytes()),
        None => Field::Null,
    }))
}
