//! What a precheck finds.

use serde::{Deserialize, Serialize};

use crate::endpoint::Side;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Info,
    /// The task waits until it is acknowledged, by code.
    Warning,
    /// The task cannot start.
    Error,
}

/// One finding. A code with nothing to say about is not listed: what was looked at is told by [`Severity::Info`] items.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrecheckItem {
    /// Stable, snake_case; has a page in `codes/`.
    pub code: String,
    /// Which database; none = both, or neither.
    pub side: Option<Side>,
    /// Which object; may be empty.
    pub object: String,
    /// How much it matters.
    pub severity: Severity,
    /// What is there.
    pub observed: String,
    /// What would have to be there.
    pub required: String,
    /// What to do, with the statement where one helps.
    pub remedy: String,
}
