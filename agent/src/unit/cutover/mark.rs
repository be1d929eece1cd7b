//! Whose fence it is. Several tasks may follow one database, and be cut over at once: neither takes the other's fence for the source's own
//! setting, nor lifts it.
//!
//! The fence is a setting of the database; in the same transaction the task's role is given a default of its own there, an application name
//! that tells task and cutover. No session of ours goes by it, for each brings its name; but whoever looks at the catalogue sees it, whatever
//! dies. Both go in one transaction, too. Who sets and who lifts take turns by a lock.

use pgconvoy_shared::cutover::CutoverOrder;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::name::{quote_identifier, quote_literal};

use super::source::SETTING;
use crate::pg::destination::SCHEMA_LOCK;
use crate::pg::{PgError, Session};
use crate::unit::UnitContext;

/// Beside that of the schema, which this database may have as another task's destination.
const LOCK: i64 = SCHEMA_LOCK + 1;

/// What all marks begin with.
const MARK: &str = "pgconvoy fence of task ";

fn mark(ctx: &UnitContext, order: &CutoverOrder) -> String {
    format!("{MARK}{}, cutover {}", ctx.task, order.attempt)
}

/// What stands in the catalogue.
struct Found {
    /// The database is read-only by default.
    on: bool,
    marks: Vec<String>,
}

async fn look(session: &Session) -> Result<Found, PgError> {
    let ask = "select s.setting from pg_catalog.pg_db_role_setting d
        cross join pg_catalog.unnest(d.setconfig) as s (setting)
        where d.setdatabase = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())
        and case when d.setrole = 0 then s.setting = $1 else pg_catalog.starts_with(s.setting, $2) end";
    let name = format!("application_name={MARK}");
    let rows = session.query(ask, &[&format!("{SETTING}=on"), &name]).await?;
    let mut found = Found { on: false, marks: Vec::new() };
    for row in &rows {
        let setting: &str = row.get(0);
        match setting.strip_prefix("application_name=") {
            Some(mark) => found.marks.push(mark.to_owned()),
            None => found.on = true,
        }
    }
    Ok(found)
}

/// Another cutover's fence stands: another task's, or one that an earlier cutover of this one left. A mark alone is none.
pub(super) async fn of_another(
    ctx: &UnitContext,
    order: &CutoverOrder,
    session: &Session,
) -> Result<Option<Failure>, PgError> {
    let found = look(session).await?;
    let mine = mark(ctx, order);
    let other = found.marks.into_iter().find(|mark| found.on && *mark != mine);
    Ok(other.map(|mark| {
        let message = format!("the source stands behind a fence already: {mark}");
        Failure::definite("cutover_source_fenced", message)
            .about(session.access().to_string())
            .remedy(
                "where that cutover is under way, wait until it is over; where it is done, or its fence was left, `task show` tells the \
                 statement that lifts it. To cut over while it stands, stop the writers yourself and say --writers-stopped",
            )
    }))
}

/// Sets the fence, unless another one stands.
pub(super) async fn set(
    ctx: &UnitContext,
    order: &CutoverOrder,
    session: &Session,
) -> Result<Option<Failure>, PgError> {
    take_turns(session).await?;
    if let Some(another) = of_another(ctx, order, session).await? {
        session.batch_execute("rollback").await?;
        return Ok(Some(another));
    }
    let (database, mark) = (database(session), quote_literal(&mark(ctx, order)));
    let set = format!(
        "alter role current_user in database {database} set application_name = {mark};
         alter database {database} set {SETTING} = on; commit"
    );
    session.batch_execute(&set).await?;
    Ok(None)
}

/// Lifts this cutover's fence; whether there was one.
pub(super) async fn lift(
    ctx: &UnitContext,
    order: &CutoverOrder,
    session: &Session,
) -> Result<bool, PgError> {
    take_turns(session).await?;
    let found = look(session).await?;
    if !found.marks.contains(&mark(ctx, order)) {
        session.batch_execute("rollback").await?;
        return Ok(false);
    }
    let database = database(session);
    let lift = match &order.setting_before {
        // Somebody has lifted it.
        _ if !found.on => String::new(),
        Some(value) => {
            format!("alter database {database} set {SETTING} = {};", quote_literal(value))
        }
        None => format!("alter database {database} reset {SETTING};"),
    };
    let lift = format!(
        "alter role current_user in database {database} reset application_name; {lift} commit"
    );
    session.batch_execute(&lift).await?;
    Ok(true)
}

async fn take_turns(session: &Session) -> Result<(), PgError> {
    let lock = format!("begin read write; select pg_catalog.pg_advisory_xact_lock({LOCK})");
    Ok(session.batch_execute(&lock).await?)
}

fn database(session: &Session) -> String {
    quote_identifier(&session.access().endpoint().database)
}
