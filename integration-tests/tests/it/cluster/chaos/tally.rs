//! What came of the runs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::fault::Fault;

/// A run that ended well: nothing lost, nothing doubled.
#[derive(Clone)]
pub(super) struct Run {
    pub(super) struck: Vec<Fault>,
    /// What was done meanwhile, each by its name.
    pub(super) done: Vec<(&'static str, u64)>,
    /// What took a time, each by its name.
    pub(super) took: Vec<(&'static str, Duration)>,
}

/// The sum of some runs. A run that lost or doubled a row is in none: it fails the test.
#[derive(Default)]
pub(super) struct Tally {
    runs: usize,
    faults: BTreeMap<&'static str, usize>,
    done: BTreeMap<&'static str, u64>,
    /// The longest of each.
    took: BTreeMap<&'static str, Duration>,
}

impl Tally {
    pub(super) fn add(&mut self, run: Run) {
        self.runs += 1;
        for fault in run.struck {
            *self.faults.entry(fault.kind()).or_default() += 1;
        }
        for (what, count) in run.done {
            *self.done.entry(what).or_default() += count;
        }
        for (what, time) in run.took {
            let longest = self.took.entry(what).or_default();
            *longest = time.max(*longest);
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (runs, kinds) = (self.runs, self.faults.len());
        let faults: usize = self.faults.values().sum();
        writeln!(out, "{runs} runs, {faults} faults of {kinds} kinds, no row lost, none doubled")?;
        self.took.iter().try_for_each(|(what, time)| {
            writeln!(out, "{:9.1} s at most for {what}", time.as_secs_f64())
        })?;
        self.done.iter().try_for_each(|(what, count)| writeln!(out, "{count:9}  {what}"))?;
        self.faults.iter().try_for_each(|(kind, count)| writeln!(out, "{count:9}  times {kind}"))
    }
}
