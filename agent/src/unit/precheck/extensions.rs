//! Extensions: what the source uses must be there to be created.

use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::spec::ObjectRules;

use super::report::{Finding, Report};
use crate::pg::Session;

/// An extension of the source's database.
#[derive(Debug)]
pub(super) struct Extension {
    name: String,
    version: String,
}

/// An extension that the destination has the files of.
#[derive(Debug)]
pub(super) struct Available {
    name: String,
    default_version: String,
    installed: Option<String>,
    /// Whether its files say that the role may create it. A managed service may let it create others.
    creatable: bool,
}

pub(super) async fn of_source(session: &Session) -> Result<Vec<Extension>, tokio_postgres::Error> {
    let query =
        "select extname::text, extversion from pg_extension where extname <> 'plpgsql' order by 1";
    let rows = session.query(query, &[]).await?;
    Ok(rows.iter().map(|row| Extension { name: row.get(0), version: row.get(1) }).collect())
}

/// Tables of extensions that hold rows of the user's among their own. An extension tells them apart by a condition; only
/// tables that are the user's as a whole are copied.
pub(super) async fn with_users_rows(
    session: &Session,
    rules: &ObjectRules,
) -> Result<Vec<QualifiedName>, tokio_postgres::Error> {
    let query = "select n.nspname::text, c.relname::text, x.condition
         from pg_extension e, unnest(e.extconfig, e.extcondition) as x (relation, condition)
         join pg_class c on c.oid = x.relation
         join pg_namespace n on n.oid = c.relnamespace
         where c.relkind in ('r', 'p') and x.condition <> '' order by 1, 2";
    let mut found = Vec::new();
    for row in session.query(query, &[]).await? {
        let name = QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1));
        if !rules.matches(&name) {
            continue;
        }
        let condition: &str = row.get(2);
        let any = format!("select exists (select from {} {condition})", name.quoted());
        // A table that may not be read may hold some.
        let holds = session.query_one(&any, &[]).await.map_or(true, |row| row.get(0));
        if holds {
            found.push(name);
        }
    }
    Ok(found)
}

pub(super) fn judge_users_rows(tables: &[QualifiedName], report: &mut Report) {
    let finding = Finding::warning("extension_rows_left_out", Side::Source)
        .observed("it belongs to an extension and holds rows of yours, which are not migrated")
        .required("none, or that you move them")
        .remedy(
            "copy them yourself when the extension is there: the condition is in pg_extension.extcondition",
        );
    report.add_each(&finding, tables);
}

pub(super) async fn of_destination(
    session: &Session,
) -> Result<Vec<Available>, tokio_postgres::Error> {
    let query = "select e.name::text, coalesce(e.default_version, ''), e.installed_version,
             coalesce(not v.superuser or v.trusted, true) or me.rolsuper
         from pg_roles me, pg_available_extensions e
         left join pg_available_extension_versions v on (v.name, v.version) = (e.name, e.default_version)
         where me.rolname = current_user";
    let rows = session.query(query, &[]).await?;
    let available = |row: &tokio_postgres::Row| Available {
        name: row.get(0),
        default_version: row.get(1),
        installed: row.get(2),
        creatable: row.get(3),
    };
    Ok(rows.iter().map(available).collect())
}

pub(super) fn judge(source: &[Extension], destination: &[Available], report: &mut Report) {
    for extension in source {
        let side = Side::Destination;
        let Some(available) = destination.iter().find(|a| a.name == extension.name) else {
            report.add(
                Finding::error("extension_missing", side)
                    .object(&extension.name)
                    .observed("the server does not have it")
                    .required(format!("version {}, as the source", extension.version))
                    .remedy(
                        "install its files on the destination server, or drop it at the source",
                    ),
            );
            continue;
        };
        if available.installed.is_none() && !available.creatable {
            report.add(
                Finding::warning("superuser_needed", side)
                    .object(format!("extension {}", extension.name))
                    .observed("the role that migrates is no superuser, and the extension is not trusted")
                    .required("that it be there already, or that the server let the role create it, as managed services do")
                    .remedy("let a superuser run CREATE EXTENSION in the destination's database"),
            );
        }
        let version = available.installed.as_ref().unwrap_or(&available.default_version);
        if *version != extension.version {
            report.add(
                Finding::warning("extension_version_differs", side)
                    .object(&extension.name)
                    .observed(version)
                    .required(&extension.version)
                    .remedy("read the extension's notes: its functions, or the form of its values, may have changed"),
            );
        }
    }
}
