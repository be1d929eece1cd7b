use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::*;

#[test]
fn pages_are_found_by_code() {
    assert!(page("bad_url").is_some());
    assert_eq!(page("no_such_code"), None);
    assert!(PAGES.is_sorted(), "the search needs them in order");
    for (code, title) in list() {
        assert!(!title.is_empty(), "{code}.md begins with a title");
    }
}

/// What makes a failure or a finding names its code as a literal: as the argument of one of these, or as a field.
const MAKERS: &[&str] = &[
    "Failure::definite(",
    "Failure::transient(",
    "Failure::other(",
    "FailureClass::Definite,",
    "FailureClass::Transient,",
    "FailureClass::Other,",
    "SpecProblem::new(",
    "Problem::usage(",
    "Finding::error(",
    "Finding::warning(",
    "Finding::info(",
    "code: ",
];

#[test]
fn each_code_that_is_used_has_a_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = Vec::new();
    for folder in ["shared", "proto", "coordinator", "agent", "cli"] {
        collect(&root.join(folder), &mut sources);
    }
    let mut missing: BTreeMap<String, PathBuf> = BTreeMap::new();
    for source in sources {
        let text = fs::read_to_string(&source).unwrap();
        let product = text.split("#[cfg(test)]").next().unwrap_or_default();
        for code in codes_in(product).filter(|code| page(code).is_none()) {
            missing.insert(code.to_owned(), source.clone());
        }
    }
    assert!(missing.is_empty(), "shared/src/codes lacks pages: {missing:#?}");
}

fn codes_in(text: &str) -> impl Iterator<Item = &str> {
    let after = |maker: &&'static str| text.split(*maker).skip(1);
    // An error type with a code for each of its variants: `fn code(&self) -> &str { match self { … => "…",`.
    let bodies = text.split("fn code(").skip(1).map(|rest| rest.split("\n    }\n").next());
    let arms = bodies.flatten().flat_map(|body| body.split("=>").skip(1));
    MAKERS.iter().flat_map(after).chain(arms).filter_map(|rest| {
        let (code, _) = rest.trim_start().strip_prefix('"')?.split_once('"')?;
        let is_code =
            code.contains('_') && code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        is_code.then_some(code)
    })
}

fn collect(folder: &Path, sources: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && !matches!(name, "tests" | "benches") {
            collect(&path, sources);
        } else if name.ends_with(".rs") && !matches!(name, "tests.rs" | "explain.rs") {
            // (Why a unit waits is no error, though it has a code.)
            sources.push(path);
        }
    }
}
