//! The agent as its leader sees it: a scripted leader leases units and reads what comes back.

mod leader;
mod precheck;
mod precheck_streaming;
mod rows;
mod schema;
mod session;
mod world;
