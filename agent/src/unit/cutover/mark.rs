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
pub(in crate::unit) const MARK: &str = "pgconvoy fence of task ";

/// In its place while sessions are ended that began behind a fence which is lifted: it is a fence no more.
pub(in crate::unit) const LIFTED: &str = "pgconvoy lifted fence of task ";

/// What is meant by `mark` or `lifted`.
fn named(what: &str, ctx: &UnitContext, order: &CutoverOrder) -> String {
    format!("{what}{}, cutover {}", ctx.task, order.attempt)
}

/// What stands in the catalogue.
struct Found {
    /// The database's own default, whatever roles have.
    setting: Option<String>,
    marks: Vec<String>,
}

impl Found {
    /// The database is read-only by default, as a fence makes it.
    fn is_on(&self) -> bool {
        self.setting.as_deref() == Some("on")
    }

    /// Another cutover's fence stands: another task's, or one that an earlier cutover of this one left. A mark alone is none.
    fn of_another(&self, mine: &str) -> Option<&str> {
        let mut fences = self.marks.iter().filter(|mark| mark.starts_with(MARK));
        let stands = self.is_on() && !self.marks.iter().any(|mark| mark == mine);
        fences.next().filter(|_| stands).map(String::as_str)
    }
}

async fn look(session: &Session) -> Result<Found, PgError> {
    let ask = "select d.setrole = 0, pg_catalog.substr(s.setting, pg_catalog.strpos(s.setting, '=') + 1) from pg_catalog.pg_db_role_setting d
        cross join pg_catalog.unnest(d.setconfig) as s (setting)
        where d.setdatabase = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())
        and case when d.setrole = 0 then pg_catalog.starts_with(s.setting, $1)
            else pg_catalog.starts_with(s.setting, $2) or pg_catalog.starts_with(s.setting, $3) end";
    let [setting, mark, lifted] =
        [SETTING, "application_name", "application_name"].map(|name| format!("{name}="));
    let values = [setting, mark + MARK, lifted + LIFTED];
    let rows = session.query(ask, &[&values[0], &values[1], &values[2]]).await?;
    let mut found = Found { setting: None, marks: Vec::new() };
    for row in &rows {
        match row.get(0) {
            true => found.setting = row.get(1),
            false => found.marks.push(row.get(1)),
        }
    }
    Ok(found)
}

/// The database's own default, to be put back one day; or another cutover's fence, which is none.
pub(super) async fn setting_before(
    ctx: &UnitContext,
    order: &CutoverOrder,
    session: &Session,
) -> Result<Result<Option<String>, Failure>, PgError> {
    let found = look(session).await?;
    let refused = refusal(ctx, order, session, &found);
    Ok(refused.map_or(Ok(found.setting), Err))
}

fn refusal(
    ctx: &UnitContext,
    order: &CutoverOrder,
    session: &Session,
    found: &Found,
) -> Option<Failure> {
    let mark = found.of_another(&named(MARK, ctx, order))?;
    let message = format!("the source stands behind a fence already: {mark}");
    Some(
        Failure::definite("cutover_source_fenced", message)
            .about(session.access().to_string())
            .remedy(
                "where that cutover is under way, wait until it is over; where it is done, or its fence was left, `task show` tells the \
                 statement that lifts it. To cut over while it stands, stop the writers yourself and say --writers-stopped",
            ),
    )
}

/// Sets the fence, unless another one stands.
pub(super) async fn set(
    ctx: &UnitContext,
    order: &CutoverOrder,
    session: &Session,
) -> Result<Option<Failure>, PgError> {
    take_turns(session).await?;
    if let Some(another) = refusal(ctx, order, session, &look(session).await?) {
        session.batch_execute("rollback").await?;
        return Ok(Some(another));
    }
    let (database, mark) = (database(session), quote_literal(&named(MARK, ctx, order)));
    let set = format!(
        "alter role current_user in database {database} set application_name = {mark};
         alter database {database} set {SETTING} = on; commit"
    );
    session.batch_execute(&set).await?;
    Ok(None)
}

/// Lifts this cutover's fence; whether there was one. Until [`forget`] it is known that sessions which began behind it may live still.
pub(super) async fn lift(
    ctx: &UnitContext,
    order: &CutoverOrder,
    session: &Session,
) -> Result<bool, PgError> {
    take_turns(session).await?;
    let found = look(session).await?;
    let [mark, lifted] = [MARK, LIFTED].map(|what| named(what, ctx, order));
    // Without any mark, somebody took ours away: nobody else's can be meant.
    let unmarked =
        found.marks.is_empty() && found.is_on() && order.setting_before.as_deref() != Some("on");
    if !unmarked && !found.marks.contains(&mark) {
        session.batch_execute("rollback").await?;
        return Ok(found.marks.contains(&lifted));
    }
    let database = database(session);
    let lift = match &order.setting_before {
        // Somebody has lifted it.
        _ if !found.is_on() => String::new(),
        Some(value) => {
            format!("alter database {database} set {SETTING} = {};", quote_literal(value))
        }
        None => format!("alter database {database} reset {SETTING};"),
    };
    let lifted = quote_literal(&lifted);
    let lift = format!(
        "alter role current_user in database {database} set application_name = {lifted}; {lift} commit"
    );
    session.batch_execute(&lift).await?;
    Ok(true)
}

/// Takes away what [`lift`] left.
pub(super) async fn forget(
    ctx: &UnitContext,
    order: &CutoverOrder,
    session: &Session,
) -> Result<(), PgError> {
    take_turns(session).await?;
    let forget = match look(session).await?.marks.contains(&named(LIFTED, ctx, order)) {
        true => {
            format!(
                "alter role current_user in database {} reset application_name; ",
                database(session)
            )
        }
        false => String::new(),
    };
    Ok(session.batch_execute(&format!("{forget}commit")).await?)
}

async fn take_turns(session: &Session) -> Result<(), PgError> {
    let lock = format!("begin read write; select pg_catalog.pg_advisory_xact_lock({LOCK})");
    Ok(session.batch_execute(&lock).await?)
}

fn database(session: &Session) -> String {
    quote_identifier(&session.access().endpoint().database)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_fence_that_stands_and_is_marked_as_anothers_is_one() {
        let [mine, theirs, lifted] = ["m", "t", "t"].map(str::to_owned);
        let [mine, theirs, lifted] =
            [MARK.to_owned() + &mine, MARK.to_owned() + &theirs, LIFTED.to_owned() + &lifted];
        let found = |setting: Option<&str>, marks: &[&String]| Found {
            setting: setting.map(str::to_owned),
            marks: marks.iter().map(|mark| (*mark).clone()).collect(),
        };
        let other = |found: Found| found.of_another(&mine).map(str::to_owned);
        assert_eq!(other(found(Some("on"), &[&theirs])), Some(theirs.clone()));
        assert_eq!(other(found(Some("on"), &[&lifted, &theirs])), Some(theirs.clone()));
        assert_eq!(other(found(Some("on"), &[])), None, "it is the source's own setting");
        assert_eq!(other(found(Some("on"), &[&lifted])), None);
        assert_eq!(other(found(Some("off"), &[&theirs])), None);
        assert_eq!(other(found(None, &[&theirs])), None, "somebody has lifted it");
        assert_eq!(other(found(Some("on"), &[&theirs, &mine])), None, "an owner before has set it");
    }
}
