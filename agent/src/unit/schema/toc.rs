//! An archive's table of contents with the statements of each entry.
//!
//! `pg_restore --verbose` writes the archive as a script, each entry below a comment that tells its number, the catalogue
//! row it was made from, and the entries it needs:
//!
//! ```text
//! --
//! -- TOC entry 3385 (class 2606 OID 16557)
//! -- Dependencies: 222 219 3366
//! -- Name: c c_t_fkey; Type: FK CONSTRAINT; Schema: sales; Owner: app
//! --
//! ```
//!
//! A function's body or a comment on a table may contain just that; so a header counts only outside of quotes. Only the
//! number and the catalogue row are read there: what an entry is called stands in the archive ([`contents`](super::contents)).
//! What was found is compared with what `pg_restore --list` says is there: the same numbers made from the same catalogue
//! rows, each once. Nothing is lost in between.

use std::collections::{BTreeMap, BTreeSet};

use super::contents::{Archived, BadArchive};
use super::text::{Piece, pieces};

/// An entry of the table of contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TocEntry {
    /// Its number in the archive.
    pub(super) id: u32,
    /// The catalogue it was made from, and the row there (at the source); zeros where it is no object of its own.
    pub(super) object: CatalogRow,
    /// Entries that must be there before.
    pub(super) needs: Vec<u32>,
    /// `TABLE`, `FK CONSTRAINT`, …
    pub(super) kind: String,
    /// The schema, if the object lies in one.
    pub(super) schema: Option<String>,
    /// The object, as pg_dump names it.
    pub(super) name: String,
    /// The owner's role; may be empty.
    pub(super) owner: String,
    /// Belongs after the rows.
    pub(super) post_data: bool,
    /// What to run.
    pub(super) statement: String,
}

/// A row of the source's catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct CatalogRow {
    /// OID of the catalogue.
    pub(super) class: u32,
    /// OID of the row.
    pub(super) oid: u32,
}

/// What pg_restore wrote is not understood: nothing is run then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadToc {
    #[error("{0}")]
    Archive(#[from] BadArchive),
    #[error("line `{0}` of the archive's list")]
    List(String),
    #[error("header `{0}` in the archive's script")]
    Header(String),
    #[error("entries {0:?} of the archive are not in its script, or there twice")]
    Lost(Vec<u32>),
}

/// Puts together what the archive says of its entries, what `pg_restore --list` says of it and of its part after the rows, and
/// the script.
pub(super) fn parse(
    mut archived: BTreeMap<u32, Archived>,
    all: &str,
    post_data: &str,
    script: &str,
) -> Result<Vec<TocEntry>, BadToc> {
    let mut expected = list(all)?;
    let post_data: BTreeSet<u32> = list(post_data)?.into_keys().collect();
    let mut entries = Vec::with_capacity(expected.len());
    let mut lost = Vec::new();
    for section in sections(script) {
        let (id, object) = header(section.header)?;
        let listed = expected.remove(&id) == Some(object);
        let of_it = archived.remove(&id).filter(|archived| listed && archived.object == object);
        let Some(Archived { object, needs, kind, schema, name, owner }) = of_it else {
            lost.push(id);
            continue;
        };
        let post_data = post_data.contains(&id);
        let statement = without_column_versions(section.body.trim());
        let entry = TocEntry { id, object, needs, kind, schema, name, owner, post_data, statement };
        entries.push(entry);
    }
    lost.extend(expected.into_keys());
    if !lost.is_empty() {
        return Err(BadToc::Lost(lost));
    }
    carry_settings(&mut entries);
    Ok(entries)
}

/// `3385; 2606 16557 FK CONSTRAINT sales c c_t_fkey app`
fn list(text: &str) -> Result<BTreeMap<u32, CatalogRow>, BadToc> {
    let lines = text.lines().filter(|line| !line.starts_with(';') && !line.trim().is_empty());
    lines
        .map(|line| {
            let mut words = line.split_ascii_whitespace();
            let id = words.next().and_then(|word| word.strip_suffix(';')?.parse().ok());
            let mut number = || words.next().and_then(|word| word.parse().ok());
            match (id, number(), number()) {
                (Some(id), Some(class), Some(oid)) => Ok((id, CatalogRow { class, oid })),
                _ => Err(BadToc::List(line.to_owned())),
            }
        })
        .collect()
}

struct Section<'a> {
    header: &'a str,
    body: &'a str,
}

/// Cuts the script at the headers that stand outside of quotes.
fn sections(script: &str) -> Vec<Section<'_>> {
    const HEADER: &str = "-- TOC entry ";
    let mut starts = Vec::new();
    // What stands behind the last statement is pg_restore's farewell: the time, which is another one each time.
    let (mut end, mut commands) = (0, script.len());
    for (piece, at, after) in pieces(script) {
        let begins_line = at == 0 || script.as_bytes()[at - 1] == b'\n';
        match piece {
            Piece::LineComment if begins_line && script[at..].starts_with(HEADER) => {
                starts.push(at);
            }
            Piece::LineComment => {}
            // psql's own commands stand before the first entry and after the last.
            Piece::Plain if begins_line && script[at..].starts_with('\\') && !starts.is_empty() => {
                commands = at;
                break;
            }
            Piece::Plain if script[at..after].trim().is_empty() => {}
            Piece::Quoted | Piece::Plain => end = after,
        }
    }
    // A last entry without a statement is its header alone.
    let end = if starts.last().is_some_and(|last| *last < end) { end } else { commands };
    let ends = starts.iter().skip(1).copied().chain([end]);
    let cut = starts.iter().zip(ends).map(|(&start, end)| {
        let text = &script[start..end];
        // The comment's last line is empty but for its dashes, as is the first of the next one.
        let header_len = text.find("\n--\n").map_or(text.len(), |at| at + 1);
        let body = text.get(header_len + "--\n".len()..).unwrap_or_default();
        let body = body.strip_suffix("--\n").unwrap_or(body);
        Section { header: &text[..header_len], body }
    });
    cut.collect()
}

/// The entry's number, and the row it was made from.
fn header(text: &str) -> Result<(u32, CatalogRow), BadToc> {
    let first = text.lines().next().unwrap_or_default();
    let number = |after: &str| -> Option<u32> {
        let digits = first.split_once(after)?.1;
        digits[..digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len())].parse().ok()
    };
    match (number("TOC entry "), number("(class "), number(" OID ")) {
        (Some(id), Some(class), Some(oid)) => Ok((id, CatalogRow { class, oid })),
        _ => Err(BadToc::Header(first.to_owned())),
    }
}

/// A minor release of PostgreSQL counts a column's versions and keeps the count among the column's options, where a pg_dump
/// that does not know of it takes it for one that can be set. No server lets it be set.
fn without_column_versions(statement: &str) -> String {
    const VERSION: &str = "pg_attver=";
    let is_digit_or_comma = |c: char| c.is_ascii_digit() || matches!(c, ',' | ' ');
    let cleaned = |line: &str| -> Option<String> {
        let options = line.starts_with("ALTER ") && line.contains(" ALTER COLUMN ");
        let Some((before, after)) = line.split_once(VERSION).filter(|_| options) else {
            return Some(line.to_owned());
        };
        let rest = after.trim_start_matches(is_digit_or_comma);
        let before = if rest == ");" { before.trim_end_matches(", ") } else { before };
        (!before.ends_with('(') || rest != ");").then(|| format!("{before}{rest}"))
    };
    if !statement.contains(VERSION) {
        return statement.to_owned();
    }
    let lines: Vec<String> = statement.split('\n').filter_map(cleaned).collect();
    lines.join("\n").trim().to_owned()
}

/// The script sets defaults ahead of the comment of the first entry that needs them, and leaves them so. Here entries are run
/// one by one in any session: each says for itself what it needs.
fn carry_settings(entries: &mut [TocEntry]) {
    // With the kinds of entries that heed it.
    const SETTINGS: [(&str, &[&str]); 2] = [
        ("SET default_tablespace = ", &["TABLE", "MATERIALIZED VIEW", "INDEX", "CONSTRAINT"]),
        ("SET default_table_access_method = ", &["TABLE", "MATERIALIZED VIEW"]),
    ];
    let mut current: [Option<String>; SETTINGS.len()] = Default::default();
    for entry in entries {
        let set: String = SETTINGS
            .iter()
            .zip(&current)
            .filter(|((_, kinds), _)| kinds.contains(&entry.kind.as_str()))
            .filter_map(|(_, setting)| setting.as_ref())
            .map(|setting| format!("{setting}\n\n"))
            .collect();
        // Several may stand there, each in a paragraph of one line.
        while let Some((at, nth)) = SETTINGS.iter().zip(0..).find_map(|((setting, _), nth)| {
            let at = entry.statement.rfind(setting)?;
            let begins = at == 0 || entry.statement[..at].ends_with("\n\n");
            (begins && !entry.statement[at..].contains('\n')).then_some((at, nth))
        }) {
            let setting: &mut Option<String> = &mut current[nth];
            *setting = Some(entry.statement.split_off(at));
            entry.statement.truncate(entry.statement.trim_end().len());
        }
        entry.statement.insert_str(0, &set);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = r#"--
-- PostgreSQL database dump
--

\restrict abc

SET standard_conforming_strings = on;

--
-- TOC entry 293 (class 1255 OID 16524)
-- Dependencies: 8 9
-- Name: f(); Type: FUNCTION; Schema: public; Owner: app
-- Data Pos: 0
--

CREATE FUNCTION public.f() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
--
-- TOC entry 219 (class 1259 OID 16527)
-- Name: t; Type: TABLE; Schema: public; Owner: app
--

drop table t;
\! rm
end $$;


ALTER FUNCTION public.f() OWNER TO app;

SET default_table_access_method = heap;

--
-- TOC entry 219 (class 1259 OID 16527)
-- Name: odd; Type: x; Type: TABLE; Schema: Odd "name; Owner: -
--

CREATE TABLE "Odd ""name"."odd; Type: x" (
    id integer
);


-- Completed on 2026-11-22 08:59:38 UTC

\unrestrict abc

--
-- PostgreSQL database dump complete
--

"#;
    /// As the archive has them: of one kind, in schema `s`.
    fn archived(entries: &[(u32, u32, u32, &str)]) -> BTreeMap<u32, Archived> {
        let entry = |&(id, class, oid, kind): &(u32, u32, u32, &str)| {
            let archived = Archived {
                object: CatalogRow { class, oid },
                needs: vec![8, 9],
                kind: kind.to_owned(),
                schema: Some("s".to_owned()),
                name: format!("n{id}"),
                owner: "app".to_owned(),
            };
            (id, archived)
        };
        entries.iter().map(entry).collect()
    }

    fn two() -> BTreeMap<u32, Archived> {
        archived(&[(293, 1255, 16524, "FUNCTION"), (219, 1259, 16527, "TABLE")])
    }

    const LIST: &str = ";\n; Archive created\n;\n293; 1255 16524 FUNCTION public f() app\n\
                        219; 1259 16527 TABLE Odd \"name odd; Type: x \n";

    #[test]
    fn entries_are_cut_at_headers_that_are_no_part_of_a_body() {
        let entries = parse(two(), LIST, "219; 1259 16527 TABLE x y z\n", SCRIPT);
        let entries = entries.expect("a sound script");
        let [function, table] = entries.as_slice() else { panic!("two entries: {entries:#?}") };
        assert_eq!((function.id, function.kind.as_str()), (293, "FUNCTION"));
        assert_eq!(function.needs, [8, 9]);
        assert!(function.statement.starts_with("CREATE FUNCTION public.f()"));
        assert!(function.statement.ends_with("OWNER TO app;"), "{}", function.statement);
        assert!(function.statement.contains("drop table t;\n\\! rm"));
        assert_eq!((table.name.as_str(), table.schema.as_deref()), ("n219", Some("s")));
        assert!(table.post_data && !function.post_data);
        assert!(table.statement.starts_with("SET default_table_access_method = heap;\n\nCREATE"));
        assert!(table.statement.ends_with("\n);"), "{}", table.statement);
    }

    #[test]
    fn each_entry_says_which_tablespace_it_is_for() {
        let script = "--\n-- TOC entry 1 (class 1259 OID 1)\n-- Name: s; Type: SCHEMA; Schema: -; Owner: app\n--\n\n\
            CREATE SCHEMA s;\n\nSET default_tablespace = slow;\n\nSET default_table_access_method = heap;\n\n\
            --\n-- TOC entry 2 (class 1259 OID 2)\n-- Name: t; Type: TABLE; Schema: s; Owner: app; Tablespace: slow\n--\n\n\
            CREATE TABLE s.t ();\n\nSET default_tablespace = '';\n\n\
            --\n-- TOC entry 3 (class 1259 OID 3)\n-- Name: i; Type: INDEX; Schema: s; Owner: app\n--\n\n\
            CREATE INDEX i ON s.t USING btree ((1));\n\n";
        let list = "1; 1259 1 SCHEMA - s app\n2; 1259 2 TABLE s t app\n3; 1259 3 INDEX s i app\n";
        let archived =
            archived(&[(1, 1259, 1, "SCHEMA"), (2, 1259, 2, "TABLE"), (3, 1259, 3, "INDEX")]);
        let entries = parse(archived, list, "", script).expect("a sound script");
        let told: Vec<_> = entries.iter().map(|entry| entry.statement.as_str()).collect();
        let expected = [
            "CREATE SCHEMA s;",
            "SET default_tablespace = slow;\n\nSET default_table_access_method = heap;\n\nCREATE TABLE s.t ();",
            "SET default_tablespace = '';\n\nCREATE INDEX i ON s.t USING btree ((1));",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn versions_of_columns_are_no_options() {
        let table = "CREATE TABLE s.t (\n    a integer DEFAULT 'pg_attver=1'\n);\n\
                     ALTER TABLE ONLY s.t ALTER COLUMN a SET (pg_attver=27);\n\
                     ALTER TABLE ONLY s.t ALTER COLUMN b SET (n_distinct=5, pg_attver=1);\n\
                     ALTER TABLE ONLY s.t ALTER COLUMN c SET (pg_attver=1, n_distinct=5);";
        let expected = "CREATE TABLE s.t (\n    a integer DEFAULT 'pg_attver=1'\n);\n\
                        ALTER TABLE ONLY s.t ALTER COLUMN b SET (n_distinct=5);\n\
                        ALTER TABLE ONLY s.t ALTER COLUMN c SET (n_distinct=5);";
        assert_eq!(without_column_versions(table), expected);
    }

    #[test]
    fn an_entry_that_is_missing_doubled_or_another_is_told() {
        let more = format!("{LIST}7; 2615 16386 SCHEMA - x y\n");
        assert_eq!(parse(two(), &more, "", SCRIPT), Err(BadToc::Lost(vec![7])));
        let other = LIST.replace("16527", "16528");
        assert_eq!(parse(two(), &other, "", SCRIPT), Err(BadToc::Lost(vec![219])));
        let fewer = archived(&[(293, 1255, 16524, "FUNCTION")]);
        assert_eq!(parse(fewer, LIST, "", SCRIPT), Err(BadToc::Lost(vec![219])));
        assert!(matches!(parse(two(), "what is this", "", SCRIPT), Err(BadToc::List(_))));
    }
}
