//! What waits until no change is applied any more: triggers and rules that would fire for applied changes, too.
//!
//! The source's did their work there, and it comes with the changes; here it would be done twice. So they are made by the
//! transaction that ends the task's right to write: by the cutover's switch, or by the end of a task that is given up.

use pgconvoy_shared::failure::Failure;
use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;

use super::compare::title_of;
use crate::pg::{About, Access, PgError, Session};
use crate::unit::UnitContext;

/// Makes them, in the transaction that is open; a statement that is refused spoils it.
pub(in crate::unit) async fn go_live(
    ctx: &UnitContext,
    session: &impl GenericClient,
    access: &Access,
) -> Result<(), Failure> {
    // A task that is given up before its tables are complete leaves them as they are. (What is filled from rows may be undone
    // again by then, where a table was copied anew.)
    let query = "select statement, kind, schema_name, object_name from pgconvoy.schema_entry
                 where task = $1 and section = 'live' and not done
                   and not exists (select from pgconvoy.schema_entry
                                   where task = $1 and section in ('pre', 'index', 'post') and not done)
                 order by no";
    let rows =
        session.query_typed(query, &[(&ctx.task.as_str(), Type::TEXT)]).await.about(access)?;
    for row in &rows {
        let made = session.batch_execute(row.get(0)).await.map_err(PgError::from);
        made.map_err(|error| error.failure(title_of(row.get(1), row.get(2), row.get(3))))?;
    }
    Ok(())
}

/// Titles of those that are yet to come, whichever task they belong to.
pub(super) async fn yet_to_come(session: &Session) -> Result<Vec<String>, tokio_postgres::Error> {
    let kept = "select coalesce(has_table_privilege(to_regclass('pgconvoy.schema_entry'), 'select'), false)
                       and has_schema_privilege('pgconvoy', 'usage')";
    if !session.query_one(kept, &[]).await?.get::<_, bool>(0) {
        return Ok(Vec::new());
    }
    let query = "select kind, schema_name, object_name from pgconvoy.schema_entry
                 where section = 'live' and not done";
    let rows = session.query(query, &[]).await?;
    Ok(rows.iter().map(|row| title_of(row.get(0), row.get(1), row.get(2))).collect())
}
