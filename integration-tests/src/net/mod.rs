//! Networks that misbehave on command.

mod namespace;
mod proxy;
mod trap;

pub use namespace::Namespace;
pub use proxy::{Proxy, Weather};
pub use trap::Trap;
