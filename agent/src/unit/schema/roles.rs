//! Roles, where `schema.roles` asks for them. They belong to the server, so no archive of one database has them.
//!
//! Those that the database's objects name come, those that they are members of, and their members: what is needed for
//! everybody to be allowed what he was. None comes that is there already, or that the server was born with; passwords stay,
//! for they can be read by a superuser only, and are nobody else's business.
//!
//! A role is made with what its maker may give it, at worst without being a superuser or the like. Whoever makes it and is no
//! superuser becomes a member of it, so that objects can be given to it.

use std::collections::BTreeSet;

use pgconvoy_shared::name::{quote_identifier, quote_literal};
use tokio_postgres::Error;

use super::entry::{SchemaEntry, Section};
use super::settings::set;
use crate::pg::Session;

/// Made with a role, or later what it is a member of: all but the role itself may be refused.
pub(super) const ROLE: &str = "ROLE";
/// A membership.
pub(super) const MEMBERSHIP: &str = "ROLE MEMBERSHIP";

/// A role of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::unit) struct Role {
    pub(in crate::unit) name: String,
    pub(in crate::unit) may_log_in: bool,
    /// Behind `CREATE ROLE name`.
    options: String,
    /// Options that not everybody may give.
    privileged: Vec<&'static str>,
    settings: Vec<(String, String)>,
    comment: Option<String>,
    /// Roles it is a member of, with the options of that.
    member_of: Vec<(String, String)>,
}

/// The roles of the destination, as far as making others goes.
#[derive(Debug, Clone, Default)]
pub(super) struct Maker {
    pub(super) known: BTreeSet<String>,
    pub(super) superuser: bool,
    pub(super) major: u32,
}

/// What a server gives the first number to that a user makes: what it was born with has smaller ones.
const FIRST_OF_USERS: u32 = 16384;

/// The roles that would come.
pub(in crate::unit) async fn of_source(session: &Session) -> Result<Vec<Role>, Error> {
    let options = if session.major() >= 16 {
        "format('ADMIN %s, INHERIT %s, SET %s', bool_or(m.admin_option)::text, bool_or(m.inherit_option)::text, bool_or(m.set_option)::text)"
    } else {
        "case when bool_or(m.admin_option) then 'ADMIN OPTION' else '' end"
    };
    let rows = session
        .query(
            &format!(
                "with recursive here (oid) as (
                     select oid from pg_database where datname = current_database()
                 ), coming (oid) as (
                     select oid from pg_roles where oid >= {FIRST_OF_USERS} and oid in (
                         select d.refobjid from pg_shdepend d, here
                         where d.refclassid = 'pg_authid'::regclass
                           and (d.dbid = here.oid or d.classid = 'pg_database'::regclass and d.objid = here.oid)
                         union all
                         select s.setrole from pg_db_role_setting s, here where s.setdatabase = here.oid)
                     union
                     select other.oid from coming
                     join pg_auth_members m on coming.oid in (m.member, m.roleid)
                     join pg_roles other on other.oid in (m.member, m.roleid) and other.oid >= {FIRST_OF_USERS}
                 )
                 select r.rolname::text, r.rolcanlogin,
                     concat_ws(' ', case when r.rolcanlogin then 'LOGIN' end, case when not r.rolinherit then 'NOINHERIT' end,
                         case when r.rolconnlimit >= 0 then 'CONNECTION LIMIT ' || r.rolconnlimit end,
                         'VALID UNTIL ' || quote_literal(r.rolvaliduntil)),
                     array[r.rolsuper, r.rolcreatedb, r.rolcreaterole, r.rolreplication, r.rolbypassrls],
                     coalesce((select s.setconfig from pg_db_role_setting s where s.setrole = r.oid and s.setdatabase = 0), '{{}}'),
                     shobj_description(r.oid, 'pg_authid'),
                     array(select g.rolname::text from pg_auth_members m join pg_roles g on g.oid = m.roleid
                           where m.member = r.oid group by 1 order by 1),
                     array(select {options} from pg_auth_members m join pg_roles g on g.oid = m.roleid
                           where m.member = r.oid group by g.rolname order by g.rolname::text)
                 from coming join pg_roles r using (oid)
                 order by 1"
            ),
            &[],
        )
        .await?;
    let role = |row: &tokio_postgres::Row| {
        const PRIVILEGED: [&str; 5] =
            ["SUPERUSER", "CREATEDB", "CREATEROLE", "REPLICATION", "BYPASSRLS"];
        let has: Vec<bool> = row.get(3);
        let settings: Vec<String> = row.get(4);
        let (groups, options): (Vec<String>, Vec<String>) = (row.get(6), row.get(7));
        Role {
            name: row.get(0),
            may_log_in: row.get(1),
            options: row.get(2),
            privileged: PRIVILEGED
                .into_iter()
                .zip(has)
                .filter(|(_, has)| *has)
                .map(|p| p.0)
                .collect(),
            settings: settings
                .iter()
                .filter_map(|setting| setting.split_once('='))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            comment: row.get(5),
            member_of: groups.into_iter().zip(options).collect(),
        }
    };
    Ok(rows.iter().map(role).collect())
}

/// Makes those that the destination lacks; then their memberships.
pub(super) fn entries(roles: &[Role], maker: &Maker) -> Vec<SchemaEntry> {
    let missing: Vec<&Role> =
        roles.iter().filter(|role| !maker.known.contains(&role.name)).collect();
    let there =
        |name: &String| maker.known.contains(name) || missing.iter().any(|role| role.name == *name);
    let made = missing.iter().map(|role| entry(ROLE, &role.name, role.statement(maker)));
    let joined = missing.iter().flat_map(|role| {
        let groups = role.member_of.iter().filter(|(group, _)| there(group));
        groups.map(|(group, options)| {
            let object = format!("{} of {group}", role.name);
            entry(MEMBERSHIP, &object, grant(group, &role.name, options))
        })
    });
    made.chain(joined).collect()
}

fn entry(kind: &str, object: &str, statement: String) -> SchemaEntry {
    SchemaEntry {
        section: Section::Pre,
        kind: kind.to_owned(),
        schema: String::new(),
        object: object.to_owned(),
        table: None,
        wave: 0,
        statement,
    }
}

fn grant(group: &str, member: &str, options: &str) -> String {
    let with = if options.is_empty() { String::new() } else { format!(" WITH {options}") };
    format!("GRANT {} TO {}{with};", quote_identifier(group), quote_identifier(member))
}

impl Role {
    fn statement(&self, maker: &Maker) -> String {
        let name = quote_identifier(&self.name);
        let mut lines = vec![format!("CREATE ROLE {name} {}", self.options).trim_end().to_owned()];
        lines.extend(self.privileged.iter().map(|option| format!("ALTER ROLE {name} {option}")));
        let settings = self.settings.iter();
        lines.extend(settings.map(|(of, value)| format!("ALTER ROLE {name} {}", set(of, value))));
        let comment = self.comment.as_deref().map(quote_literal);
        lines.extend(comment.map(|text| format!("COMMENT ON ROLE {name} IS {text}")));
        if !maker.superuser {
            let options = if maker.major >= 16 { " WITH INHERIT TRUE, SET TRUE" } else { "" };
            lines.push(format!("GRANT {name} TO CURRENT_USER{options}"));
        }
        lines.iter().map(|line| format!("{line};\n")).collect::<String>().trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_that_are_missing_are_made_before_they_join_others() {
        let role = |name: &str, member_of: &[(&str, &str)]| Role {
            name: name.to_owned(),
            may_log_in: false,
            options: String::new(),
            privileged: Vec::new(),
            settings: Vec::new(),
            comment: None,
            member_of: member_of.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect(),
        };
        let ann = Role {
            options: "LOGIN".to_owned(),
            privileged: vec!["CREATEDB"],
            settings: vec![("work_mem".to_owned(), "1MB".to_owned())],
            comment: Some("it's".to_owned()),
            ..role("Ann", &[("gone", ""), ("old", "ADMIN OPTION"), ("app", "")])
        };
        let roles = [ann, role("app", &[]), role("old", &[("app", "")])];
        let maker = Maker { known: ["old".to_owned()].into(), superuser: false, major: 15 };
        let told: Vec<_> =
            entries(&roles, &maker).into_iter().map(|e| (e.kind, e.statement)).collect();
        let expected = [
            (
                ROLE,
                "CREATE ROLE \"Ann\" LOGIN;\nALTER ROLE \"Ann\" CREATEDB;\nALTER ROLE \"Ann\" SET \"work_mem\" TO '1MB';\n\
                 COMMENT ON ROLE \"Ann\" IS 'it''s';\nGRANT \"Ann\" TO CURRENT_USER;",
            ),
            (ROLE, "CREATE ROLE \"app\";\nGRANT \"app\" TO CURRENT_USER;"),
            (MEMBERSHIP, "GRANT \"old\" TO \"Ann\" WITH ADMIN OPTION;"),
            (MEMBERSHIP, "GRANT \"app\" TO \"Ann\";"),
        ];
        assert_eq!(told, expected.map(|(kind, text)| (kind.to_owned(), text.to_owned())));
    }
}
