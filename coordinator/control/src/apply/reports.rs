//! `Reports`: what agents answered on their units.
//!
//! Only the holder of the lease is listened to: the same agent, in the same life, under the unit's latest epoch. Every
//! answer that ends the lease is final for the agent, also when it is refused: nothing it could send again would help.

use std::sync::Arc;

use pgconvoy_shared::ids::UnitNo;
use pgconvoy_shared::unit::{Ended, ResultPart};

use super::Context;
use crate::command::{Report, ReportBody};
use crate::course;
use crate::outcome::{Outcome, Reception};
use crate::rejected::Rejected;
use crate::state::clerk::Clerk;
use crate::state::{Afterwards, UnitState};

pub(super) fn reports(cx: &mut Context<'_>, reports: &[Report]) -> Outcome {
    let receive = |report: &Report| {
        cx.with_task(&report.unit.task, |clerk| receive(clerk, report))
            .unwrap_or_else(Reception::Refused)
    };
    Outcome::Reported(reports.iter().map(receive).collect())
}

fn receive(clerk: &mut Clerk<'_>, report: &Report) -> Result<Reception, Rejected> {
    let no = report.unit.no;
    let unit = clerk.record().unit(no);
    let Some(unit) = unit else {
        return Err(Rejected::UnknownUnit { unit: report.unit.clone() });
    };
    let held = unit.epoch == report.epoch
        && unit.lease().is_some_and(|lease| {
            lease.agent == report.agent && lease.incarnation == report.incarnation
        });
    if !held {
        let answered = match unit.state {
            UnitState::Done(_) | UnitState::BackOff { .. } | UnitState::Failed => true,
            UnitState::Ready | UnitState::Leased(_) | UnitState::Dropped => false,
        };
        if answered && unit.epoch == report.epoch {
            return Ok(Reception::AlreadyTaken);
        }
        return Err(Rejected::StaleEpoch {
            unit: report.unit.clone(),
            reported: report.epoch,
            current: unit.epoch,
        });
    }
    match &report.body {
        ReportBody::Part { no: part_no, part } => stage(clerk, report, *part_no, part),
        ReportBody::Checkpoint(checkpoint) => {
            course::checkpoint(clerk, no, *checkpoint);
            Ok(Reception::Taken)
        }
        ReportBody::Parking(parking) => {
            course::parking(clerk, report.epoch, parking);
            Ok(Reception::Taken)
        }
        ReportBody::Note(note) => {
            course::noted(clerk, note);
            Ok(Reception::Taken)
        }
        ReportBody::Ended { parts, ended } => {
            end(clerk, no, *parts, ended);
            Ok(Reception::Taken)
        }
    }
}

fn stage(
    clerk: &mut Clerk<'_>,
    report: &Report,
    part_no: u32,
    part: &ResultPart,
) -> Result<Reception, Rejected> {
    let mut answer = Ok(Reception::AlreadyTaken);
    clerk.edit_unit(report.unit.no, |unit| {
        let UnitState::Leased(lease) = &mut unit.state else { return };
        let there = crate::state::count(lease.staged.len());
        if part_no == there {
            lease.staged.push(Arc::new(part.clone()));
            answer = Ok(Reception::Taken);
        } else if part_no > there {
            let unit = report.unit.clone();
            answer = Err(Rejected::PartsMissing { unit, expected: there, reported: part_no });
        }
    });
    answer
}

fn end(clerk: &mut Clerk<'_>, no: UnitNo, parts: u32, ended: &Ended) {
    let Some(lease) = clerk.record().unit(no).and_then(|unit| unit.lease()) else {
        debug_assert!(false, "the lease was checked before");
        return;
    };
    let revoked = lease.revoked;
    let staged = lease.staged.clone();
    let agent = lease.agent.clone();
    match (revoked, ended) {
        (Some(Afterwards::Dropped), _) => course::dropped(clerk, no),
        (_, Ended::Done(result)) => {
            let there = crate::state::count(staged.len());
            let taken = if there == parts {
                course::done(clerk, no, result, &staged)
            } else {
                Err(course::bad_result(format!(
                    "{there} parts of a result came, of {parts} that were announced"
                )))
            };
            if let Err(failure) = taken {
                course::failed(clerk, no, &agent, *failure);
            }
        }
        // Whatever it says beside a result, it was told to stop: no fault of its own.
        (Some(Afterwards::Ready), _) => clerk.set(no, UnitState::Ready),
        (None, Ended::Failed(failure)) => course::failed(clerk, no, &agent, failure.clone()),
        (None, Ended::Released) => course::released(clerk, no, &agent),
        (None, Ended::SnapshotLost { round, gone }) => {
            course::snapshot_lost(clerk, no, &agent, *round, gone);
        }
        (None, Ended::TableChanged { table, failure }) => {
            course::table_changed(clerk, no, &agent, *table, failure.clone());
        }
        (None, Ended::TableGone { table, system_identifier }) => {
            course::table_gone(clerk, no, &agent, *table, *system_identifier);
        }
    }
}
