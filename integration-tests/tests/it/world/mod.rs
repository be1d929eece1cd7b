//! What most tests need: two servers, a shard that stops half-way, a source with an invariant, networks, a
//! task in a cluster.

mod gate;
mod held;
mod job;
mod ledger;
mod mover;
mod pair;
mod roads;
mod scribes;
mod sites;

use std::time::Duration;

use pgconvoy_integration_tests::postgres::{Major, Regression, fetched};

pub(crate) use gate::Gate;
pub(crate) use held::Held;
pub(crate) use job::{Fleet, Job, events};
pub(crate) use ledger::Ledger;
pub(crate) use mover::Mover;
pub(crate) use pair::{DATABASE, Pair, shown, told};
pub(crate) use roads::Roads;
pub(crate) use scribes::{Scribes, WRITTEN};
pub(crate) use sites::{ASTRAY, AT_DESTINATION, AT_SOURCE, Dialled, TwoSites};

/// For a migration of a small database on a loaded machine, a lease time and an election included.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);
/// For a command that only asks or only refuses.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// A major beside the usual one; `None` where it was not fetched.
pub(crate) fn major(number: u32) -> Option<Major> {
    Major::fetched(number)
}

/// PostgreSQL's regression database; `None` where it was not fetched.
pub(crate) fn regression() -> Option<Regression> {
    fetched(Regression::found())
}
