//! The destination half of planning.

use std::collections::BTreeMap;

use pgconvoy_flow::formats;
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::spec::MigrationType;

use super::{AtDestination, FromSource};
use crate::pg::destination::generation;
use crate::pg::destination::takeover::end_old_sessions;
use crate::pg::{About, Session};
use crate::unit::link::Link;
use crate::unit::{UnitContext, UnitEnd};

pub(super) async fn half(
    ctx: &UnitContext,
    mut link: Link<AtDestination, FromSource>,
) -> Result<(), UnitEnd> {
    let access = ctx.access(Side::Destination);
    let mut session = access.session().await.about(&access)?;
    end_old_sessions(&mut session).await?;
    let encoding: String = session
        .query_one("select current_setting('server_encoding')", &[])
        .await
        .about(&access)?
        .get(0);
    while let Some(from) = link.next().await {
        let write_to = write_to(&from, &encoding);
        let types = column_types(ctx, &session, &write_to).await?;
        let types = from.columns.iter().map(|column| {
            let there = types.get(&column.name).copied().ok_or_else(|| {
                Failure::definite(
                    "undefined_column",
                    format!(
                        "the destination's table has no column `{}` that can be written",
                        column.name
                    ),
                )
                .about(write_to.to_string())
                .remedy(
                    "add the column to the destination's table, then resume the task; a schema that the task moves \
                     is as the source had it when the schema was read",
                )
            })?;
            Ok((column.type_oid, there))
        });
        let types: Vec<(u32, u32)> = types.collect::<Result<_, Failure>>()?;
        ctx.still_mine()?;
        let plan = generation::Plan {
            task: &ctx.task,
            table: from.table.no,
            generation: from.table.generation,
            name: &from.table.name,
            write_to: &write_to,
        };
        plan.make_current(&mut session).await?;
        link.send(AtDestination { format: formats::format_for(types), write_to }).await?;
    }
    session.close().await;
    Ok(())
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
async fn column_types(
    ctx: &UnitContext,
    session: &Session,
    table: &QualifiedName,
) -> Result<BTreeMap<String, u32>, Failure> {
    let rows = session
        .query(
            "select a.attname::text, a.atttypid from pg_class c \
             left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' \
             where c.relnamespace = to_regnamespace(quote_ident($1)) and c.relname = $2 and c.relkind in ('r', 'p')",
            &[&&*table.schema, &&*table.name],
        )
        .await
        .about(table)?;
    if rows.is_empty() {
        return Err(Failure::definite(
            "undefined_table",
            "there is no such table at the destination",
        )
        .about(table.to_string())
        .remedy(if ctx.spec.types.contains(&MigrationType::Schema) {
            "it came with the schema and was dropped or renamed since: make it as the source has it, then resume the task"
        } else {
            "make it there, then resume the task; or cancel the task and create one that leaves the table out, or asks \
             for `schema` too"
        }));
    }
    // A table without columns gives one row of nulls.
    Ok(rows.iter().filter_map(|row| Some((row.get::<_, Option<String>>(0)?, row.get(1)))).collect())
}
