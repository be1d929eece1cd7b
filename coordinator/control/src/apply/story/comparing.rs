//! Stories of tasks that compare.

use pgconvoy_shared::unit::{UnitKind, WorkResult};
use pgconvoy_shared::verify::{Purpose, RowsCompared, VerifySettings};

use super::{Held, SHARD_BYTES, Story, create, surveyed, warning};
use crate::command::CreateTask;

impl Story {
    /// A migration that is to verify, up to where its tables are cut into so many shards to be compared.
    pub(crate) fn verifying(tables: &[(&str, u32)]) -> Self {
        let mut story = Self::new().with_agents(&["keeper", "a"]);
        story.create(CreateTask { verify: Some(VerifySettings::default()), ..create("shop") });
        story.start();
        let sized: Vec<_> =
            tables.iter().map(|(name, shards)| (*name, u64::from(*shards) * SHARD_BYTES)).collect();
        story.prepare("keeper", &sized);
        let plan = story.lease("keeper", UnitKind::Plan);
        story.plan_into(&plan, tables);
        for kind in [
            UnitKind::Copy,
            UnitKind::Audit,
            UnitKind::Index,
            UnitKind::SchemaPost,
            UnitKind::Sequences,
            UnitKind::Analyze,
        ] {
            story.finish_all("a", kind);
        }
        let plan = story.lease("a", UnitKind::VerifyPlan);
        story.plan_into(&plan, tables);
        story
    }

    /// A task that only compares, up to the same point.
    pub(crate) fn comparing(tables: &[(&str, u32)]) -> Self {
        let mut story = Self::comparing_unplanned(tables);
        let plan = story.lease("a", UnitKind::VerifyPlan);
        story.plan_into(&plan, tables);
        story
    }

    /// The same, up to where its tables are to be planned.
    pub(crate) fn comparing_unplanned(tables: &[(&str, u32)]) -> Self {
        let mut story = Self::new().with_agents(&["a"]);
        story.create(CreateTask {
            verify: Some(VerifySettings::default()),
            purpose: Purpose::Verify,
            ..create("shop")
        });
        let precheck = story.lease("a", UnitKind::Precheck);
        story.done(&precheck, WorkResult::Precheck(vec![warning("long_transaction")]));
        let found = tables.iter().map(|(name, shards)| surveyed(name, u64::from(*shards)));
        story.survey_finding("a", 1, false, found.collect());
        story
    }

    /// Answers a plan with one shard for each table, which is written to, and read from, the other one named.
    pub(crate) fn plan_through(&mut self, held: &Held, tables: &[(&str, &str)]) {
        self.plan_by(held, |name| {
            let (_, root) = tables.iter().find(|(known, _)| name.to_string() == *known)?;
            Some((surveyed(root, 0).name, 1))
        });
    }

    pub(crate) fn compared(&mut self, held: &Held, found: RowsCompared) {
        self.done(held, WorkResult::VerifyRows(found));
    }
}
