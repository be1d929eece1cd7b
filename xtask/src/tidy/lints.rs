//! Every crate inherits the workspace's lints.

use super::Finding;
use super::sources::Source;

pub(super) fn check(source: &Source) -> Option<Finding> {
    if !source.path.ends_with("/Cargo.toml") {
        return None;
    }
    let mut lines = source.text.lines().map(str::trim);
    let inherited = lines.any(|line| line == "[lints]") && lines.next() == Some("workspace = true");
    (!inherited).then(|| Finding::of_file(&source.path, "no `[lints]` with `workspace = true`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_without_the_lints_is_found() {
        let source =
            |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
        assert!(check(&source("agent/Cargo.toml", "[package]\n")).is_some());
        assert!(check(&source("agent/Cargo.toml", "[lints]\nworkspace = true\n")).is_none());
        assert!(check(&source("Cargo.toml", "[workspace]\n")).is_none());
    }
}
