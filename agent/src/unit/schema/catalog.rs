//! What the archive does not tell, read from the source's catalogue: which table an index or a constraint belongs to, what
//! is left to be read through once all rows are there, and in which order.

use std::collections::HashMap;

use futures::try_join;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::spec::SchemaSettings;
use tokio_postgres::{Error, Row};

use super::roles::{self, Role};
use super::settings::{self, DatabaseSettings};
use super::toc::CatalogRow;
use crate::pg::Session;

/// The key of a table of at least this size is built as an index first: a constraint that builds its own lets no other
/// index of the table be built meanwhile. Of smaller ones it would only be one more statement.
const LARGE_BYTES: i64 = 16 << 20;

/// What the archive does not tell.
#[derive(Debug, Default)]
pub(super) struct SourceCatalog {
    /// The major of the pg_dump that writes the archive.
    pub(super) dump_major: u32,
    /// Each index, and each constraint that is one.
    pub(super) indexes: HashMap<CatalogRow, Index>,
    /// Checks and foreign keys of tables that hold rows, where the source knows all rows to pass. But no foreign key to or from
    /// a table whose policies hold for its owner, too: who is no superuser proves it before they are there.
    pub(super) validated: HashMap<CatalogRow, Constraint>,
    /// Materialized views that hold rows; one that reads another stands after it.
    pub(super) populated: Vec<PopulatedView>,
    /// Where the source's database looks for names without a schema, as it stands in a setting.
    pub(super) search_path: String,
    /// None unless asked for.
    pub(super) roles: Vec<Role>,
    /// None unless asked for.
    pub(super) settings: DatabaseSettings,
}

/// An index, or a constraint that is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) table: QualifiedName,
    /// The table holds rows itself: it is neither a partitioned table nor a materialized view.
    pub(super) plain: bool,
    /// A key that is better made in two steps.
    pub(super) in_two_steps: Option<TwoSteps>,
}

/// How a key is made of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TwoSteps {
    /// Makes the index.
    pub(super) build: String,
    /// Makes it the key.
    pub(super) attach: String,
}

/// A constraint of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Constraint {
    pub(super) table: QualifiedName,
    pub(super) name: String,
}

/// A materialized view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PopulatedView {
    pub(super) name: QualifiedName,
    /// Higher than that of those it reads.
    pub(super) wave: i32,
}

impl SourceCatalog {
    /// Reads it in the session's transaction.
    pub(super) async fn read(
        session: &Session,
        dump_major: u32,
        asked: SchemaSettings,
    ) -> Result<Self, Error> {
        let roles = async || match asked.roles {
            true => roles::of_source(session).await,
            false => Ok(Vec::new()),
        };
        let settings = async || match asked.database_settings {
            true => settings::of_source(session).await,
            false => Ok(DatabaseSettings::default()),
        };
        let (roles, settings, indexes, validated, populated, search_path) = try_join!(
            roles(),
            settings(),
            indexes(session),
            validated(session),
            populated_views(session),
            search_path(session),
        )?;
        Ok(Self { dump_major, indexes, validated, populated, search_path, roles, settings })
    }
}

fn name_at(row: &Row, at: usize) -> QualifiedName {
    QualifiedName::new(row.get::<_, &str>(at), row.get::<_, &str>(at + 1))
}

async fn indexes(session: &Session) -> Result<HashMap<CatalogRow, Index>, Error> {
    // Keys that are no B-tree, those over periods, cannot be made of an index.
    let rows = session
        .query(
            "select 'pg_class'::regclass::oid, i.indexrelid, n.nspname::text, c.relname::text, c.relkind = 'r', null, null
             from pg_index i
             join pg_class c on c.oid = i.indrelid
             join pg_namespace n on n.oid = c.relnamespace
             where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
             union all
             select 'pg_constraint'::regclass::oid, k.oid, n.nspname::text, c.relname::text, c.relkind = 'r',
                 case when t.split then pg_get_indexdef(k.conindid) || ';' end,
                 case when t.split then
                     format('ALTER TABLE ONLY %I.%I ADD CONSTRAINT %I %s USING INDEX %I%s%s;', n.nspname, c.relname, k.conname,
                         case k.contype when 'p' then 'PRIMARY KEY' else 'UNIQUE' end, i.relname,
                         case when k.condeferrable then ' DEFERRABLE' else '' end,
                         case when k.condeferred then ' INITIALLY DEFERRED' else '' end)
                 end
             from pg_constraint k
             join pg_class c on c.oid = k.conrelid
             join pg_namespace n on n.oid = c.relnamespace
             join pg_class i on i.oid = k.conindid
             join pg_am a on a.oid = i.relam,
             lateral (select k.contype in ('p', 'u') and c.relkind = 'r' and a.amname = 'btree'
                          and pg_relation_size(c.oid) >= $1) as t (split)
             where k.contype in ('p', 'u', 'x')
               and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'",
            &[&LARGE_BYTES],
        )
        .await?;
    let index = |row: &Row| {
        let steps = row.get::<_, Option<String>>(5).zip(row.get::<_, Option<String>>(6));
        let in_two_steps = steps.map(|(build, attach)| TwoSteps { build, attach });
        Index { table: name_at(row, 2), plain: row.get(4), in_two_steps }
    };
    Ok(rows.iter().map(|row| (catalog_row(row), index(row))).collect())
}

async fn validated(session: &Session) -> Result<HashMap<CatalogRow, Constraint>, Error> {
    let rows = session
        .query(
            "select 'pg_constraint'::regclass::oid, k.oid, n.nspname::text, c.relname::text, k.conname::text
             from pg_constraint k
             join pg_class c on c.oid = k.conrelid
             join pg_namespace n on n.oid = c.relnamespace
             where k.contype in ('c', 'f') and k.convalidated and c.relkind = 'r'
               and not exists (select from pg_class t where t.oid in (k.conrelid, k.confrelid) and k.contype = 'f'
                               and t.relrowsecurity and t.relforcerowsecurity)
               and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'",
            &[],
        )
        .await?;
    let constraint = |row: &Row| Constraint { table: name_at(row, 2), name: row.get(4) };
    Ok(rows.iter().map(|row| (catalog_row(row), constraint(row))).collect())
}

fn catalog_row(row: &Row) -> CatalogRow {
    CatalogRow { class: row.get(0), oid: row.get(1) }
}

/// Views between materialized views count as steps too; a row of pg_depend for each column is folded by `union`.
pub(super) async fn populated_views(session: &Session) -> Result<Vec<PopulatedView>, Error> {
    let rows = session
        .query(
            "with recursive reads as (
                 select distinct r.ev_class as reader, d.refobjid as read
                 from pg_rewrite r
                 join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
                 where d.refclassid = 'pg_class'::regclass and d.refobjid <> r.ev_class
             ), step (oid, no) as (
                 select oid, 0 from pg_class where relkind = 'm'
                 union
                 select reads.reader, step.no + 1 from step join reads on reads.read = step.oid where step.no < 200
             )
             select n.nspname::text, c.relname::text, max(step.no)
             from step
             join pg_class c on c.oid = step.oid
             join pg_namespace n on n.oid = c.relnamespace
             where c.relkind = 'm' and c.relispopulated
             group by 1, 2
             order by 3, 1, 2",
            &[],
        )
        .await?;
    let view = |row: &Row| PopulatedView { name: name_at(row, 0), wave: row.get(2) };
    Ok(rows.iter().map(view).collect())
}

/// The database's own, or PostgreSQL's. (What stands in postgresql.conf is not shown to a session that set it otherwise.)
pub(super) async fn search_path(session: &Session) -> Result<String, Error> {
    let row = session
        .query_one(
            "select coalesce((
                 select substr(setting, length('search_path=') + 1)
                 from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase, unnest(s.setconfig) as setting
                 where d.datname = current_database() and s.setrole = 0 and setting like 'search_path=%'),
                 '\"$user\", public')",
            &[],
        )
        .await?;
    Ok(row.get(0))
}
