//! Names that say nothing, and files too long to be read.

use super::Finding;
use super::sources::Source;

/// Rooms in which things are put down because nobody knows where they belong.
const BUCKETS: &[&str] =
    &["util", "utils", "helper", "helpers", "common", "misc", "manager", "managers", "stuff"];

/// About 500 is the aim; a file that passes this is two.
const LINES_MAX: usize = 650;

pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !source.path.ends_with(".rs") {
        return findings;
    }
    let parts = source.path.trim_end_matches(".rs").split('/');
    findings.extend(parts.filter(|part| BUCKETS.contains(part)).map(|part| {
        Finding::of_file(&source.path, format!("`{part}` says nothing: name it by the domain"))
    }));
    let lines = source.text.lines().count();
    if lines > LINES_MAX {
        findings.push(Finding::of_file(
            &source.path,
            format!("{lines} lines: split it by the domain (at most {LINES_MAX})"),
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(path: &str, lines: usize) -> usize {
        check(&Source { path: path.to_owned(), text: "//\n".repeat(lines) }).len()
    }

    #[test]
    fn rooms_without_a_name_are_refused() {
        assert_eq!(count("agent/src/utils.rs", 1), 1);
        assert_eq!(count("agent/src/helpers/mod.rs", 1), 1);
        assert_eq!(count("agent/src/lease.rs", 1), 0);
        assert_eq!(count("proto/pgconvoy/v1/common.proto", 1), 0, "only Rust has rooms");
    }

    #[test]
    fn a_file_too_long_to_be_read_is_refused() {
        assert_eq!(count("agent/src/lease.rs", LINES_MAX), 0);
        assert_eq!(count("agent/src/lease.rs", LINES_MAX + 1), 1);
    }
}
