//! Networks that misbehave on command.

mod proxy;
mod trap;

pub use proxy::{Proxy, Weather};
pub use trap::Trap;
