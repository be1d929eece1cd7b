//! The harness is trusted by every other test, so it has tests of its own.

mod convoy;
mod net;
mod oracle;
mod postgres;
mod process;
mod shop;
