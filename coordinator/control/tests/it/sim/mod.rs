//! A whole cluster in one process, from one seed: coordinators, agents, a network and databases that misbehave.
//!
//! A world runs through a time of chaos and then heals. After each step the invariants are checked; after the healing
//! every task must have ended. The same seed gives the same world, to the last message. A failing seed prints what
//! happened last and how to replay it.
//!
//! Three bugs can be put into a world, of the kind that no reading finds; the tests show that the checks find them.

mod agent;
mod chance;
mod databases;
mod faults;
mod leader;
mod network;
mod oracle;
mod raft;
mod unit_run;
mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use pgconvoy_control::state::EventKind;

use world::{Bugs, World};

/// Worlds that each run of the tests goes through.
const FIXED_SEEDS: u64 = 60;

/// What the fixed seeds lead to, all in all: else they would prove little.
const LED_TO: [EventKind; 13] = [
    EventKind::UnitMoved,
    EventKind::AgentLost,
    EventKind::UnitFailed,
    EventKind::SnapshotLost,
    EventKind::SnapshotContinues,
    EventKind::RowsStartAnew,
    EventKind::TablePlannedAnew,
    EventKind::TablesGone,
    EventKind::ShardsMissing,
    EventKind::TaskFailed,
    EventKind::TaskPaused,
    EventKind::CleanedUp,
    EventKind::Consistent,
];

/// How many seeds, if more than the usual.
const SEEDS: &str = "PGCONVOY_SIM_SEEDS";
/// Replays one seed.
const REPLAY: &str = "PGCONVOY_SIM_SEED";
/// Seconds to spend on seeds that nobody has seen.
const BUDGET: &str = "PGCONVOY_SIM_SECS";

#[expect(clippy::disallowed_methods, reason = "a test takes its seed and budget from outside")]
fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn run(seed: u64, bugs: Bugs) -> Result<(), String> {
    World::new(seed, bugs).run()
}

/// Runs a seed, and says which kinds of events it led to.
fn must_pass(seed: u64) -> BTreeSet<EventKind> {
    let mut world = World::new(seed, Bugs::default());
    if let Err(report) = world.run() {
        panic!(
            "{report}\nseed {seed}; replay it with: cargo x sim --replay {seed}   ({REPLAY}={seed})"
        );
    }
    world.led_to()
}

#[test]
fn sim_fixed_seeds_keep_all_invariants_and_end() {
    if let Some(seed) = setting(REPLAY) {
        must_pass(seed);
        return;
    }
    let seeds = setting(SEEDS).unwrap_or(FIXED_SEEDS).max(FIXED_SEEDS);
    let seen: BTreeSet<_> = (0..seeds).flat_map(must_pass).collect();
    let missed: Vec<_> = LED_TO.iter().filter(|kind| !seen.contains(kind)).collect();
    assert!(missed.is_empty(), "no seed leads to {missed:?}: chaos has become too tame");
}

#[test]
#[expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "a budget is of real time")]
fn sim_new_seeds_for_a_while() {
    let Some(secs) = setting(BUDGET) else { return };
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let first = since_epoch.expect("the clock is past 1970").as_secs() << 20;
    let start = std::time::Instant::now();
    let mut seeds = 0;
    while start.elapsed() < Duration::from_secs(secs) {
        must_pass(first + seeds);
        seeds += 1;
    }
    eprintln!("{seeds} new seeds from {first} on");
}

#[test]
fn the_same_seed_gives_the_same_world() {
    let history = |seed| {
        let mut world = World::new(seed, Bugs::default());
        world.run().unwrap_or_else(|report| panic!("{report}"));
        world.fingerprint()
    };
    assert_eq!(history(7), history(7));
    assert_ne!(history(7), history(8));
}

fn is_found(bugs: Bugs, signs: &[&str]) {
    let found = (0..FIXED_SEEDS).find_map(|seed| run(seed, bugs).err());
    let report = found.expect("the planted bug is found within the fixed seeds");
    assert!(
        signs.iter().any(|sign| report.contains(sign)),
        "found, but for what it is not: {report}"
    );
}

#[test]
fn a_new_leader_without_grace_time_is_found() {
    is_found(Bugs { no_grace: true, ..Bugs::default() }, &["two_live_owners"]);
}

#[test]
fn a_hello_that_is_believed_is_found() {
    is_found(
        Bugs { hello_believed: true, ..Bugs::default() },
        &["a_life_is_over_when_it_ends", "two_live_owners"],
    );
}

#[test]
fn an_epoch_that_is_not_raised_is_found() {
    is_found(
        Bugs { epoch_not_raised: true, ..Bugs::default() },
        &["an_epoch_is_used_once", "two_live_owners"],
    );
}
