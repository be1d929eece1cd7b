//! One node of the coordinator cluster: the I/O around the control plane.
//!
//! Reading order: [`store`] (what a node must not forget), [`raft`] (how nodes agree on it),
//! `machine` (what they agree on), `proposer` (the way in), `leader` (what the leader does, and how
//! it speaks to agents), `api` (what users call), `secrets`, `http`.
//!
//! Architecture Invariants: what may be done is decided by the pure crate `pgconvoy-control`, here
//! it is carried out. Rows never pass through a coordinator. The embedded form is this same node,
//! reached through memory.

mod api;
mod config;
mod error;
mod leader;
mod machine;
mod metrics;
mod node;
mod proposer;
pub mod raft;
mod secrets;
mod start;
pub mod store;

pub use config::{CoordinatorConfig, Network, Reach};
pub use error::{StartError, Stopped};
pub use secrets::SecretsError;
pub use start::{Coordinator, CoordinatorHandle};
