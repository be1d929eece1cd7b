//! Roles: owners of objects and those who were granted something.

use std::collections::BTreeSet;

use futures::try_join;
use pgconvoy_shared::endpoint::Side;

use super::objects::Publication;
use super::report::{Finding, Report};
use crate::pg::Session;
use crate::unit::UnitContext;
use crate::unit::schema::{Role, assignable, roles_that_come};

/// At the source.
#[derive(Debug)]
pub(super) struct SourceFacts {
    /// Roles that own something in the database, or were granted something.
    named: Vec<String>,
    /// Those that own something.
    owners: Vec<String>,
    /// Roles that policies name: a policy without its role cannot be made.
    in_policies: Vec<String>,
    /// Roles that come with the schema.
    coming: Vec<Role>,
}

/// At the destination.
#[derive(Debug)]
pub(super) struct DestinationFacts {
    known: BTreeSet<String>,
    /// Those that objects may be given to.
    assignable: BTreeSet<String>,
    /// Those that may create in the database.
    creators: BTreeSet<String>,
    /// The role that migrates may make others.
    may_make: bool,
}

/// Catalogs whose rows have an owner that the schema's statements name, and the owner's column. The last condition leaves out
/// what comes and goes with a session, or with a relation that is listed itself.
const OWNED: [(&str, &str, &str); 10] = [
    ("pg_namespace", "nspowner", "not starts_with(nspname, 'pg_')"),
    ("pg_class", "relowner", "relpersistence <> 't' and relkind not in ('i', 'I', 't')"),
    ("pg_proc", "proowner", "true"),
    ("pg_type", "typowner", "typrelid = 0 and typelem = 0"),
    ("pg_operator", "oprowner", "true"),
    ("pg_collation", "collowner", "true"),
    ("pg_publication", "pubowner", "true"),
    ("pg_foreign_server", "srvowner", "true"),
    ("pg_event_trigger", "evtowner", "true"),
    ("pg_largeobject_metadata", "lomowner", "true"),
];

/// The first number that a server gives to what users make: what it was born with has smaller ones.
const FIRST_OF_USERS: u32 = 16384;

/// Roles that the server was born with, above all its first superuser, and that own something: `pg_shdepend` never tells of
/// those. What belongs to an extension is made, and owned, by whoever makes the extension.
fn born_owners() -> String {
    let owned = OWNED.map(|(catalog, owner, condition)| {
        format!(
            "select {owner} from {catalog} o where oid >= {FIRST_OF_USERS} and {owner} < {FIRST_OF_USERS} and {condition}
               and not exists (select from pg_depend d
                               where d.classid = '{catalog}'::regclass and d.objid = o.oid and d.deptype = 'e')"
        )
    });
    format!("select rolname::text from pg_roles where oid in ({})", owned.join(" union "))
}

pub(super) async fn of_source(
    ctx: &UnitContext,
    session: &Session,
) -> Result<SourceFacts, tokio_postgres::Error> {
    let texts = async |query: &str| -> Result<Vec<String>, tokio_postgres::Error> {
        Ok(session.query(query, &[]).await?.iter().map(|row| row.get(0)).collect())
    };
    let depended_on = |how: &str| {
        format!(
            "select r.rolname::text
             from pg_shdepend d join pg_roles r on r.oid = d.refobjid
             where d.dbid = (select oid from pg_database where datname = current_database())
               and d.refclassid = 'pg_authid'::regclass and d.deptype in ({how})
             union {}
             order by 1",
            born_owners()
        )
    };
    let coming = ctx.with_schema() && ctx.spec.schema.roles;
    let coming = async || if coming { roles_that_come(session).await } else { Ok(Vec::new()) };
    let (named, owners) = (depended_on("'o', 'a'"), depended_on("'o'"));
    let (coming, named, owners, in_policies) = try_join!(
        coming(),
        texts(&named),
        texts(&owners),
        texts(
            "select distinct r.rolname::text from pg_policy p join pg_roles r on r.oid = any (p.polroles) order by 1"
        ),
    )?;
    Ok(SourceFacts { named, owners, in_policies, coming })
}

pub(super) async fn of_destination(
    session: &Session,
) -> Result<DestinationFacts, tokio_postgres::Error> {
    let assignable = assignable(session.major());
    let query = format!(
        "select rolname::text, {assignable}, rolname = current_user and (rolsuper or rolcreaterole),
                has_database_privilege(oid, (select oid from pg_database where datname = current_database()), 'create')
         from pg_roles"
    );
    let rows = session.query(&query, &[]).await?;
    let name = |row: &tokio_postgres::Row| row.get::<_, String>(0);
    Ok(DestinationFacts {
        known: rows.iter().map(name).collect(),
        may_make: rows.iter().any(|row| row.get(2)),
        creators: rows.iter().filter(|row| row.get(3)).map(name).collect(),
        assignable: rows.iter().filter(|row| row.get(1)).map(name).collect(),
    })
}

pub(super) fn judge(source: &SourceFacts, destination: &DestinationFacts, report: &mut Report) {
    let made: Vec<&Role> =
        source.coming.iter().filter(|role| !destination.known.contains(&role.name)).collect();
    judge_made(&made, destination.may_make, report);
    let missing = |roles: &[String]| {
        let missing = roles.iter().filter(|role| {
            !destination.known.contains(*role) && !made.iter().any(|made| made.name == **role)
        });
        missing.cloned().collect::<Vec<_>>()
    };
    let for_policies = missing(&source.in_policies);
    let needed = Finding::error("role_missing", Side::Destination)
        .observed("there is no such role")
        .required("the role, for a policy names it")
        .remedy("create it: CREATE ROLE …");
    report.add_each(&needed, &for_policies);
    let wanted = Finding::warning("role_missing", Side::Destination)
        .observed("there is no such role")
        .required("the role, for it owns objects or was granted something")
        .remedy("create it: CREATE ROLE …; or its objects belong to the role that migrates, and its grants are left out");
    let others = missing(&source.named).into_iter().filter(|role| !for_policies.contains(role));
    report.add_each(&wanted, others);
    let kept = Finding::warning("role_not_assignable", Side::Destination)
        .observed("the role that migrates may not give objects to it")
        .required("membership in the role, for it owns objects")
        .remedy(
            "GRANT it to the role that migrates; or its objects belong to the role that migrates",
        );
    let owners = source.owners.iter().filter(|role| {
        destination.known.contains(*role) && !destination.assignable.contains(*role)
    });
    report.add_each(&kept, owners);
}

/// Roles that will be made.
fn judge_made(made: &[&Role], may_make: bool, report: &mut Report) {
    if !made.is_empty() && !may_make {
        report.add(
            Finding::error("missing_privilege", Side::Destination)
                .observed("the role that migrates may not make roles")
                .required("CREATEROLE, for schema.roles asks for roles that are missing")
                .remedy("ALTER ROLE … CREATEROLE; or make the roles beforehand and leave out schema.roles"),
        );
    }
    let silent = Finding::info("role_without_password", Side::Destination)
        .observed("it will be made without a password")
        .remedy("set it: ALTER ROLE … PASSWORD …");
    report.add_each(&silent, made.iter().filter(|role| role.may_log_in).map(|role| &role.name));
}

/// Who is no superuser gives publications only to roles that may create in the database. Of those that it may give nothing to, or
/// that are missing, that is told.
pub(super) fn judge_publications(
    publications: &[Publication],
    source: &SourceFacts,
    destination: &DestinationFacts,
    report: &mut Report,
) {
    let is_made = |role: &String| source.coming.iter().any(|coming| coming.name == *role);
    for Publication { name, owner, .. } in publications {
        let there = destination.known.contains(owner);
        let owns_others =
            if there { destination.assignable.contains(owner) } else { is_made(owner) };
        if owns_others && !destination.creators.contains(owner) {
            report.add(
                Finding::warning("role_not_assignable", Side::Destination)
                    .object(format!("{owner}, owner of publication {name}"))
                    .observed("the role may not create in the database there, so only a superuser gives it a publication")
                    .required("CREATE on the database")
                    .remedy("GRANT CREATE ON DATABASE … TO it; or the publication belongs to the role that migrates"),
            );
        }
    }
}
