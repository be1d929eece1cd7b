//! Is the schema the same, as pg_dump writes it?
//!
//! Both ends are dumped by one program, the newer server's, so that a difference lies in the databases.

use super::{Differences, End};

/// Lines shown around the first difference.
const CONTEXT: usize = 4;

pub(super) async fn compare(
    source: End<'_>,
    destination: End<'_>,
    differences: &mut Differences,
) -> anyhow::Result<()> {
    let dumper = [source, destination].map(|end| end.server.major().number()).into_iter().max();
    let (left, right) = tokio::try_join!(dump(source, dumper), dump(destination, dumper))?;
    differences.compared.schema_lines = left.len();
    if left != right {
        differences.note(format!("the schema differs:\n{}", first_difference(&left, &right)));
    }
    Ok(())
}

async fn dump(end: End<'_>, dumper: Option<u32>) -> anyhow::Result<Vec<String>> {
    let options = ["--schema-only", "--exclude-schema=pgconvoy"];
    let text = end.server.pg_dump_by(dumper, end.database, &options).await?;
    let lines = text.lines().filter(|line| !is_harmless(line)).map(str::to_owned).collect();
    Ok(without_order_of_inherited(lines))
}

/// The columns of tables that inherit, sorted: their order is lost in every dump, for a child that is made has its
/// parents' columns first.
fn without_order_of_inherited(mut lines: Vec<String>) -> Vec<String> {
    let mut begin = None;
    for at in 0..lines.len() {
        if lines[at].starts_with("CREATE ") && lines[at].contains(" TABLE ") {
            begin = Some(at + 1);
        } else if lines[at] == ")"
            && lines.get(at + 1).is_some_and(|line| line.starts_with("INHERITS ("))
            && let Some(begin) = begin.take()
        {
            let columns = &mut lines[begin..at];
            for line in &mut *columns {
                line.truncate(line.trim_end_matches(',').len());
            }
            columns.sort();
        }
    }
    lines
}

/// What differs between two dumps of one database: versions in comments, and the random word that guards psql.
fn is_harmless(line: &str) -> bool {
    [
        "\\restrict ",
        "\\unrestrict ",
        "-- Dumped from database version",
        "-- Dumped by pg_dump version",
    ]
    .iter()
    .any(|start| line.starts_with(start))
}

fn first_difference(left: &[String], right: &[String]) -> String {
    let same = left.iter().zip(right).take_while(|(one, other)| one == other).count();
    let excerpt = |lines: &[String]| {
        let from = same.saturating_sub(CONTEXT);
        let lines = lines.iter().enumerate().skip(from).take(2 * CONTEXT);
        lines
            .map(|(number, line)| {
                format!("    {}{line}\n", if number == same { "> " } else { "  " })
            })
            .collect::<String>()
    };
    format!(
        "  {} lines at the source, {} at the destination, the same up to line {same}\n  source:\n{}  destination:\n{}",
        left.len(),
        right.len(),
        excerpt(left),
        excerpt(right)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_differs_is_marked() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let shown = first_difference(&lines("a\nb\nc"), &lines("a\nx\nc"));
        assert!(shown.contains("> b") && shown.contains("> x"), "{shown}");
    }

    #[test]
    fn a_childs_columns_have_no_order_and_a_tables_have() {
        let of = |text: &str| {
            without_order_of_inherited(text.lines().map(str::to_owned).collect()).join("\n")
        };
        let child = |columns| of(&format!("CREATE TABLE t (\n{columns}\n)\nINHERITS (p);"));
        assert_eq!(child("    b integer,\n    a integer"), child("    a integer,\n    b integer"));
        let table = |columns| of(&format!("CREATE TABLE t (\n{columns}\n);"));
        assert_ne!(table("    b integer,\n    a integer"), table("    a integer,\n    b integer"));
    }

    #[test]
    fn versions_and_random_words_are_no_difference() {
        assert!(is_harmless("\\restrict Xy7"));
        assert!(is_harmless("-- Dumped from database version 15.18"));
        assert!(!is_harmless("-- Name: t; Type: TABLE"));
    }
}
