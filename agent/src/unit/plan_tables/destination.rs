//! The destination half of planning.

use std::collections::BTreeMap;

use pgconvoy_flow::formats;
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::unit::CopyFormat;

use super::catalog::Column;
use super::{AtDestination, FromSource};
use crate::pg::destination::generation;
use crate::pg::destination::takeover::end_old_sessions;
use crate::pg::{About, Session};
use crate::unit::link::Link;
use crate::unit::{UnitContext, UnitEnd};

pub(super) async fn half(
    ctx: &UnitContext,
    mut link: Link<Vec<AtDestination>, Vec<FromSource>>,
) -> Result<(), UnitEnd> {
    let mut session = ctx.session(Side::Destination).await?;
    end_old_sessions(&mut session).await?;
    let encoding = session.query_one("select current_setting('server_encoding')", &[]).await;
    let encoding: String = encoding.about(session.access())?.get(0);
    while let Some(tables) = link.next().await {
        let answers = decide(ctx, &session, &tables, &encoding).await?;
        link.send(answers).await?;
    }
    ctx.means.pool.give(session);
    Ok(())
}

/// Chooses where and how rows are written, and makes the plans current.
async fn decide(
    ctx: &UnitContext,
    session: &Session,
    tables: &[FromSource],
    encoding: &str,
) -> Result<Vec<AtDestination>, UnitEnd> {
    let write_to: Vec<QualifiedName> = tables.iter().map(|from| write_to(from, encoding)).collect();
    let there = tables_there(session, &write_to).await?;
    let mut answers = Vec::with_capacity(tables.len());
    for ((from, write_to), there) in tables.iter().zip(&write_to).zip(there) {
        let types = there.ok_or_else(|| undefined_table(ctx, write_to))?;
        let format = format(&from.columns, write_to, &types)?;
        answers.push(AtDestination { format, write_to: write_to.clone() });
    }
    ctx.still_mine()?;
    let plans: Vec<_> = tables
        .iter()
        .zip(&write_to)
        .map(|(from, write_to)| generation::Plan {
            task: &ctx.task,
            table: from.table.no,
            generation: from.table.generation,
            name: &from.table.name,
            write_to,
            followed: from.followed.as_ref(),
        })
        .collect();
    generation::make_current(session, &plans).await?;
    Ok(answers)
}

/// How rows of these columns go into a table there.
pub(super) async fn format_into(
    session: &Session,
    columns: &[Column],
    table: &QualifiedName,
) -> Result<CopyFormat, Failure> {
    let there = tables_there(session, std::slice::from_ref(table)).await?.pop().flatten();
    let none = || Failure::definite("undefined_table", "there is no such table at the destination");
    format(columns, table, &there.ok_or_else(|| none().about(table.to_string()))?)
}

fn format(
    columns: &[Column],
    write_to: &QualifiedName,
    types: &ColumnTypes,
) -> Result<CopyFormat, Failure> {
    let (generated, travelling): (Vec<&Column>, Vec<&Column>) =
        columns.iter().partition(|column| column.generated);
    if let Some(plain) = generated.iter().find(|column| types.contains_key(&column.name)) {
        return Err(not_generated(&plain.name, write_to));
    }
    let types: Vec<(u32, u32)> = travelling
        .into_iter()
        .map(|column| match types.get(&column.name) {
            Some(there) => Ok((column.type_oid, *there)),
            None => Err(undefined_column(&column.name, write_to)),
        })
        .collect::<Result<_, _>>()?;
    Ok(formats::format_for(types))
}

fn undefined_column(column: &str, table: &QualifiedName) -> Failure {
    Failure::definite(
        "undefined_column",
        format!("the destination's table has no column `{column}` that can be written"),
    )
    .about(table.to_string())
    .remedy(
        "add the column to the destination's table, then resume the task; a schema that the task moves is as the source \
         had it when the schema was read",
    )
}

/// It would be left without values.
fn not_generated(column: &str, table: &QualifiedName) -> Failure {
    Failure::definite(
        "structure_differs",
        format!("column `{column}` is generated at the source and a plain one at the destination"),
    )
    .about(table.to_string())
    .remedy("make it generated there too, then resume the task")
}

fn undefined_table(ctx: &UnitContext, table: &QualifiedName) -> Failure {
    Failure::definite("undefined_table", "there is no such table at the destination")
        .about(table.to_string())
        .remedy(if ctx.with_schema() {
            "it came with the schema and was dropped or renamed since: make it as the source has it, then resume the task"
        } else {
            "make it there, then resume the task; or cancel the task and create one that leaves the table out, or asks \
             for `schema` too"
        })
}

/// The leaf of the same name, unless its rows may belong to another leaf here: hashes of enums and other types of the
/// user's go by object id, and those of texts by their bytes.
fn write_to(from: &FromSource, encoding: &str) -> QualifiedName {
    match &from.hash_leaf {
        Some(leaf) if !leaf.stable || from.encoding != encoding => leaf.root.clone(),
        _ => from.table.name.clone(),
    }
}

/// Type of each column that can be written.
type ColumnTypes = BTreeMap<String, u32>;

/// The columns of each table; none where there is no such table.
async fn tables_there(
    session: &Session,
    tables: &[QualifiedName],
) -> Result<Vec<Option<ColumnTypes>>, Failure> {
    let names: Vec<String> = tables.iter().map(QualifiedName::quoted).collect();
    let rows = session
        .query(
            "select t.nth, a.attname::text, a.atttypid
             from unnest($1::text[]) with ordinality as t (name, nth)
             join pg_class c on c.oid = to_regclass(t.name) and c.relkind in ('r', 'p')
             left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''",
            &[&names],
        )
        .await
        .about(session.access())?;
    let mut there: Vec<Option<ColumnTypes>> = vec![None; tables.len()];
    for row in rows {
        let nth = usize::try_from(row.get::<_, i64>(0)).expect("ordinality counts from 1");
        let columns = there[nth - 1].get_or_insert_default();
        // A table without columns gives one row of nulls.
        if let Some(name) = row.get::<_, Option<String>>(1) {
            columns.insert(name, row.get(2));
        }
    }
    Ok(there)
}
