//! The harness of pgconvoy's integration tests: real servers, real processes, faults.
//!
//! [`postgres::Postgres`] is a throw-away server; [`wait::until`] waits for a state with a limit.
//!
//! Architecture Invariant: this crate starts the *binary* and speaks its public interface. It links the contracts and
//! the vocabulary and nothing else of the project, so that a test cannot cheat.

mod artifacts;
pub mod logs;
pub mod net;
pub mod oracle;
pub mod postgres;
pub mod process;
pub mod shop;
mod spawn;
pub mod wait;
