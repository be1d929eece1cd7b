//! Every page about an error code explains a code that the product still makes.
//!
//! (That every code has a page is a test of the crate that holds the pages.) A code may be an argument, a constant or
//! stand in a table: a page is idle when its code is a text nowhere in the product.

use super::Finding;
use super::sources::Source;

const PAGES: &str = "shared/src/codes/";

pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    let named = |code: &str| {
        let text = format!("\"{code}\"");
        sources.iter().any(|source| source.is_product_rust() && source.text.contains(&text))
    };
    let pages = sources.iter().filter_map(|source| page(&source.path));
    pages
        .filter(|code| !named(code))
        .map(|code| {
            Finding::of_file(&format!("{PAGES}{code}.md"), "explains a code that nothing makes")
        })
        .collect()
}

fn page(path: &str) -> Option<&str> {
    path.strip_prefix(PAGES)?.strip_suffix(".md")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_without_a_code_is_found() {
        let source =
            |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
        let sources = [
            source("agent/src/a.rs", "[(\"28P01\", \"wrong_password\")]"),
            source("agent/tests/it/b.rs", "\"only_in_a_test\""),
            source("shared/src/codes/wrong_password.md", "…"),
            source("shared/src/codes/only_in_a_test.md", "…"),
        ];
        let found: Vec<String> = check(&sources).into_iter().map(|finding| finding.path).collect();
        assert_eq!(found, ["shared/src/codes/only_in_a_test.md"]);
    }
}
