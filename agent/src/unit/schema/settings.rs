//! What `ALTER DATABASE … SET` and `ALTER ROLE … IN DATABASE … SET` said, and the database's comment, where
//! `schema.database_settings` asks for them. They are set last of all: a setting may be in the way of what comes before.

use std::collections::BTreeSet;

use pgconvoy_shared::name::{quote_identifier, quote_literal};
use tokio_postgres::Error;

use super::entry::{SchemaEntry, Section};
use crate::pg::Session;
use crate::unit::cutover::{FENCE, LIFTED, MARK};

/// May be refused without stopping the migration: a setting may need a superuser, or a library.
pub(super) const SETTING: &str = "DATABASE SETTING";

/// What the source's database has.
#[derive(Debug, Default)]
pub(super) struct DatabaseSettings {
    settings: Vec<Setting>,
    comment: Option<String>,
}

#[derive(Debug)]
struct Setting {
    /// None = for all.
    role: Option<String>,
    name: String,
    value: String,
}

pub(super) async fn of_source(session: &Session) -> Result<DatabaseSettings, Error> {
    let rows = session
        .query(
            "select r.rolname::text, split_part(setting, '=', 1), substr(setting, strpos(setting, '=') + 1)
             from pg_db_role_setting s
             join pg_database d on d.oid = s.setdatabase
             left join pg_roles r on r.oid = s.setrole,
             unnest(s.setconfig) as setting
             where d.datname = current_database()
             order by 1 nulls first, 2",
            &[],
        )
        .await?;
    let setting = |row: &tokio_postgres::Row| Setting {
        role: row.get(0),
        name: row.get(1),
        value: row.get(2),
    };
    let comment = "select shobj_description(oid, 'pg_database') from pg_database where datname = current_database()";
    let settings = rows.iter().map(setting).collect();
    Ok(DatabaseSettings {
        settings: without_fence(settings),
        comment: session.query_one(comment, &[]).await?.get(0),
    })
}

/// A cutover's fence, and its mark, are no settings of the database's own.
fn without_fence(mut settings: Vec<Setting>) -> Vec<Setting> {
    let is_mark = |setting: &Setting| {
        let mark = [MARK, LIFTED].iter().any(|mark| setting.value.starts_with(mark));
        setting.name == "application_name" && mark
    };
    let stands = settings.iter().any(|setting| is_mark(setting) && setting.value.starts_with(MARK));
    let is_fence = |setting: &Setting| setting.role.is_none() && setting.name == FENCE;
    settings.retain(|setting| !(is_mark(setting) || stands && is_fence(setting)));
    settings
}

/// `SET name TO value`. Lists of names are kept as they are to be written.
pub(super) fn set(name: &str, value: &str) -> String {
    const LISTS: [&str; 6] = [
        "local_preload_libraries",
        "search_path",
        "session_preload_libraries",
        "shared_preload_libraries",
        "temp_tablespaces",
        "unix_socket_directories",
    ];
    let is_list = LISTS.iter().any(|list| list.eq_ignore_ascii_case(name)) && !value.is_empty();
    let value = if is_list { value.to_owned() } else { quote_literal(value) };
    format!("SET {} TO {value}", quote_identifier(name))
}

/// For a database of this name; settings of roles that are not there stay behind.
pub(super) fn entries(
    source: &DatabaseSettings,
    database: &str,
    roles: &BTreeSet<String>,
) -> Vec<SchemaEntry> {
    let database = quote_identifier(database);
    let settings = source.settings.iter().filter_map(|setting| {
        let set = set(&setting.name, &setting.value);
        let (whose, statement) = match &setting.role {
            None => (String::new(), format!("ALTER DATABASE {database} {set};")),
            Some(role) if roles.contains(role) => (
                format!(" of {role}"),
                format!("ALTER ROLE {} IN DATABASE {database} {set};", quote_identifier(role)),
            ),
            Some(_) => return None,
        };
        Some((format!("{}{whose}", setting.name), statement))
    });
    let comment = source.comment.iter().map(|text| {
        (
            "comment".to_owned(),
            format!("COMMENT ON DATABASE {database} IS {};", quote_literal(text)),
        )
    });
    let entry = |(object, statement)| SchemaEntry {
        section: Section::Last,
        kind: SETTING.to_owned(),
        schema: String::new(),
        object,
        table: None,
        wave: 0,
        statement,
    };
    settings.chain(comment).map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_is_no_setting_of_the_database() {
        let setting = |role: Option<&str>, name: &str, value: &str| Setting {
            role: role.map(str::to_owned),
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let fence = || setting(None, FENCE, "on");
        let names = |settings| -> Vec<String> {
            without_fence(settings).into_iter().map(|setting| setting.name).collect()
        };
        let mark =
            |what: &str| setting(Some("mover"), "application_name", &format!("{what}t, cutover 1"));
        let own = setting(Some("app"), "application_name", "app");
        assert_eq!(names(vec![fence(), own, mark(MARK)]), ["application_name"]);
        assert_eq!(names(vec![fence()]), [FENCE], "it is the source's own");
        assert_eq!(names(vec![fence(), mark(LIFTED)]), [FENCE]);
    }

    #[test]
    fn settings_are_written_as_they_were_said() {
        let setting = |role: Option<&str>, name: &str, value: &str| Setting {
            role: role.map(str::to_owned),
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let source = DatabaseSettings {
            settings: vec![
                setting(None, "search_path", "\"$user\", \"a b\""),
                setting(None, "my.word", "it's"),
                setting(Some("app"), "work_mem", "1MB"),
                setting(Some("gone"), "work_mem", "1MB"),
            ],
            comment: Some("shop".to_owned()),
        };
        let statements: Vec<_> = entries(&source, "new", &["app".to_owned()].into())
            .into_iter()
            .map(|entry| entry.statement)
            .collect();
        let expected = [
            "ALTER DATABASE \"new\" SET \"search_path\" TO \"$user\", \"a b\";",
            "ALTER DATABASE \"new\" SET \"my.word\" TO 'it''s';",
            "ALTER ROLE \"app\" IN DATABASE \"new\" SET \"work_mem\" TO '1MB';",
            "COMMENT ON DATABASE \"new\" IS 'shop';",
        ];
        assert_eq!(statements, expected);
    }
}
