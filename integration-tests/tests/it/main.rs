//! The integration tests: one program, because linking costs more than running.

mod harness;
mod quickstart;
