//! What the two roles may do.

use std::collections::BTreeSet;

use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::name::{QualifiedName, quote_identifier};
use pgconvoy_shared::spec::ObjectRules;

use super::conflicts::Named;
use super::report::{Finding, Report};
use super::tables::SourceTable;
use crate::pg::Session;
use crate::unit::UnitContext;

/// At the source.
#[derive(Debug)]
pub(super) struct SourceFacts {
    /// Sequences whose value may not be read.
    sequences: Vec<QualifiedName>,
}

/// At the destination.
#[derive(Debug)]
pub(super) struct DestinationFacts {
    role: String,
    pub(super) superuser: bool,
    may_create: bool,
    /// Schemas that nothing can be made in: from 15 on `public` is one of them, for most roles.
    closed_schemas: BTreeSet<String>,
    /// Schema `pgconvoy` is there and somebody else's.
    foreign_schema: bool,
}

pub(super) async fn of_source(
    session: &Session,
    rules: &ObjectRules,
) -> Result<SourceFacts, tokio_postgres::Error> {
    // Of a sequence in a schema that may not be entered the other question is an error: hence `case`.
    let rows = session
        .query(
            "select n.nspname::text, c.relname::text
             from pg_class c join pg_namespace n on n.oid = c.relnamespace
             where c.relkind = 'S' and c.relpersistence <> 't' and n.nspname !~ '^pg_' and n.nspname <> 'pgconvoy'
               and not case when has_schema_privilege(n.oid, 'usage')
                            then has_sequence_privilege(c.oid, 'select') else false end
             order by 1, 2",
            &[],
        )
        .await?;
    let name = |row: &tokio_postgres::Row| {
        QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1))
    };
    let sequences = rows.iter().map(name).filter(|name| rules.matches(name)).collect();
    Ok(SourceFacts { sequences })
}

pub(super) async fn of_destination(
    session: &Session,
) -> Result<DestinationFacts, tokio_postgres::Error> {
    let row = session
        .query_one(
            "select current_user::text,
                    (select rolsuper from pg_roles where rolname = current_user),
                    has_database_privilege(current_database(), 'create'),
                    exists (select from pg_namespace n
                            where n.nspname = 'pgconvoy' and to_regclass('pgconvoy.meta') is null),
                    array(select n.nspname::text from pg_namespace n
                          where not has_schema_privilege(n.oid, 'usage')
                             or not has_schema_privilege(n.oid, 'create'))",
            &[],
        )
        .await?;
    Ok(DestinationFacts {
        role: row.get(0),
        superuser: row.get(1),
        may_create: row.get(2),
        closed_schemas: row.get::<_, Vec<String>>(4).into_iter().collect(),
        foreign_schema: row.get(3),
    })
}

pub(super) fn judge_source(facts: &SourceFacts, tables: &[SourceTable], report: &mut Report) {
    let missing = |what: &str, statement: &str| {
        Finding::error("missing_privilege", Side::Source)
            .observed(format!("the role may not read the {what}"))
            .required(format!("SELECT on the {what}, USAGE on its schema"))
            .remedy(statement)
    };
    let tables = tables.iter().filter(|table| !table.readable).map(|table| &table.name);
    let statement = "GRANT USAGE ON SCHEMA …; GRANT SELECT ON ALL TABLES IN SCHEMA … TO the role, \
                     or from 14 on GRANT pg_read_all_data";
    report.add_each(&missing("table", statement), tables);
    let statement = "GRANT SELECT ON ALL SEQUENCES IN SCHEMA … TO the role";
    report.add_each(&missing("sequence", statement), &facts.sequences);
}

pub(super) fn judge_destination(ctx: &UnitContext, facts: &DestinationFacts, report: &mut Report) {
    let database = &ctx.spec.destination.database;
    if !facts.may_create {
        report.add(
            Finding::error("missing_privilege", Side::Destination)
                .object(database)
                .observed(format!("role {} may not create schemas", facts.role))
                .required("CREATE on the database: progress is kept in a schema pgconvoy there")
                .remedy(format!(
                    "GRANT CREATE ON DATABASE {} TO {}",
                    quote_identifier(database),
                    quote_identifier(&facts.role)
                )),
        );
    }
    if facts.foreign_schema {
        report.add(
            Finding::error("destination_schema_foreign", Side::Destination)
                .object("pgconvoy")
                .observed("a schema of this name that pgconvoy did not make")
                .required("the name to be free")
                .remedy("rename or drop it"),
        );
    }
}

/// Of a task that makes the schema: whether what the source names can be made in the schemas that are there already.
pub(super) fn judge_schemas(named: &Named, facts: &DestinationFacts, report: &mut Report) {
    let needed: BTreeSet<&str> = named.iter().map(|(_, name)| &*name.schema).collect();
    for schema in needed.into_iter().filter(|schema| facts.closed_schemas.contains(*schema)) {
        report.add(
            Finding::error("missing_privilege", Side::Destination)
                .object(schema)
                .observed(format!("role {} may not create objects in the schema", facts.role))
                .required("USAGE and CREATE on the schema: tables of the source are made there")
                .remedy(format!(
                    "GRANT USAGE, CREATE ON SCHEMA {} TO {}",
                    quote_identifier(schema),
                    quote_identifier(&facts.role)
                )),
        );
    }
}
