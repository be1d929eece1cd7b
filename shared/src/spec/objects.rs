//! Which objects take part: patterns `schema.table`, where `*` stands for any text and `?` for any character.
//!
//! Names are compared as the catalogue holds them, case and all: a task file is not SQL, and folding `Orders` to
//! `orders` would miss the very tables whose names need care. Double quotes take a part literally, so `"a.b"."what?"`
//! names one table.

use std::fmt;

use super::ObjectRules;
use super::problem::SpecProblem;
use crate::name::QualifiedName;

impl ObjectRules {
    /// Whether the object takes part. Objects of the system and of pgconvoy itself never do. A pattern that is none
    /// (see [`super::TaskSpec::check`]) matches nothing.
    #[must_use]
    pub fn matches(&self, name: &QualifiedName) -> bool {
        let any = |patterns: &[String]| {
            patterns
                .iter()
                .any(|text| Pattern::parse(text).is_ok_and(|pattern| pattern.matches(name)))
        };
        !is_system_schema(&name.schema)
            && (self.include.is_empty() || any(&self.include))
            && !any(&self.exclude)
    }

    /// The patterns to include that match none of these names, which were misspelt most likely.
    #[must_use]
    pub fn matching_nothing(&self, names: &[QualifiedName]) -> Vec<&str> {
        let idle = |text: &&String| {
            Pattern::parse(text).is_ok_and(|p| !names.iter().any(|name| p.matches(name)))
        };
        self.include.iter().filter(idle).map(String::as_str).collect()
    }

    /// Whether all objects take part.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    pub(super) fn check(&self, problems: &mut Vec<SpecProblem>) {
        for (key, patterns) in
            [("objects.include", &self.include), ("objects.exclude", &self.exclude)]
        {
            for text in patterns {
                match Pattern::parse(text) {
                    Ok(pattern) if key == "objects.include" && pattern.is_of_system() => {
                        problems.push(SpecProblem::bad_value(
                            key,
                            format!("`{text}` is in a schema that never takes part"),
                            "leave out pg_*, information_schema and pgconvoy",
                        ));
                    }
                    Ok(_) => {}
                    Err(error) => problems.push(SpecProblem::bad_value(
                        key,
                        error.to_string(),
                        "write `schema.table`, with * and ? as wildcards and double quotes around a part to be \
                         taken literally: \"public.*\", 'sales.\"odd.name\"'",
                    )),
                }
            }
        }
    }
}

/// Whether a schema is the system's or ours. (Nobody else can make one that begins with `pg_`.)
#[must_use]
pub fn is_system_schema(schema: &str) -> bool {
    schema.starts_with("pg_") || schema == "information_schema" || schema == "pgconvoy"
}

/// A text that is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` {problem}")]
struct BadPattern {
    text: String,
    problem: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    schema: Glob,
    name: Glob,
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, BadPattern> {
        let bad = |problem| BadPattern { text: text.chars().take(200).collect(), problem };
        let (schema, rest) = Glob::parse(text).map_err(bad)?;
        let rest =
            rest.strip_prefix('.').ok_or_else(|| bad("has no dot between schema and table"))?;
        let (name, rest) = Glob::parse(rest).map_err(bad)?;
        if !rest.is_empty() {
            return Err(bad("goes on after the table"));
        }
        Ok(Self { schema, name })
    }

    fn matches(&self, name: &QualifiedName) -> bool {
        self.schema.matches(&name.schema) && self.name.matches(&name.name)
    }

    fn is_of_system(&self) -> bool {
        is_system_schema(&self.schema.to_string())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Char(char),
    AnyChar,
    AnyText,
}

/// One part of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Glob(Vec<Piece>);

impl Glob {
    /// The part at the beginning of `text`, and what follows it.
    fn parse(text: &str) -> Result<(Self, &str), &'static str> {
        let mut pieces = Vec::new();
        let mut rest = text.chars();
        if let Some(quoted) = text.strip_prefix('"') {
            rest = quoted.chars();
            loop {
                match rest.next().ok_or("has a double quote that is not closed")? {
                    '"' if rest.as_str().starts_with('"') => {
                        rest.next();
                        pieces.push(Piece::Char('"'));
                    }
                    '"' => break,
                    char => pieces.push(Piece::Char(char)),
                }
            }
        } else {
            while let Some(char) = rest.clone().next().filter(|char| *char != '.') {
                pieces.push(match char {
                    '*' => Piece::AnyText,
                    '?' => Piece::AnyChar,
                    '"' => return Err("has a double quote inside a part"),
                    char => Piece::Char(char),
                });
                rest.next();
            }
        }
        if pieces.is_empty() {
            return Err("has an empty part");
        }
        Ok((Self(pieces), rest.as_str()))
    }

    /// Goes back to the last `*` alone, so no pattern takes more than its length times the text's.
    fn matches(&self, text: &str) -> bool {
        let (mut pieces, mut rest) = (self.0.as_slice(), text);
        let mut last_star: Option<(&[Piece], &str)> = None;
        loop {
            let first = rest.chars().next();
            match (pieces.split_first(), first) {
                (Some((Piece::AnyText, after)), _) => {
                    last_star = Some((after, rest));
                    pieces = after;
                    continue;
                }
                (Some((Piece::AnyChar, after)), Some(char)) => {
                    (pieces, rest) = (after, &rest[char.len_utf8()..]);
                    continue;
                }
                (Some((Piece::Char(wanted), after)), Some(char)) if *wanted == char => {
                    (pieces, rest) = (after, &rest[char.len_utf8()..]);
                    continue;
                }
                (None, None) => return true,
                _ => {}
            }
            // The last star takes one character more, if there is one.
            let Some((after, from)) = last_star else { return false };
            let Some(char) = from.chars().next() else { return false };
            let from = &from[char.len_utf8()..];
            last_star = Some((after, from));
            (pieces, rest) = (after, from);
        }
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|piece| match piece {
            Piece::Char(char) => write!(f, "{char}"),
            Piece::AnyChar => f.write_str("?"),
            Piece::AnyText => f.write_str("*"),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules(include: &[&str], exclude: &[&str]) -> ObjectRules {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        ObjectRules { include: owned(include), exclude: owned(exclude) }
    }

    fn name(text: &str) -> QualifiedName {
        let (schema, name) = text.split_once('/').unwrap_or(("public", text));
        QualifiedName::new(schema, name)
    }

    #[test]
    fn left_out_means_everything_but_the_system() {
        let all = rules(&[], &[]);
        assert!(all.matches(&name("orders")) && all.matches(&name("Odd Schema/x")));
        for system in ["pg_catalog/pg_class", "information_schema/tables", "pgconvoy/task"] {
            assert!(!all.matches(&name(system)), "{system}");
            assert!(!rules(&["*.*"], &[]).matches(&name(system)), "{system}");
        }
    }

    #[test]
    fn what_is_excluded_wins() {
        let rules = rules(&["public.*", "sales.orders"], &["public.audit_*", "*.tmp?"]);
        let taken = ["orders", "sales/orders", "audit", "tmp", "tmp12"];
        let left = ["audit_log", "tmp1", "sales/order", "sales/orders2", "hr/x"];
        assert!(taken.iter().all(|taken| rules.matches(&name(taken))));
        assert!(left.iter().all(|left| !rules.matches(&name(left))));
    }

    #[test]
    fn a_pattern_that_matches_nothing_is_found_even_beside_others() {
        let rules = rules(&["public.*", "sales.oders", "hr.x"], &["hr.*"]);
        let names = [name("orders"), name("sales/orders"), name("hr/x")];
        assert_eq!(rules.matching_nothing(&names), ["sales.oders"]);
    }

    #[test]
    fn quotes_take_a_part_literally() {
        let odd = rules(&[r#""a.b"."what?*""#, r#"public."say ""hi""""#], &[]);
        assert!(odd.matches(&name("a.b/what?*")));
        assert!(odd.matches(&name("say \"hi\"")));
        assert!(!odd.matches(&name("a.b/whatever")));
    }

    #[test]
    fn case_is_as_in_the_catalogue() {
        assert!(rules(&["public.Orders"], &[]).matches(&name("Orders")));
        assert!(!rules(&["public.Orders"], &[]).matches(&name("orders")));
    }

    #[test]
    fn what_is_no_pattern_is_told() {
        for bad in ["", "orders", "a.b.c", ".a", "a.", "\"a.b", "a\"b.c", "\"\".a", "pg_catalog.*"]
        {
            let mut problems = Vec::new();
            rules(&[bad], &[]).check(&mut problems);
            assert_eq!(problems.len(), 1, "{bad}");
        }
    }

    /// The obvious definition, exponential in the number of stars.
    fn obvious(pieces: &[Piece], text: &[char]) -> bool {
        match pieces.split_first() {
            None => text.is_empty(),
            Some((Piece::AnyText, after)) => (0..=text.len()).any(|n| obvious(after, &text[n..])),
            Some((piece, after)) => text.split_first().is_some_and(|(char, rest)| {
                (*piece == Piece::AnyChar || *piece == Piece::Char(*char)) && obvious(after, rest)
            }),
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_obvious_definition(glob in "[ab*?]{1,6}", text in "[abé]{0,8}") {
            let (glob, rest) = Glob::parse(&glob).unwrap();
            prop_assert_eq!(rest, "");
            let chars: Vec<char> = text.chars().collect();
            prop_assert_eq!(glob.matches(&text), obvious(&glob.0, &chars));
        }

        #[test]
        fn any_name_can_be_quoted(schema in "\\PC{1,12}", table in "\\PC{1,12}") {
            let name = QualifiedName::new(format!("s{schema}"), table);
            let taken = rules(&[&name.quoted()], &[]).matches(&name);
            prop_assert!(taken, "{}", name.quoted());
        }

        #[test]
        fn no_text_makes_a_pattern_panic(text in "\\PC{0,30}") {
            let _either = Pattern::parse(&text);
        }
    }
}
