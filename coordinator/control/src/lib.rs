//! The control plane as pure functions: what the coordinator cluster agrees on, and what its leader does next.
//!
//! [`apply()`] changes the [`state::State`] by one command of the log; [`schedule::plan`] compares it with what the leader
//! observes and answers with the next commands. Everything else is around these two.
//!
//! Reading order: [`state`] (units first), [`command`], [`outcome`], one file of `apply` with its tests, `course` (what
//! follows what in a task), [`schedule`], [`liveness`].
//!
//! Architecture Invariants: no clock, no chance, no I/O, no async, no order that differs between runs: the same log gives
//! the same state on each node, and the simulation runs a cluster of these functions from one seed. No pass over all
//! units for one event. Heartbeats never become commands; changes of ownership always do.

mod apply;
pub mod codec;
pub mod command;
mod course;
pub mod invariants;
pub mod liveness;
pub mod outcome;
pub mod rejected;
pub mod schedule;
pub mod sites;
pub mod state;
pub mod view;
pub mod work;

pub use apply::apply;
