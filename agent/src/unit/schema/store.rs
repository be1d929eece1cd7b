//! The schema's statements at the destination: `pgconvoy.schema_entry`.
//!
//! They are kept there, in one transaction, before the first of them is run; so any agent can go on where another
//! stopped, and all of them run what one dump said.

use pgconvoy_shared::failure::Failure;

use super::entry::SchemaEntry;
use crate::pg::{About, Session};
use crate::unit::{UnitContext, fence};

/// Rows of an insert: some hundred KiB of statements.
const INSERT_ROWS: usize = 500;
/// Entries fetched at once.
const PAGE_ROWS: i64 = 200;

/// Which entries are meant; only those that are not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::unit) enum Pick {
    /// Before the rows.
    Pre,
    /// These, by number: one statement of a large table, or all of some small ones.
    Entries(Vec<u32>),
    /// All that is left after the rows: indexes first, then the rest.
    Rest,
}

impl Pick {
    /// Whether each statement takes little time, so that several may share a transaction.
    pub(super) fn is_quick(&self) -> bool {
        match self {
            Self::Pre => true,
            Self::Entries(numbers) => numbers.len() > 1,
            // A foreign key reads its table, a materialized view whatever it likes.
            Self::Rest => false,
        }
    }
}

/// An entry to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredEntry {
    pub(super) no: i64,
    pub(super) section: String,
    pub(super) kind: String,
    pub(super) schema: String,
    pub(super) object: String,
    pub(super) statement: String,
}

impl StoredEntry {
    /// For people: `TABLE public.t`.
    pub(super) fn title(&self) -> String {
        match self.schema.as_str() {
            "" => format!("{} {}", self.kind, self.object),
            schema => format!("{} {schema}.{}", self.kind, self.object),
        }
    }
}

/// How many entries there are for the task: none = nothing was kept yet, for they are kept all at once.
pub(super) async fn count(ctx: &UnitContext, session: &Session) -> Result<i64, Failure> {
    let query = "select count(*) from pgconvoy.schema_entry where task = $1";
    let row = session.query_one(query, &[&ctx.task.as_str()]).await.about(session.access())?;
    Ok(row.get(0))
}

/// How many entries wait for the rows.
pub(super) async fn kept(ctx: &UnitContext, session: &Session) -> Result<i64, Failure> {
    let query = "select count(*) from pgconvoy.schema_entry where task = $1 and section <> 'pre'";
    let row = session.query_one(query, &[&ctx.task.as_str()]).await.about(session.access())?;
    Ok(row.get(0))
}

/// Keeps all entries, or none.
pub(super) async fn save(
    ctx: &UnitContext,
    session: &mut Session,
    entries: &[SchemaEntry],
) -> Result<(), Failure> {
    let access = session.access().clone();
    let transaction = session.transaction().await.about(&access)?;
    transaction.batch_execute(&fence::hold(ctx)).await.about(&access)?;
    for (nth, rows) in entries.chunks(INSERT_ROWS).enumerate() {
        let first =
            i64::try_from(nth * INSERT_ROWS).expect("an archive has fewer entries than i64");
        let column = |of: fn(&SchemaEntry) -> &str| rows.iter().map(of).collect::<Vec<_>>();
        let table = |of: fn(&pgconvoy_shared::name::QualifiedName) -> &str| {
            rows.iter().map(|row| row.table.as_ref().map(of)).collect::<Vec<_>>()
        };
        transaction
            .execute(
                "insert into pgconvoy.schema_entry
                     (task, no, section, kind, schema_name, object_name, table_schema, table_name, statement)
                 select $1, $2 + e.nth - 1, e.section, e.kind, e.schema_name, e.object_name,
                        e.table_schema, e.table_name, e.statement
                 from unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[])
                      with ordinality
                      as e (section, kind, schema_name, object_name, table_schema, table_name, statement, nth)",
                &[
                    &ctx.task.as_str(),
                    &first,
                    &column(|row| row.section.as_str()),
                    &column(|row| &row.kind),
                    &column(|row| &row.schema),
                    &column(|row| &row.object),
                    &table(|table| &table.schema),
                    &table(|table| &table.name),
                    &column(|row| &row.statement),
                ],
            )
            .await
            .about(&access)?;
    }
    transaction.commit().await.about(&access)
}

/// The next entries behind `after` (section and number), in the order in which they run.
pub(super) async fn page(
    ctx: &UnitContext,
    session: &Session,
    pick: &Pick,
    after: Option<&StoredEntry>,
) -> Result<Vec<StoredEntry>, Failure> {
    let (condition, numbers): (&str, Vec<i64>) = match pick {
        Pick::Pre => ("section = 'pre'", Vec::new()),
        Pick::Entries(numbers) => ("no = any ($4)", numbers.iter().map(|&no| no.into()).collect()),
        Pick::Rest => ("section in ('index', 'post')", Vec::new()),
    };
    // 'index' < 'post' in any collation; numbers decide within a section. $4 is always there: its type must be known.
    let query = format!(
        "select no, section, kind, schema_name, object_name, statement
         from pgconvoy.schema_entry
         where task = $1 and not done and (section, no) > ($2, $3) and ({condition} or $4::bigint[] is null)
         order by section, no
         limit {PAGE_ROWS}"
    );
    let (section, no) = after.map_or(("", -1), |entry| (entry.section.as_str(), entry.no));
    let rows = session
        .query(&query, &[&ctx.task.as_str(), &section, &no, &numbers])
        .await
        .about(session.access())?;
    let entry = |row: &tokio_postgres::Row| StoredEntry {
        no: row.get(0),
        section: row.get(1),
        kind: row.get(2),
        schema: row.get(3),
        object: row.get(4),
        statement: row.get(5),
    };
    Ok(rows.iter().map(entry).collect())
}

/// Whether an entry is done by now.
pub(super) async fn is_done(
    ctx: &UnitContext,
    session: &Session,
    no: i64,
) -> Result<bool, Failure> {
    let query = "select done from pgconvoy.schema_entry where task = $1 and no = $2";
    let found = session.query_opt(query, &[&ctx.task.as_str(), &no]).await;
    Ok(found.about(session.access())?.is_some_and(|row| row.get(0)))
}
