//! Events of a task, and why its units wait.

use pgconvoy_proto::v1;
use pgconvoy_shared::failure::Failure;
use serde::Serialize;

use super::non_empty;
use crate::output::human;
use crate::output::table::table;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct EventView {
    seq: u64,
    at: Option<String>,
    kind: String,
    message: String,
    agent: Option<String>,
    unit: Option<u32>,
    failure: Option<Failure>,
}

impl From<v1::Event> for EventView {
    fn from(event: v1::Event) -> Self {
        Self {
            seq: event.seq,
            at: human::rfc3339(event.at_ms),
            kind: event.kind,
            message: event.message,
            agent: non_empty(&event.agent),
            unit: event.unit,
            failure: event.failure.and_then(|failure| failure.try_into().ok()),
        }
    }
}

impl EventView {
    /// One line for people.
    pub(crate) fn to_line(&self) -> String {
        let at = self.at.as_deref().unwrap_or("-");
        let mut line = format!("{at}  {:<16}  {}", self.kind, self.message);
        // A message that tells of a failure already names it.
        if let Some(failure) = self.failure.as_ref().filter(|f| !self.message.contains(&f.message))
        {
            line.push_str(&format!(": {failure}"));
        }
        line
    }
}

/// Why some units wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ExplanationView {
    code: String,
    message: String,
    units: u32,
    examples: Vec<String>,
}

impl From<v1::Explanation> for ExplanationView {
    fn from(explanation: v1::Explanation) -> Self {
        Self {
            code: explanation.code,
            message: explanation.message,
            units: explanation.units,
            examples: explanation.examples,
        }
    }
}

pub(crate) fn explanations_table(explanations: &[ExplanationView]) -> String {
    if explanations.is_empty() {
        return "nothing waits".to_owned();
    }
    let rows = explanations.iter().map(|why| {
        [why.units.to_string(), why.code.clone(), why.message.clone(), why.examples.join(", ")]
    });
    table(&[">units", "why", "meaning", "such as"], rows)
}
