//! Roles: owners of objects and those who were granted something.

use std::collections::BTreeSet;

use pgconvoy_shared::endpoint::Side;

use super::report::{Finding, Report};
use crate::pg::Session;
use crate::unit::schema::assignable;

/// At the source.
#[derive(Debug)]
pub(super) struct SourceFacts {
    /// Roles that own something in the database, or were granted something.
    named: Vec<String>,
    /// Those that own something.
    owners: Vec<String>,
    /// Roles that policies name: a policy without its role cannot be made.
    in_policies: Vec<String>,
}

/// At the destination.
#[derive(Debug)]
pub(super) struct DestinationFacts {
    known: BTreeSet<String>,
    /// Those that objects may be given to.
    assignable: BTreeSet<String>,
}

pub(super) async fn of_source(session: &Session) -> Result<SourceFacts, tokio_postgres::Error> {
    let texts = async |query: &str| -> Result<Vec<String>, tokio_postgres::Error> {
        Ok(session.query(query, &[]).await?.iter().map(|row| row.get(0)).collect())
    };
    Ok(SourceFacts {
        named: texts(
            "select distinct r.rolname::text
             from pg_shdepend d join pg_roles r on r.oid = d.refobjid
             where d.dbid = (select oid from pg_database where datname = current_database())
               and d.refclassid = 'pg_authid'::regclass and d.deptype in ('o', 'a')
             order by 1",
        )
        .await?,
        owners: texts(
            "select distinct r.rolname::text
             from pg_shdepend d join pg_roles r on r.oid = d.refobjid
             where d.dbid = (select oid from pg_database where datname = current_database())
               and d.refclassid = 'pg_authid'::regclass and d.deptype = 'o'
             order by 1",
        )
        .await?,
        in_policies: texts(
            "select distinct r.rolname::text from pg_policy p join pg_roles r on r.oid = any (p.polroles) order by 1",
        )
        .await?,
    })
}

pub(super) async fn of_destination(
    session: &Session,
) -> Result<DestinationFacts, tokio_postgres::Error> {
    let assignable = assignable(session.major());
    let query = format!("select rolname::text, {assignable} from pg_roles");
    let rows = session.query(&query, &[]).await?;
    let name = |row: &tokio_postgres::Row| row.get::<_, String>(0);
    Ok(DestinationFacts {
        known: rows.iter().map(name).collect(),
        assignable: rows.iter().filter(|row| row.get(1)).map(name).collect(),
    })
}

pub(super) fn judge(source: &SourceFacts, destination: &DestinationFacts, report: &mut Report) {
    let missing = |roles: &[String]| {
        let missing = roles.iter().filter(|role| !destination.known.contains(*role));
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
