//! The plumbing against real sockets, files and processes.

mod certs;
mod memory;
mod shutdown;
mod signals;
mod tasks;
mod telemetry;
mod tls;
mod world;
