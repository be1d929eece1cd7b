//! Extensions: what the source uses must be there to be created.

use pgconvoy_shared::endpoint::Side;

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
}

pub(super) async fn of_source(session: &Session) -> Result<Vec<Extension>, tokio_postgres::Error> {
    let query =
        "select extname::text, extversion from pg_extension where extname <> 'plpgsql' order by 1";
    let rows = session.query(query, &[]).await?;
    Ok(rows.iter().map(|row| Extension { name: row.get(0), version: row.get(1) }).collect())
}

pub(super) async fn of_destination(
    session: &Session,
) -> Result<Vec<Available>, tokio_postgres::Error> {
    let query = "select name::text, coalesce(default_version, ''), installed_version from pg_available_extensions";
    let rows = session.query(query, &[]).await?;
    let available = |row: &tokio_postgres::Row| Available {
        name: row.get(0),
        default_version: row.get(1),
        installed: row.get(2),
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
