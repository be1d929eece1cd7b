//! Tablespaces, where objects go to those of the same names.

use std::collections::BTreeSet;

use pgconvoy_shared::endpoint::Side;

use super::report::{Finding, Report};
use crate::pg::Session;

/// What stands in tablespaces of its own at the source.
const USED: &str = "
    select distinct s.spcname::text
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    join pg_tablespace s on s.oid = c.reltablespace
    where n.nspname !~ '^pg_' and n.nspname <> 'information_schema' and c.relpersistence <> 't'
    order by 1";

/// All of the server.
const THERE: &str = "select spcname::text from pg_tablespace";

pub(super) async fn used(session: &Session) -> Result<Vec<String>, tokio_postgres::Error> {
    Ok(session.query(USED, &[]).await?.iter().map(|row| row.get(0)).collect())
}

pub(super) async fn there(session: &Session) -> Result<BTreeSet<String>, tokio_postgres::Error> {
    Ok(session.query(THERE, &[]).await?.iter().map(|row| row.get(0)).collect())
}

pub(super) fn judge(used: &[String], there: &BTreeSet<String>, report: &mut Report) {
    let missing = Finding::error("tablespace_missing", Side::Destination)
        .observed("there is no such tablespace")
        .required("the tablespace, for schema.tablespaces keeps objects in theirs")
        .remedy("create it: CREATE TABLESPACE … LOCATION …; or leave out schema.tablespaces");
    report.add_each(&missing, used.iter().filter(|space| !there.contains(*space)));
}
