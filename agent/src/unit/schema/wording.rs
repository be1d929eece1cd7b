//! What is written differently of the same thing.
//!
//! The columns of a table that inherits: a child that is made has its parents' columns first, whatever their order was, so
//! no dump keeps it. And between servers of two majors:
//!
//! A view's or a rule's query, a check, a default are kept as trees, and each server writes them out in its own words. Told
//! apart here is only what is known to change with the major; everything else is a difference:
//!
//! - up to 15 a column is named with its table (`o.day`) wherever there are several, from 16 on only where it must be;
//! - from 14 on a range type names its multirange, and a procedure's arguments say `IN`;
//! - up to 15 what an `UPDATE` or `DELETE` in a rule is about has an `AS` before its other name;
//! - from 16 on `XMLSERIALIZE` says `NO INDENT`;
//! - from 17 on there is one more right to a table, `MAINTAIN`: what was a list of all of them is `ALL` there.

use std::borrow::Cow;

use super::text::tokens;

/// Whether two statements say the same, written by servers of one major.
pub(super) fn same(one: &str, other: &str) -> bool {
    one == other || inherited_in_order(one) == inherited_in_order(other)
}

/// Without a setting that says what is so by itself: whether it is said depends on what stands before it in the archive.
fn without_default(statement: &str) -> &str {
    statement.strip_prefix("SET default_tablespace = '';\n\n").unwrap_or(statement)
}

/// A table that inherits with the lines of its columns in order; everything else as it is.
fn inherited_in_order(statement: &str) -> Cow<'_, str> {
    let statement = without_default(statement);
    let columns = statement.find("CREATE ").and_then(|create| {
        let begin = create + statement[create..].find(" (\n")? + " (\n".len();
        let end = begin + statement[begin..].find("\n)\nINHERITS (")?;
        Some(begin..end)
    });
    let Some(columns) = columns else { return Cow::Borrowed(statement) };
    let mut lines: Vec<&str> =
        statement[columns.clone()].lines().map(|line| line.trim_end_matches(',')).collect();
    lines.sort_unstable();
    let mut ordered = statement.to_owned();
    ordered.replace_range(columns, &lines.join(",\n"));
    Cow::Owned(ordered)
}

/// Whether two statements say the same, written by servers of different majors.
pub(super) fn same_between_majors(one: &str, other: &str) -> bool {
    if same(one, other) {
        return true;
    }
    let (one, other) = (inherited_in_order(one), inherited_in_order(other));
    let (one, other) = (tokens(&one), tokens(&other));
    let (mut a, mut b) = (&one[..], &other[..]);
    let mut last = "";
    loop {
        (a, b) = match (a, b) {
            ([], []) => return true,
            ([x, a @ ..], [y, b @ ..]) if x == y => {
                last = x;
                (a, b)
            }
            // A column that is called as its table.
            ([".", x, a @ ..], b) if *x == last => (a, b),
            (a, [".", y, b @ ..]) if *y == last => (a, b),
            // Where they part, one of them has a qualifier before what the other has too.
            ([_, ".", a @ ..], b) if !a.is_empty() && a.first() == b.first() => (a, b),
            (a, [_, ".", b @ ..]) if !a.is_empty() && a.first() == b.first() => (a, b),
            // Before an argument alone: where a query has an `IN`, both do.
            (["IN", a @ ..], b) | (b, ["IN", a @ ..]) if a.first() == b.first() => (a, b),
            // Before a table's other name: where a column has one, both say it.
            (["AS", a @ ..], b) | (b, ["AS", a @ ..]) if a.first() == b.first() => (a, b),
            (["NO", "INDENT", a @ ..], b) | (b, ["NO", "INDENT", a @ ..])
                if a.first() == b.first() =>
            {
                (a, b)
            }
            (["MAINTAIN", ",", a @ ..], b) | (b, ["MAINTAIN", ",", a @ ..])
                if a.first() == b.first() =>
            {
                (a, b)
            }
            (["ALL", a @ ..], b) | (b, ["ALL", a @ ..]) if has_all_rights(b) => (a, from_on(b)),
            (a, b) => match (without_multirange(a), without_multirange(b)) {
                (Some(a), None) => (a, b),
                (None, Some(b)) => (a, b),
                _ => return false,
            },
        }
    }
}

/// Whether it begins with a list of all rights to a table that there were up to 16.
fn has_all_rights(words: &[&str]) -> bool {
    let list = &words[..words.len() - from_on(words).len()];
    ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"]
        .iter()
        .all(|right| list.contains(right))
}

/// What follows a list of rights.
fn from_on<'t, 's>(words: &'s [&'t str]) -> &'s [&'t str] {
    let list = words.iter().take_while(|word| **word != "ON").count();
    &words[list..]
}

/// Past `multirange_type_name = schema.name` and the comma before or after it.
fn without_multirange<'t, 's>(words: &'s [&'t str]) -> Option<&'s [&'t str]> {
    match words {
        ["multirange_type_name", "=", _, ".", _, ",", rest @ ..] => Some(rest),
        [",", "multirange_type_name", "=", _, ".", _, rest @ ..] => Some(rest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_a_child_are_in_no_order_and_those_of_a_table_are() {
        let child =
            |columns| format!("SET a = b;\n\nCREATE TABLE s.t (\n{columns}\n)\nINHERITS (s.p);");
        let here = child("    a integer DEFAULT 1,\n    b text");
        assert!(same(&here, &child("    b text,\n    a integer DEFAULT 1")));
        assert!(!same(&here, &child("    b text,\n    a integer DEFAULT 2")));
        assert!(!same(
            "CREATE TABLE t (\n    a,\n    b\n);",
            "CREATE TABLE t (\n    b,\n    a\n);"
        ));
    }

    #[test]
    fn only_what_a_major_adds_is_passed_over() {
        let old = "CREATE VIEW s.v AS\n SELECT o.day,\n    count(*) FROM s.o;";
        assert!(same_between_majors(
            old,
            "CREATE VIEW s.v AS\n SELECT day,\n    count(*) FROM s.o;"
        ));
        assert!(!same_between_majors(old, "CREATE VIEW s.v AS SELECT p.day, count(*) FROM s.o;"));
        assert!(!same_between_majors(old, "CREATE VIEW s.v AS SELECT week, count(*) FROM s.o;"));
        assert!(!same_between_majors(old, "CREATE VIEW s.v AS SELECT o.day, count(*) FROM t.o;"));
        assert!(!same_between_majors("SELECT 'a.b'", "SELECT 'b'"));
        assert!(
            same_between_majors("SELECT o.o, 1", "SELECT o, 1")
                && same_between_majors("SELECT o", "SELECT o.o")
        );
        assert!(same_between_majors("PROCEDURE p(a int)", "PROCEDURE p(IN a int)"));
        assert!(!same_between_majors("PROCEDURE p(a int)", "PROCEDURE p(OUT a int)"));
        assert!(same_between_majors("UPDATE s.t AS x SET a", "UPDATE s.t x SET a"));
        assert!(!same_between_majors("SELECT a AS x", "SELECT a AS y"));
        assert!(same_between_majors("AS text)", "AS text NO INDENT)"));
        assert!(!same_between_majors("AS text INDENT)", "AS text NO INDENT)"));
        let rights = "SELECT,INSERT,REFERENCES,DELETE,TRIGGER,TRUNCATE,UPDATE";
        let revoke = |rights| format!("REVOKE {rights} ON TABLE s.t FROM r;");
        assert!(same_between_majors(&revoke(rights), &revoke("ALL")));
        assert!(!same_between_majors(&revoke("SELECT,INSERT"), &revoke("ALL")));
        assert!(same_between_majors(
            "GRANT TRIGGER,UPDATE ON t",
            "GRANT TRIGGER,MAINTAIN,UPDATE ON t"
        ));
        assert!(!same_between_majors(
            "GRANT TRIGGER,UPDATE ON t",
            "GRANT TRIGGER,DELETE,UPDATE ON t"
        ));
        let range = "CREATE TYPE s.r AS RANGE (\n    subtype = integer\n);";
        let multi = "CREATE TYPE s.r AS RANGE (\n    subtype = integer,\n    multirange_type_name = s.m\n);";
        assert!(same_between_majors(range, multi) && same_between_majors(multi, range));
    }
}
