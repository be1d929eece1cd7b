//! Whether anything stands in the way of a cutover. Nobody is stopped. If nothing does, the destination keeps in mind from here on what
//! is changed ([`again`]).
//!
//! What would fail under the fence is found here, and so is what the stream never brings: tables that nobody follows, large
//! objects, unlogged tables. Those two last ones may be left behind, or be copied again behind the fence, by whoever says so
//! ([`left`]).

use std::collections::BTreeSet;

use pgconvoy_shared::cutover::{CutoverDone, CutoverOrder, IGNORABLE, Writers};
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::name::QualifiedName;
use tokio_postgres::GenericClient;
use tokio_postgres::error::SqlState;

use super::left::Depth;
use super::{again, held, lag, left, mark, named, refused, sessions, shape, source};
use crate::pg::{About, PgError, Session};
use crate::unit::{UnitContext, UnitEnd, marker, open_stream, sequences};

const SCHEMA_DIFFERS: &str = "cutover_schema_differs";

pub(super) async fn run(ctx: &UnitContext, order: &CutoverOrder) -> Result<CutoverDone, UnitEnd> {
    let session = source::session(ctx).await?;
    let access = session.access().clone();
    let flushed = source::flushed_position(&session).await.about(&access)?;
    let there = ctx.access(Side::Destination);
    let destination = there.session().await.about(&there)?;

    let mut refusals = Vec::new();
    refusals.extend(source::prepared_for_long(&session).await.about(&access)?);
    if order.settings.writers == Writers::Fenced {
        refusals.extend(mark::setting_before(ctx, order, &session).await.about(&access)?.err());
        refusals.extend(may_fence(&session).await.about(&access)?);
        refusals.extend(sessions::that_would_stay(ctx, order, &session).await.about(&access)?);
    }
    refusals.extend(shape::changed(ctx, &session, &destination).await?);
    refusals.extend(without_sequences(sequences::missing(ctx, &session, &destination).await?));
    refusals
        .extend(come_up(ctx, order, [&session, &destination], Depth::Whole).await.about(&access)?);
    refusals.extend(marker::prepare(&session, &ctx.task).await.about(&access)?);
    refusals.extend(parked(ctx, &*destination).await.about(&there)?);
    refusals.extend(held::broken(&destination).await.about(&there)?);
    refusals.extend(not_valid(&session, &destination).await.about(&there)?);
    refusals.retain(|refusal| !is_ignored(order, refusal));
    if let Some(refusal) = first_of(refusals) {
        return Ok(refused(refusal.about(access.to_string())));
    }

    let lag_bytes = match lag::caught_up(ctx, &destination, flushed).await? {
        Ok(lag_bytes) => lag_bytes,
        Err(failure) => return Ok(refused(failure)),
    };
    // At the end: a fence that stands meanwhile must not be taken for the source's own setting.
    let before = mark::setting_before(ctx, order, &session).await.about(&access)?;
    let setting_before = match (before, order.settings.writers) {
        (Ok(setting), _) => setting,
        (Err(another), Writers::Fenced) => return Ok(refused(another)),
        (Err(_), Writers::Stopped) => None,
    };
    session.close().await;
    destination.close().await;
    if order.settings.compares_again()
        && let Err(failure) = again::begin(ctx, order).await?
    {
        return Ok(refused(failure));
    }
    Ok(CutoverDone::Checked { setting_before, lag_bytes })
}

/// None of them could be set behind the fence.
fn without_sequences(missing: Vec<String>) -> Option<Failure> {
    (!missing.is_empty()).then(|| {
        let message =
            format!("sequences of the source are not at the destination: {}", named(missing));
        Failure::definite(SCHEMA_DIFFERS, message)
            .remedy("make them at the destination, or drop them at the source; then begin anew")
    })
}

/// The user may leave behind what he knows of, and says so.
fn is_ignored(order: &CutoverOrder, refusal: &Failure) -> bool {
    // That sequences are missing is no mere difference of the schema: none of them could be set.
    let may_be = refusal.code != SCHEMA_DIFFERS && IGNORABLE.contains(&&*refusal.code);
    may_be && order.settings.ignore.contains(&refusal.code)
}

/// What would stay behind, and may come up at any time until the fence stands; so it is looked at again, by one failure that tells all.
pub(super) async fn come_up_since(
    ctx: &UnitContext,
    order: &CutoverOrder,
    ends: [&Session; 2],
    depth: Depth,
) -> Result<Option<Failure>, PgError> {
    let mut found = come_up(ctx, order, ends, depth).await?;
    found.retain(|refusal| !is_ignored(order, refusal));
    let [source, _] = ends;
    Ok(first_of(found).map(|failure| failure.about(source.access().to_string())))
}

async fn come_up(
    ctx: &UnitContext,
    order: &CutoverOrder,
    [source, destination]: [&Session; 2],
    depth: Depth,
) -> Result<Vec<Failure>, PgError> {
    let mut found = Vec::new();
    found.extend(not_followed(ctx, source, destination).await?);
    found.extend(subscriptions(source).await?);
    found.extend(left::behind(ctx, order, source, destination, depth).await?);
    Ok(found)
}

/// Subscriptions that write to the source whatever its fence says, for as long as they are enabled.
async fn subscriptions(session: &Session) -> Result<Option<Failure>, PgError> {
    let ask = "select s.subname::text from pg_catalog.pg_subscription s
        join pg_catalog.pg_database d on d.oid = s.subdbid
        where s.subenabled and d.datname = pg_catalog.current_database() order by 1";
    let names = match session.query(ask, &[]).await {
        Ok(rows) if rows.is_empty() => return Ok(None),
        Ok(rows) => named(rows.iter().map(|row| row.get(0)).collect()),
        // Its catalogue is open to everybody but for one column; some services close it whole.
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            "which ones the task's role may not see".to_owned()
        }
        Err(error) => return Err(error.into()),
    };
    let message = format!(
        "subscriptions write to the source, and would go on when the destination has taken over: {names}"
    );
    Ok(Some(Failure::definite("cutover_subscriptions", message).remedy(
        "alter subscription … disable, each of them, and let the destination go on with its slot (`pgconvoy errors cutover_subscriptions` \
         tells how); if there is none, or what they bring may be lost there, say --ignore cutover_subscriptions",
    )))
}

/// One failure that tells all.
fn first_of(mut refusals: Vec<Failure>) -> Option<Failure> {
    let rest = refusals.split_off(refusals.len().min(1));
    let mut first = refusals.pop()?;
    for more in rest {
        first.message = format!("{}; also: {} ({})", first.message, more.message, more.code);
    }
    Some(first)
}

/// The role may fence the database, and no other role's settings overrule that; who may only read by default anyway, is let be.
async fn may_fence(session: &Session) -> Result<Option<Failure>, PgError> {
    let ask = "select pg_catalog.pg_has_role(datdba, 'usage') from pg_catalog.pg_database where datname = pg_catalog.current_database()";
    let owns: bool = session.query_one(ask, &[]).await?.get(0);
    if !owns {
        let message = "the source's role may not alter its database, so it cannot be fenced";
        return Ok(Some(Failure::definite("cutover_privilege", message).remedy(
            "let it own the database; or stop the writers yourself and say --writers-stopped",
        )));
    }
    let ask = "select distinct r.rolname::text from pg_catalog.pg_db_role_setting d
        join pg_catalog.pg_roles r on r.oid = d.setrole
        cross join pg_catalog.unnest(d.setconfig) as s (setting)
        where d.setdatabase in (0, (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database()))
        and pg_catalog.starts_with(s.setting, $1::text || '=')
        and pg_catalog.lower(pg_catalog.split_part(s.setting, '=', 2)) not in ('on', 'true', 'yes', '1') order by 1";
    let rows = session.query(ask, &[&source::SETTING]).await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let roles = named(rows.iter().map(|row| row.get(0)).collect());
    let message = format!(
        "roles have a {} of their own, which the fence does not reach: {roles}",
        source::SETTING
    );
    Ok(Some(
        Failure::definite("cutover_role_settings", message)
            .remedy("reset it for these roles (`alter role … reset`); or stop the writers yourself and say --writers-stopped"),
    ))
}

/// Tables that take part by the task's rules, and of which nothing is followed. One that got the name of another is in the publication,
/// perhaps, and nobody takes its changes.
async fn not_followed(
    ctx: &UnitContext,
    source: &Session,
    destination: &Session,
) -> Result<Option<Failure>, PgError> {
    let ask = "select (followed ->> 'relation')::pg_catalog.oid from pgconvoy.table_state where task = $1 and followed is not null
        union select relation::pg_catalog.oid from pgconvoy.copied_anew where task = $1";
    let rows = destination.query(ask, &[&ctx.task.as_str()]).await?;
    let followed: Vec<u32> = rows.iter().filter_map(|row| row.get(0)).collect();
    let tables = open_stream::not_followed(source, ctx, &followed).await?;
    Ok((!tables.is_empty()).then(|| {
        let tables = tables.iter().map(ToString::to_string).collect();
        let message = format!("tables of the source are not followed: {}", named(tables));
        Failure::definite("cutover_tables_not_followed", message).remedy(
            "they were made or renamed since the task began: `pgconvoy task resync` of those whose names it has copies them anew; \
             drop the others, or leave them out by `objects` in a new task",
        )
    }))
}

/// Tables whose changes are kept instead of being applied: parked ones, and those that are copied anew.
pub(super) async fn parked(
    ctx: &UnitContext,
    session: &impl GenericClient,
) -> Result<Option<Failure>, PgError> {
    let ask = "select write_schema, write_table from pgconvoy.table_state s \
               where task = $1 and (parked is not null or exists ( \
                   select from pgconvoy.copied_anew a where (a.task, a.table_no) = (s.task, s.table_no))) order by 1, 2";
    let rows = session.query(ask, &[&ctx.task.as_str()]).await?;
    let tables: Vec<String> = rows.iter().map(|row| table(row).to_string()).collect();
    Ok((!tables.is_empty()).then(|| {
        let message = format!("tables are parked: {}", named(tables));
        Failure::definite("cutover_tables_parked", message)
            .remedy("`pgconvoy task show` tells why: mend that, and let each go on with `pgconvoy task resume TASK --table TABLE`; one that is copied anew goes on by itself. Then begin anew")
    }))
}

/// Constraints and indexes that hold at the source, and not (yet) at the destination.
async fn not_valid(source: &Session, destination: &Session) -> Result<Option<Failure>, PgError> {
    const ASK: &str = "
        select n.nspname || '.' || r.relname || ' ' || c.conname from pg_catalog.pg_constraint c
        join pg_catalog.pg_class r on r.oid = c.conrelid join pg_catalog.pg_namespace n on n.oid = r.relnamespace
        where not c.convalidated and c.conparentid = 0 and n.nspname <> 'pgconvoy'
        union all select n.nspname || '.' || r.relname from pg_catalog.pg_index i
        join pg_catalog.pg_class r on r.oid = i.indexrelid join pg_catalog.pg_namespace n on n.oid = r.relnamespace
        where not i.indisvalid and n.nspname <> 'pgconvoy'";
    let of = async |session: &Session| -> Result<BTreeSet<String>, PgError> {
        let rows = session.query(ASK, &[]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    };
    let (there, here) = (of(destination).await?, of(source).await?);
    let invalid: Vec<String> = there.difference(&here).cloned().collect();
    Ok((!invalid.is_empty()).then(|| {
        let message =
            format!("constraints or indexes of the destination are not valid: {}", named(invalid));
        Failure::definite("cutover_constraints_not_valid", message)
            .remedy("validate the constraints, build the indexes anew (`reindex`), then begin anew")
    }))
}

/// Those of these tables that the task's rules select.
pub(super) fn of_rules(ctx: &UnitContext, rows: &[tokio_postgres::Row]) -> Vec<QualifiedName> {
    rows.iter().map(table).filter(|table| ctx.spec.objects.matches(table)).collect()
}

/// A table by its schema and its name.
pub(super) fn table(row: &tokio_postgres::Row) -> QualifiedName {
    QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1))
}
