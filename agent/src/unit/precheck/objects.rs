//! Objects other than tables: what is left out, what needs care.

use futures::{FutureExt, try_join};
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::spec::ObjectRules;

use super::privileges;
use super::report::{Finding, Report};
use crate::pg::Session;
use crate::unit::schema::closed_mappings;
use crate::unit::{UnitContext, open_stream};

/// At the source.
#[derive(Debug)]
pub(super) struct SourceFacts {
    foreign_tables: Vec<QualifiedName>,
    not_valid: Vec<QualifiedName>,
    /// Checks of domains.
    domains_not_valid: Vec<QualifiedName>,
    invalid_indexes: Vec<QualifiedName>,
    c_functions: Vec<QualifiedName>,
    /// Patterns to include for which there is nothing.
    matching_nothing: Vec<String>,
    /// What comes but for needing what does not.
    left_out: Vec<String>,
    event_triggers: Vec<String>,
    pub(super) publications: Vec<Publication>,
    /// User mappings whose options the role may not read.
    closed_mappings: Vec<(String, String)>,
    subscriptions: Vec<String>,
}

/// A publication that comes.
#[derive(Debug)]
pub(super) struct Publication {
    pub(super) name: String,
    pub(super) owner: String,
    /// It is of all tables, or of schemas: a superuser makes and owns it.
    sweeping: bool,
    /// Tables that it names and the rules leave out.
    without: Vec<QualifiedName>,
}

/// At the destination.
#[derive(Debug)]
pub(super) struct DestinationFacts {
    event_triggers: Vec<String>,
}

const ENABLED_EVENT_TRIGGERS: &str =
    "select evtname::text from pg_event_trigger where evtenabled <> 'D' order by 1";

async fn texts(session: &Session, query: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    Ok(session.query(query, &[]).await?.iter().map(|row| row.get(0)).collect())
}

pub(super) async fn of_source(
    session: &Session,
    rules: &ObjectRules,
) -> Result<SourceFacts, tokio_postgres::Error> {
    let all = rules.include.is_empty();
    let names = async |query: &str| -> Result<Vec<QualifiedName>, tokio_postgres::Error> {
        let rows = session.query(query, &[]).await?;
        let names = rows
            .iter()
            .map(|row| QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1)))
            .filter(|name| rules.matches(name));
        Ok(names.collect())
    };
    let (
        foreign_tables,
        not_valid,
        domains_not_valid,
        invalid_indexes,
        c_functions,
        matching_nothing,
        left_out,
        event_triggers,
        publications,
        closed_mappings,
        subscriptions,
    ) = try_join!(
        names(
            "select n.nspname::text, c.relname::text
             from pg_class c join pg_namespace n on n.oid = c.relnamespace
             where c.relkind = 'f' order by 1, 2",
        ),
        names(
            "select n.nspname::text, c.relname || '.' || k.conname
             from pg_constraint k
             join pg_class c on c.oid = k.conrelid
             join pg_namespace n on n.oid = c.relnamespace
             where not k.convalidated order by 1, 2",
        ),
        names(
            "select n.nspname::text, t.typname || '.' || k.conname
             from pg_constraint k
             join pg_type t on t.oid = k.contypid
             join pg_namespace n on n.oid = t.typnamespace
             where not k.convalidated order by 1, 2",
        ),
        names(
            "select n.nspname::text, c.relname::text
             from pg_index i
             join pg_class c on c.oid = i.indexrelid
             join pg_namespace n on n.oid = c.relnamespace
             where not i.indisvalid and c.relkind = 'i' order by 1, 2",
        ),
        names(
            "select n.nspname::text, p.proname::text
             from pg_proc p
             join pg_namespace n on n.oid = p.pronamespace
             join pg_language l on l.oid = p.prolang
             where l.lanname = 'c' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
               and not exists (select from pg_depend e where e.classid = 'pg_proc'::regclass
                               and e.objid = p.oid and e.deptype = 'e')
             order by 1, 2",
        ),
        matching_nothing(session, rules),
        left_out(session, rules),
        texts(session, ENABLED_EVENT_TRIGGERS),
        publications(session, rules),
        closed_mappings(session),
        // Its catalogue is open to everybody but for one column; some services close it whole.
        texts(
            session,
            "select subname::text from pg_subscription
             where subdbid = (select oid from pg_database where datname = current_database()) order by 1",
        )
        .map(|known| Ok(known.unwrap_or_default())),
    )?;
    Ok(SourceFacts {
        foreign_tables,
        not_valid,
        domains_not_valid,
        invalid_indexes,
        c_functions,
        matching_nothing,
        left_out,
        // Neither comes where only some objects do: they lie in no schema.
        event_triggers: if all { event_triggers } else { Vec::new() },
        publications,
        closed_mappings: if all { closed_mappings } else { Vec::new() },
        subscriptions,
    })
}

async fn publications(
    session: &Session,
    rules: &ObjectRules,
) -> Result<Vec<Publication>, tokio_postgres::Error> {
    let of_schemas = match session.major() {
        15.. => "exists (select from pg_publication_namespace n where n.pnpubid = p.oid)",
        _ => "false",
    };
    let query = format!(
        "select p.pubname::text, pg_get_userbyid(p.pubowner)::text, p.puballtables or {of_schemas},
                array_remove(array_agg(n.nspname::text order by c.oid), null),
                array_remove(array_agg(c.relname::text order by c.oid), null)
         from pg_publication p
         left join pg_publication_rel r on r.prpubid = p.oid
         left join pg_class c on c.oid = r.prrelid
         left join pg_namespace n on n.oid = c.relnamespace
         where not starts_with(p.pubname, '{}')
         group by p.oid, p.pubname, p.pubowner, p.puballtables order by 1",
        open_stream::PREFIX
    );
    let rows = session.query(&query, &[]).await?;
    let publication = |row: &tokio_postgres::Row| {
        let (schemas, tables): (Vec<String>, Vec<String>) = (row.get(3), row.get(4));
        let tables = schemas.into_iter().zip(tables);
        let tables = tables.map(|(schema, table)| QualifiedName::new(schema, table));
        let (with, without): (Vec<_>, Vec<_>) = tables.partition(|table| rules.matches(table));
        (rules.include.is_empty() || !with.is_empty()).then(|| Publication {
            name: row.get(0),
            owner: row.get(1),
            sweeping: row.get(2),
            without,
        })
    };
    Ok(rows.iter().filter_map(publication).collect())
}

/// A pattern may mean anything that has a name in a schema.
async fn matching_nothing(
    session: &Session,
    rules: &ObjectRules,
) -> Result<Vec<String>, tokio_postgres::Error> {
    if rules.include.is_empty() {
        return Ok(Vec::new());
    }
    let rows = session
        .query(
            "select n.nspname::text, o.name::text
             from (select relnamespace, relname from pg_class where relkind in ('r', 'p', 'v', 'm', 'S', 'f')
                   union select typnamespace, typname from pg_type where typtype in ('c', 'd', 'e', 'r')
                   union select pronamespace, proname from pg_proc) as o (namespace, name)
             join pg_namespace n on n.oid = o.namespace
             where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'",
            &[],
        )
        .await?;
    let name = |row: &tokio_postgres::Row| {
        QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1))
    };
    let names: Vec<_> = rows.iter().map(name).collect();
    Ok(rules.matching_nothing(&names).into_iter().map(str::to_owned).collect())
}

/// What the rules name but which needs a relation that they leave out.
async fn left_out(
    session: &Session,
    rules: &ObjectRules,
) -> Result<Vec<String>, tokio_postgres::Error> {
    if rules.is_everything() {
        return Ok(Vec::new());
    }
    let rows = session
        .query(
            "select 'view', vn.nspname::text, v.relname::text, rn.nspname::text, r.relname::text
             from pg_rewrite w
             join pg_class v on v.oid = w.ev_class
             join pg_namespace vn on vn.oid = v.relnamespace
             join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid
                  and d.refclassid = 'pg_class'::regclass and d.refobjid <> v.oid
             join pg_class r on r.oid = d.refobjid and r.relkind in ('r', 'p', 'v', 'm', 'f')
             join pg_namespace rn on rn.oid = r.relnamespace
             where vn.nspname !~ '^pg_' and vn.nspname <> 'information_schema'
               and rn.nspname !~ '^pg_' and rn.nspname <> 'information_schema'
             union
             select 'foreign key ' || k.conname || ' of', vn.nspname::text, v.relname::text, rn.nspname::text, r.relname::text
             from pg_constraint k
             join pg_class v on v.oid = k.conrelid
             join pg_namespace vn on vn.oid = v.relnamespace
             join pg_class r on r.oid = k.confrelid
             join pg_namespace rn on rn.oid = r.relnamespace
             where k.contype = 'f' and k.conparentid = 0
             union
             select o.kind, vn.nspname::text, o.name, rn.nspname::text, r.relname::text
             from (select 'pg_class'::regclass, oid, 'table', relnamespace, relname::text from pg_class where relkind in ('r', 'p', 'f')
                   union all select 'pg_attrdef'::regclass, a.oid, 'table', c.relnamespace, c.relname::text
                   from pg_attrdef a join pg_class c on c.oid = a.adrelid and c.relkind in ('r', 'p', 'f')
                   union all select 'pg_policy'::regclass, p.oid, 'policy ' || p.polname || ' of', c.relnamespace, c.relname::text
                   from pg_policy p join pg_class c on c.oid = p.polrelid
                   union all select 'pg_proc'::regclass, oid, 'function', pronamespace, proname::text from pg_proc
                  ) as o (class, oid, kind, namespace, name)
             join pg_namespace vn on vn.oid = o.namespace
             join pg_depend d on d.classid = o.class and d.objid = o.oid
             -- A child and its parent are told apart from these.
                  and not (d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass)
             join (select 'pg_class'::regclass, oid, oid from pg_class
                   union all select 'pg_type'::regclass, reltype, oid from pg_class where reltype <> 0
                   union all select 'pg_type'::regclass, t.typarray, c.oid from pg_class c join pg_type t on t.oid = c.reltype
                   where t.typarray <> 0
                   union all select 'pg_class'::regclass, s.objid, s.refobjid from pg_depend s
                   where s.classid = 'pg_class'::regclass and s.refclassid = 'pg_class'::regclass and s.deptype in ('a', 'i')
                   and exists (select from pg_class c where c.oid = s.objid and c.relkind = 'S')
                  ) as f (class, oid, relation) on f.class = d.refclassid and f.oid = d.refobjid
             join pg_class r on r.oid = f.relation and r.relkind in ('r', 'p', 'v', 'm', 'f')
             join pg_namespace rn on rn.oid = r.relnamespace
             where vn.nspname !~ '^pg_' and vn.nspname <> 'information_schema'
               and rn.nspname !~ '^pg_' and rn.nspname <> 'information_schema'
             order by 1, 2, 3, 4, 5",
            &[],
        )
        .await?;
    let told = rows.iter().filter_map(|row| {
        let name = |at| QualifiedName::new(row.get::<_, &str>(at), row.get::<_, &str>(at + 1));
        let (object, needed) = (name(1), name(3));
        (rules.matches(&object) && !rules.matches(&needed))
            .then(|| format!("{} {object}, which needs {needed}", row.get::<_, &str>(0)))
    });
    Ok(told.collect())
}

pub(super) async fn of_destination(
    session: &Session,
) -> Result<DestinationFacts, tokio_postgres::Error> {
    Ok(DestinationFacts { event_triggers: texts(session, ENABLED_EVENT_TRIGGERS).await? })
}

/// Matters to whoever compares, too: what is misspelt is not compared.
pub(super) fn judge_patterns(facts: &SourceFacts, report: &mut Report) {
    let finding = Finding::warning("pattern_matches_nothing", Side::Source)
        .observed("nothing at the source has such a name")
        .required("at least one object for each pattern of objects.include")
        .remedy("correct the pattern: case counts, and `*` stands for any text; or leave it out");
    report.add_each(&finding, &facts.matching_nothing);
}

pub(super) fn judge_source(ctx: &UnitContext, facts: &SourceFacts, report: &mut Report) {
    let side = Side::Source;
    if ctx.with_rows() {
        let foreign = Finding::warning("foreign_table_rows_left_out", side)
            .observed("its rows are on another server")
            .remedy("it is made without rows; let the destination reach that server");
        report.add_each(&foreign, &facts.foreign_tables);
    }
    if !ctx.with_schema() {
        return;
    }
    let left_out = Finding::warning("object_left_out", side)
        .observed("the rules name it and leave out what it needs")
        .remedy("include what it needs, or do without it");
    report.add_each(&left_out, &facts.left_out);
    let narrowed = Finding::warning("object_left_out", side)
        .observed("the publication comes without this table, which the rules leave out")
        .remedy("include the table, or let what follows the publication do without it");
    let without = facts.publications.iter().flat_map(|publication| {
        let name = &publication.name;
        publication.without.iter().map(move |table| format!("publication {name}: table {table}"))
    });
    report.add_each(&narrowed, without);
    let closed = Finding::warning("user_mapping_without_options", side)
        .observed("the role may not read its options")
        .required("the user himself, the server's owner for PUBLIC, or a superuser")
        .remedy("it is made without options: give it those at the destination (ALTER USER MAPPING … OPTIONS (ADD …))");
    let mappings = facts.closed_mappings.iter();
    report.add_each(&closed, mappings.map(|(user, server)| format!("{user}, server {server}")));
    let not_valid = Finding::info("constraint_not_valid", side)
        .observed("existing rows were never checked against it")
        .remedy("it is made NOT VALID at the destination too");
    report.add_each(&not_valid, &facts.not_valid);
    // The source checks a value that is set, the destination all values of a row that is changed.
    let domains = match ctx.spec.is_incremental() {
        false => not_valid,
        true => Finding::warning("domain_check_not_valid", side)
            .observed("existing values were never checked against it; a change of a row that has a bad one parks its table")
            .required("a check that all values meet")
            .remedy("mend the values and ALTER DOMAIN … VALIDATE CONSTRAINT; or drop it, and add it again after the cutover"),
    };
    report.add_each(&domains, &facts.domains_not_valid);
    let invalid = Finding::warning("invalid_index_left_out", side)
        .observed("a build that failed left it invalid; pg_dump leaves it out")
        .remedy("REINDEX INDEX CONCURRENTLY, or drop it");
    report.add_each(&invalid, &facts.invalid_indexes);
    let libraries = Finding::warning("function_needs_library", side)
        .observed("it is written in C")
        .required("its library on the destination server")
        .remedy("install the library there, or leave the function out");
    report.add_each(&libraries, &facts.c_functions);
    let subscriptions = Finding::warning("subscription_left_out", side)
        .observed("the database receives changes by logical replication")
        .remedy("create the subscription at the destination when it takes over");
    report.add_each(&subscriptions, &facts.subscriptions);
}

pub(super) fn judge_destination(facts: &DestinationFacts, report: &mut Report) {
    let finding = Finding::warning("destination_event_trigger", Side::Destination)
        .observed("it fires when the schema is made")
        .required("none that is enabled")
        .remedy("ALTER EVENT TRIGGER … DISABLE until the migration is done");
    report.add_each(&finding, &facts.event_triggers);
}

/// Objects that only a superuser can make.
pub(super) fn judge_both(
    source: &SourceFacts,
    destination: &privileges::DestinationFacts,
    report: &mut Report,
) {
    if destination.superuser {
        return;
    }
    let sweeping = source.publications.iter().filter(|publication| publication.sweeping);
    let sweeping = sweeping.map(|publication| &publication.name).collect();
    let kinds = [
        ("event trigger", source.event_triggers.iter().collect::<Vec<_>>()),
        ("publication of all tables, or of schemas", sweeping),
    ];
    for (kind, objects) in kinds {
        let finding = Finding::error("superuser_needed", Side::Destination)
            .observed(format!("the role is no superuser, and the source has this {kind}"))
            .required("a superuser at the destination")
            .remedy("migrate as a superuser, or drop it at the source and make it afterwards");
        report.add_each(&finding, objects);
    }
}
