//! What is wrong with a specification: values, all of them at once.

use std::fmt;

use crate::failure::Failure;

/// One thing that is wrong, and what would be right. The code is stable, and each has a page in `codes/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecProblem {
    pub code: &'static str,
    /// Which key (`copy.shard_size`) or flag (`--source`).
    pub key: String,
    /// Line in the task file; none where it came from elsewhere.
    pub line: Option<usize>,
    /// What is wrong. Never a password, and never a URL, which may hold one.
    pub message: String,
    /// What would be right.
    pub remedy: String,
}

impl SpecProblem {
    pub fn new(
        code: &'static str,
        key: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { code, key: key.into(), line: None, message: message.into(), remedy: remedy.into() }
    }

    /// A value that cannot be meant.
    pub(crate) fn bad_value(
        key: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new("bad_value", key, message, remedy)
    }

    /// A key or value that has a meaning, but not in this version.
    pub(crate) fn not_yet(key: impl Into<String>, what: impl fmt::Display) -> Self {
        Self::new(
            "not_supported_yet",
            key,
            format!("{what} cannot be done by this version"),
            "leave it out, or wait for a version that can",
        )
    }

    #[must_use]
    pub(crate) fn on_line(mut self, line: Option<usize>) -> Self {
        self.line = self.line.or(line);
        self
    }
}

impl fmt::Display for SpecProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{} [{}]", self.message, self.code)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

/// All that is wrong; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct SpecProblems(Vec<SpecProblem>);

impl SpecProblems {
    /// These, of which there is one at least.
    pub(crate) fn of(problems: Vec<SpecProblem>) -> Self {
        debug_assert!(!problems.is_empty(), "a refusal says why");
        Self(problems)
    }

    /// `Ok` where there is nothing wrong.
    pub(crate) fn check(problems: Vec<SpecProblem>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self(problems)) }
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &SpecProblem> {
        self.0.iter()
    }

    /// As one failure, for answers that carry one: code and remedy of the first, the keys as subject, all in its
    /// message.
    #[must_use]
    pub fn to_failure(&self) -> Failure {
        let first = self.0.first();
        let keys: Vec<&str> = self.0.iter().map(|problem| problem.key.as_str()).collect();
        Failure::definite(first.map_or("bad_value", |problem| problem.code), self.to_string())
            .about(keys.join(", "))
            .remedy(first.map_or("", |problem| problem.remedy.as_str()))
    }
}

impl fmt::Display for SpecProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, problem) in self.0.iter().enumerate() {
            if nth > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}
