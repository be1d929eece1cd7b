//! What no stream brings: unlogged tables, of which the source's log tells nothing, and large objects, which logical
//! replication leaves out. Who knows of them may leave them behind, by their codes, or have them copied again behind the
//! fence, when nobody writes to them any more.
//!
//! Unlogged tables are one transaction at each end, so foreign keys among them hold. Large objects are many, for each takes a
//! lock, and a server has room for some thousand. A cutover that is undone after that leaves a later moment of them at the
//! destination, and the next one copies them again.

use std::collections::BTreeSet;

use pgconvoy_flow::sql;
use pgconvoy_shared::cutover::{CopiedAgain, CutoverOrder};
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::unit::{Part, TablePlan};

use super::check::{of_rules, table};
use super::{named, source};
use crate::pg::destination::{AWAKE, search_path};
use crate::pg::wire::Wire;
use crate::pg::{About, PgError, Session};
use crate::unit::copy_shard::{Encoding, miscounted, see_bytes_as_they_are};
use crate::unit::precheck::large_objects_of_source;
use crate::unit::{UnitContext, UnitEnd, fence, large_objects, plan_tables, source_table, survey};

/// Large objects that are removed at once: each takes a lock.
const REMOVED_AT_ONCE: i64 = 250;

/// How closely it is looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// At each large object.
    Whole,
    /// Writers are stopped: at large objects that cannot be copied again while they are copied.
    Quick,
}

/// What would stay behind: all of it, or what cannot be copied again.
pub(super) async fn behind(
    ctx: &UnitContext,
    order: &CutoverOrder,
    source: &Session,
    destination: &Session,
    depth: Depth,
) -> Result<Vec<Failure>, PgError> {
    let copies = order.settings.copy_again;
    let mut found = Vec::new();
    let mut tables = unlogged(ctx, source).await?;
    if copies {
        let written = written(ctx, destination).await?;
        tables.retain(|table| !written.contains(table));
    }
    if !tables.is_empty() {
        let tables = named(tables.iter().map(ToString::to_string).collect());
        let code = "cutover_unlogged_tables";
        found.push(if copies {
            let message = format!(
                "unlogged tables cannot be copied again, for the destination has none of that name that the task wrote to: {tables}"
            );
            Failure::definite(code, message)
                .remedy("if they may stay as they are there, say --ignore cutover_unlogged_tables, too")
        } else {
            let message =
                format!("unlogged tables hold what they held when they were copied: {tables}");
            Failure::definite(code, message).remedy(
                "have them copied again behind the fence, by --copy-again; or, if that may be, say --ignore cutover_unlogged_tables",
            )
        });
    }
    let looks = depth == Depth::Whole || !copies;
    if looks && has_large_objects(ctx, source, destination).await? {
        found.extend(large_objects_behind(ctx, copies, source, destination).await?);
    }
    Ok(found)
}

async fn large_objects_behind(
    ctx: &UnitContext,
    copies: bool,
    source: &Session,
    destination: &Session,
) -> Result<Option<Failure>, PgError> {
    const CODE: &str = "cutover_large_objects";
    if !copies {
        let message = "large objects do not come with the changes";
        return Ok(Some(Failure::definite(CODE, message).remedy(
            "have them copied behind the fence, by --copy-again; or, if they may stay behind, say --ignore cutover_large_objects",
        )));
    }
    let closed = large_objects_of_source(source).await?.closed;
    if closed > 0 {
        let message = format!("the source's role may not read {closed} large objects");
        return Ok(Some(
            Failure::definite("cutover_privilege", message)
                .remedy("grant their owners' roles to the role, or migrate as a superuser"),
        ));
    }
    let may = format!("select {MAY_WRITE_LARGE_OBJECTS} from pgconvoy.task where id = $1");
    let may: bool = destination.query_one(&may, &[&ctx.task.as_str()]).await?.get(0);
    Ok((!may).then(not_ours))
}

/// Of the task's row: those that are there are what an earlier cutover copied, or there are none.
const MAY_WRITE_LARGE_OBJECTS: &str =
    "(large_objects or not exists (select from pg_catalog.pg_largeobject_metadata))";

fn not_ours() -> Failure {
    let message = "the destination has large objects that are not the task's: theirs and the source's are known by number alone";
    Failure::definite("cutover_large_objects", message).remedy(
        "remove them at the destination (lo_unlink); or leave --copy-again out, and move the source's by other means",
    )
}

/// Unlogged tables of the source that take part by the task's rules.
async fn unlogged(ctx: &UnitContext, source: &Session) -> Result<Vec<QualifiedName>, PgError> {
    let ask = format!(
        "select n.nspname::text, c.relname::text from pg_catalog.pg_class c
         join pg_catalog.pg_namespace n on n.oid = c.relnamespace
         where c.relpersistence = 'u' and {} order by 1, 2",
        survey::TAKING_PART
    );
    Ok(of_rules(ctx, &source.query(&ask, &[]).await?))
}

/// Tables that the task writes to, each under its own name.
async fn written(
    ctx: &UnitContext,
    destination: &Session,
) -> Result<BTreeSet<QualifiedName>, PgError> {
    let ask = "select write_schema, write_table from pgconvoy.table_state where task = $1";
    let rows = destination.query(ask, &[&ctx.task.as_str()]).await?;
    Ok(rows.iter().map(table).collect())
}

/// Whether there are any to copy, or any that an earlier cutover copied and the source has no more.
async fn has_large_objects(
    ctx: &UnitContext,
    source: &Session,
    destination: &Session,
) -> Result<bool, PgError> {
    if !ctx.spec.objects.include.is_empty() {
        return Ok(false);
    }
    let any = "exists (select from pg_catalog.pg_largeobject_metadata)";
    let ours = format!("select large_objects and {any} from pgconvoy.task where id = $1");
    Ok(source.query_one(&format!("select {any}"), &[]).await?.get(0)
        || destination.query_one(&ours, &[&ctx.task.as_str()]).await?.get(0))
}

/// Copies it all again. The unit is owned at the destination, and nobody writes at the source.
pub(super) async fn copy(ctx: &UnitContext) -> Result<CopiedAgain, UnitEnd> {
    let looking = source::session(ctx).await?;
    let mut session = fence::session_beside(ctx).await?;
    let there = session.access().clone();
    let mut tables = unlogged(ctx, &looking).await.about(looking.access())?;
    let written = written(ctx, &session).await.about(&there)?;
    tables.retain(|table| written.contains(table));
    let objects = has_large_objects(ctx, &looking, &session).await.about(looking.access())?;
    looking.close().await;

    let here = ctx.access(Side::Source);
    let mut from = ctx.means.pool.reader(&here).await.about(&here)?;
    let mut into = ctx.means.pool.writer(&there).await.about(&there)?;
    if see_bytes_as_they_are(&mut from).await.about(&here)? == Encoding::Unknown {
        into.query("set client_encoding = 'SQL_ASCII'").await.about(&there)?;
    }
    source_table::begin_now(&mut from).await.about(&here)?;
    let mut copied = CopiedAgain::default();
    if objects {
        copied.large_objects = copy_large_objects(ctx, &mut session, &mut from, &mut into).await?;
    }
    if !tables.is_empty() {
        copied.tables = u32::try_from(tables.len()).unwrap_or(u32::MAX);
        copied.rows = copy_tables(ctx, &tables, &session, &mut from, &mut into).await?;
    }
    from.query("commit").await.about(&here)?;
    ctx.means.pool.give(from);
    ctx.means.pool.give(into);
    session.close().await;
    Ok(copied)
}

async fn copy_tables(
    ctx: &UnitContext,
    tables: &[QualifiedName],
    session: &Session,
    from: &mut Wire,
    into: &mut Wire,
) -> Result<u64, UnitEnd> {
    let there = into.access().clone();
    let mut plans = Vec::with_capacity(tables.len());
    for table in tables {
        source_table::lock(from, table).await.about(table)?;
        plans.push(plan_tables::as_it_is(from, session, table).await?);
    }
    let only: Vec<String> = tables.iter().map(|table| format!("only {}", table.quoted())).collect();
    // What its triggers and foreign keys would do was done at the source.
    let empty = format!(
        "begin; {}; set local session_replication_role = replica; truncate {}",
        fence::hold(ctx),
        only.join(", ")
    );
    into.query(&empty).await.about(&there)?;
    let mut rows = 0;
    for plan in &plans {
        let path = search_path::for_rows_of(&ctx.task, &plan.write_to);
        into.query(&format!("set local search_path = ''; {path}")).await.about(&plan.write_to)?;
        rows += pass(plan, &Part::Whole, from, into).await?;
    }
    ctx.still_mine()?;
    into.query("commit").await.about(&there)?;
    Ok(rows)
}

async fn copy_large_objects(
    ctx: &UnitContext,
    session: &mut Session,
    from: &mut Wire,
    into: &mut Wire,
) -> Result<u64, UnitEnd> {
    let there = into.access().clone();
    let hold = format!("{}; {AWAKE}", fence::hold(ctx));
    let ours = format!(
        "update pgconvoy.task set large_objects = true where id = $1 and {MAY_WRITE_LARGE_OBJECTS}"
    );
    if session.execute(&ours, &[&ctx.task.as_str()]).await.about(&there)? == 0 {
        return Err(not_ours().about(there.to_string()).into());
    }
    let remove = "delete from pgconvoy.large_object
        where oid in (select oid from pg_catalog.pg_largeobject_metadata order by oid limit $1)";
    loop {
        let transaction = session.transaction().await.about(&there)?;
        transaction.batch_execute(&hold).await.about(&there)?;
        let removed = transaction.execute(remove, &[&REMOVED_AT_ONCE]).await.about(&there)?;
        transaction.commit().await.about(&there)?;
        if removed == 0 {
            break;
        }
    }
    let (plan, shards) = large_objects::as_they_are(ctx, from).await?;
    for shard in shards {
        ctx.still_mine()?;
        into.query(&format!("begin; {hold}")).await.about(&there)?;
        pass(&plan, &shard.part, from, into).await?;
        into.query("commit").await.about(&there)?;
    }
    let count = "select count(*)::text from pg_catalog.pg_largeobject_metadata";
    let [read, arrived] =
        [from.value(count).await.about(from.access())?, into.value(count).await.about(&there)?];
    let number = |count: &str| {
        count.parse().map_err(|_| there.failure(&PgError::protocol("a count that is no number")))
    };
    let (read, arrived) = (number(&read)?, number(&arrived)?);
    if read != arrived {
        return Err(miscounted(arrived, read).about(plan.name.to_string()).into());
    }
    Ok(read)
}

/// Copies a part, within a transaction at each end; the rows.
async fn pass(
    plan: &TablePlan,
    part: &Part,
    from: &mut Wire,
    into: &mut Wire,
) -> Result<u64, UnitEnd> {
    let mut read = from.copy_out(&sql::copy_out(plan, part)).await.about(&plan.name)?;
    let mut write = into.copy_in(&sql::copy_in(plan, false)).await.about(&plan.write_to)?;
    while let Some(data) = read.next().await.about(&plan.name)? {
        write.send(data).await.about(&plan.write_to)?;
    }
    let rows = read.frames().rows_at_end(plan.format);
    let written = write.finish().await.about(&plan.write_to)?;
    if written != rows {
        return Err(miscounted(written, rows).about(plan.write_to.to_string()).into());
    }
    Ok(rows)
}
