//! Everything that speaks with a PostgreSQL server.
//!
//! - [`Access`]: where a database is and how one logs in; makes sessions of two kinds over one kind of connection:
//! - [`Session`]: ordinary SQL (tokio-postgres);
//! - [`wire::Wire`]: our own small client, for COPY data that is passed on as it comes;
//! - [`Door`]: for client programs that could not reach it by themselves;
//! - [`Pool`]: those that go from one unit to the next;
//! - [`sqlstate`]: what an error means for the unit that met it;
//! - [`destination`]: schema `pgconvoy`, the proof of what is done, and the fences.

mod access;
pub(crate) mod destination;
mod door;
mod error;
mod pool;
mod session;
mod socket;
pub(crate) mod sqlstate;
#[cfg(test)]
pub(crate) mod tests;
mod tls;
mod transport;
mod values;
pub(crate) mod wire;

pub(crate) use access::{Access, connect_limit};
pub(crate) use door::Door;
pub(crate) use error::PgError;
#[cfg(test)]
pub(crate) use error::error_of;
pub(crate) use pool::{IDLE_LIMIT, Pool};
pub(crate) use session::Session;
pub(crate) use sqlstate::About;
pub(crate) use transport::{Attempt, Patience, Transport, Way};
pub(crate) use values::Value;
