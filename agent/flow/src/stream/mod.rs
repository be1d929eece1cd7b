//! The stream of changes as pure functions: from the bytes of `pgoutput` to statements for the destination.
//!
//! Reading order: [`message`], [`tuple`], [`decode`], [`mod@encode`].

pub mod decode;
pub mod encode;
pub mod message;
pub mod tuple;
