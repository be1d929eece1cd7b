//! The integration tests: one program, because linking costs more than running.

mod cluster;
mod faults;
mod harness;
mod memory;
mod migrate;
mod quickstart;
mod sites;
mod stream;
mod types;
mod verify;
mod world;
