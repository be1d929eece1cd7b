//! Statements that the destination has prepared, and how long their plans do.
//!
//! A statement's plan is made when it is run first, and kept: it is the one for few rows, however many come. Of a table that is
//! nearly empty then all rows are read, which is quickest, and so it would stay while the table grows, until somebody gathers
//! statistics. So the statements of a table are forgotten, and prepared again for the table as it is by then, whenever twice
//! as much was written to it: however it grew, no plan is made for less than a part of it.

use std::collections::BTreeMap;

use pgconvoy_flow::stream::entry::{Act, Entry};
use tokio_postgres::Statement;

/// So many are kept: a few for each table, and for each set of columns that is updated.
const STATEMENTS_MAX: usize = 1_000;

/// After so many changes of a table its plans are made again for the first time.
const CHANGES_FIRST: u64 = 256;

/// And for so many they are good at most: what was written may have been removed as well, and comes again.
const CHANGES_MAX: u64 = 1 << 20;

/// What is prepared.
#[derive(Default)]
pub(super) struct Statements {
    by_text: BTreeMap<String, Prepared>,
    /// By target.
    written: BTreeMap<usize, Written>,
}

struct Prepared {
    /// The one that it writes, if it is one.
    target: Option<usize>,
    statement: Statement,
}

/// How many changes of a target were written since it was empty, or since the stream began.
#[derive(Debug, Default)]
struct Written {
    changes: u64,
    /// The number at which plans were made.
    planned: u64,
}

impl Written {
    /// Whether plans have to be made again.
    fn outgrew(&mut self) -> bool {
        let good_for = self.planned.clamp(CHANGES_FIRST, CHANGES_MAX);
        let outgrew = self.changes >= self.planned + good_for;
        if outgrew {
            self.planned = self.changes;
        }
        outgrew
    }
}

impl Statements {
    pub(super) fn get(&self, text: &str) -> Option<&Statement> {
        self.by_text.get(text).map(|prepared| &prepared.statement)
    }

    /// `target`: the one that it writes, if it is one.
    pub(super) fn add(&mut self, text: String, target: Option<usize>, statement: Statement) {
        self.by_text.insert(text, Prepared { target, statement });
    }

    /// Forgets them where there are too many. To be asked for before any is looked for.
    pub(super) fn make_room(&mut self) {
        if self.by_text.len() >= STATEMENTS_MAX {
            self.by_text.clear();
        }
    }

    /// These changes were written.
    pub(super) fn written(&mut self, entries: &[Entry]) {
        for entry in entries {
            let written = self.written.entry(entry.target).or_default();
            match entry.act {
                Act::Truncate { .. } => *written = Written::default(),
                _ => written.changes += 1,
            }
        }
        let outgrown =
            |(target, written): (&usize, &mut Written)| written.outgrew().then_some(*target);
        let outgrown: Vec<usize> = self.written.iter_mut().filter_map(outgrown).collect();
        if !outgrown.is_empty() {
            self.by_text.retain(|_, prepared| {
                prepared.target.is_none_or(|target| !outgrown.contains(&target))
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_made_again_whenever_twice_as_much_was_written_and_at_last_in_equal_steps() {
        let mut written = Written::default();
        let mut made = Vec::new();
        while made.len() < 18 {
            written.changes += 1;
            if written.outgrew() {
                made.push(written.changes);
            }
        }
        assert_eq!(made[..4], [256, 512, 1024, 2048]);
        assert_eq!(made[12..], [1 << 20, 2 << 20, 3 << 20, 4 << 20, 5 << 20, 6 << 20]);

        // All at once is no less than one by one.
        let mut written = Written { changes: 1_000_000, planned: 0 };
        assert!(written.outgrew() && !written.outgrew());
        assert_eq!(written.planned, 1_000_000);
    }
}
