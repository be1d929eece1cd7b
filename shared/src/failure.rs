//! Failures: what crosses a process border when something did not work.

use serde::{Deserialize, Serialize};

/// What a failure means for the unit that met it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// A connection, a restart, a serialization failure: tried again within the connection window.
    Transient,
    /// Anything that is not known: tried again within the other window.
    Other,
    /// Trying again cannot help (wrong password, missing privilege, a statement the server refuses): the task stops.
    Definite,
}

/// A failure with its place and its remedy. The code is stable, and each has a page in `codes/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} [{code}]")]
pub struct Failure {
    /// What it means for the retry.
    pub class: FailureClass,
    /// Stable, snake_case: `wrong_password`, `snapshot_lost`, …
    pub code: String,
    /// What it is about: a table, an endpoint, a statement. May be empty.
    pub subject: String,
    /// What happened, with the server's own message where there is one. Never a password.
    pub message: String,
    /// What the user can do. May be empty.
    pub remedy: String,
    /// SQLSTATE, where a server said one.
    pub sqlstate: Option<String>,
}

impl Failure {
    /// A failure with code and message; add the rest with the setters.
    pub fn new(class: FailureClass, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            class,
            code: code.into(),
            subject: String::new(),
            message: message.into(),
            remedy: String::new(),
            sqlstate: None,
        }
    }

    /// A failure that trying again cannot mend.
    pub fn definite(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(FailureClass::Definite, code, message)
    }

    /// A failure that is likely to pass.
    pub fn transient(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(FailureClass::Transient, code, message)
    }

    /// A failure of which nothing more is known.
    pub fn other(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(FailureClass::Other, code, message)
    }

    /// Names what it is about.
    #[must_use]
    pub fn about(mut self, subject: impl Into<String>) -> Self {
        self.subject = subject.into();
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }
}
