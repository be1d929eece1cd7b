//! What of an archive is run at the destination, when, and in which form.
//!
//! What reads whole tables is taken apart, so that it can be done side by side with others ([`Section::Scan`]): a check or a
//! foreign key is made `NOT VALID` and validated later; the key of a large table is built as an index, beside the table's
//! other indexes, and becomes the key when it is there. What comes out of it is the same object.

use std::collections::{BTreeMap, BTreeSet};

use pgconvoy_shared::name::{QualifiedName, quote_identifier};
use pgconvoy_shared::spec::ObjectRules;

use super::catalog::{SourceCatalog, TwoSteps};
use super::select::select;
use super::text::{last_statement, statements, tokens};
use super::toc::TocEntry;

/// When an entry is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::unit) enum Section {
    /// Before the rows.
    Pre,
    /// Once a table's rows are there: an index, or a constraint that is one.
    Index,
    /// After all rows and indexes: what takes no time.
    Post,
    /// After that, side by side: what reads whole tables.
    Scan,
    /// After all others: event triggers, which would see them.
    Last,
    /// Once no change is applied any more: triggers and rules that fire for applied changes, too.
    Live,
}

/// What comes into the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filling {
    Nothing,
    Rows,
    /// Rows, and then what is changed at the source.
    Changes,
}

impl Section {
    /// As it stands in `pgconvoy.schema_entry`.
    pub(in crate::unit) fn as_str(self) -> &'static str {
        match self {
            Self::Pre => "pre",
            Self::Index => "index",
            Self::Post => "post",
            Self::Scan => "scan",
            Self::Last => "last",
            Self::Live => "live",
        }
    }
}

/// A row of `pgconvoy.schema_entry`, but for task, number and done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SchemaEntry {
    pub(super) section: Section,
    pub(super) kind: String,
    pub(super) schema: String,
    pub(super) object: String,
    /// Of an index: whose rows it waits for. In [`Section::Scan`]: what it locks.
    pub(super) table: Option<QualifiedName>,
    /// Within [`Section::Scan`]: what it needs is of lower waves.
    pub(super) wave: i32,
    pub(super) statement: String,
}

/// The entries in the order in which they are run, within each section.
///
/// Grants come last in theirs, as pg_restore has it: a grant may take from the role that migrates what it still needs.
/// Materialized views are filled after them.
pub(super) fn arrange(
    toc: Vec<TocEntry>,
    source: &SourceCatalog,
    rules: &ObjectRules,
    assignable: &BTreeSet<String>,
    filling: Filling,
) -> Vec<SchemaEntry> {
    let chosen = select(&toc, rules);
    let live = match filling {
        Filling::Changes => live(&toc),
        Filling::Nothing | Filling::Rows => BTreeSet::new(),
    };
    let with_rows = filling != Filling::Nothing;
    let mut entries = Vec::new();
    let mut views = BTreeMap::new();
    for entry in toc.into_iter().filter(|entry| chosen.contains(&entry.id)) {
        if entry.kind == "MATERIALIZED VIEW"
            && let Some(schema) = &entry.schema
        {
            let name = QualifiedName::new(schema.as_str(), entry.name.as_str());
            views.insert(name, assignable.contains(&entry.owner));
        }
        let is_live = live.contains(&entry.id);
        let entry = adapted(entry, assignable);
        if is_live {
            entries.push(step(entry, Section::Live));
        } else {
            entries.extend(steps(entry, source, with_rows));
        }
    }
    if with_rows {
        entries.extend(source.populated.iter().filter_map(|view| {
            let by_its_owner = views.get(&view.name)?;
            Some(refresh(&view.name, view.wave, *by_its_owner))
        }));
    }
    entries
}

/// Triggers and rules that fire for applied changes, too (`ENABLE ALWAYS`, `ENABLE REPLICA`): what they did at the source comes
/// from there, and would be done twice. With them what needs them, as comments; and a partition's own setting of its parent's
/// trigger, for the parent's may be one of them.
fn live(toc: &[TocEntry]) -> BTreeSet<u32> {
    let fires = |statement: &str| {
        let mut parts = statements(statement).into_iter().peekable();
        parts.peek().is_some_and(|first| first.starts_with("ALTER TABLE "))
            || parts.any(|part| {
                let changes = part.starts_with("ALTER TABLE ");
                changes && (part.contains(" ENABLE ALWAYS ") || part.contains(" ENABLE REPLICA "))
            })
    };
    let is = |entry: &&TocEntry| {
        matches!(entry.kind.as_str(), "TRIGGER" | "RULE") && fires(&entry.statement)
    };
    let mut live: BTreeSet<u32> = toc.iter().filter(is).map(|entry| entry.id).collect();
    let with = |entry: &&TocEntry| entry.needs.iter().any(|need| live.contains(need));
    let with: Vec<u32> = toc.iter().filter(with).map(|entry| entry.id).collect();
    live.extend(with);
    live
}

/// An entry as this destination can take it.
fn adapted(mut entry: TocEntry, assignable: &BTreeSet<String>) -> TocEntry {
    if !assignable.contains(&entry.owner) {
        let body = without_owner(&entry.statement).len();
        entry.statement.truncate(body);
    }
    if entry.kind == "SCHEMA"
        && let Some(rest) = entry.statement.strip_prefix("CREATE SCHEMA ")
    {
        entry.statement = format!("CREATE SCHEMA IF NOT EXISTS {rest}");
    }
    entry
}

/// An entry in the steps in which it is run. Without rows there is nothing to read, and one is enough.
fn steps(entry: TocEntry, source: &SourceCatalog, with_rows: bool) -> Vec<SchemaEntry> {
    let event_trigger = match entry.kind.as_str() {
        "COMMENT" | "SECURITY LABEL" => entry.name.starts_with("EVENT TRIGGER "),
        kind => kind == "EVENT TRIGGER",
    };
    match entry.kind.as_str() {
        "INDEX" | "CONSTRAINT" => {
            let index = source.indexes.get(&entry.object).filter(|index| index.plain);
            let Some(index) = index else { return vec![step(entry, Section::Post)] };
            let table = Some(index.table.clone());
            if with_rows
                && let Some(how) = &index.in_two_steps
                && let Some([build, attach]) = key_of_index(&entry.statement, how)
            {
                let attach = SchemaEntry { statement: attach, ..step(entry, Section::Post) };
                let kind = "INDEX".to_owned();
                let section = Section::Index;
                let build =
                    SchemaEntry { kind, section, table, statement: build, ..attach.clone() };
                return vec![build, attach];
            }
            vec![SchemaEntry { table, ..step(entry, Section::Index) }]
        }
        "CHECK CONSTRAINT" | "FK CONSTRAINT" => {
            let constraint = source.validated.get(&entry.object).filter(|_| with_rows);
            if let Some(constraint) = constraint
                && let Some(unproven) = not_valid(&entry.statement)
            {
                let table = constraint.table.quoted();
                let name = quote_identifier(&constraint.name);
                let make = SchemaEntry { statement: unproven, ..step(entry, Section::Post) };
                let validate = SchemaEntry {
                    section: Section::Scan,
                    table: Some(constraint.table.clone()),
                    statement: format!("ALTER TABLE {table} VALIDATE CONSTRAINT {name};"),
                    ..make.clone()
                };
                return vec![make, validate];
            }
            vec![step(entry, Section::Post)]
        }
        _ if event_trigger => vec![step(entry, Section::Last)],
        "ACL" | "DEFAULT ACL" => vec![step(entry, Section::Post)],
        _ if entry.post_data => vec![step(entry, Section::Post)],
        _ => vec![step(entry, Section::Pre)],
    }
}

fn step(entry: TocEntry, section: Section) -> SchemaEntry {
    SchemaEntry {
        section,
        kind: entry.kind,
        schema: entry.schema.unwrap_or_default(),
        object: entry.name,
        table: None,
        wave: 0,
        statement: entry.statement,
    }
}

/// The two steps of a key with what pg_dump wrote around it: settings before it, what follows from the key after it.
fn key_of_index(statement: &str, how: &TwoSteps) -> Option<[String; 2]> {
    let all = statements(statement);
    let key = all.iter().position(|part| part.contains("ADD CONSTRAINT"))?;
    let with = |parts: &[&str]| parts.iter().map(|part| format!("{part};\n")).collect::<String>();
    let (before, after) = (with(&all[..key]), with(&all[key + 1..]));
    let after = after.trim_end();
    let gap = if after.is_empty() { "" } else { "\n" };
    Some([format!("{before}{}", how.build), format!("{}{gap}{after}", how.attach)])
}

/// A constraint that says nothing of the rows that are there yet.
fn not_valid(statement: &str) -> Option<String> {
    match statements(statement).as_slice() {
        [alone] if !alone.ends_with(" NOT VALID") => Some(format!("{alone} NOT VALID;")),
        _ => None,
    }
}

/// Fills a materialized view. A server reads for it as its owner: what policies hide from that role is not in it, here as at the
/// source. Where it belongs to somebody else here, they must hide nothing, or it is refused.
pub(super) fn refresh(view: &QualifiedName, wave: i32, by_its_owner: bool) -> SchemaEntry {
    let policies = if by_its_owner { "SET LOCAL row_security = on; " } else { "" };
    SchemaEntry {
        section: Section::Scan,
        kind: "MATERIALIZED VIEW DATA".to_owned(),
        schema: view.schema.to_string(),
        object: view.name.to_string(),
        table: Some(view.clone()),
        wave,
        statement: format!("{policies}REFRESH MATERIALIZED VIEW {};", view.quoted()),
    }
}

/// A statement without its last paragraph, if that is `ALTER … OWNER TO role;`: pg_restore puts it there.
pub(super) fn without_owner(statement: &str) -> &str {
    let before = &statement[..last_statement(statement)];
    match new_owner(&statement[before.len()..]) {
        Some(_) if before.ends_with("\n\n") => before.trim_end(),
        Some(_) | None => statement,
    }
}

/// Who owns an object after an `ALTER … OWNER TO role;`, as it stands there.
pub(super) fn new_owner(statement: &str) -> Option<&str> {
    let alter = statement.trim().strip_suffix(';').filter(|alter| alter.starts_with("ALTER "))?;
    match tokens(alter).as_slice() {
        ["ALTER", .., "OWNER", "TO", role] => Some(role),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::schema::catalog::{Constraint, Index, PopulatedView};
    use crate::unit::schema::toc::CatalogRow;

    fn toc(id: u32, kind: &str, name: &str, statement: &str, post_data: bool) -> TocEntry {
        TocEntry {
            id,
            object: CatalogRow { class: 1, oid: id },
            needs: Vec::new(),
            kind: kind.to_owned(),
            schema: Some("public".to_owned()),
            name: name.to_owned(),
            owner: "app".to_owned(),
            post_data,
            statement: statement.to_owned(),
        }
    }

    fn table(name: &str) -> QualifiedName {
        QualifiedName::new("public", name)
    }

    fn row(oid: u32) -> CatalogRow {
        CatalogRow { class: 1, oid }
    }

    fn source() -> SourceCatalog {
        let index = |name, plain| Index { table: table(name), plain, in_two_steps: None };
        let view = |name, wave| PopulatedView { name: table(name), wave };
        let key = TwoSteps {
            build: "CREATE UNIQUE INDEX k ON t (a);".to_owned(),
            attach: "ALTER TABLE ONLY t ADD CONSTRAINT k PRIMARY KEY USING INDEX k;".to_owned(),
        };
        let constraint = Constraint { table: table("t"), name: "T to p".to_owned() };
        SourceCatalog {
            indexes: [
                (row(5), index("t", true)),
                (row(6), index("parent", false)),
                (row(7), Index { in_two_steps: Some(key), ..index("t", true) }),
            ]
            .into(),
            validated: [(row(8), constraint)].into(),
            populated: vec![view("v", 3), view("gone", 4)],
            ..SourceCatalog::default()
        }
    }

    #[track_caller]
    fn check(entries: Vec<TocEntry>, filling: Filling, expected: &[(Section, &str, &str)]) {
        let rules = ObjectRules::default();
        let arranged = arrange(entries, &source(), &rules, &BTreeSet::new(), filling);
        let told: Vec<_> =
            arranged.iter().map(|e| (e.section, e.kind.as_str(), e.statement.as_str())).collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn entries_are_run_before_the_rows_with_their_table_or_at_the_end() {
        let owned = "CREATE TABLE t ();\n\n\nALTER TABLE public.t OWNER TO app;";
        let entries = vec![
            toc(1, "EVENT TRIGGER", "et", "CREATE EVENT TRIGGER et", true),
            toc(2, "TABLE", "t", owned, false),
            toc(3, "MATERIALIZED VIEW", "v", "CREATE", false),
            toc(5, "INDEX", "i", "CREATE INDEX i", true),
            toc(6, "CONSTRAINT", "parent parent_pkey", "ALTER", true),
        ];
        check(
            entries,
            Filling::Rows,
            &[
                (Section::Last, "EVENT TRIGGER", "CREATE EVENT TRIGGER et"),
                (Section::Pre, "TABLE", "CREATE TABLE t ();"),
                (Section::Pre, "MATERIALIZED VIEW", "CREATE"),
                (Section::Index, "INDEX", "CREATE INDEX i"),
                (Section::Post, "CONSTRAINT", "ALTER"),
                (
                    Section::Scan,
                    "MATERIALIZED VIEW DATA",
                    "REFRESH MATERIALIZED VIEW \"public\".\"v\";",
                ),
            ],
        );
    }

    #[test]
    fn a_large_tables_key_is_built_as_an_index_and_attached() {
        let key = "SET default_tablespace = fast;\n\nALTER TABLE ONLY t\n    ADD CONSTRAINT k PRIMARY KEY (a);\n\n\
                   ALTER TABLE t CLUSTER ON k;";
        let entries = || vec![toc(7, "CONSTRAINT", "t k", key, true)];
        let build = "SET default_tablespace = fast;\nCREATE UNIQUE INDEX k ON t (a);";
        let attach = "ALTER TABLE ONLY t ADD CONSTRAINT k PRIMARY KEY USING INDEX k;\nALTER TABLE t CLUSTER ON k;";
        let two = [(Section::Index, "INDEX", build), (Section::Post, "CONSTRAINT", attach)];
        check(entries(), Filling::Rows, &two);
        check(entries(), Filling::Nothing, &[(Section::Index, "CONSTRAINT", key)]);
    }

    #[test]
    fn a_foreign_key_is_validated_side_by_side_with_others_unless_the_sources_is_not_valid() {
        let key =
            "ALTER TABLE ONLY t\n    ADD CONSTRAINT \"T to p\" FOREIGN KEY (a) REFERENCES p(a)";
        let (valid, unproven) = (format!("{key};"), format!("{key} NOT VALID;"));
        let entries = |id, text: &str| vec![toc(id, "FK CONSTRAINT", "t T to p", text, true)];
        let make = (Section::Post, "FK CONSTRAINT", unproven.as_str());
        let validate = "ALTER TABLE \"public\".\"t\" VALIDATE CONSTRAINT \"T to p\";";
        check(
            entries(8, &valid),
            Filling::Rows,
            &[make, (Section::Scan, "FK CONSTRAINT", validate)],
        );
        check(entries(8, &valid), Filling::Nothing, &[(Section::Post, "FK CONSTRAINT", &valid)]);
        check(entries(9, &unproven), Filling::Rows, &[make]);
    }

    #[test]
    fn what_fires_for_applied_changes_waits_until_there_are_none() {
        let always = "CREATE TRIGGER a BEFORE INSERT ON t EXECUTE FUNCTION f();\n\n\n\
                      ALTER TABLE t ENABLE ALWAYS TRIGGER a;";
        let usual =
            "CREATE TRIGGER b BEFORE INSERT ON t EXECUTE FUNCTION f('ENABLE ALWAYS TRIGGER');";
        let replica =
            "CREATE RULE c AS ON UPDATE TO t DO NOTHING;\n\nALTER TABLE t ENABLE REPLICA RULE c;";
        let of_part = "ALTER TABLE part DISABLE TRIGGER a;";
        let comment = "COMMENT ON TRIGGER a ON t IS 'x';";
        let entries = || {
            let said = TocEntry { needs: vec![1], ..toc(5, "COMMENT", "TRIGGER a", comment, true) };
            vec![
                toc(1, "TRIGGER", "t a", always, true),
                toc(2, "TRIGGER", "t b", usual, true),
                toc(3, "RULE", "t c", replica, true),
                toc(4, "TRIGGER", "part a", of_part, true),
                said,
            ]
        };
        let told = |live| {
            [
                (live, "TRIGGER", always),
                (Section::Post, "TRIGGER", usual),
                (live, "RULE", replica),
                (live, "TRIGGER", of_part),
                (live, "COMMENT", comment),
            ]
        };
        check(entries(), Filling::Changes, &told(Section::Live));
        check(entries(), Filling::Rows, &told(Section::Post));
    }

    #[test]
    fn only_an_owner_in_the_last_paragraph_is_taken_away() {
        let same = |text| assert_eq!(without_owner(text), text);
        assert_eq!(without_owner("CREATE x;\n\n\nALTER TABLE x OWNER TO \"A b\";"), "CREATE x;");
        same("CREATE FUNCTION f AS $$\n\nALTER TABLE x OWNER TO y;\n$$;");
        same("COMMENT ON TABLE x IS '\n\nALTER TABLE x OWNER TO y';");
        same("CREATE x;\n\nALTER TABLE ONLY x REPLICA IDENTITY FULL;");
        same("ALTER TABLE x OWNER TO y;");
        let lines =
            "-- made by initdb\n\n\nALTER SCHEMA \"a\n\nALTER b OWNER TO c;\" OWNER TO \"x\ny\";";
        assert_eq!(without_owner(lines), "-- made by initdb");
        assert_eq!(new_owner(&lines[19..]), Some("\"x\ny\""));
    }
}
