//! What is at the destination already.
//!
//! With the schema migrated, nothing of the same name may be there. Without it, each table has to be there: empty, and with
//! the same columns; a sequence that is not there is left out, and so is a materialized view that may not be refreshed. Once the task has begun, what is there is its own work, and not asked about.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::try_join_all;
use futures::try_join;
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::spec::ObjectRules;

use super::SourceFacts;
use super::report::{Finding, Report};
use super::tables::{COLUMNS, SourceTable};
use crate::pg::Session;
use crate::unit::{UnitContext, schema, sequences};

/// Tables looked into by one statement.
const BATCH: usize = 100;

/// Objects by kind and name, without those of extensions.
pub(super) type Named = BTreeSet<(String, QualifiedName)>;

/// What the destination holds of what the source has.
#[derive(Debug)]
pub(super) struct DestinationFacts {
    named: Named,
    tables: BTreeMap<QualifiedName, ExistingTable>,
    sequences_missing: Vec<QualifiedName>,
    views_not_refreshable: Vec<QualifiedName>,
}

#[derive(Debug)]
struct ExistingTable {
    columns: Vec<String>,
    /// Columns that a row without them cannot do without, told as `columns` are.
    demanding: Vec<String>,
    empty: bool,
    writable: bool,
    /// Row triggers that fire for rows that are copied.
    triggers: Vec<String>,
    /// Foreign keys that look for the parent of each row that is copied.
    references: Vec<String>,
    /// Checks, of the table and of its columns' domains, that hold for new rows and were never held against old ones.
    unproven: Vec<String>,
}

/// Relations, types and functions that take part.
pub(super) async fn named(
    session: &Session,
    rules: &ObjectRules,
) -> Result<Named, tokio_postgres::Error> {
    let rows = session
        .query(
            "with object (class, oid, kind, namespace, name, rules_name) as (
                 select 'pg_class'::regclass, oid,
                        case relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence'
                                     when 'f' then 'foreign table' else 'table' end,
                        relnamespace, relname::text, relname::text
                 from pg_class where relkind in ('r', 'p', 'v', 'm', 'S', 'f') and relpersistence <> 't'
                 union all
                 select 'pg_type'::regclass, oid, 'type', typnamespace, typname::text, typname::text
                 from pg_type
                 where typtype in ('e', 'd', 'r')
                    or typtype = 'c' and (select relkind from pg_class where oid = typrelid) = 'c'
                 union all
                 select 'pg_proc'::regclass, oid, 'function', pronamespace,
                        proname || '(' || pg_get_function_identity_arguments(oid) || ')', proname::text
                 from pg_proc
             )
             select o.kind, n.nspname::text, o.name, o.rules_name
             from object o join pg_namespace n on n.oid = o.namespace
             where n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgconvoy')
               and not exists (select from pg_depend e
                               where e.classid = o.class and e.objid = o.oid and e.deptype = 'e')",
            &[],
        )
        .await?;
    let named = rows.iter().filter_map(|row| {
        let schema: &str = row.get(1);
        rules
            .matches(&QualifiedName::new(schema, row.get::<_, &str>(3)))
            .then(|| (row.get(0), QualifiedName::new(schema, row.get::<_, &str>(2))))
    });
    Ok(named.collect())
}

pub(super) async fn of_destination(
    session: &Session,
    ctx: &UnitContext,
    source: Option<&SourceFacts>,
) -> Result<DestinationFacts, tokio_postgres::Error> {
    let mut facts = DestinationFacts {
        named: Named::new(),
        tables: BTreeMap::new(),
        sequences_missing: Vec::new(),
        views_not_refreshable: Vec::new(),
    };
    if ctx.with_schema() {
        facts.named = named(session, &ctx.spec.objects).await?;
    } else if let Some(source) = source {
        session.send_ahead("set lock_timeout = '1s'");
        let batches = source.tables.chunks(BATCH).map(|batch| existing(session, batch));
        let (tables, there, views) = try_join!(
            try_join_all(batches),
            sequences::present(session, &source.sequences),
            schema::not_refreshable(ctx, session),
        )?;
        let absent = source.sequences.iter().zip(there).filter(|(_, there)| !there);
        facts.tables = tables.into_iter().flatten().collect();
        facts.sequences_missing = absent.map(|(name, _)| name.clone()).collect();
        facts.views_not_refreshable = views;
    }
    Ok(facts)
}

/// Whether the task was at work here before.
pub(super) async fn has_begun(
    session: &Session,
    ctx: &UnitContext,
) -> Result<bool, tokio_postgres::Error> {
    let there = "select to_regclass('pgconvoy.task') is not null
                    and has_schema_privilege('pgconvoy', 'usage')";
    if !session.query_one(there, &[]).await?.get::<_, bool>(0) {
        return Ok(false);
    }
    let row = "select exists (select from pgconvoy.task where id = $1)";
    Ok(session.query_one(row, &[&ctx.task.as_str()]).await?.get(0))
}

async fn existing(
    session: &Session,
    tables: &[SourceTable],
) -> Result<Vec<(QualifiedName, ExistingTable)>, tokio_postgres::Error> {
    let names: Vec<String> = tables.iter().map(|table| table.name.quoted()).collect();
    let rows = session
        .query(
            &format!(
                "select n.nspname::text, c.relname::text, {COLUMNS},
                        array(select a.attname || ' ' || format_type(a.atttypid, a.atttypmod) from pg_attribute a
                              where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                                and a.attnotnull and not a.atthasdef and a.attidentity = ''),
                        has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'insert'),
                        array(select t.tgname::text from pg_trigger t
                              where t.tgrelid = c.oid and not t.tgisinternal and t.tgenabled <> 'D'
                                and t.tgtype & 4 = 4),
                        array(select f.conname::text from pg_constraint f
                              where f.conrelid = c.oid and f.contype = 'f'
                                and exists (select from pg_trigger t
                                            where t.tgconstraint = f.oid and t.tgrelid = c.oid
                                              and t.tgenabled <> 'D')),
                        array(select k.conname::text from pg_constraint k
                              where k.contype = 'c' and not k.convalidated
                                and (k.conrelid = c.oid
                                     or k.contypid in (select a.atttypid from pg_attribute a
                                                       where a.attrelid = c.oid and a.attnum > 0
                                                         and not a.attisdropped and k.contypid <> 0)))
                 from unnest($1::text[]) as asked (name)
                 join pg_class c on c.oid = to_regclass(asked.name)
                 join pg_namespace n on n.oid = c.relnamespace
                 where c.relkind in ('r', 'p')"
            ),
            &[&names],
        )
        .await?;
    let table = async |row: &tokio_postgres::Row| {
        let name = QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1));
        let table = ExistingTable {
            columns: row.get(2),
            demanding: row.get(3),
            writable: row.get(4),
            triggers: row.get(5),
            references: row.get(6),
            unproven: row.get(7),
            empty: is_empty(session, &name).await?,
        };
        Ok((name, table))
    };
    try_join_all(rows.iter().map(table)).await
}

/// One that may not be read counts as empty here, and so does one that somebody keeps to himself, such as another task's copy:
/// the plan itself looks again.
async fn is_empty(session: &Session, table: &QualifiedName) -> Result<bool, tokio_postgres::Error> {
    let query = format!("select not exists (select from {})", table.quoted());
    match session.query_one(&query, &[]).await {
        Ok(row) => Ok(row.get(0)),
        Err(error) if error.as_db_error().is_some() => Ok(true),
        Err(error) => Err(error),
    }
}

pub(super) fn judge(
    ctx: &UnitContext,
    source: &SourceFacts,
    destination: &DestinationFacts,
    report: &mut Report,
) {
    if ctx.with_schema() {
        judge_names(&source.named, &destination.named, report);
        return;
    }
    let missing = Finding::error("table_missing", Side::Destination)
        .observed("there is no such table")
        .required("the table, for the schema is not migrated")
        .remedy("create it, or add `schema` to the task's types");
    let absent = source.tables.iter().filter(|table| !destination.tables.contains_key(&table.name));
    report.add_each(&missing, absent.map(|table| &table.name));
    let missing = Finding::warning("sequence_missing", Side::Destination)
        .observed("there is no such sequence")
        .required("the sequence, to be set where the source's stands; the schema is not migrated")
        .remedy("create it, unless nothing there takes numbers from it");
    report.add_each(&missing, &destination.sequences_missing);
    let stale = Finding::warning("materialized_view_not_refreshed", Side::Destination)
        .observed("the role may not refresh it")
        .required("its owner's rights, or from PostgreSQL 17 on MAINTAIN")
        .remedy("grant them, or refresh it once the rows are there");
    report.add_each(&stale, &destination.views_not_refreshable);
    for table in &source.tables {
        if let Some(existing) = destination.tables.get(&table.name) {
            judge_table(table, existing, report);
        }
    }
}

fn judge_names(source: &Named, destination: &Named, report: &mut Report) {
    let finding = Finding::error("object_exists", Side::Destination)
        .observed("it is there already")
        .required("the name to be free: the schema is migrated")
        .remedy("drop or rename it, leave it out of the task, or migrate without `schema`");
    let both = source.intersection(destination).map(|(kind, name)| format!("{kind} {name}"));
    report.add_each(&finding, both);
}

fn judge_table(table: &SourceTable, existing: &ExistingTable, report: &mut Report) {
    let side = Side::Destination;
    let set = |columns: &[String]| columns.iter().cloned().collect::<BTreeSet<_>>();
    let (ours, theirs) = (set(&table.columns), set(&existing.columns));
    let missing: Vec<_> = ours.difference(&theirs).cloned().collect();
    let demanding: Vec<_> =
        existing.demanding.iter().filter(|column| !ours.contains(*column)).cloned().collect();
    if !missing.is_empty() || !demanding.is_empty() {
        let more = theirs.difference(&ours).cloned().collect::<Vec<_>>();
        report.add(
            Finding::error("structure_differs", side)
                .object(&table.name)
                .observed(format!("has {}; must be given {}", listed(&more), listed(&demanding)))
                .required(format!("columns {}", listed(&missing)))
                .remedy(
                    "make the columns equal to the source's, or add `schema` to the task's types",
                ),
        );
    }
    // The rows of a partitioned table are those of its partitions, which are looked into themselves.
    if !existing.empty && !table.partitioned {
        report.add(
            Finding::error("destination_not_empty", side)
                .object(&table.name)
                .observed("it holds rows")
                .required("an empty table")
                .remedy("empty it (TRUNCATE), or leave it out of the task"),
        );
    }
    if !existing.writable {
        report.add(
            Finding::error("missing_privilege", side)
                .object(&table.name)
                .observed("the role may not insert rows")
                .required("INSERT on the table, USAGE on its schema")
                .remedy("GRANT INSERT ON … TO the role"),
        );
    }
    if !existing.triggers.is_empty() {
        report.add(
            Finding::warning("destination_trigger", side)
                .object(&table.name)
                .observed(format!(
                    "fires for each row that is copied: {}",
                    existing.triggers.join(", ")
                ))
                .required("no trigger that is enabled")
                .remedy("ALTER TABLE … DISABLE TRIGGER USER until the migration is done"),
        );
    }
    if !existing.unproven.is_empty() && !table.partitioned {
        report.add(
            Finding::warning("destination_constraint", side)
                .object(&table.name)
                .observed(format!(
                    "not valid, and so perhaps broken by rows of the source, which it refuses: {}",
                    existing.unproven.join(", ")
                ))
                .required("constraints that the source's rows keep")
                .remedy(
                    "drop it until the rows are there, or add `schema` to the task's types, which \
                     makes it after the rows",
                ),
        );
    }
    // Tables are copied side by side, in no order that parents and children would agree with.
    if !existing.references.is_empty() && !table.partitioned {
        report.add(
            Finding::error("destination_foreign_key", side)
                .object(&table.name)
                .observed(format!(
                    "refuses rows whose parents are not there yet: {}",
                    existing.references.join(", ")
                ))
                .required("no foreign key while rows are copied")
                .remedy(
                    "drop it until the migration is done, or add `schema` to the task's types, \
                     which makes foreign keys after the rows",
                ),
        );
    }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "nothing else".to_owned() } else { names.join(", ") }
}
