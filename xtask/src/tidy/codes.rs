//! Every error code that the code makes has a page, and every page has a code that it explains.
//!
//! A code is the first text in a call that makes a failure, as in `Failure::definite(code, message)`.

use std::collections::BTreeMap;

use super::Finding;
use super::sources::Source;

const PAGES: &str = "shared/src/codes/";
/// What makes a failure with a code; the code is the first text after it.
const MAKERS: &[&str] =
    &["Failure::definite(", "Failure::transient(", "Failure::other(", "Failure::new("];
/// A text further off than this is not the code: it came in as an argument.
const REACH: usize = 80;

pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    let pages: Vec<&str> = sources.iter().filter_map(|source| page(&source.path)).collect();
    let mut made: BTreeMap<String, (&str, usize)> = BTreeMap::new();
    for source in sources.iter().filter(|source| source.is_product_rust()) {
        for (line, code) in codes_of(without_test_module(&source.text)) {
            made.entry(code).or_insert((&source.path, line));
        }
    }
    let unexplained = made.iter().filter(|(code, _)| !pages.contains(&code.as_str()));
    let mut findings: Vec<Finding> = unexplained
        .map(|(code, (path, line))| {
            Finding::at(path, *line, format!("`{code}` has no page {PAGES}{code}.md"))
        })
        .collect();
    // A code may also be a constant or stand in a table: a page is idle when its code is nowhere a text.
    let named = |code: &str| {
        let text = format!("\"{code}\"");
        sources.iter().any(|source| source.is_product_rust() && source.text.contains(&text))
    };
    let idle = pages.iter().filter(|code| !named(code));
    findings.extend(idle.map(|code| {
        Finding::of_file(&format!("{PAGES}{code}.md"), "explains a code that nothing makes")
    }));
    findings
}

fn page(path: &str) -> Option<&str> {
    path.strip_prefix(PAGES)?.strip_suffix(".md").filter(|code| is_code(code))
}

fn is_code(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// By convention the test module is the last thing in a file.
fn without_test_module(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod ").map_or(text, |at| &text[..at])
}

fn codes_of(text: &str) -> Vec<(usize, String)> {
    let mut codes = Vec::new();
    for maker in MAKERS {
        for (at, _) in text.match_indices(maker) {
            let after = &text[at + maker.len()..];
            let mut texts = after.split('"');
            let before = texts.next().unwrap_or_default();
            // A bracket or a semicolon before the text means that the call's code is no literal.
            let far = before.len() > REACH || before.contains([')', ';', '{']);
            if let Some(code) = texts.next().filter(|code| !far && is_code(code)) {
                codes.push((text[..at].lines().count().max(1), code.to_owned()));
            }
        }
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn a_code_without_a_page_and_a_page_without_a_code_are_found() {
        let sources = [
            source(
                "agent/src/a.rs",
                "fn f() {\n    Failure::definite(\"no_such_page\", \"x\");\n}\n",
            ),
            source(
                "agent/src/b.rs",
                "Failure::new(\n    FailureClass::Other,\n    \"explained\",\n    \"x\")",
            ),
            source("shared/src/codes/explained.md", "…"),
            source("shared/src/codes/idle.md", "…"),
        ];
        let found: Vec<String> = check(&sources).iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("no_such_page"), "{found:?}");
        assert!(found[1].starts_with("shared/src/codes/idle.md"), "{found:?}");
    }

    #[test]
    fn a_code_that_comes_in_as_an_argument_and_one_of_a_test_are_not_asked_for() {
        let text = "Failure::definite(code, format!(\"x {y}\"))\n#[cfg(test)]\nmod tests { Failure::other(\"only_here\", \"\") }";
        assert_eq!(check(&[source("agent/src/a.rs", text)]), []);
    }

    #[test]
    fn a_code_in_a_table_explains_its_page() {
        let sources = [
            source("agent/src/a.rs", "[(\"28P01\", \"wrong_password\")]"),
            source("shared/src/codes/wrong_password.md", "…"),
        ];
        assert_eq!(check(&sources), []);
    }
}
