//! The I/O around the control plane: the replicated log, and what a node serves from it.
//!
//! Reading order: [`store`] (what a node must not forget), [`raft`] (how nodes agree on it).

pub mod raft;
pub mod store;
