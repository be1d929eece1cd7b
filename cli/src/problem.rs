//! Why a command did not do what was asked: what happened, where, what to do, and the exit code.

use std::fmt::Write as _;

use pgconvoy_runtime::telemetry::redact;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::spec::{SpecProblem, SpecProblems};
use serde_json::{Value, json};

use crate::exit::Exit;
use crate::output::Format;

/// The error type of every command.
#[derive(Debug)]
pub(crate) enum Problem {
    /// One failure.
    Failure { exit: Exit, failure: Box<Failure> },
    /// All that is wrong with a specification.
    Spec(SpecProblems),
    /// Everything was said already.
    Told(Exit),
}

impl Problem {
    pub(crate) fn new(exit: Exit, failure: Failure) -> Self {
        Self::Failure { exit, failure: Box::new(failure) }
    }

    /// Bad usage, told before anything was done.
    pub(crate) fn usage(
        code: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(Exit::Usage, Failure::definite(code, message).remedy(remedy))
    }

    /// Something has a documented meaning that this version does not act on.
    pub(crate) fn not_yet(what: &str) -> Self {
        Self::usage(
            "not_supported_yet",
            format!("{what} cannot be done by this version"),
            "leave it out, or wait for a version that can",
        )
    }

    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Failure { exit, .. } | Self::Told(exit) => *exit,
            Self::Spec(_) => Exit::Usage,
        }
    }

    /// Whether it is the failure with this code.
    pub(crate) fn has_code(&self, code: &str) -> bool {
        matches!(self, Self::Failure { failure, .. } if failure.code == code)
    }

    /// What goes to stderr; nothing where all was said.
    pub(crate) fn describe(&self, format: Format) -> Option<String> {
        let text = match (self, format) {
            (Self::Told(_), _) => return None,
            (Self::Failure { failure, .. }, Format::Table) => {
                format!("error: {}", in_lines(failure))
            }
            (Self::Spec(problems), Format::Table) => problems
                .iter()
                .map(|problem| format!("error: {problem}"))
                .collect::<Vec<_>>()
                .join("\n"),
            (Self::Failure { failure, .. }, Format::Json) => {
                json!({ "errors": [failure] }).to_string()
            }
            (Self::Spec(problems), Format::Json) => {
                let errors: Vec<Value> = problems.iter().map(spec_json).collect();
                json!({ "errors": errors }).to_string()
            }
        };
        Some(redact(&text).into_owned())
    }
}

impl From<SpecProblems> for Problem {
    fn from(problems: SpecProblems) -> Self {
        Self::Spec(problems)
    }
}

/// A failure for people: what, where, what to do.
pub(crate) fn in_lines(failure: &Failure) -> String {
    let mut text = format!("{} [{}]", failure.message, failure.code);
    for (what, value) in [("about", &failure.subject), ("remedy", &failure.remedy)] {
        if !value.is_empty() {
            // Writing to a String cannot fail.
            let _infallible = write!(text, "\n  {what}: {value}");
        }
    }
    text
}

fn spec_json(problem: &SpecProblem) -> Value {
    json!({
        "code": problem.code,
        "subject": problem.key,
        "line": problem.line,
        "message": problem.message,
        "remedy": problem.remedy,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_what_where_and_what_to_do() {
        let failure = Failure::definite("no_task", "there is no such task").about("shop");
        let problem = Problem::new(Exit::Usage, failure.remedy("see `task list`"));
        let expected =
            "error: there is no such task [no_task]\n  about: shop\n  remedy: see `task list`";
        assert_eq!(problem.describe(Format::Table).as_deref(), Some(expected));
        let json: Value = problem
            .describe(Format::Json)
            .and_then(|text| serde_json::from_str(&text).ok())
            .expect("JSON");
        assert_eq!(json["errors"][0]["code"], "no_task");
        assert_eq!(problem.exit(), Exit::Usage);
    }
}
