//! What of an archive is run at the destination, when, and in which form.

use std::collections::BTreeSet;

use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::spec::ObjectRules;

use super::dump::SourceCatalog;
use super::select::select;
use super::toc::TocEntry;

/// When an entry is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::unit) enum Section {
    /// Before the rows.
    Pre,
    /// Once a table's rows are there: an index, or a constraint that is one.
    Index,
    /// After all rows and indexes.
    Post,
}

impl Section {
    /// As it stands in `pgconvoy.schema_entry`.
    pub(in crate::unit) fn as_str(self) -> &'static str {
        match self {
            Self::Pre => "pre",
            Self::Index => "index",
            Self::Post => "post",
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
    /// Of an index.
    pub(super) table: Option<QualifiedName>,
    pub(super) statement: String,
}

/// The entries in the order in which they are run.
///
/// Grants come last, as pg_restore has it: a grant may take from the role that migrates what it still needs. Materialized
/// views are filled after them, and event triggers, which would see all of it, are the very last.
pub(super) fn arrange(
    toc: Vec<TocEntry>,
    source: &SourceCatalog,
    rules: &ObjectRules,
    assignable: &BTreeSet<String>,
    with_rows: bool,
) -> Vec<SchemaEntry> {
    let chosen = select(&toc, rules);
    let (mut entries, mut last) = (Vec::new(), Vec::new());
    let mut views = BTreeSet::new();
    for entry in toc.into_iter().filter(|entry| chosen.contains(&entry.id)) {
        if entry.kind == "MATERIALIZED VIEW"
            && let Some(schema) = &entry.schema
        {
            views.insert(QualifiedName::new(schema.as_str(), entry.name.as_str()));
        }
        let event_trigger =
            entry.kind == "EVENT TRIGGER" || entry.name.starts_with("EVENT TRIGGER ");
        let list = if event_trigger { &mut last } else { &mut entries };
        list.push(schema_entry(entry, source, assignable));
    }
    if with_rows {
        let filled = source.populated.iter().filter(|view| views.contains(*view));
        entries.extend(filled.map(refresh));
    }
    entries.extend(last);
    entries
}

fn schema_entry(
    entry: TocEntry,
    source: &SourceCatalog,
    assignable: &BTreeSet<String>,
) -> SchemaEntry {
    let indexed = source.tables.get(&entry.object);
    let is_index = matches!(entry.kind.as_str(), "INDEX" | "CONSTRAINT");
    let section = match indexed {
        Some(table) if is_index && table.plain => Section::Index,
        _ if entry.post_data || matches!(entry.kind.as_str(), "ACL" | "DEFAULT ACL") => {
            Section::Post
        }
        _ => Section::Pre,
    };
    let mut statement = entry.statement;
    if !assignable.contains(&entry.owner) {
        let body = without_owner(&statement).len();
        statement.truncate(body);
    }
    if entry.kind == "SCHEMA"
        && let Some(rest) = statement.strip_prefix("CREATE SCHEMA ")
    {
        statement = format!("CREATE SCHEMA IF NOT EXISTS {rest}");
    }
    SchemaEntry {
        section,
        table: indexed.filter(|_| is_index).map(|table| table.name.clone()),
        kind: entry.kind,
        schema: entry.schema.unwrap_or_default(),
        object: entry.name,
        statement,
    }
}

fn refresh(view: &QualifiedName) -> SchemaEntry {
    SchemaEntry {
        section: Section::Post,
        kind: "MATERIALIZED VIEW DATA".to_owned(),
        schema: view.schema.to_string(),
        object: view.name.to_string(),
        table: None,
        statement: format!("REFRESH MATERIALIZED VIEW {};", view.quoted()),
    }
}

/// A statement without its last paragraph, if that is `ALTER … OWNER TO role;`: pg_restore puts it there, on one line.
pub(super) fn without_owner(statement: &str) -> &str {
    let Some(at) = statement.rfind("\n\nALTER ") else { return statement };
    let paragraph = &statement[at + 2..];
    let is_owner = paragraph.rsplit_once(" OWNER TO ").is_some_and(|(_, role)| {
        let role = role.strip_suffix(';').unwrap_or_default();
        let quoted = role.len() > 2 && role.starts_with('"') && role.ends_with('"');
        quoted || role.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_$".contains(&byte))
    });
    if is_owner && !paragraph.contains('\n') { statement[..at].trim_end() } else { statement }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::schema::dump::IndexedTable;
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

    #[test]
    fn entries_are_run_before_the_rows_with_their_table_or_at_the_end() {
        let indexed =
            |name, plain| IndexedTable { name: QualifiedName::new("public", name), plain };
        let source = SourceCatalog {
            dump_major: 15,
            tables: [
                (CatalogRow { class: 1, oid: 5 }, indexed("t", true)),
                (CatalogRow { class: 1, oid: 6 }, indexed("parent", false)),
            ]
            .into(),
            populated: vec![
                QualifiedName::new("public", "v"),
                QualifiedName::new("public", "gone"),
            ],
        };
        let entries = vec![
            toc(1, "EVENT TRIGGER", "et", "CREATE EVENT TRIGGER et", true),
            toc(
                2,
                "TABLE",
                "t",
                "CREATE TABLE t ();\n\n\nALTER TABLE public.t OWNER TO app;",
                false,
            ),
            toc(3, "MATERIALIZED VIEW", "v", "CREATE", false),
            toc(5, "INDEX", "i", "CREATE INDEX i", true),
            toc(6, "CONSTRAINT", "parent parent_pkey", "ALTER", true),
        ];
        let arranged = arrange(entries, &source, &ObjectRules::default(), &BTreeSet::new(), true);
        let told: Vec<_> =
            arranged.iter().map(|e| (e.section, e.object.as_str(), e.statement.as_str())).collect();
        assert_eq!(
            told,
            [
                (Section::Pre, "t", "CREATE TABLE t ();"),
                (Section::Pre, "v", "CREATE"),
                (Section::Index, "i", "CREATE INDEX i"),
                (Section::Post, "parent parent_pkey", "ALTER"),
                (Section::Post, "v", "REFRESH MATERIALIZED VIEW \"public\".\"v\";"),
                (Section::Post, "et", "CREATE EVENT TRIGGER et"),
            ]
        );
    }

    #[test]
    fn only_an_owner_in_the_last_paragraph_is_taken_away() {
        let same = |text| assert_eq!(without_owner(text), text);
        assert_eq!(without_owner("CREATE x;\n\n\nALTER TABLE x OWNER TO \"A b\";"), "CREATE x;");
        same("CREATE FUNCTION f AS $$\n\nALTER TABLE x OWNER TO y;\n$$;");
        same("COMMENT ON TABLE x IS '\n\nALTER TABLE x OWNER TO y';");
        same("CREATE x;\n\nALTER TABLE ONLY x REPLICA IDENTITY FULL;");
    }
}
