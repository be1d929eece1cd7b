//! A task that follows its source.

use pgconvoy_control::command::CreateTask;
use pgconvoy_shared::cutover::{CutoverSettings, Writers};
use pgconvoy_shared::epoch::Generation;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::parking::{Cause, Changes, Parking};
use pgconvoy_shared::spec::MigrationType;
use pgconvoy_shared::unit::SnapshotMode;
use pgconvoy_shared::verify::VerifySettings;

use crate::fixtures;

/// It compares nothing: its source goes on.
pub(crate) fn create(no: u64) -> CreateTask {
    let mut create = CreateTask { verify: None, ..fixtures::create(no, SnapshotMode::Task) };
    create.spec.types.insert(MigrationType::Incremental);
    create
}

/// What a stream says of a table that it cannot, or can, apply the changes of.
pub(crate) fn parking(table: u32, generation: u32, parked: bool) -> Parking {
    let cause = || Cause {
        failure: Failure::definite("unique_violation", "duplicate key"),
        operation: "insert".into(),
        key: "(7)".into(),
        commit_lsn: Lsn(100),
        xid: 8,
        ordinal: 2,
        statement: "insert into public.t".into(),
    };
    let changes = if parked { Changes::Parked(Box::new(cause())) } else { Changes::Applied };
    Parking { table: TableNo(table), generation: Generation(generation), changes }
}

/// How a cutover is asked for.
pub(crate) fn cutover_settings() -> CutoverSettings {
    CutoverSettings {
        writers: Writers::Fenced,
        dry_run: false,
        timeout_ms: 60_000,
        sequence_margin: 32,
        ignore: ["cutover_large_objects".to_owned()].into(),
        compare: Some(VerifySettings::default()),
        check_budget_ms: 1_000,
        copy_again: true,
        leave_sessions_of: ["rdsadmin".to_owned()].into(),
        by: "ann".into(),
    }
}
