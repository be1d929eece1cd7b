//! No committed file names the machine it was written on, or a package registry's host.
//!
//! The words are put together from pieces here, so that this file does not hold them.

use super::Finding;
use super::sources::Source;

const WORDS: &[(&str, &str)] = &[
    (concat!("/wo", "rk/"), "a path of one machine"),
    (concat!("/ro", "ot/"), "a path of one machine"),
    (concat!("cra", "tes.io"), "a package registry"),
    (concat!("py", "pi.org"), "a package registry"),
    (concat!("python", "hosted"), "a package registry"),
    (concat!("npm", "js."), "a package registry"),
    (concat!("debian", ".org"), "a package registry"),
    (concat!("proxy.go", "lang"), "a package registry"),
];

/// cargo writes the registry into its lock file itself.
const EXEMPT: &[&str] = &["Cargo.lock"];

pub(super) fn check(source: &Source) -> Vec<Finding> {
    if EXEMPT.contains(&source.path.as_str()) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (number, line) in source.text.lines().enumerate() {
        for (word, what) in WORDS.iter().filter(|(word, _)| line.contains(word)) {
            findings.push(Finding::at(&source.path, number + 1, format!("`{word}` is {what}")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_or_a_path_is_found_where_it_is() {
        let text = format!("fine\nsee {}/x\n", WORDS[0].0);
        let found = check(&Source { path: "README.md".to_owned(), text: text.clone() });
        assert_eq!(found.iter().map(|finding| finding.line).collect::<Vec<_>>(), [Some(2)]);
        assert!(check(&Source { path: "Cargo.lock".to_owned(), text }).is_empty());
    }
}
