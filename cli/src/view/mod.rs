//! What users see: the contracts' messages as JSON with stable keys, and as tables.
//!
//! JSON is a contract with users' programs, and the wire one with agents of other versions: each view stands between
//! the two, so that neither has to follow the other.

pub(crate) mod agent;
pub(crate) mod cluster;
pub(crate) mod cutover;
pub(crate) mod event;
pub(crate) mod precheck;
pub(crate) mod stream;
pub(crate) mod task;
pub(crate) mod verification;

/// `TASK_STATUS_RUNNING` → `running`.
fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase()
}

/// Empty texts mean "none" on the wire.
fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
