//! Folding: changes become statements, few for many of them.
//!
//! It costs an agent about a tenth of what it costs the destination to run them. So a batch is folded as soon as it is cut,
//! while the destination works on the one before. That is done ahead of what is known then: who applies it may have parked a
//! table since, or have learned that one must be written otherwise, and then folds it anew.

use std::collections::BTreeSet;

use pgconvoy_flow::stream::entry::Entry;
use pgconvoy_flow::stream::fold::{Contradiction, fold};
use pgconvoy_flow::stream::operation::carried;
use pgconvoy_flow::stream::statements::{NotTold, Statement, statement};
use pgconvoy_flow::stream::table::Target;

/// The statements of a set of changes, in order.
#[derive(Debug)]
pub(super) struct Folded(pub(super) Vec<Run>);

/// One of them.
#[derive(Debug)]
pub(super) struct Run {
    /// What it writes, if that is one target.
    pub(super) target: Option<usize>,
    pub(super) statement: Statement,
}

/// Changes that no set of statements stands for.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) enum NotFolded {
    Contradiction(#[from] Contradiction),
    NotTold(#[from] NotTold),
}

impl Folded {
    /// Rows of the targets in `touchy` are all taken away before the first is put.
    pub(super) fn of(
        entries: &[Entry],
        targets: &[Target],
        touchy: &BTreeSet<usize>,
    ) -> Result<Self, NotFolded> {
        let operations = carried(fold(entries, targets)?, touchy);
        let runs = operations.iter().map(|operation| {
            let statement = statement(operation, targets)?;
            Ok(Run { target: operation.target(), statement })
        });
        Ok(Self(runs.collect::<Result<_, NotFolded>>()?))
    }

    /// Whether it writes one of these.
    pub(super) fn writes_any(&self, targets: &BTreeSet<usize>) -> bool {
        self.0.iter().any(|run| run.target.is_some_and(|target| targets.contains(&target)))
    }
}
