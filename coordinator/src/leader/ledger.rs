//! What one agent's session knows of the agent's units, compared with what the state leases to it.
//!
//! The state decides; an agent may have missed an order (its stream broke), or run what is no
//! longer its own. So both sides are compared: when it connects, at each of its heartbeats, and
//! whenever the state's leases to it may have changed. What comes out is a list of orders, of which
//! repeating one does no harm: an agent that runs a unit, or has not been acknowledged its report,
//! ignores the same lease; one that does not run a unit answers its revocation with `Released`.
//!
//! A revoked unit stays the agent's until it answers, so that even a revoked unit has one owner.

use std::collections::BTreeMap;

use pgconvoy_control::state::HeldLease;
use pgconvoy_proto::convert::RunningUnit;
use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::ids::{TaskId, UnitId, UnitNo};
use pgconvoy_shared::unit::Progress;

/// Heartbeats in a row that do not list a unit before its order is taken for lost. A lease that was
/// just sent is not listed in the next one yet.
const MISSED_MAX: u8 = 3;

/// What the agent is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Lease(UnitId, Epoch),
    Revoke(UnitId, Epoch),
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    known: BTreeMap<UnitId, Known>,
}

#[derive(Debug)]
struct Known {
    epoch: Epoch,
    revoked: bool,
    /// The agent's last word on it is on its way into the log.
    ending: bool,
    missed: u8,
    progress: Progress,
}

impl Known {
    fn new(epoch: Epoch) -> Known {
        Known { epoch, revoked: false, ending: false, missed: 0, progress: Progress::default() }
    }
}

impl Ledger {
    /// The agent says what it runs. Gives the revoked units it does not run and has not answered
    /// for: somebody must say `Released` in its place.
    pub(super) fn heard(&mut self, running: Vec<RunningUnit>) -> Vec<(UnitId, Epoch)> {
        for known in self.known.values_mut() {
            // One that is ending stays for as long as the log takes.
            known.missed = known.missed.saturating_add(1);
        }
        for RunningUnit { unit, epoch, progress } in running {
            let known = self.known.entry(unit).or_insert_with(|| Known::new(epoch));
            if known.epoch == epoch {
                known.missed = 0;
                known.progress = progress;
            } else if known.epoch < epoch {
                *known = Known::new(epoch);
            }
        }
        let lost = |known: &Known| known.missed >= MISSED_MAX && !known.ending;
        let unanswered = self.known.iter().filter(|(_, known)| lost(known) && known.revoked);
        let unanswered = unanswered.map(|(unit, known)| (unit.clone(), known.epoch)).collect();
        // Forgotten, so that the next comparison sends it again.
        self.known.retain(|_, known| !lost(known));
        unanswered
    }

    /// What has to be said so that the agent runs what the state leases to it, and nothing else.
    pub(super) fn compare(&mut self, wanted: impl IntoIterator<Item = HeldLease>) -> Vec<Order> {
        let mut orders = Vec::new();
        let mut before = std::mem::take(&mut self.known);
        for HeldLease { unit, epoch, revoked } in wanted {
            let same = before.remove(&unit).filter(|known| known.epoch == epoch);
            match &same {
                Some(known) if known.revoked == revoked => {}
                Some(_) | None if revoked => orders.push(Order::Revoke(unit.clone(), epoch)),
                Some(_) | None => orders.push(Order::Lease(unit.clone(), epoch)),
            }
            let known = same.unwrap_or_else(|| Known::new(epoch));
            self.known.insert(unit, Known { revoked, ..known });
        }
        // What is left is leased to it no more. One that is ending needs no order: the agent has
        // ended it by itself.
        let gone = before.into_iter().filter(|(_, known)| !known.ending);
        orders.extend(gone.map(|(unit, known)| Order::Revoke(unit, known.epoch)));
        orders
    }

    /// The agent's last word on a unit came and goes into the log.
    pub(super) fn ending(&mut self, unit: &UnitId, epoch: Epoch) {
        if let Some(known) = self.known.get_mut(unit)
            && known.epoch == epoch
        {
            known.ending = true;
        }
    }

    /// It is in the log, or refused; or nobody knows, and the agent will say it again.
    pub(super) fn settled(&mut self, unit: &UnitId, epoch: Epoch) {
        if self.known.get(unit).is_some_and(|known| known.epoch == epoch) {
            self.known.remove(unit);
        }
    }

    /// How far its units of a task are.
    pub(super) fn progress(
        &self,
        task: &TaskId,
    ) -> impl Iterator<Item = (UnitNo, (Epoch, Progress))> {
        let first = UnitId { task: task.clone(), no: UnitNo(0) };
        self.known
            .range(first..)
            .take_while(move |(unit, _)| unit.task == *task)
            .map(|(unit, known)| (unit.no, (known.epoch, known.progress.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(no: u32) -> UnitId {
        UnitId { task: "aaaaaaaaaaaa".parse().unwrap(), no: UnitNo(no) }
    }

    fn wanted(no: u32, epoch: u32) -> HeldLease {
        HeldLease { unit: unit(no), epoch: Epoch(epoch), revoked: false }
    }

    fn revoked(no: u32, epoch: u32) -> HeldLease {
        HeldLease { revoked: true, ..wanted(no, epoch) }
    }

    fn runs(no: u32, epoch: u32) -> RunningUnit {
        RunningUnit { unit: unit(no), epoch: Epoch(epoch), progress: Progress::default() }
    }

    fn lease(no: u32, epoch: u32) -> Order {
        Order::Lease(unit(no), Epoch(epoch))
    }

    fn revoke(no: u32, epoch: u32) -> Order {
        Order::Revoke(unit(no), Epoch(epoch))
    }

    #[test]
    fn a_lease_is_sent_once() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.compare(vec![wanted(1, 1)]), [lease(1, 1)]);
        assert_eq!(ledger.compare(vec![wanted(1, 1)]), []);
        assert_eq!(ledger.compare(vec![wanted(1, 2)]), [lease(1, 2)]);
    }

    #[test]
    fn on_connection_both_sides_are_compared() {
        let mut ledger = Ledger::default();
        ledger.heard(vec![runs(1, 1), runs(2, 1), runs(3, 1)]);
        let state = vec![wanted(1, 1), wanted(3, 2), wanted(4, 1)];
        assert_eq!(ledger.compare(state), [lease(3, 2), lease(4, 1), revoke(2, 1)]);
    }

    #[test]
    fn a_revocation_is_sent_once_and_to_a_stranger_too() {
        let mut ledger = Ledger::default();
        ledger.compare(vec![wanted(1, 1)]);
        assert_eq!(ledger.compare(vec![revoked(1, 1)]), [revoke(1, 1)]);
        assert_eq!(ledger.compare(vec![revoked(1, 1)]), []);
        let mut fresh = Ledger::default();
        assert_eq!(fresh.compare(vec![revoked(1, 1)]), [revoke(1, 1)]);
    }

    #[test]
    fn an_order_that_was_lost_is_sent_again() {
        let mut ledger = Ledger::default();
        ledger.compare(vec![wanted(1, 1)]);
        for _ in 1..MISSED_MAX {
            assert_eq!(ledger.heard(vec![]), []);
            assert_eq!(ledger.compare(vec![wanted(1, 1)]), []);
        }
        ledger.heard(vec![]);
        assert_eq!(ledger.compare(vec![wanted(1, 1)]), [lease(1, 1)]);
    }

    #[test]
    fn a_revoked_unit_that_nobody_runs_is_released_for_its_agent() {
        let mut ledger = Ledger::default();
        ledger.compare(vec![revoked(1, 1)]);
        let mut unanswered = Vec::new();
        for _ in 0..MISSED_MAX {
            unanswered = ledger.heard(vec![]);
        }
        assert_eq!(unanswered, [(unit(1), Epoch(1))]);
    }

    #[test]
    fn a_unit_that_is_ending_is_neither_revoked_nor_sent_again() {
        let mut ledger = Ledger::default();
        ledger.compare(vec![wanted(1, 1)]);
        ledger.ending(&unit(1), Epoch(1));
        for _ in 0..=u8::MAX {
            ledger.heard(vec![]);
        }
        assert_eq!(ledger.compare(vec![wanted(1, 1)]), []);
        assert_eq!(ledger.compare(vec![]), []);
    }

    #[test]
    fn progress_is_that_of_the_task_asked_for() {
        let mut ledger = Ledger::default();
        let progress = Progress { rows: 7, bytes: 70, ..Progress::default() };
        ledger.heard(vec![RunningUnit { progress: progress.clone(), ..runs(1, 1) }]);
        let of = |task: &str| ledger.progress(&task.parse().unwrap()).collect::<Vec<_>>();
        assert_eq!(of("aaaaaaaaaaaa"), [(UnitNo(1), (Epoch(1), progress))]);
        assert_eq!(of("bbbbbbbbbbbb"), []);
    }
}
