//! A task that follows its source.

use pgconvoy_control::command::CreateTask;
use pgconvoy_shared::spec::MigrationType;
use pgconvoy_shared::unit::SnapshotMode;

use crate::fixtures;

/// It compares nothing: its source goes on.
pub(crate) fn create(no: u64) -> CreateTask {
    let mut create = CreateTask { verify: None, ..fixtures::create(no, SnapshotMode::Task) };
    create.spec.types.insert(MigrationType::Incremental);
    create
}
