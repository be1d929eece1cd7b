//! The stream of changes as pure functions: from the bytes of `pgoutput` to statements for the destination.
//!
//! Reading order: [`message`], [`tuple`], [`decode`], [`mod@encode`], [`assemble`], [`snapshot`].

pub mod assemble;
pub mod decode;
pub mod encode;
pub mod message;
pub mod snapshot;
pub mod tuple;
