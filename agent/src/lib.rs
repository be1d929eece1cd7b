//! The agent of pgconvoy: everything that touches a PostgreSQL server.
//!
//! Reading order: `session` (what is said with the leader), `runner` (leases, slots, reports), `unit` (one module a kind
//! of work), `pg` (connections, COPY, fencing).

mod keeper;
mod runner;
mod tools;
mod unit;
