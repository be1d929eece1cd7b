//! What is made of rows and was made when they were copied: materialized views are filled anew, each after those that it reads,
//! and tables analyzed, so that the first queries of those who come are answered, and planned, by what is there.
//!
//! It is done before anything is stopped, for it takes as long as it takes. The source refreshes its views when its users say
//! so, which no stream tells; here they are as young as the cutover.

use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::name::{QualifiedName, quote_identifier};

use crate::pg::{About, PgError, Session};
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
    schema: String,
    refresh: String,
    search_path: String,
}

async fn views(ctx: &UnitContext, session: &Session) -> Result<Vec<View>, Failure> {
    // One that is marked as not filled was filled: a table was copied anew since.
    let ask = "select schema_name, statement, search_path from pgconvoy.schema_entry
         where task = $1 and kind = 'MATERIALIZED VIEW DATA' order by wave, no";
    let rows = session.query(ask, &[&ctx.task.as_str()]).await.about(session.access())?;
    let view = |row: &tokio_postgres::Row| View {
        schema: row.get(0),
        refresh: row.get(1),
        search_path: row.get(2),
    };
    Ok(rows.iter().map(view).collect())
}

impl View {
    /// Fills it, if need be as the source would: its functions may look names up.
    async fn fill(&self, session: &Session) -> Result<(), Failure> {
        let filled = session.batch_execute(&self.refresh).await.map_err(PgError::from);
        match filled {
            Err(error) if error.is_name_not_found() => {
                let path = format!("{}, {}", self.search_path, quote_identifier(&self.schema));
                let script = format!("set search_path = {path}; {}", self.refresh);
                let filled = session.batch_execute(&script).await;
                session.batch_execute("reset search_path").await.about(session.access())?;
                filled.about(session.access())
            }
            filled => filled.about(session.access()),
        }
    }
}
