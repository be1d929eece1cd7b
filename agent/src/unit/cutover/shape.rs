//! Tables whose columns are others than those that are followed. No stream tells of that before the next change of a row, and there may
//! be none; what was compared, was so before.

use std::collections::{BTreeMap, BTreeSet};

use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::name::QualifiedName;

use super::named;
use crate::pg::{About, PgError, Session};
use crate::unit::apply_key::{Followed, FollowedColumn};
use crate::unit::{UnitContext, UnitEnd};

const FOLLOWED: &str = "select followed::text, write_schema, write_table from pgconvoy.table_state
    where task = $1 and followed is not null order by 2, 3";

/// Names, types, and types in words of all columns but generated ones.
const COLUMNS: &str = "select c.oid, n.nspname::text, c.relname::text,
        pg_catalog.array_agg(a.attname::text order by a.attnum), pg_catalog.array_agg(a.atttypid order by a.attnum),
        pg_catalog.array_agg(a.atttypmod order by a.attnum),
        pg_catalog.array_agg(pg_catalog.format_type(a.atttypid, a.atttypmod) order by a.attnum)
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
    where c.oid = any ($1::text[]::pg_catalog.oid[]) group by c.oid, c.relname, n.nspname";

/// Names and types of columns in words, which are those of either end.
type Told = BTreeSet<(String, String)>;

/// A table as one end has it.
struct Table {
    name: QualifiedName,
    columns: Vec<FollowedColumn>,
    told: Told,
}

/// Tables of the source that are no longer as they are followed, nor as the destination has them.
pub(super) async fn changed(
    ctx: &UnitContext,
    source: &Session,
    destination: &Session,
) -> Result<Option<Failure>, UnitEnd> {
    let there = destination.access();
    let rows = destination.query(FOLLOWED, &[&ctx.task.as_str()]).await.about(there)?;
    let bad = |error| PgError::protocol(format!("table_state.followed: {error}"));
    let mut followed = Vec::with_capacity(rows.len());
    for row in &rows {
        let of: Followed = serde_json::from_str(row.get(0)).map_err(bad).about(there)?;
        followed.push((of, QualifiedName::new(row.get::<_, &str>(1), row.get::<_, &str>(2))));
    }
    let oids = followed.iter().map(|(of, _)| of.relation.to_string()).collect();
    let now = tables(source, oids).await.about(source.access())?;
    let (mut renamed, mut altered) = (Vec::new(), Vec::new());
    for (of, write_to) in followed {
        // One that was dropped has no rows that could be missing.
        let Some(table) = now.get(&of.relation) else { continue };
        if table.name != of.name {
            renamed.push(format!("{} is called {}", of.name, table.name));
        } else if table.columns != of.columns {
            altered.push((of.name, table, write_to));
        }
    }
    if !renamed.is_empty() {
        let message =
            format!("tables of the source were renamed since they were copied: {}", named(renamed));
        return Ok(Some(
            Failure::definite("cutover_tables_changed", message)
                .about(source.access().to_string())
                .remedy("give them their names back, begin anew, and rename them at the destination when it has taken over"),
        ));
    }
    let names = altered.iter().map(|(_, _, write_to)| write_to.quoted()).collect();
    let written = told(destination, names).await.about(there)?;
    let differ = altered.iter().zip(written);
    let differ = differ.filter(|((_, table, _), written)| written.as_ref() != Some(&table.told));
    let differ: Vec<String> = differ.map(|((name, ..), _)| name.to_string()).collect();
    Ok((!differ.is_empty()).then(|| {
        let message =
            format!("tables of the source were altered since they were copied: {}", named(differ));
        Failure::definite("cutover_tables_changed", message)
            .about(source.access().to_string())
            .remedy("make the same change at the destination and begin anew; rows that it filled or converted need `pgconvoy task resync`")
    }))
}

/// Columns in words of tables of the destination, as far as those are there. All are asked for at once: writers may be stopped.
async fn told(session: &Session, names: Vec<String>) -> Result<Vec<Option<Told>>, PgError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let ask = "select coalesce(pg_catalog.to_regclass(t.name)::pg_catalog.oid, 0)
        from unnest($1::text[]) with ordinality as t (name, nth) order by t.nth";
    let rows = session.query(ask, &[&names]).await?;
    let oids: Vec<u32> = rows.iter().map(|row| row.get(0)).collect();
    let tables = tables(session, oids.iter().map(u32::to_string).collect()).await?;
    // Several may be written to the same one, a root.
    Ok(oids.iter().map(|oid| tables.get(oid).map(|table| table.told.clone())).collect())
}

async fn tables(session: &Session, oids: Vec<String>) -> Result<BTreeMap<u32, Table>, PgError> {
    let rows = session.query(COLUMNS, &[&oids]).await?;
    let table = |row: &tokio_postgres::Row| {
        let (names, told): (Vec<String>, Vec<String>) = (row.get(3), row.get(6));
        let (types, modifiers): (Vec<u32>, Vec<i32>) = (row.get(4), row.get(5));
        let columns = names.iter().zip(types.into_iter().zip(modifiers));
        let columns = columns.map(|(name, (type_oid, type_modifier))| FollowedColumn {
            name: name.clone(),
            type_oid,
            type_modifier,
        });
        let columns = columns.collect();
        let name = QualifiedName::new(row.get::<_, &str>(1), row.get::<_, &str>(2));
        (row.get(0), Table { name, columns, told: names.into_iter().zip(told).collect() })
    };
    Ok(rows.iter().map(table).collect())
}
