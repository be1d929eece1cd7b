//! Which entries of an archive are wanted.
//!
//! The task's rules name relations (`schema.table`). What follows from that:
//!
//! 1. A relation with rows or a query (table, view, …) comes if the rules name it. If they do not, whatever needs it is
//!    left out too: a view over a table that does not come cannot be made.
//! 2. What belongs to an object (index, trigger, comment, grant, owned sequence, …) comes with it. What belongs to nothing in
//!    the archive (a grant on schema `public`, which every database has) comes when the rules include everything.
//! 3. Anything else in a schema (types, functions, …) comes if the rules would take an object of that name there.
//! 4. What lies in no schema (extensions, languages, publications, …) comes when the rules include everything.
//! 5. What is needed by something that comes, comes: types, functions, schemas, extensions, sequences.

use std::collections::{BTreeMap, BTreeSet};

use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::spec::ObjectRules;

use super::toc::TocEntry;
use crate::unit::open_stream;

/// What an entry is, to the rules.
enum Role {
    /// 1.
    Relation,
    /// 2.
    Belongs,
    /// 3. and 4.
    Free,
}

fn role(kind: &str) -> Role {
    match kind {
        "TABLE" | "VIEW" | "MATERIALIZED VIEW" | "FOREIGN TABLE" => Role::Relation,
        "ACL"
        | "CHECK CONSTRAINT"
        | "COMMENT"
        | "CONSTRAINT"
        | "DEFAULT"
        | "DEFAULT ACL"
        | "FK CONSTRAINT"
        | "INDEX"
        | "INDEX ATTACH"
        | "POLICY"
        | "PUBLICATION TABLE"
        | "PUBLICATION TABLES IN SCHEMA"
        | "ROW SECURITY"
        | "RULE"
        | "SECURITY LABEL"
        | "SEQUENCE OWNED BY"
        | "STATISTICS"
        | "TABLE ATTACH"
        | "TRIGGER" => Role::Belongs,
        _ => Role::Free,
    }
}

/// The numbers of the entries that come.
pub(super) fn select(entries: &[TocEntry], rules: &ObjectRules) -> BTreeSet<u32> {
    let left_out = left_out(entries, rules);
    let by_id: BTreeMap<u32, &TocEntry> = entries.iter().map(|entry| (entry.id, entry)).collect();
    let mut chosen = BTreeSet::new();
    let named = entries.iter().filter(|entry| !left_out.contains(&entry.id));
    let of_nobody = |entry: &TocEntry| {
        matches!(role(&entry.kind), Role::Belongs) && owner_of(entry, &by_id).is_none()
    };
    let all = rules.include.is_empty();
    for entry in named.clone().filter(|entry| by_rules(entry, rules) || all && of_nobody(entry)) {
        choose(entry.id, &by_id, &left_out, &mut chosen);
    }
    // What belongs to what belongs (a comment on an index) comes in a later round.
    loop {
        let before = chosen.len();
        for entry in named.clone() {
            let belongs = matches!(role(&entry.kind), Role::Belongs) || entry.kind == "SEQUENCE";
            if belongs && owner_of(entry, &by_id).is_some_and(|owner| chosen.contains(&owner)) {
                choose(entry.id, &by_id, &left_out, &mut chosen);
            }
        }
        if chosen.len() == before {
            return chosen;
        }
    }
}

/// The entry that an entry belongs to: the relation among those it needs, or else the first.
fn owner_of(entry: &TocEntry, by_id: &BTreeMap<u32, &TocEntry>) -> Option<u32> {
    let known = entry.needs.iter().copied().filter(|id| by_id.contains_key(id));
    let relation = known.clone().find(|id| matches!(role(&by_id[id].kind), Role::Relation));
    match entry.kind.as_str() {
        // An owned one belongs to its table; a free one to nothing, whatever it needs.
        "SEQUENCE" => relation,
        // Not to the schema, which may be there for a single table.
        "PUBLICATION TABLES IN SCHEMA" => known.clone().find(|id| by_id[id].kind == "PUBLICATION"),
        _ => relation.or_else(|| known.clone().next()),
    }
}

/// Relations that the rules do not name, what pgconvoy made for a task, and all that cannot be made without those.
fn left_out(entries: &[TocEntry], rules: &ObjectRules) -> BTreeSet<u32> {
    let is_out = |entry: &&TocEntry| match &*entry.kind {
        "PUBLICATION" => entry.name.starts_with(open_stream::PREFIX),
        kind => matches!(role(kind), Role::Relation) && !by_rules(entry, rules),
    };
    let mut out: BTreeSet<u32> = entries.iter().filter(is_out).map(|entry| entry.id).collect();
    // Entries stand behind what they need, so one round does; a cycle that pg_dump broke up may take another.
    loop {
        let before = out.len();
        for entry in entries {
            if entry.needs.iter().any(|need| out.contains(need)) {
                out.insert(entry.id);
                out.extend(view_of_query(entry, entries));
            }
        }
        if out.len() == before {
            return out;
        }
    }
}

/// A view whose query needs a primary key is made empty first, and gets its query by a rule `_RETURN` after the rows:
/// without that query it is no view.
fn view_of_query(rule: &TocEntry, entries: &[TocEntry]) -> Option<u32> {
    let view = (rule.kind == "RULE").then(|| rule.name.strip_suffix(" _RETURN"))??;
    let is_it = |entry: &&TocEntry| {
        entry.kind == "VIEW" && entry.name == view && entry.schema == rule.schema
    };
    entries.iter().find(is_it).map(|entry| entry.id)
}

fn choose(
    id: u32,
    by_id: &BTreeMap<u32, &TocEntry>,
    left_out: &BTreeSet<u32>,
    chosen: &mut BTreeSet<u32>,
) {
    let mut wanted = vec![id];
    while let Some(id) = wanted.pop() {
        let Some(entry) = by_id.get(&id) else { continue };
        if !left_out.contains(&id) && chosen.insert(id) {
            wanted.extend(&entry.needs);
        }
    }
}

fn by_rules(entry: &TocEntry, rules: &ObjectRules) -> bool {
    let all = rules.include.is_empty();
    match (role(&entry.kind), &entry.schema) {
        (Role::Belongs, _) => false,
        // A schema stands for itself when everything in it comes; else it is made for what lies in it.
        (_, None) if entry.kind == "SCHEMA" => {
            all && rules.matches(&QualifiedName::new(entry.name.as_str(), "*"))
        }
        (_, None) => all,
        (_, Some(schema)) => {
            let called = matches!(&*entry.kind, "AGGREGATE" | "FUNCTION" | "PROCEDURE");
            // Its name comes with its arguments.
            let name = entry.name.split_once('(').filter(|_| called);
            let name = name.map_or(entry.name.as_str(), |(name, _)| name);
            rules.matches(&QualifiedName::new(schema.as_str(), name))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::schema::toc::CatalogRow;

    fn entry(id: u32, kind: &str, name: &str, needs: &[u32]) -> TocEntry {
        let (schema, name) = match name.split_once('.') {
            Some((schema, name)) => (Some(schema.to_owned()), name),
            None => (None, name),
        };
        TocEntry {
            id,
            object: CatalogRow { class: 0, oid: 0 },
            needs: needs.to_vec(),
            kind: kind.to_owned(),
            schema,
            name: name.to_owned(),
            owner: String::new(),
            post_data: false,
            statement: String::new(),
        }
    }

    /// A shop in two schemas.
    fn shop() -> Vec<TocEntry> {
        vec![
            entry(1, "SCHEMA", "sales", &[]),
            entry(2, "EXTENSION", "hstore", &[]),
            entry(3, "TYPE", "sales.mood", &[1]),
            entry(4, "FUNCTION", "sales.touch()", &[1]),
            entry(5, "TABLE", "public.people", &[3]),
            entry(6, "SEQUENCE", "public.people_id_seq", &[5]),
            entry(7, "TABLE", "sales.orders", &[1, 2]),
            entry(8, "VIEW", "sales.open_orders", &[1, 7]),
            entry(9, "DEFAULT", "public.people id", &[5, 6]),
            entry(10, "CONSTRAINT", "public.people people_pkey", &[5]),
            entry(11, "FK CONSTRAINT", "sales.orders orders_people_fkey", &[7, 5, 10]),
            entry(12, "TRIGGER", "public.people touch", &[5, 4]),
            entry(13, "COMMENT", "public.CONSTRAINT people_pkey", &[10]),
            entry(14, "PUBLICATION", "everything", &[]),
            entry(15, "DEFAULT ACL", "DEFAULT PRIVILEGES FOR TABLES", &[]),
            entry(16, "SEQUENCE", "sales.free_seq", &[1]),
            entry(17, "VIEW", "public.counts", &[]),
            entry(18, "RULE", "public.counts _RETURN", &[17, 7]),
            // Schema `public` itself is in no archive.
            entry(19, "ACL", "SCHEMA public", &[99]),
            entry(20, "PUBLICATION", "pgconvoy_06abcdefghjk", &[]),
            entry(21, "PUBLICATION TABLE", "pgconvoy_06abcdefghjk people", &[5, 20]),
        ]
    }

    #[track_caller]
    fn check(include: &[&str], exclude: &[&str], expected: &[u32]) {
        let texts = |patterns: &[&str]| patterns.iter().map(|&p| p.to_owned()).collect();
        let rules = ObjectRules { include: texts(include), exclude: texts(exclude) };
        let chosen: Vec<u32> = select(&shop(), &rules).into_iter().collect();
        assert_eq!(chosen, expected);
    }

    #[test]
    fn without_rules_all_come() {
        check(&[], &[], &(1..=19).collect::<Vec<_>>());
    }

    #[test]
    fn what_needs_an_excluded_table_is_left_out_with_it() {
        check(&[], &["sales.orders"], &[1, 2, 3, 4, 5, 6, 9, 10, 12, 13, 14, 15, 16, 19]);
    }

    #[test]
    fn an_included_table_brings_what_it_needs_and_what_belongs_to_it() {
        // Type and function of the other schema, its schema, sequence, default, key, trigger, comment; no foreign key.
        check(&["public.people"], &[], &[1, 3, 4, 5, 6, 9, 10, 12, 13]);
    }

    #[test]
    fn only_what_is_called_has_arguments_in_its_name() {
        let named = |kind, name| {
            let rules = ObjectRules { include: vec!["public.f".to_owned()], ..Default::default() };
            by_rules(&entry(1, kind, name, &[]), &rules)
        };
        assert!(named("FUNCTION", "public.f(integer)") && named("TABLE", "public.f"));
        assert!(!named("TABLE", "public.f(integer)"));
    }

    #[test]
    fn an_excluded_schema_is_made_only_for_what_others_need() {
        check(&[], &["sales.*"], &[1, 2, 3, 4, 5, 6, 9, 10, 12, 13, 14, 15, 19]);
    }
}
