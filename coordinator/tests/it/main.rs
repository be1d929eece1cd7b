//! The replicated log against real files, real kills and faulty links.

mod cluster;
mod crash;
mod soak;
mod store;
mod wait;
