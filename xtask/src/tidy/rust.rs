//! Product code opens with a word on what it is, and does not give up by `unwrap`.

use super::Finding;
use super::sources::Source;

pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !source.is_product_rust() {
        return findings;
    }
    if !source.text.trim_start().starts_with("//!") {
        findings.push(Finding::of_file(
            &source.path,
            "opens without a doc comment (`//!`) that says what it is for",
        ));
    }
    for (number, line) in source.code().lines().enumerate() {
        if line.contains(".unwrap()") {
            let text =
                "`unwrap` outside tests: handle it, or `expect` with the reason why it cannot be";
            findings.push(Finding::at(&source.path, number + 1, text));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<Option<usize>> {
        let source = Source { path: path.to_owned(), text: text.to_owned() };
        check(&source).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn an_unwrap_in_product_code_is_found_where_it_is() {
        assert_eq!(found("agent/src/a.rs", "//! A.\nfn f() {\n    g().unwrap();\n}\n"), [Some(3)]);
    }

    #[test]
    fn an_unwrap_in_a_test_a_comment_or_a_text_is_fine() {
        let text = "//! A `.unwrap()`.\nconst T: &str = \".unwrap()\";\n#[cfg(test)]\nmod tests { fn f() { g().unwrap() } }\n";
        assert_eq!(found("agent/src/a.rs", text), []);
        assert_eq!(found("agent/tests/it/a.rs", "fn f() { g().unwrap() }"), []);
    }

    #[test]
    fn a_module_without_a_word_on_itself_is_found() {
        assert_eq!(found("agent/src/a.rs", "fn f() {}\n"), [None]);
    }
}
