//! Tests of the control plane from outside: a simulated cluster, random commands, frozen bytes.

mod fixtures;
mod following;
mod golden;
mod properties;
mod sim;
