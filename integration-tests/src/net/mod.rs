//! Networks that misbehave on command.

mod http;
mod link;
mod namespace;
pub(crate) mod ports;
mod proxy;
mod trap;

pub use http::page;
pub use link::Link;
pub use namespace::Namespace;
pub use proxy::{Proxy, Weather};
pub use trap::Trap;
