//! A node as users and agents meet it: over gRPC, in this process. Agents are scripted, so no
//! database is needed; the log, the elections and the streams are real.

mod agents;
mod cluster;
mod embedded;
mod http;
mod roles;
mod script;
mod world;
