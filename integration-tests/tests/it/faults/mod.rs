//! Faults by fixed schedules, each on a running copy: every row arrives exactly once, and nobody has to do anything.
//!
//! Killed and frozen agents are in `cluster::agents`, nodes in `cluster::nodes` and `cluster::members`, servers that crash
//! in `migrate::interrupted`, faults by chance in `cluster::chaos`. Here is what a network does, what a disk does, what
//! the laws are there for, and how long a loss takes.

mod anew;
mod answers;
mod disk;
mod fresh;
mod leases;
mod roads;
mod times;

/// How the message ends by which a shard's writer says that the shard is done, and commits.
pub(crate) const COMMIT: &[u8] = b"; commit /* shard */\0";
/// How the statement begins that reads or writes a shard's rows.
const COPY: &[u8] = b"copy ";
