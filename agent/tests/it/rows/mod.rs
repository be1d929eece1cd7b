//! Rows: survey, planning, copying and audit, judged by plain SQL.

mod bounds;
mod fences;
mod frozen;
mod keys;
mod large_objects;
mod later;
mod moment;
mod tables;

use pgconvoy_integration_tests::oracle::{self, End};
use pgconvoy_shared::epoch::Generation;
use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::spec::MigrationType;
use pgconvoy_shared::unit::{
    AuditTable, CopyDone, CopyShard, Ended, Part, PlanTable, PlannedShard, ResultPart,
    SnapshotMode, Survey, SurveyDone, SurveyedTable, TablePlan, Work, WorkResult,
};

use crate::world::{DATABASE, World, unit};

/// A table's plan and its shards.
type Planned = (TablePlan, Vec<PlannedShard>);

/// A migration of rows only, between databases that have the tables already.
struct Rows {
    world: World,
    round: u32,
}

impl Rows {
    /// The statements of `schema` run at both ends, those of `rows` at the source.
    async fn new(mode: SnapshotMode, shard_bytes: u64, schema: &str, rows: &str) -> Self {
        Self::of(World::new().await.unwrap(), mode, shard_bytes, schema, rows).await
    }

    /// The same between servers of one's choice.
    async fn of(
        mut world: World,
        mode: SnapshotMode,
        shard_bytes: u64,
        schema: &str,
        rows: &str,
    ) -> Self {
        world.spec.types = [MigrationType::Full].into();
        world.spec.copy.snapshot = mode;
        world.spec.copy.shard_size_bytes = shard_bytes;
        world.source.sql(DATABASE, schema).await.unwrap();
        world.destination.sql(DATABASE, schema).await.unwrap();
        world.source.sql(DATABASE, rows).await.unwrap();
        let round = u32::from(mode == SnapshotMode::Task);
        Self { world, round }
    }

    async fn end_of(&self, no: u32, work: Work) -> (Ended, Vec<ResultPart>) {
        let epoch = self.world.next_epoch();
        self.world.leader.lease(self.world.leased(no, epoch, work)).await;
        let ended = self.world.leader.ended(&unit(no), epoch).await;
        (ended, self.world.leader.parts(&unit(no), epoch))
    }

    async fn survey(&self) -> (SurveyDone, Vec<SurveyedTable>) {
        self.survey_after(None).await
    }

    async fn survey_after(&self, lost: Option<String>) -> (SurveyDone, Vec<SurveyedTable>) {
        let mode = self.world.spec.copy.snapshot;
        let order = Survey { mode, round: self.round, lost };
        let (ended, parts) = self.end_of(1, Work::Survey(order)).await;
        let Ended::Done(WorkResult::Survey(done)) = ended else { panic!("{ended:#?}") };
        let tables = parts.into_iter().flat_map(|part| match part {
            ResultPart::Tables(tables) => tables,
            other => panic!("{other:#?}"),
        });
        (done, tables.collect())
    }

    fn to_plan(tables: &[SurveyedTable]) -> Vec<PlanTable> {
        (0..)
            .zip(tables)
            .map(|(no, table)| PlanTable {
                no: TableNo(no),
                name: table.name.clone(),
                generation: Generation(1),
                bytes: table.bytes,
                filenode: table.filenode,
                anew: false,
            })
            .collect()
    }

    async fn plan(&self, tables: Vec<PlanTable>) -> Vec<Planned> {
        let (ended, parts) = self.end_of(2, Work::Plan(tables)).await;
        assert_eq!(ended, Ended::Done(WorkResult::Plan));
        let mut planned: Vec<Planned> = Vec::new();
        for part in parts {
            match part {
                ResultPart::Plan(plan) => planned.push((plan, Vec::new())),
                ResultPart::Shards(shards) => planned.last_mut().unwrap().1.extend(shards),
                other @ (ResultPart::Tables(_) | ResultPart::NotCompared { .. }) => {
                    panic!("{other:#?}")
                }
            }
        }
        planned
    }

    fn to_copy(done: &SurveyDone, (plan, shards): &Planned) -> Vec<CopyShard> {
        (0..)
            .zip(shards)
            .map(|(shard, planned)| CopyShard {
                barrier: None,
                table: plan.clone(),
                shard,
                part: planned.part.clone(),
                snapshot: done.snapshot.clone(),
                bytes: planned.bytes,
            })
            .collect()
    }

    async fn copy(&self, no: u32, shard: &CopyShard) -> Result<CopyDone, Ended> {
        match self.end_of(no, Work::Copy(Box::new(shard.clone()))).await.0 {
            Ended::Done(WorkResult::Copy(done)) => Ok(done),
            other => Err(other),
        }
    }

    /// All of it; what was planned.
    async fn migrate(&self) -> Vec<Planned> {
        let (done, tables) = self.survey().await;
        let planned = self.plan(Self::to_plan(&tables)).await;
        let mut no = 10;
        for table in &planned {
            for shard in Self::to_copy(&done, table) {
                let copied = self.copy(no, &shard).await.unwrap();
                assert!(!copied.found_done);
                no += 1;
            }
        }
        let audited = planned.iter().map(|(plan, shards)| AuditTable {
            no: plan.no,
            generation: plan.generation,
            shards: u32::try_from(shards.len()).unwrap(),
        });
        let (ended, _) = self.end_of(3, Work::Audit(audited.collect())).await;
        assert_eq!(ended, Ended::Done(WorkResult::Audit { missing: Vec::new() }));
        planned
    }

    /// The two databases hold the same rows.
    async fn compare(&self) {
        let source = End::new(&self.world.source, DATABASE);
        let destination = End::new(&self.world.destination, DATABASE);
        oracle::compare_contents(source, destination).await.unwrap().refuse().unwrap();
    }

    async fn at_destination(&self, query: &str) -> String {
        self.world.destination.value(DATABASE, query).await.unwrap().unwrap()
    }
}

/// The plan of a table, by its name.
fn of<'a>(planned: &'a [Planned], table: &str) -> &'a Planned {
    planned.iter().find(|(plan, _)| plan.name.to_string() == table).unwrap()
}

fn is_range(part: &Part) -> bool {
    matches!(part, Part::Range { .. })
}

fn is_blocks(part: &Part) -> bool {
    matches!(part, Part::Blocks { .. })
}
