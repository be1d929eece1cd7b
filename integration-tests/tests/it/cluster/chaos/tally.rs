//! What came of the runs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::fault::Fault;

/// A run that ended well: nothing lost, nothing doubled.
pub(super) struct Run {
    pub(super) struck: Vec<Fault>,
    pub(super) rows: u64,
    /// From the last fault's end to the task's.
    pub(super) recovery: Duration,
    pub(super) took: Duration,
}

/// The sum of some runs. A run that lost or doubled a row is in none: it fails the test.
#[derive(Default)]
pub(super) struct Tally {
    runs: usize,
    faults: BTreeMap<&'static str, usize>,
    rows: u64,
    longest_recovery: Duration,
    longest_run: Duration,
}

impl Tally {
    pub(super) fn add(&mut self, run: Run) {
        self.runs += 1;
        for fault in run.struck {
            *self.faults.entry(fault.kind()).or_default() += 1;
        }
        self.rows += run.rows;
        self.longest_recovery = self.longest_recovery.max(run.recovery);
        self.longest_run = self.longest_run.max(run.took);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: usize = self.faults.values().sum();
        writeln!(
            out,
            "{} runs, {faults} faults of {} kinds, {} rows moved, 0 lost, 0 doubled; longest recovery {:.1} s, longest run {:.1} s",
            self.runs,
            self.faults.len(),
            self.rows,
            self.longest_recovery.as_secs_f64(),
            self.longest_run.as_secs_f64()
        )?;
        self.faults.iter().try_for_each(|(kind, count)| writeln!(out, "{count:5}  {kind}"))
    }
}
