//! When a migration that follows its source has gone far enough.

use clap::ValueEnum;
use pgconvoy_proto::v1;

/// Until when a source is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Until {
    /// The rows that were there are copied
    Full,
    /// Everything that was committed before the command began is at the destination, and every constraint is built
    InSync,
    /// All is in sync, and the destination takes over
    Cutover,
}

/// Sees whether the goal is reached.
///
/// *In sync* means up to where the source's log was on disk once the command had begun. How far it is comes with the stream's
/// progress, which counts how often it was looked; a look that was told of may be older than the command, and so may be the
/// beginning of the next one. The one after that is not. A table that is copied anew is behind however far the stream is: it has all of
/// that once it is followed again.
#[derive(Debug)]
pub(super) struct Goal {
    until: Option<Until>,
    first_look: Option<u64>,
    /// Everything before this position is to be applied.
    target: Option<u64>,
}

impl Goal {
    pub(super) fn new(until: Option<Until>) -> Self {
        Self { until, first_look: None, target: None }
    }

    /// Whether the task, as it is now, has reached it.
    pub(super) fn is_reached(&mut self, task: &v1::Task) -> bool {
        let running = task.status() == v1::TaskStatus::Running;
        let copied =
            matches!(task.phase(), v1::Phase::CatchUp | v1::Phase::Stream) && !copies_anew(task);
        match self.until {
            None => false,
            Some(Until::Full) => running && copied,
            Some(Until::InSync) => running && self.is_in_sync(task),
            // One that an earlier run began goes on by itself.
            Some(Until::Cutover) => {
                running && (task.phase() == v1::Phase::Cutover || self.is_in_sync(task))
            }
        }
    }

    fn is_in_sync(&mut self, task: &v1::Task) -> bool {
        let Some(progress) = task.stream.as_ref().and_then(|stream| stream.progress.as_ref())
        else {
            return false;
        };
        if self.target.is_none() {
            // Another agent, which took the stream over, counts anew.
            let first = self.first_look.filter(|first| *first <= progress.looks);
            let first = *self.first_look.insert(first.unwrap_or(progress.looks));
            self.target = (progress.looks >= first + 2).then_some(progress.source);
        }
        if copies_anew(task) {
            // What is not followed is looked at anew by whoever follows it again.
            (self.first_look, self.target) = (None, None);
        }
        task.phase() == v1::Phase::Stream
            && self.target.is_some_and(|target| progress.applied >= target)
    }
}

fn copies_anew(task: &v1::Task) -> bool {
    task.stream.as_ref().is_some_and(|stream| !stream.tables_copied_anew.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(phase: v1::Phase, looks: u64, source: u64, applied: u64) -> v1::Task {
        let progress = v1::StreamProgress { looks, source, applied, ..Default::default() };
        v1::Task {
            status: v1::TaskStatus::Running.into(),
            phase: phase.into(),
            stream: Some(v1::TaskStream { progress: Some(progress), ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn in_sync_is_up_to_where_the_source_was_after_the_command_began() {
        use v1::Phase::{CatchUp, Stream};
        let mut goal = Goal::new(Some(Until::InSync));
        assert!(!goal.is_reached(&task(Stream, 7, 100, 100)), "an old look");
        assert!(!goal.is_reached(&task(Stream, 8, 100, 100)), "it may have begun before");
        assert!(!goal.is_reached(&task(CatchUp, 9, 200, 300)), "not all is built");
        assert!(!goal.is_reached(&task(Stream, 10, 400, 199)));
        assert!(goal.is_reached(&task(Stream, 11, 500, 200)), "what came later does not count");

        let mut goal = Goal::new(Some(Until::InSync));
        assert!(!goal.is_reached(&task(Stream, 7, 100, 100)));
        assert!(!goal.is_reached(&task(Stream, 1, 300, 300)), "another agent counts anew");
        assert!(goal.is_reached(&task(Stream, 3, 300, 300)));
    }

    #[test]
    fn nothing_is_in_sync_while_a_table_is_copied_anew() {
        let mut anew = task(v1::Phase::Stream, 9, 100, 100);
        let table = v1::QualifiedName { schema: "public".into(), name: "y".into() };
        anew.stream.as_mut().unwrap().tables_copied_anew = vec![table];
        for until in [Until::Full, Until::InSync, Until::Cutover] {
            let mut goal = Goal::new(Some(until));
            assert!(
                !goal.is_reached(&task(v1::Phase::CatchUp, 7, 100, 100)) || until == Until::Full
            );
            assert!(!goal.is_reached(&anew), "{until:?}");
            let again = |looks| task(v1::Phase::Stream, looks, 100, 100);
            let reached = [1, 2, 3].map(|looks| goal.is_reached(&again(looks)));
            assert_eq!(reached, [until == Until::Full, until == Until::Full, true], "{until:?}");
        }
    }

    #[test]
    fn a_cutover_begins_in_sync_or_has_begun() {
        use v1::Phase::{Cutover, Stream};
        let mut goal = Goal::new(Some(Until::Cutover));
        assert!(!goal.is_reached(&task(Stream, 7, 100, 100)));
        assert!(goal.is_reached(&task(Stream, 9, 200, 200)));
        assert!(Goal::new(Some(Until::Cutover)).is_reached(&task(Cutover, 1, 100, 0)));
    }

    #[test]
    fn without_a_goal_it_goes_on() {
        assert!(!Goal::new(None).is_reached(&task(v1::Phase::Stream, 9, 1, 1)));
        assert!(Goal::new(Some(Until::Full)).is_reached(&task(v1::Phase::CatchUp, 0, 1, 0)));
    }
}
