//! The tables whose rows are to be moved.

use std::collections::BTreeSet;

use futures::try_join;
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::spec::ObjectRules;
use pgconvoy_shared::unit::SnapshotMode;
use pgconvoy_shared::verify::Purpose;

use super::report::{Finding, Report};
use crate::pg::Session;
use crate::unit::UnitContext;

/// A table at the source that takes part.
#[derive(Debug)]
pub(super) struct SourceTable {
    pub(super) name: QualifiedName,
    /// Partitioned: its rows are in its partitions.
    pub(super) partitioned: bool,
    unlogged: bool,
    bytes: i64,
    pub(super) readable: bool,
    /// A policy hides rows from the role that reads.
    pub(super) filtered: bool,
    /// Its policies hold for its owner, too.
    forced: bool,
    has_key: bool,
    /// A parent that the rules leave out.
    lost_parent: Option<QualifiedName>,
    tablespace: Option<String>,
    /// `name type` of each column, in order of their names; generated ones are marked.
    pub(super) columns: Vec<String>,
}

pub(super) async fn of_source(
    session: &Session,
    rules: &ObjectRules,
) -> Result<Vec<SourceTable>, tokio_postgres::Error> {
    let rows = session
        .query(
            &format!(
                "select n.nspname::text, c.relname::text, c.relkind = 'p', c.relpersistence = 'u',
                        c.relpages::bigint * current_setting('block_size')::bigint
                            + coalesce((select t.relpages::bigint from pg_class t where t.oid = c.reltoastrelid), 0)
                              * current_setting('block_size')::bigint,
                        has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select'),
                        row_security_active(c.oid),
                        exists (select from pg_index i
                                where i.indrelid = c.oid and i.indisunique and i.indisvalid and i.indimmediate
                                  and i.indpred is null and i.indexprs is null
                                  and not exists (select from pg_attribute a
                                                  where a.attrelid = c.oid and a.attnum = any (i.indkey)
                                                    and not a.attnotnull)),
                        pn.nspname::text, p.relname::text,
                        (select s.spcname::text from pg_tablespace s where s.oid = c.reltablespace),
                        {COLUMNS}, c.relrowsecurity and c.relforcerowsecurity
                 from pg_class c
                 join pg_namespace n on n.oid = c.relnamespace
                 left join pg_inherits h on h.inhrelid = c.oid and h.inhseqno = 1
                 left join pg_class p on p.oid = h.inhparent
                 left join pg_namespace pn on pn.oid = p.relnamespace
                 where c.relkind in ('r', 'p') and c.relpersistence <> 't'
                   and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgconvoy')
                   and not exists (select from pg_depend e where e.classid = 'pg_class'::regclass
                                   and e.objid = c.oid and e.deptype = 'e')
                 order by 1, 2"
            ),
            &[],
        )
        .await?;
    let tables = rows.iter().filter_map(|row| {
        let name = QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1));
        let parent = row.get::<_, Option<&str>>(8).zip(row.get::<_, Option<&str>>(9));
        let parent = parent.map(|(schema, name)| QualifiedName::new(schema, name));
        rules.matches(&name).then(|| SourceTable {
            name,
            partitioned: row.get(2),
            unlogged: row.get(3),
            bytes: row.get(4),
            readable: row.get(5),
            filtered: row.get(6),
            has_key: row.get(7),
            lost_parent: parent.filter(|parent| !rules.matches(parent)),
            tablespace: row.get(10),
            columns: row.get(11),
            forced: row.get(12),
        })
    });
    Ok(tables.collect())
}

/// What policies do to the role at the destination.
#[derive(Debug)]
pub(super) struct DestinationFacts {
    /// None of them holds for it.
    bypasses: bool,
    /// Tables there whose policies hold for it.
    filtered: BTreeSet<QualifiedName>,
}

pub(super) async fn of_destination(
    session: &Session,
    rules: &ObjectRules,
) -> Result<DestinationFacts, tokio_postgres::Error> {
    let role = "select rolsuper or rolbypassrls from pg_roles where rolname = current_user";
    let filtered = "select n.nspname::text, c.relname::text
                    from pg_class c join pg_namespace n on n.oid = c.relnamespace
                    where c.relkind in ('r', 'p') and row_security_active(c.oid)";
    let (role, rows) = try_join!(session.query_one(role, &[]), session.query(filtered, &[]))?;
    let name = |row: &tokio_postgres::Row| {
        QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1))
    };
    let filtered = rows.iter().map(name).filter(|name| rules.matches(name)).collect();
    Ok(DestinationFacts { bypasses: role.get(0), filtered })
}

/// The columns of table `c`, for comparing two ends.
pub(super) const COLUMNS: &str = "
    array(select a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
                 || case when a.attgenerated <> '' then ' generated' else '' end
          from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
          order by a.attname collate \"C\")";

pub(super) fn judge(ctx: &UnitContext, tables: &[SourceTable], report: &mut Report) {
    let side = Side::Source;
    if tables.is_empty() {
        report.add(
            Finding::warning("nothing_selected", side)
                .observed("no table takes part")
                .required("at least one")
                .remedy("correct objects.include and objects.exclude, and the source's database"),
        );
    }
    let names = |of: fn(&SourceTable) -> bool| {
        tables.iter().filter(move |table| of(table)).map(|table| &table.name)
    };
    let orphan = Finding::error("partition_without_parent", side)
        .observed("its parent is left out")
        .required("a partition, or a child, and its parent together")
        .remedy("include the parent too, or exclude the partition");
    if ctx.with_schema() {
        report.add_each(&orphan, names(|table| table.lost_parent.is_some()));
    }
    if ctx.with_schema() && !ctx.spec.schema.tablespaces {
        let space = Finding::warning("tablespace_left_out", side)
            .observed("it is in a tablespace of its own")
            .remedy("all tables are made in the destination's default tablespace; or make tablespaces of the same names there and ask for schema.tablespaces");
        report.add_each(&space, names(|table| table.tablespace.is_some()));
    }
    if !ctx.with_rows() {
        return;
    }
    let filtered = Finding::error("row_level_security", side)
        .observed("a policy hides rows from the role that reads")
        .required("all rows")
        .remedy("read as the table's owner, or as a role with BYPASSRLS: ALTER ROLE … BYPASSRLS");
    // Leaves are read by themselves, and policies of their root do not hold for that.
    report.add_each(&filtered, names(|table| table.filtered && !table.partitioned));
    let unlogged = Finding::info("unlogged_table", side)
        .observed("its rows are copied; a crash of either server empties it");
    report.add_each(&unlogged, names(|table| table.unlogged));
    if ctx.spec.snapshot_mode() == SnapshotMode::Shard {
        let limit = i64::try_from(ctx.spec.copy.shard_size_bytes).unwrap_or(i64::MAX);
        let keyless = tables.iter().filter(|table| {
            !table.partitioned && !table.has_key && table.bytes > limit.saturating_mul(2)
        });
        let finding = Finding::warning("keyless_table", side)
            .observed("it has no key to cut it by, so one unit copies it whole")
            .required("a primary key, or copy.snapshot: task, which cuts it by blocks")
            .remedy("use copy.snapshot: task, or wait for the one unit");
        report.add_each(&finding, keyless.map(|table| &table.name));
    }
}

/// Sessions read and write past policies, or not at all: a policy that holds for the role at the destination ends the copy into
/// a table that is there, the comparison, and what follows. Tables that the task makes get theirs after the rows.
pub(super) fn judge_both(
    ctx: &UnitContext,
    verified: bool,
    tables: &[SourceTable],
    destination: &DestinationFacts,
    report: &mut Report,
) {
    if !ctx.with_rows() {
        return;
    }
    let finding = Finding::error("row_level_security", Side::Destination);
    if ctx.purpose == Purpose::Verify || !ctx.with_schema() {
        let there = finding
            .observed("a policy there holds for the role that reads and writes")
            .required("all rows")
            .remedy("ALTER ROLE … BYPASSRLS; or be the table's owner, and ALTER TABLE … NO FORCE ROW LEVEL SECURITY until the task is done");
        let filtered = tables.iter().map(|table| &table.name);
        report.add_each(&there, filtered.filter(|name| destination.filtered.contains(name)));
    } else if !destination.bypasses && (verified || ctx.spec.is_incremental()) {
        let coming = finding
            .observed("its policies, which come with the schema, hold for its owner, too: it can be neither compared nor followed once they are there")
            .required("a role with BYPASSRLS, or a superuser")
            .remedy("ALTER ROLE … BYPASSRLS; or at the source ALTER TABLE … NO FORCE ROW LEVEL SECURITY until the task is done");
        let forced = tables.iter().filter(|table| table.forced).map(|table| &table.name);
        report.add_each(&coming, forced);
    }
}
