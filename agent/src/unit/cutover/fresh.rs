//! What is made of rows and was made when they were copied: materialized views are filled anew, each after those that it reads,
//! and tables analyzed, so that the first queries of those who come are answered, and planned, by what is there.
//!
//! It is done before anything is stopped, for it takes as long as it takes. The source refreshes its views when its users say
//! so, which no stream tells; here they are as young as the cutover.

use pgconvoy_shared::failure::{Failure, FailureClass};
use pgconvoy_shared::name::{QualifiedName, quote_identifier};

use crate::pg::{About, Access, PgError, Session};
use crate::unit::{UnitContext, UnitEnd, analyze, fence};

pub(super) async fn run(ctx: &UnitContext) -> Result<(), UnitEnd> {
    let session = fence::writing_session(ctx).await?;
    for view in views(ctx, &session).await? {
        ctx.still_mine()?;
        view.fill(&session).await?;
    }
    let rows =
        "select write_schema, write_table from pgconvoy.table_state where task = $1 order by 1, 2";
    let rows = session.query(rows, &[&ctx.task.as_str()]).await.about(session.access())?;
    let tables =
        rows.iter().map(|row| QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1)));
    let mut tables: Vec<QualifiedName> = tables.collect();
    tables.dedup();
    session.close().await;
    analyze::run(ctx, tables).await.map(drop)
}

/// A view that came with the schema, and holds rows.
struct View {
    name: QualifiedName,
    refresh: String,
    search_path: String,
}

async fn views(ctx: &UnitContext, session: &Session) -> Result<Vec<View>, Failure> {
    // One that is marked as not filled was filled: a table was copied anew since. One that is gone was dropped at both ends, as their
    // comparison tells.
    let ask = "select schema_name, object_name, statement, search_path from pgconvoy.schema_entry
         where task = $1 and kind = 'MATERIALIZED VIEW DATA' and exists (
             select from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
             where c.relkind = 'm' and n.nspname = schema_name and c.relname = object_name)
         order by wave, no";
    let rows = session.query(ask, &[&ctx.task.as_str()]).await.about(session.access())?;
    let view = |row: &tokio_postgres::Row| View {
        name: QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1)),
        refresh: row.get(2),
        search_path: row.get(3),
    };
    Ok(rows.iter().map(view).collect())
}

impl View {
    /// Fills it, if need be as the source would: its functions may look names up.
    async fn fill(&self, session: &Session) -> Result<(), Failure> {
        let mut filled = session.batch_execute(&self.refresh).await.map_err(PgError::from);
        if filled.as_ref().is_err_and(PgError::is_name_not_found) {
            let path = format!("{}, {}", self.search_path, quote_identifier(&self.name.schema));
            let script = format!("set search_path = {path}; {}", self.refresh);
            filled = session.batch_execute(&script).await.map_err(PgError::from);
            session.batch_execute("reset search_path").await.about(session.access())?;
        }
        filled.map_err(|error| self.not_filled(&error, session.access()))
    }

    /// Which view it is, and what to do about what its query meets: that is none of the rows that are moved.
    fn not_filled(&self, error: &PgError, there: &Access) -> Failure {
        let found = error.failure(format!("materialized view {} of the {there}", self.name));
        let message =
            format!("materialized view {} could not be filled: {}", self.name, found.message);
        if found.class != FailureClass::Definite {
            return Failure { message, ..found };
        }
        let refused = Failure::definite("cutover_view_not_filled", message).remedy(
            "define it anew, or drop it, the same at both ends; or mend the rows that it reads, at the source; then begin anew",
        );
        Failure { subject: found.subject, sqlstate: found.sqlstate, ..refused }
    }
}
