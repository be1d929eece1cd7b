//! Histories: a source in use is migrated to its end, in one process, from one seed.
//!
//! The source, its log and the destination are models; what reads the stream and decides what is done is the real code, from
//! bytes to folded operations. A history has transactions with savepoints, keys that move between shards, long values that
//! are not told, commits that are decoded before they are visible, shards that each show their own moment, owners that
//! die, come back and write late. Whenever a table is past its N, and in the end, the destination is what the source was, row
//! by row.
//!
//! A model that never fails proves nothing: each rule of the protocol can be left out, and a wrong row is found then.

mod bugs;
mod destination;
mod migration;
mod parking;
mod sender;
mod source;

use std::collections::BTreeMap;

use bugs::{Bug, Bugs};
use migration::Migration;

use crate::chance::setting;

/// Histories that each run of the tests goes through.
const HISTORIES: u64 = 4_000;
/// How many a planted bug may take to be found.
const FOUND_WITHIN: u64 = 40_000;

/// How many histories, if more than the usual.
const SEEDS: &str = "PGCONVOY_HISTORIES";
/// Replays one.
const REPLAY: &str = "PGCONVOY_HISTORY_SEED";

/// What happened in histories, and how often.
#[derive(Debug, Default)]
struct Reached(BTreeMap<&'static str, u64>);

impl Reached {
    fn note(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }
}

/// What the histories lead to, all in all: else they would prove little.
const LED_TO: [&str; 16] = [
    "a batch was applied in order",
    "a kept change was applied",
    "a parked table went on",
    "a row was moved",
    "a row was read again",
    "a table was parked",
    "a table was truncated",
    "a transaction came in blocks",
    "a transaction landed though its answer was lost",
    "a transaction was fenced",
    "a transaction was spilled",
    "an owner connected again",
    "an owner was replaced",
    "it could not be read again",
    "it was not there any more",
    "it was there",
];

fn must_pass(seed: u64, reached: &mut Reached) {
    let mut migration = Migration::new(seed, Bugs::default());
    if let Err(wrong) = migration.run() {
        panic!("{wrong}\nseed {seed}; replay it with {REPLAY}={seed}");
    }
    for (what, count) in migration.reached.0 {
        *reached.0.entry(what).or_default() += count;
    }
}

#[test]
fn histories_end_with_the_rows_of_the_source() {
    let mut reached = Reached::default();
    if let Some(seed) = setting(REPLAY) {
        return must_pass(seed, &mut reached);
    }
    let seeds = setting(SEEDS).unwrap_or(HISTORIES).max(HISTORIES);
    (0..seeds).for_each(|seed| must_pass(seed, &mut reached));
    eprintln!("{seeds} histories: {:#?}", reached.0);
    let missed: Vec<_> = LED_TO.iter().filter(|what| !reached.0.contains_key(*what)).collect();
    assert!(missed.is_empty(), "no history leads to {missed:?}: they have become too tame");
}

fn is_found(bugs: Bugs) {
    let found = (0..FOUND_WITHIN).find_map(|seed| {
        let wrong = Migration::new(seed, bugs).run().err()?;
        Some((seed, wrong))
    });
    let (seed, wrong) = found.unwrap_or_else(|| panic!("{bugs:?} is not found"));
    eprintln!("{bugs:?}: found by seed {seed}: {wrong}");
}

#[test]
fn a_missing_rule_of_the_protocol_is_found() {
    for planted in [
        Bug::NoBarrier,
        Bug::NotedBeforeSnapshot,
        Bug::FirstShardsN,
        Bug::NothingCompared,
        Bug::ConfirmedTooEarly,
        Bug::RowVanishes,
    ] {
        is_found(Bugs::planted(planted));
    }
}

#[cfg(feature = "lawless")]
#[test]
fn a_missing_law_of_the_stream_is_found() {
    use pgconvoy_flow::stream::laws::Law;
    for law in [
        Law::Window,
        Law::MoveUnseen,
        Law::MoveNotReread,
        Law::RereadRaises,
        Law::KeylessSnapshot,
        Law::TopLevel,
        Law::AppliedSkipped,
        Law::RolledBack,
    ] {
        is_found(Bugs::without(law));
    }
}
