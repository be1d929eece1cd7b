//! What is written differently of the same thing.
//!
//! The columns of a table that inherits: a child that is made has its parents' columns first, whatever their order was, so
//! no dump keeps it. And between servers of two majors:
//!
//! A view's or a rule's query, a check, a default are kept as trees, and each server writes them out in its own words. Told
//! apart here is only what is known to change with the major; everything else is a difference:
//!
//! - up to 15 a column is named with its table (`o.day`) wherever there are several, from 16 on only where it must be;
//! - from 14 on a range type names its multirange, and a procedure's arguments say `IN`.

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
            (a, b) => match (without_multirange(a), without_multirange(b)) {
                (Some(a), None) => (a, b),
                (None, Some(b)) => (a, b),
                _ => return false,
            },
        }
    }
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
        let range = "CREATE TYPE s.r AS RANGE (\n    subtype = integer\n);";
        let multi = "CREATE TYPE s.r AS RANGE (\n    subtype = integer,\n    multirange_type_name = s.m\n);";
        assert!(same_between_majors(range, multi) && same_between_majors(multi, range));
    }
}
