//! Sequences: the destination's go on where the source's are.
//!
//! The source half reads the value of every sequence that takes part: those that the task's rules name, and those that
//! belong to a column of a table they name (`serial`, identity). The destination half sets them. A value is set as it
//! stands, with `is_called`, so cycles and descending sequences need no thought. Setting one again is harmless.
//!
//! `setval` is not undone by a rollback: the ownership is taken first in the same transaction.

use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::name::{QualifiedName, quote_literal};
use pgconvoy_shared::spec::MigrationType;
use pgconvoy_shared::unit::WorkResult;
use tracing::warn;

use super::link::{Link, link};
use super::{UnitContext, UnitEnd, fence};
use crate::pg::About;

/// Sequences read by one statement and set by another. A few hundred: a statement with thousands is slow to plan.
const BATCH: usize = 200;

/// Where a sequence stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) sequence: QualifiedName,
    pub(super) last_value: i64,
    pub(super) is_called: bool,
}

pub(super) async fn run(ctx: &UnitContext) -> Result<WorkResult, UnitEnd> {
    let (source, destination) = link(4);
    let ((), count) =
        tokio::try_join!(source_half(ctx, source), destination_half(ctx, destination))?;
    Ok(WorkResult::Sequences { count })
}

pub(super) async fn source_half(
    ctx: &UnitContext,
    link: Link<Vec<Position>, ()>,
) -> Result<(), UnitEnd> {
    let access = ctx.access(Side::Source);
    let session = access.session().await.about(&access)?;
    // Those of extensions are the extension's business.
    let rows = session
        .query(
            "select n.nspname::text, s.relname::text, tn.nspname::text, t.relname::text
             from pg_class s
             join pg_namespace n on n.oid = s.relnamespace
             left join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = s.oid
                  and d.refclassid = 'pg_class'::regclass and d.refobjsubid > 0 and d.deptype in ('a', 'i')
             left join pg_class t on t.oid = d.refobjid
             left join pg_namespace tn on tn.oid = t.relnamespace
             where s.relkind = 'S' and s.relpersistence <> 't'
               and not exists (select from pg_depend e where e.classid = 'pg_class'::regclass
                               and e.objid = s.oid and e.deptype = 'e')
             order by 1, 2",
            &[],
        )
        .await
        .about(&access)?;
    let rules = &ctx.spec.objects;
    let wanted = rows.iter().filter_map(|row| {
        let sequence = QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1));
        let table = row.get::<_, Option<&str>>(2).zip(row.get::<_, Option<&str>>(3));
        let by_table = |(schema, table)| rules.matches(&QualifiedName::new(schema, table));
        table.map_or_else(|| rules.matches(&sequence), by_table).then_some(sequence)
    });
    let wanted: Vec<QualifiedName> = wanted.collect();
    for batch in wanted.chunks(BATCH) {
        link.send(positions(&session, batch).await.about(&access)?).await?;
    }
    session.close().await;
    Ok(())
}

/// Where these sequences stand, which are there.
pub(super) async fn positions(
    session: &tokio_postgres::Client,
    batch: &[QualifiedName],
) -> Result<Vec<Position>, tokio_postgres::Error> {
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    let query: Vec<String> = batch
        .iter()
        .enumerate()
        .map(|(nth, sequence)| {
            format!("select {nth}, last_value, is_called from {}", sequence.quoted())
        })
        .collect();
    let rows = session.query(&query.join(" union all "), &[]).await?;
    let position = |row: &tokio_postgres::Row| Position {
        sequence: batch[usize::try_from(row.get::<_, i32>(0)).expect("counted above")].clone(),
        last_value: row.get(1),
        is_called: row.get(2),
    };
    Ok(rows.iter().map(position).collect())
}

async fn destination_half(
    ctx: &UnitContext,
    mut link: Link<(), Vec<Position>>,
) -> Result<u32, UnitEnd> {
    let session = fence::writing_session(ctx).await?;
    let with_schema = ctx.spec.types.contains(&MigrationType::Schema);
    let mut count = 0;
    while let Some(positions) = link.next().await {
        ctx.still_mine()?;
        let mut script = format!("begin; {};\n", fence::hold(ctx));
        let present = present(&session, &positions).await.about(session.access())?;
        for (position, there) in positions.iter().zip(present) {
            // With the schema migrated a missing one is an error, which the server tells; without, it is the user's choice.
            if !there && !with_schema {
                warn!("sequence {} is not at the destination", position.sequence);
                continue;
            }
            script.push_str(&set(position));
            count += 1;
        }
        script.push_str("commit");
        session.batch_execute(&script).await.about(session.access())?;
    }
    session.close().await;
    Ok(count)
}

pub(super) async fn present(
    session: &tokio_postgres::Client,
    positions: &[Position],
) -> Result<Vec<bool>, tokio_postgres::Error> {
    let names: Vec<String> = positions.iter().map(|p| p.sequence.quoted()).collect();
    let query = "select to_regclass(name) is not null
                 from unnest($1::text[]) with ordinality as s (name, nth) order by nth";
    let rows = session.query(query, &[&names]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn set(position: &Position) -> String {
    format!(
        "select setval({}::regclass, {}, {});\n",
        quote_literal(&position.sequence.quoted()),
        position.last_value,
        position.is_called
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_set_as_it_stands() {
        let position = Position {
            sequence: QualifiedName::new("sa'les", "Odd \"seq"),
            last_value: -7,
            is_called: false,
        };
        assert_eq!(
            set(&position),
            "select setval('\"sa''les\".\"Odd \"\"seq\"'::regclass, -7, false);\n"
        );
    }
}
