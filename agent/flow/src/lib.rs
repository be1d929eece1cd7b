//! The data plane as pure functions: what is said to PostgreSQL, and how its answers are cut.
//!
//! - [`copy`]: the framing of COPY data, followed without decoding a row.
//! - [`shards`]: how a table is cut into shards.
//! - [`digest`]: rows as hashes, to compare two tables without sorting them.
//! - [`fingerprint`]: whether a table still has the columns that were planned.
//! - [`formats`]: which types may travel in binary form.
//! - [`gauge`]: whether it pays to compress what is sent.
//! - [`sql`]: statements as text; [`large_objects`]: those of what is no row.
//! - [`stream`]: the changes of the source, from bytes to statements.
//!
//! Architecture Invariant: no connection, no clock, no chance, no async. What is decided here can be tried on a million
//! inputs in a second.

pub mod copy;
pub mod digest;
pub mod fingerprint;
pub mod formats;
pub mod gauge;
pub mod large_objects;
pub mod shards;
pub mod sql;
pub mod stream;
