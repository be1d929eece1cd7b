//! Why an agent does not start. Once it runs, what happens to units is reported, and what happens to sessions is logged.

use pgconvoy_runtime::tls::TlsError;

/// An agent that could not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// There is nobody to speak to.
    #[error("no coordinator is named; give --coordinators URL,…")]
    NoCoordinator,
    /// An agent without slots would never do anything.
    #[error("an agent needs at least one slot; give --slots")]
    NoSlots,
    /// Certificates or addresses cannot be used.
    #[error("cannot set up the connection to the coordinators")]
    Connection(#[source] TlsError),
}
