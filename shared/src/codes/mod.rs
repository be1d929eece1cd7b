//! Pages about error codes: what was wrong, where to look, what to do. `pgconvoy errors CODE` prints one.
//!
//! A page is a file `CODE.md` beside this one; nothing else has to be told about it.

/// Codes and pages, by code.
const PAGES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/pages.rs"));

/// The page of a code.
#[must_use]
pub fn page(code: &str) -> Option<&'static str> {
    PAGES.binary_search_by(|(known, _)| known.cmp(&code)).ok().map(|found| PAGES[found].1)
}

/// Each code that has a page, in order, with the page's first line: what it is about.
pub fn list() -> impl Iterator<Item = (&'static str, &'static str)> {
    PAGES.iter().map(|(code, page)| (*code, title(page)))
}

/// What a page is about: its first line.
#[must_use]
pub fn title(page: &str) -> &str {
    page.lines().next().unwrap_or_default().trim_start_matches('#').trim()
}

#[cfg(test)]
mod tests;
