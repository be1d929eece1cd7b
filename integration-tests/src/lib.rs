//! The harness of pgconvoy's integration tests: real servers, real processes, faults.
//!
//! - [`postgres::Postgres`]: a throw-away server; [`shop`], [`types`]: something to move.
//! - [`convoy::Convoy`]: coordinators and agents; [`process::Process`]: one process to pause, kill, start again.
//! - [`net::Proxy`]: a network that misbehaves.
//! - [`wait::until`]: waits for a state with a limit; nothing else sleeps.
//! - [`oracle`]: are two databases the same? [`logs`]: did a process say what it should not?
//! - [`mod@bench`]: programs that are timed, between two servers that write durably.
//!
//! Architecture Invariant: this crate starts the *binary* and speaks its public interface. It links the contracts, the
//! vocabulary and the plumbing of TLS, and nothing else of the project, so that a test cannot cheat.

mod artifacts;
pub mod bench;
pub mod convoy;
pub mod logs;
pub mod net;
pub mod oracle;
pub mod postgres;
pub mod process;
pub mod quickstart;
pub mod shop;
mod spawn;
pub mod types;
pub mod wait;
