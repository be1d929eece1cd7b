//! Networks that misbehave on command.

mod proxy;

pub use proxy::{Proxy, Weather};
