//! The vocabulary of pgconvoy: what coordinator, agent and command line all speak of.
//!
//! Architecture Invariant: this crate is pure. No clock, no randomness, no I/O, no async: times, ids and chance come in
//! as arguments, so whatever is built on it can run in a simulation.
//!
//! Reading order: [`ids`], [`lsn`], [`epoch`], [`name`], [`mod@unit`], [`failure`], [`spec`].

pub mod codes;
pub mod cutover;
pub mod endpoint;
pub mod epoch;
pub mod failure;
pub mod ids;
pub mod lsn;
pub mod name;
pub mod neighbours;
pub mod parking;
pub mod precheck;
pub mod retry;
pub mod secret;
pub mod spec;
pub mod stream;
pub mod time;
pub mod unit;
pub mod verify;
pub mod yaml;
