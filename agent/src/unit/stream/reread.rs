//! Reading a row of the source again (law S8).

use std::time::Duration;

use pgconvoy_flow::stream::follow::{Follower, RereadAnswer, RereadWanted};
use pgconvoy_flow::stream::table::Target;
use pgconvoy_flow::stream::tuple::{Field, Tuple};
use pgconvoy_runtime::telemetry::chain;
use pgconvoy_shared::name::{QualifiedName, quote_identifier, quote_literal};

use super::reading::not_understood;
use super::takeover::snapshot;
use crate::pg::wire::{TextRow, Wire};
use crate::pg::{About, PgError};
use crate::unit::{UnitEnd, source_table};

/// How often it is looked whether the transaction can be seen by now: a commit may be read before it is visible.
const VISIBLE_PAUSE: Duration = Duration::from_millis(20);

/// Reads the row that a follower wants, and gives it to it.
pub(super) async fn read_again(
    wire: &mut Wire,
    table: &QualifiedName,
    target: &Target,
    wanted: &RereadWanted,
    follower: &mut Follower,
) -> Result<(), UnitEnd> {
    let sql = match select(table, target, &wanted.key) {
        Ok(sql) => sql,
        Err(why) => return cannot(follower, why.to_owned()),
    };
    match read(wire, table, &sql, wanted).await {
        Ok(answer) => {
            source_table::wait_until_flushed(wire, answer.noted).await?;
            follower.answer(answer).map_err(|error| not_understood(&error).into())
        }
        Err(error) if is_reshaped(&error) => {
            wire.query("rollback").await.about(table)?;
            cannot(follower, chain(&error))
        }
        Err(error) => Ok(Err(error).about(table)?),
    }
}

fn cannot(follower: &mut Follower, why: String) -> Result<(), UnitEnd> {
    follower.cannot_answer(why.into()).map_err(|error| not_understood(&error).into())
}

/// Reads the row under a key, in a snapshot that shows the transaction that gave it this key.
async fn read(
    wire: &mut Wire,
    table: &QualifiedName,
    sql: &str,
    wanted: &RereadWanted,
) -> Result<RereadAnswer, PgError> {
    loop {
        source_table::begin_now(wire).await?;
        source_table::lock(wire, table).await?;
        let (text, noted) = source_table::note_moment(wire).await?;
        let snapshot = snapshot(&text)?;
        if !snapshot.shows(wanted.xid) {
            wire.query("rollback").await?;
            tokio::time::sleep(VISIBLE_PAUSE).await;
            continue;
        }
        let rows = wire.query(sql).await?;
        return Ok(RereadAnswer { row: rows.first().map(tuple), snapshot, noted });
    }
}

/// Whether the table has gone meanwhile, or its columns are others: no such table or column, or a key of another type.
fn is_reshaped(error: &PgError) -> bool {
    source_table::is_absent(error)
        || matches!(error.sqlstate(), Some("42703" | "42704" | "42804" | "42883"))
}

/// Each column as the server prints it; or why that cannot be asked.
fn select(table: &QualifiedName, target: &Target, key: &Tuple) -> Result<String, &'static str> {
    let columns: Vec<String> = target
        .columns
        .iter()
        .map(|column| format!("t.{}", quote_identifier(&column.name)))
        .collect();
    let mut conditions = Vec::new();
    for (of, value) in target.key.iter().zip(key.fields()) {
        let Field::Text(value) = value else {
            return Err("its key is not told as text");
        };
        let value = std::str::from_utf8(value)
            .map_err(|_| "its key is no UTF-8; `pgconvoy task resync` copies the table anew")?;
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
