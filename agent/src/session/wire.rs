//! Messages of the session, from and to the domain's values.

use tracing::error;

use pgconvoy_proto::convert::Leased;
use pgconvoy_proto::v1;
use pgconvoy_runtime::telemetry::register_secret;
use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{BadId, UnitId, UnitNo};
use pgconvoy_shared::neighbours::Neighbours;
use pgconvoy_shared::unit::Ended;

use crate::keeper::KeptSnapshot;
use crate::runner::{Report, Runner};

/// What runs, for Hello and heartbeats.
pub(super) fn progress(runner: &Runner) -> Vec<v1::UnitProgress> {
    runner.progress().into_iter().map(Into::into).collect()
}

pub(super) fn keeper(kept: &KeptSnapshot) -> v1::KeeperOpened {
    v1::KeeperOpened {
        task_id: kept.task.to_string(),
        round: kept.round,
        export_id: kept.export.clone(),
    }
}

pub(super) fn report(report: Report) -> v1::UnitReport {
    v1::UnitReport {
        seq: report.seq,
        task_id: report.unit.task.into(),
        unit: report.unit.no.0,
        epoch: report.epoch.0,
        body: Some(report.body.into()),
    }
}

/// Hands a lease to the runner. One that this agent does not understand, which a newer leader may send, fails at once:
/// the leader is told, and the lease is not held for nothing.
pub(super) fn take(lease: v1::Lease, runner: &Runner) {
    register_secret(&lease.source_password);
    register_secret(&lease.destination_password);
    let unit = match unit_id(&lease.task_id, lease.unit) {
        Ok(unit) => unit,
        Err(bad) => return error!("the leader leased a unit of no task: {bad}"),
    };
    let epoch = Epoch(lease.epoch);
    match Leased::try_from(lease) {
        Ok(leased) => runner.take(leased),
        Err(problem) => {
            let failure = Failure::definite("lease_not_understood", problem.to_string())
                .remedy("run agents and coordinators of the same version");
            runner.reports().end(&unit, epoch, 0, Ended::Failed(failure));
        }
    }
}

pub(super) fn meet(neighbours: v1::Neighbours, runner: &Runner) {
    match Neighbours::try_from(neighbours) {
        Ok(neighbours) => runner.relay().meet(neighbours),
        Err(problem) => error!("the leader named neighbours that cannot be: {problem}"),
    }
}

pub(super) fn revoke(revoke: &v1::Revoke, runner: &Runner) {
    match unit_id(&revoke.task_id, revoke.unit) {
        Ok(unit) => runner.revoke(&unit, Epoch(revoke.epoch)),
        Err(bad) => error!("the leader revoked a unit of no task: {bad}"),
    }
}

fn unit_id(task: &str, no: u32) -> Result<UnitId, BadId> {
    Ok(UnitId { task: task.parse()?, no: UnitNo(no) })
}
