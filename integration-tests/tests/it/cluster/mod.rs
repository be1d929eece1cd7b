//! A cluster of three nodes with mutual TLS and its agents move a database while things are killed, stopped and cut off.

mod agents;
mod chaos;
mod interface;
mod life;
mod members;
mod nodes;
mod secrets;
mod snapshot;
