//! `pgconvoy migrate`, the whole job with nothing else to start: what it moves, how it goes on, what it refuses.

mod interrupted;
mod left_out;
mod moves;
mod refuses;
mod regression;
mod restore;
mod rivals;
mod server_wide;
mod unlogged;
mod versions;
