//! The stream of changes as pure functions: from the bytes of `pgoutput` to statements for the destination.
//!
//! Reading order: [`message`], [`mod@tuple`], [`decode`], [`mod@encode`], [`assemble`], [`snapshot`], [`table`],
//! [`window`], [`entry`], [`follow`], [`fold`], [`operation`], [`text_array`], [`statements`]; and [`mod@changed`].

pub mod assemble;
pub mod changed;
pub mod decode;
pub mod encode;
pub mod entry;
pub mod fold;
pub mod follow;
pub mod laws;
pub mod message;
pub mod operation;
pub mod snapshot;
pub mod statements;
pub mod table;
pub mod text_array;
pub mod tuple;
pub mod window;
