//! Rules that no lint holds, checked on every file that git knows or would take.
//!
//! Each rule is a function from what is there to findings, and has tests that show it both silent and loud.

mod codes;
mod edges;
mod files;
mod lints;
mod rust;
mod sources;
mod words;

use std::fmt;

use anyhow::{Context, bail};

use crate::run::{cargo, root};
use sources::Source;

/// Something that is not as it should be.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    line: Option<usize>,
    text: String,
}

impl Finding {
    fn of_file(path: &str, text: impl Into<String>) -> Finding {
        Finding { path: path.to_owned(), line: None, text: text.into() }
    }

    fn at(path: &str, line: usize, text: impl Into<String>) -> Finding {
        Finding { path: path.to_owned(), line: Some(line), text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(out, "{}:{line}: {}", self.path, self.text),
            None => write!(out, "{}: {}", self.path, self.text),
        }
    }
}

/// Checks everything and fails with all that was found.
pub(crate) fn run() -> anyhow::Result<()> {
    let sources = sources::all(&root())?;
    let metadata = cargo(&["metadata", "--format-version", "1", "--locked"]).output()?;
    let metadata = serde_json::from_slice(&metadata).context("cargo metadata is no JSON")?;
    let mut findings = findings(&sources, &metadata);
    findings.sort();
    if findings.is_empty() {
        eprintln!("tidy: {} files are", sources.len());
        return Ok(());
    }
    for finding in &findings {
        eprintln!("{finding}");
    }
    bail!("{} things are not tidy", findings.len())
}

fn findings(sources: &[Source], metadata: &serde_json::Value) -> Vec<Finding> {
    let mut findings = edges::check(metadata);
    findings.extend(codes::check(sources));
    for source in sources {
        findings.extend(files::check(source));
        findings.extend(lints::check(source));
        findings.extend(rust::check(source));
        findings.extend(words::check(source));
    }
    findings
}
