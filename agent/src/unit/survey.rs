//! The survey: which tables there are to copy, and for one moment for all of them, which moment (law S13).
//!
//! Ordinary tables and leaf partitions that the specification selects, inheritance children and unlogged tables too; no
//! temporary, foreign or system table. Tables of an extension come with `create extension`; of those, the ones whose rows
//! the extension declares to be all the user's are copied.
//!
//! In `copy.snapshot: task` a rewrite or TRUNCATE after the snapshot was taken makes a table look empty to it, so:
//!
//! 1. the tables and their filenodes are noted, while a keeper session of this agent is opened;
//! 2. the snapshot is taken in it;
//! 3. the tables are listed again under it: one that is new, or has another filenode by now, may have been made or
//!    rewritten on either side of the snapshot, so snapshot and list are taken anew.
//!
//! Whoever reads a table later compares its filenode with the one noted in step 1.
//!
//! For a task that only compares the destination's tables are listed too: one that only it has, and large objects that only
//! it has, are found when their comparison is planned.
//!
//! Where changes are followed, the indexes that two shards could violate between them are told apart: they come later (law S11).
//!
//! A source that lives makes tables all the time. Where the task moves the schema too, a table that was made after that was
//! read does not exist at the destination; it is left out and told, so that the rest can go on.

use std::collections::{BTreeMap, BTreeSet};

use futures::{FutureExt, TryFutureExt, try_join};
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::spec::MigrationType;
use pgconvoy_shared::unit::{
    Export, ResultPart, SharedSnapshot, SnapshotMode, Survey, SurveyDone, SurveyedTable, WorkResult,
};
use pgconvoy_shared::verify::Purpose;

use super::link::{Link, link};
use super::{UnitContext, UnitEnd, apply_key, large_objects};
use crate::keeper::{self, TakenSnapshot};
use crate::pg::destination::takeover::end_old_sessions;
use crate::pg::{About, PgError, Session, destination};

/// Tables in one piece of the result: a few hundred bytes each, some 100 KiB together.
const TABLES_PER_PART: usize = 500;

/// A schema that changes this often within a minute is being migrated itself.
const ATTEMPTS: u32 = 10;

/// Names told of tables that are left out.
const LEFT_OUT_NAMES: usize = 20;

/// Per table the numbers of the index statements that wait for its rows.
type IndexEntries = BTreeMap<QualifiedName, Vec<IndexEntry>>;

/// An index statement that waits.
#[derive(Debug)]
struct IndexEntry {
    no: u32,
    /// The index.
    name: String,
}

/// What the destination half says.
#[derive(Debug)]
struct AtDestination {
    index_entries: IndexEntries,
    /// The tables that came with the schema; none = the task does not move it.
    made: Option<BTreeSet<QualifiedName>>,
    /// The tables to compare.
    to_compare: BTreeSet<QualifiedName>,
}

impl AtDestination {
    /// Whether the schema that the task moves is without this table.
    fn lacks(&self, table: &QualifiedName) -> bool {
        self.made.as_ref().is_some_and(|made| !made.contains(table))
    }
}

/// Surveys the task's tables.
pub(crate) async fn run(ctx: &UnitContext, order: Survey) -> Result<WorkResult, UnitEnd> {
    let (source, destination) = link(1);
    let (done, ()) =
        tokio::try_join!(source_half(ctx, &order, source), destination_half(ctx, destination))?;
    Ok(WorkResult::Survey(done))
}

async fn destination_half(ctx: &UnitContext, link: Link<AtDestination, ()>) -> Result<(), UnitEnd> {
    let mut session = ctx.session(Side::Destination).await?;
    let access = session.access().clone();
    end_old_sessions(&mut session).await?;
    if ctx.purpose == Purpose::Verify {
        // Nothing of the task is there, and nothing will be.
        let to_compare = names(ctx, &session).await.about(&access)?;
        let there = AtDestination { index_entries: IndexEntries::new(), made: None, to_compare };
        link.send(there).await?;
        ctx.means.pool.give(session);
        return Ok(());
    }
    let made = if ctx.spec.types.contains(&MigrationType::Schema) {
        Some(tables_made(ctx, &session).await.about(&access)?)
    } else {
        // Otherwise the schema's unit has made it, and it must not come back once the task has ended.
        ctx.still_mine()?;
        destination::ensure(&session, &ctx.task).await?;
        None
    };
    let index_entries = index_entries(ctx, &session).await?;
    link.send(AtDestination { index_entries, made, to_compare: BTreeSet::new() }).await?;
    ctx.means.pool.give(session);
    Ok(())
}

/// The tables of the archive, and those of extensions, which no archive lists.
async fn tables_made(
    ctx: &UnitContext,
    session: &Session,
) -> Result<BTreeSet<QualifiedName>, PgError> {
    let rows = session
        .query(
            "select schema_name, object_name from pgconvoy.schema_entry where task = $1 and kind = 'TABLE'
             union all
             select n.nspname::text, c.relname::text
             from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
             where c.relkind = 'r' and exists (
                 select from pg_catalog.pg_depend d
                 where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')",
            &[&ctx.task.as_str()],
        )
        .await?;
    let name = |row: &tokio_postgres::Row| {
        QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1))
    };
    Ok(rows.iter().map(name).collect())
}

async fn index_entries(ctx: &UnitContext, session: &Session) -> Result<IndexEntries, UnitEnd> {
    let access = session.access();
    let rows = session
        .query(
            "select table_schema, table_name, no, object_name from pgconvoy.schema_entry \
             where task = $1 and section = 'index' and table_name is not null order by no",
            &[&ctx.task.as_str()],
        )
        .await
        .about(access)?;
    let mut entries = IndexEntries::new();
    for row in rows {
        let table = QualifiedName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        let no: i64 = row.get(2);
        let no = u32::try_from(no)
            .map_err(|_| PgError::protocol(format!("schema_entry has number {no}")))
            .about(access)?;
        // pg_dump puts the table before the name of a constraint.
        let object: &str = row.get(3);
        let name = object.strip_prefix(&*table.name).and_then(|rest| rest.strip_prefix(' '));
        let name = name.unwrap_or(object).to_owned();
        entries.entry(table).or_default().push(IndexEntry { no, name });
    }
    Ok(entries)
}

async fn source_half(
    ctx: &UnitContext,
    order: &Survey,
    mut link: Link<(), AtDestination>,
) -> Result<SurveyDone, UnitEnd> {
    let mut session = ctx.session(Side::Source).await?;
    let access = session.access().clone();
    end_old_sessions(&mut session).await?;
    let tables = async {
        match order.mode {
            SnapshotMode::Shard => {
                Ok::<_, UnitEnd>((list(ctx, &session).await.about(&access)?, None))
            }
            SnapshotMode::Task => {
                let (tables, taken) = tables_of_one_moment(ctx, &session, order.round).await?;
                Ok((tables, Some(taken)))
            }
        }
    };
    let others = async {
        let identifier = "select system_identifier from pg_control_system()";
        let late = async || match ctx.spec.is_incremental() {
            true => late_indexes(&session).await,
            false => Ok(LateIndexes::new()),
        };
        let identifier = session.query_one(identifier, &[]).map_err(PgError::from);
        Ok(try_join!(identifier, late()).about(&access)?)
    };
    let ((mut tables, taken), (identifier, late)) = try_join!(tables, others)?;
    let system_identifier: i64 = identifier.get(0);
    ctx.means.pool.give(session);

    let mut there = link.expect().await?;
    for name in std::mem::take(&mut there.to_compare) {
        tables.entry(name).or_insert(Listed::NOWHERE);
    }
    let noted = order.mode == SnapshotMode::Task;
    let mut part = Vec::new();
    let mut left_out = 0;
    let mut left_out_names = Vec::new();
    for (name, table) in tables {
        // Large objects need nothing of the schema.
        if name != large_objects::table() && there.lacks(&name) {
            left_out += 1;
            if left_out_names.len() < LEFT_OUT_NAMES {
                left_out_names.push(name);
            }
            continue;
        }
        let entries = there.index_entries.remove(&name).unwrap_or_default();
        let is_late = |entry: &IndexEntry| late.contains(&(name.clone(), entry.name.clone()));
        let (late_entries, index_entries): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(is_late);
        let numbers = |entries: Vec<IndexEntry>| entries.iter().map(|entry| entry.no).collect();
        let (index_entries, late_entries) = (numbers(index_entries), numbers(late_entries));
        let filenode = table.filenode.filter(|_| noted);
        part.push(SurveyedTable {
            name,
            bytes: table.bytes,
            rows: table.rows,
            filenode,
            index_entries,
            late_entries,
        });
        if part.len() == TABLES_PER_PART {
            ctx.parts.send(ResultPart::Tables(std::mem::take(&mut part))).await?;
        }
    }
    if !part.is_empty() {
        ctx.parts.send(ResultPart::Tables(part)).await?;
    }

    ctx.still_mine()?;
    let snapshot = taken.map(|taken| {
        let shared = SharedSnapshot {
            round: order.round,
            snapshot: taken.snapshot.clone(),
            noted_lsn: taken.noted_lsn,
            exports: vec![Export { agent: ctx.agent.clone(), id: taken.export.clone() }],
        };
        ctx.means.keepers.keep(&ctx.task, order.round, taken);
        shared
    });
    let continues = match (&order.lost, &snapshot) {
        (Some(lost), Some(new)) => shows_the_same(lost, &new.snapshot),
        _ => false,
    };
    // System identifiers use all 64 bits; PostgreSQL has no unsigned type to show them in.
    let system_identifier = system_identifier.cast_unsigned();
    Ok(SurveyDone { system_identifier, snapshot, continues, left_out, left_out_names })
}

/// Two snapshots show the same if no transaction id was assigned between them, and none was in progress then.
fn shows_the_same(lost: &str, new: &str) -> bool {
    let quiet = |snapshot: &str| {
        let mut fields = snapshot.split(':');
        let (xmin, xmax) = (fields.next(), fields.next());
        xmin.is_some() && xmin == xmax && fields.next() == Some("")
    };
    lost == new && quiet(new)
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    bytes: u64,
    rows: u64,
    filenode: Option<u32>,
}

impl Listed {
    /// What the source has nothing of.
    const NOWHERE: Self = Self { bytes: 0, rows: 0, filenode: None };
}

type Tables = BTreeMap<QualifiedName, Listed>;

async fn tables_of_one_moment(
    ctx: &UnitContext,
    session: &Session,
    round: u32,
) -> Result<(Tables, TakenSnapshot), UnitEnd> {
    let access = session.access();
    for _ in 0..ATTEMPTS {
        ctx.still_mine()?;
        let listed = list(ctx, session).map(|listed| listed.about(access));
        let (before, keeper) = try_join!(listed, keeper::open(access, &ctx.task, round))?;
        let taken = keeper::take(keeper).await?;
        let under_it = list(ctx, &taken.session).await.about(access)?;
        let settled = under_it.iter().all(|(name, table)| {
            before.get(name).is_some_and(|earlier| earlier.filenode == table.filenode)
        });
        if settled {
            return Ok((under_it, taken));
        }
        taken.session.close().await;
    }
    Err(Failure::transient(
        "schema_in_motion",
        format!("tables were made or rewritten during each of {ATTEMPTS} attempts to list them"),
    )
    .about(access.to_string())
    .remedy("let changes of the schema rest while the migration begins")
    .into())
}

/// A table and its index.
type LateIndexes = BTreeSet<(QualifiedName, String)>;

/// The indexes that wait until their tables are consistent: two shards may both hold what was moved from one row to another
/// meanwhile, which violates nothing but a unique or an exclusion constraint. The apply key is never violated, for rows are
/// put by it (law S11).
async fn late_indexes(session: &Session) -> Result<LateIndexes, PgError> {
    let rows = session
        .query(
            &format!(
                "select n.nspname::text, c.relname::text, x.relname::text
                 from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                 join pg_catalog.pg_index late on late.indrelid = c.oid
                 join pg_catalog.pg_class x on x.oid = late.indexrelid
                 where {TAKING_PART} and (late.indisunique or late.indisexclusion)
                 and late.indexrelid is distinct from {}",
                apply_key::INDEX
            ),
            &[],
        )
        .await?;
    let late = rows.iter().map(|row| {
        let table = QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1));
        (table, row.get(2))
    });
    Ok(late.collect())
}

/// Whether the row `c` of `pg_class`, in the schema `n`, is a table whose rows may be moved, as SQL.
pub(super) const TAKING_PART: &str = "c.relkind = 'r' and c.relpersistence <> 't' and n.nspname !~ '^pg_'
    and n.nspname not in ('information_schema', 'pgconvoy')
    and (
        not exists (
            select from pg_catalog.pg_depend d
            where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
        or exists (
            select from pg_catalog.pg_extension e, unnest(e.extconfig, e.extcondition) as x(relation, condition)
            where x.relation = c.oid and coalesce(x.condition, '') = '')
    )";

const FROM: &str =
    "from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace where ";

/// The tables of one end by their names alone: to ask for more would wait for whoever has locked one of them.
async fn names(ctx: &UnitContext, session: &Session) -> Result<BTreeSet<QualifiedName>, PgError> {
    let query = format!("select n.nspname::text, c.relname::text {FROM}{TAKING_PART}");
    let rows = session.query(&query, &[]).await?;
    let names =
        rows.iter().map(|row| QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1)));
    let mut names: BTreeSet<_> = names.filter(|name| ctx.spec.objects.matches(name)).collect();
    if large_objects::size(ctx, session).await?.is_some() {
        names.insert(large_objects::table());
    }
    Ok(names)
}

/// The function that tells the filenode reads what is true now, also under a snapshot; so does the one for sizes.
async fn list(ctx: &UnitContext, session: &Session) -> Result<Tables, PgError> {
    let mut tables = Tables::new();
    let query = format!(
        "select n.nspname::text, c.relname::text, pg_catalog.pg_table_size(c.oid), c.reltuples::float8,
            pg_catalog.pg_relation_filenode(c.oid) {FROM}{TAKING_PART}"
    );
    let listed = session.query(&query, &[]).map_err(PgError::from);
    let (listed, large_objects) = try_join!(listed, large_objects::size(ctx, session))?;
    for row in listed {
        let name = QualifiedName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        // A table dropped meanwhile has no size and no file any more.
        let (bytes, filenode): (Option<i64>, Option<u32>) = (row.get(2), row.get(4));
        let (Some(bytes), Some(filenode)) = (bytes, filenode) else { continue };
        if ctx.spec.objects.matches(&name) {
            let bytes = u64::try_from(bytes).unwrap_or(0);
            // -1 = never analyzed; `as` takes that and all that is no number to 0.
            let rows = row.get::<_, f64>(3) as u64;
            tables.insert(name, Listed { bytes, rows, filenode: Some(filenode) });
        }
    }
    if let Some(size) = large_objects {
        // Whoever rewrites their catalogues keeps what older snapshots see.
        let listed = Listed { bytes: size.bytes, rows: size.objects, filenode: None };
        tables.insert(large_objects::table(), listed);
    }
    Ok(tables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_goes_on_only_where_nothing_happened_and_nothing_ran() {
        assert!(shows_the_same("740:740:", "740:740:"));
        assert!(!shows_the_same("740:740:", "741:741:"), "a transaction id was assigned since");
        assert!(!shows_the_same("738:740:738", "738:740:738"), "what ran may have ended since");
        assert!(!shows_the_same("", ""));
    }
}
