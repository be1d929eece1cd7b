//! What servers of two majors write differently of the same thing.
//!
//! A view's or a rule's query, a check, a default are kept as trees, and each server writes them out in its own words. Told
//! apart here is only what is known to change with the major; everything else is a difference:
//!
//! - up to 15 a column is named with its table (`o.day`) wherever there are several, from 16 on only where it must be;
//! - from 14 on a range type names its multirange, and a procedure's arguments say `IN`.

use super::text::tokens;

/// Whether two statements say the same, written by servers of different majors.
pub(super) fn same(one: &str, other: &str) -> bool {
    if one == other {
        return true;
    }
    let (one, other) = (tokens(one), tokens(other));
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
    fn only_what_a_major_adds_is_passed_over() {
        let old = "CREATE VIEW s.v AS\n SELECT o.day,\n    count(*) FROM s.o;";
        assert!(same(old, "CREATE VIEW s.v AS\n SELECT day,\n    count(*) FROM s.o;"));
        assert!(!same(old, "CREATE VIEW s.v AS SELECT p.day, count(*) FROM s.o;"));
        assert!(!same(old, "CREATE VIEW s.v AS SELECT week, count(*) FROM s.o;"));
        assert!(!same(old, "CREATE VIEW s.v AS SELECT o.day, count(*) FROM t.o;"));
        assert!(!same("SELECT 'a.b'", "SELECT 'b'"));
        assert!(same("SELECT o.o, 1", "SELECT o, 1") && same("SELECT o", "SELECT o.o"));
        assert!(same("PROCEDURE p(a int)", "PROCEDURE p(IN a int)"));
        assert!(!same("PROCEDURE p(a int)", "PROCEDURE p(OUT a int)"));
        let range = "CREATE TYPE s.r AS RANGE (\n    subtype = integer\n);";
        let multi = "CREATE TYPE s.r AS RANGE (\n    subtype = integer,\n    multirange_type_name = s.m\n);";
        assert!(same(range, multi) && same(multi, range));
    }
}
