//! The schema's statements at the destination: `pgconvoy.schema_entry`.
//!
//! They are kept there, in one transaction, before the first of them is run; so any agent can go on where another
//! stopped, and all of them run what one dump said.

use pgconvoy_shared::failure::Failure;

use super::compare::title_of;
use super::entry::{SchemaEntry, Section};
use crate::pg::{About, Session};
use crate::unit::{UnitContext, fence};

/// Rows of an insert: some hundred KiB of statements.
const INSERT_ROWS: usize = 500;
/// Entries fetched at once.
const PAGE_ROWS: i64 = 200;

/// Which entries are meant; only those that are not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::unit) enum Pick {
    /// All of a section.
    Section(Section),
    /// These, by number: one statement of a large table, or all of some small ones.
    Entries(Vec<u32>),
}

impl Pick {
    /// Whether each statement takes little time, so that several may share a transaction.
    pub(super) fn is_quick(&self) -> bool {
        match self {
            // All indexes are run at once only where there are no rows.
            Self::Section(Section::Pre | Section::Index | Section::Post | Section::Live) => true,
            Self::Section(Section::Scan | Section::Last) => false,
            Self::Entries(numbers) => numbers.len() > 1,
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
    /// The source's.
    pub(super) search_path: String,
}

impl StoredEntry {
    /// For people: `TABLE public.t`.
    pub(super) fn title(&self) -> String {
        title_of(&self.kind, &self.schema, &self.object)
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
    search_path: &str,
) -> Result<(), Failure> {
    let access = session.access();
    let begin = format!("begin; {}", fence::hold(ctx));
    session.batch_execute(&begin).await.about(access)?;
    for (nth, rows) in entries.chunks(INSERT_ROWS).enumerate() {
        let first =
            i64::try_from(nth * INSERT_ROWS).expect("an archive has fewer entries than i64");
        let column = |of: fn(&SchemaEntry) -> &str| rows.iter().map(of).collect::<Vec<_>>();
        let table = |of: fn(&pgconvoy_shared::name::QualifiedName) -> &str| {
            rows.iter().map(|row| row.table.as_ref().map(of)).collect::<Vec<_>>()
        };
        session
            .execute(
                "insert into pgconvoy.schema_entry
                     (task, no, section, kind, schema_name, object_name, table_schema, table_name, statement,
                      wave, search_path)
                 select $1, $2 + e.nth - 1, e.section, e.kind, e.schema_name, e.object_name,
                        e.table_schema, e.table_name, e.statement, e.wave, $11
                 from unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::int[])
                      with ordinality
                      as e (section, kind, schema_name, object_name, table_schema, table_name, statement, wave, nth)",
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
                    &rows.iter().map(|row| row.wave).collect::<Vec<_>>(),
                    &search_path,
                ],
            )
            .await
            .about(access)?;
    }
    session.batch_execute("commit").await.about(access)
}

/// The next entries behind a number, in the order in which they run.
pub(super) async fn page(
    ctx: &UnitContext,
    session: &Session,
    pick: &Pick,
    after: i64,
) -> Result<Vec<StoredEntry>, Failure> {
    let (section, numbers) = match pick {
        Pick::Section(section) => (Some(section.as_str()), None),
        Pick::Entries(numbers) => {
            (None, Some(numbers.iter().map(|&no| i64::from(no)).collect::<Vec<_>>()))
        }
    };
    let query = format!(
        "select no, section, kind, schema_name, object_name, statement, search_path
         from pgconvoy.schema_entry
         where task = $1 and not done and no > $2 and (section = $3 or no = any ($4))
         order by no
         limit {PAGE_ROWS}"
    );
    let rows = session
        .query(&query, &[&ctx.task.as_str(), &after, &section, &numbers])
        .await
        .about(session.access())?;
    let entry = |row: &tokio_postgres::Row| StoredEntry {
        no: row.get(0),
        section: row.get(1),
        kind: row.get(2),
        schema: row.get(3),
        object: row.get(4),
        statement: row.get(5),
        search_path: row.get(6),
    };
    Ok(rows.iter().map(entry).collect())
}

/// What is left of [`Section::Scan`], by waves: in each a list of entries for each table, the largest first.
pub(super) async fn waves(
    ctx: &UnitContext,
    session: &Session,
) -> Result<Vec<Vec<Vec<u32>>>, Failure> {
    let rows = session
        .query(
            "select wave, array_agg(no order by no)
             from pgconvoy.schema_entry
             where task = $1 and section = 'scan' and not done
             group by wave, table_schema, table_name
             order by wave, pg_table_size(to_regclass(format('%I.%I', table_schema, table_name))) desc nulls last, 2",
            &[&ctx.task.as_str()],
        )
        .await
        .about(session.access())?;
    let mut waves: Vec<(i32, Vec<Vec<u32>>)> = Vec::new();
    for row in rows {
        let wave: i32 = row.get(0);
        let numbers: Vec<i64> = row.get(1);
        let numbers = numbers.into_iter().filter_map(|no| u32::try_from(no).ok()).collect();
        match waves.last_mut() {
            Some((of, tables)) if *of == wave => tables.push(numbers),
            Some(_) | None => waves.push((wave, vec![numbers])),
        }
    }
    Ok(waves.into_iter().map(|(_, tables)| tables).collect())
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
