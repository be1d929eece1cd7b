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
    /// From the last fault's end to the task's.
    pub(super) recovery: Duration,
    pub(super) took: Duration,
}

/// The sum of some runs. A run that lost or doubled a row is in none: it fails the test.
#[derive(Default)]
pub(super) struct Tally {
    runs: usize,
    faults: BTreeMap<&'static str, usize>,
    done: BTreeMap<&'static str, u64>,
    longest_recovery: Duration,
    longest_run: Duration,
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
        self.longest_recovery = self.longest_recovery.max(run.recovery);
        self.longest_run = self.longest_run.max(run.took);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: usize = self.faults.values().sum();
        writeln!(
            out,
            "{} runs, {faults} faults of {} kinds, none of a row lost or doubled; longest recovery {:.1} s, longest run {:.1} s",
            self.runs,
            self.faults.len(),
            self.longest_recovery.as_secs_f64(),
            self.longest_run.as_secs_f64()
        )?;
        self.done.iter().try_for_each(|(what, count)| writeln!(out, "{count:9}  {what}"))?;
        self.faults.iter().try_for_each(|(kind, count)| writeln!(out, "{count:5}  {kind}"))
    }
}
