//! User mappings whose options are not shown to the role that reads: an archive has them without any, and does not say so.

use tokio_postgres::Error;

use crate::pg::Session;

/// The users and servers of those. They are shown to the user himself, of PUBLIC's to the server's owner, and to superusers.
pub(in crate::unit) async fn closed_mappings(
    session: &Session,
) -> Result<Vec<(String, String)>, Error> {
    let rows = session
        .query(
            "select m.usename::text, m.srvname::text
             from pg_user_mappings m
             join pg_foreign_server s on s.oid = m.srvid
             join pg_roles r on r.rolname = current_user
             where m.umoptions is null and not r.rolsuper
               and not case when m.umuser = 0 then pg_has_role(s.srvowner, 'usage')
                            else m.usename = current_user
                                 and (pg_has_role(s.srvowner, 'usage') or has_server_privilege(s.oid, 'usage')) end
             order by 1, 2",
            &[],
        )
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
