//! Why an agent does not start, or ends by itself. As long as it runs, what happens to units is reported, and what happens
//! to sessions is logged.

use pgconvoy_runtime::tasks::Died;
use pgconvoy_runtime::tls::TlsError;
use pgconvoy_shared::failure::Failure;

/// An agent that could not start, or not go on.
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
    /// The certificate is another one's.
    #[error("this agent cannot use this certificate")]
    Certificate(#[source] TlsError),
    /// The coordinators do not want it, and will not want it later.
    #[error("the coordinators refuse this agent: {0}")]
    Refused(Box<Failure>),
    /// A bug.
    #[error(transparent)]
    Died(#[from] Died),
}
