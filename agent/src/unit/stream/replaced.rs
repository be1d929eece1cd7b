//! Tables that are others by now than those whose changes were followed: dropped and made again, or renamed in turn.
//!
//! The stream names a table by its object id, and the task by its name. No two tables of a task may have one id: whose changes
//! they are would be left to chance. So whoever is copied anew takes the id that its name has at the source, and the table
//! that had it until then loses it. Nothing is kept of a table without an id, so that `task resume` cannot mend it: it is
//! copied anew, too.

use std::collections::BTreeMap;

use pgconvoy_flow::stream::message::RelationId;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{TableNo, TaskId};
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::parking::Cause;

use super::applying::Applier;
use super::catalog::Course;
use crate::unit::{UnitEnd, apply_key};

const REPLACED: &str = "table_replaced";

/// Whether nothing can be kept of a table that is parked for this.
pub(super) fn is_cause(cause: &Cause) -> bool {
    tells_its_remedy(&cause.failure)
}

/// `task resume` is of no use for these.
pub(super) fn tells_its_remedy(failure: &Failure) -> bool {
    [REPLACED, apply_key::NOT_PUBLISHED].contains(&&*failure.code)
}

pub(super) fn failure(task: &TaskId, table: &QualifiedName) -> Failure {
    let message = "the source has another table under this name than the one whose changes were kept: it was made again, or renamed";
    Failure::definite(REPLACED, message).remedy(format!(
        "`pgconvoy task resync {task} {table}` copies the one that has the name by then"
    ))
}

impl Course {
    /// Its changes are nobody's from now on.
    pub(super) fn lose(&mut self, at: usize) {
        self.taken[at].held = false;
        self.tables[at].parked = true;
        self.tables[at].relation = RelationId::NONE;
    }

    /// Those that have one id with another table, and are not copied anew.
    fn claimed_twice(&self) -> Vec<usize> {
        let mut claims: BTreeMap<RelationId, Vec<usize>> = BTreeMap::new();
        for (at, table) in self.tables.iter().enumerate() {
            if table.relation != RelationId::NONE {
                claims.entry(table.relation).or_default().push(at);
            }
        }
        let twice = claims.into_values().filter(|claim| claim.len() > 1).flatten();
        twice.filter(|at| !self.taken[*at].held).collect()
    }
}

impl Applier<'_> {
    /// Parks tables of which it is not known whose changes are whose.
    pub(super) async fn tell_apart(&mut self, course: &mut Course) -> Result<(), UnitEnd> {
        for at in course.claimed_twice() {
            self.is_replaced(course, at).await?;
        }
        Ok(())
    }

    /// A table is copied anew: whoever followed this id does so no more.
    pub(super) async fn take_relation(
        &mut self,
        course: &mut Course,
        of: TableNo,
        relation: RelationId,
    ) -> Result<(), UnitEnd> {
        let others = course.tables.iter().enumerate();
        let others = others.filter(|(_, other)| other.relation == relation && other.no != of);
        let others: Vec<usize> = others.map(|(at, _)| at).collect();
        for at in others {
            self.is_replaced(course, at).await?;
        }
        Ok(())
    }

    async fn is_replaced(&mut self, course: &mut Course, at: usize) -> Result<(), UnitEnd> {
        course.lose(at);
        let table = &course.tables[at];
        let failure = failure(&self.ctx.task, &table.name);
        self.stays_parked(table.no, failure).await
    }
}
