//! What the leader has to be told of units, until it says that it knows.
//!
//! A report stays here until it is acknowledged, over any number of sessions and leaders; each session tells all that is
//! here, in order, and then what comes. So a result survives a lost connection, and pieces come before the result they
//! belong to. Pieces are bounded: a unit that makes them faster than the leader takes them waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use pgconvoy_proto::convert::ReportBody;
use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::ids::UnitId;
use pgconvoy_shared::parking::Parking;
use pgconvoy_shared::stream::StreamNote;
use pgconvoy_shared::unit::{Checkpoint, Ended, ResultPart};

use crate::unit::UnitEnd;

/// Pieces of results that wait for their acknowledgement, of all units together. A piece holds at most some hundred
/// tables or shards: some 100 KiB, so these are a few MiB.
const PARTS_MAX: usize = 32;

/// One thing to tell of a unit.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    /// Grows by one per incarnation of the agent.
    pub(crate) seq: u64,
    /// The unit.
    pub(crate) unit: UnitId,
    /// The lease under which it ran.
    pub(crate) epoch: Epoch,
    /// What there is to tell.
    pub(crate) body: ReportBody,
}

/// Reports that are not acknowledged yet. Clones are the same ones.
#[derive(Debug, Clone)]
pub(crate) struct Reports {
    queue: Arc<Mutex<Queue>>,
    /// The number of the newest report; also touched when one is acknowledged.
    newest: watch::Sender<u64>,
    room: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Queue {
    last_seq: u64,
    waiting: BTreeMap<u64, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    report: Report,
    then: Then,
}

/// What happens when a report is acknowledged.
#[derive(Debug)]
enum Then {
    Nothing,
    /// The piece's room is free.
    Free(#[expect(dead_code, reason = "to be dropped")] OwnedSemaphorePermit),
    /// Somebody waits for it, and whether it was taken.
    Tell(oneshot::Sender<bool>),
}

impl Reports {
    /// No reports.
    pub(crate) fn new() -> Self {
        Self {
            queue: Arc::default(),
            newest: watch::channel(0).0,
            room: Arc::new(Semaphore::new(PARTS_MAX)),
        }
    }

    /// A unit ended.
    pub(crate) fn end(&self, unit: &UnitId, epoch: Epoch, parts: u32, ended: Ended) {
        self.push(unit.clone(), epoch, ReportBody::Ended { parts, ended }, Then::Nothing);
    }

    /// Where a unit puts the pieces of its result.
    pub(crate) fn parts_of(&self, unit: UnitId, epoch: Epoch) -> PartSender {
        PartSender { reports: self.clone(), unit, epoch, sent: Arc::new(Mutex::new(0)) }
    }

    /// The leader knows this one, and took it, or had no use for it.
    pub(crate) fn acknowledge(&self, seq: u64, accepted: bool) {
        let waiting = self.queue().waiting.remove(&seq);
        if let Some(Waiting { then: Then::Tell(waiter), .. }) = waiting {
            // Whoever asked may have been told to stop meanwhile.
            let _gone = waiter.send(accepted);
        }
        self.newest.send_modify(|_| {});
    }

    /// All that is not acknowledged, and then what comes: for one session.
    pub(crate) fn untold(&self) -> Untold {
        Untold { reports: self.clone(), told: 0 }
    }

    /// Whether the leader has still to be told how this lease ended.
    pub(crate) fn has_end_of(&self, unit: &UnitId, epoch: Epoch) -> bool {
        self.queue().waiting.values().any(|waiting| {
            let report = &waiting.report;
            report.epoch == epoch
                && report.unit == *unit
                && matches!(report.body, ReportBody::Ended { .. })
        })
    }

    /// Returns once the leader knows all there is to know.
    pub(crate) async fn acknowledged(&self) {
        let mut changes = self.newest.subscribe();
        while !self.queue().waiting.is_empty() {
            changes.changed().await.expect("self holds the sender");
        }
    }

    fn push(&self, unit: UnitId, epoch: Epoch, body: ReportBody, then: Then) {
        let mut queue = self.queue();
        queue.last_seq += 1;
        let seq = queue.last_seq;
        queue.waiting.insert(seq, Waiting { report: Report { seq, unit, epoch, body }, then });
        drop(queue);
        self.newest.send_modify(|newest| *newest = seq.max(*newest));
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("nothing panics while it holds this lock")
    }
}

/// What a session has yet to tell.
#[derive(Debug)]
pub(crate) struct Untold {
    reports: Reports,
    /// Up to here everything was told, here or, if it is acknowledged, in an earlier session.
    told: u64,
}

impl Untold {
    /// The next reports, oldest first; waits until there are any.
    pub(crate) async fn next(&mut self) -> Vec<Report> {
        let mut newest = self.reports.newest.subscribe();
        loop {
            let reports = self.look();
            if !reports.is_empty() {
                return reports;
            }
            newest.wait_for(|newest| *newest > self.told).await.expect("self holds the sender");
        }
    }

    fn look(&mut self) -> Vec<Report> {
        let queue = self.reports.queue();
        let untold = queue.waiting.range(self.told + 1..);
        let reports = untold.map(|(_, waiting)| waiting.report.clone()).collect();
        self.told = queue.last_seq;
        reports
    }
}

/// Takes the pieces of one unit's result, numbers them, and holds the unit back while the leader is behind.
#[derive(Debug, Clone)]
pub(crate) struct PartSender {
    reports: Reports,
    unit: UnitId,
    epoch: Epoch,
    sent: Arc<Mutex<u32>>,
}

impl PartSender {
    /// Sends a piece.
    pub(crate) async fn send(&self, part: ResultPart) -> Result<(), UnitEnd> {
        let room = Arc::clone(&self.reports.room).acquire_owned().await;
        let room = room.expect("the semaphore is never closed");
        // Held while the report is queued, so that numbers and order agree.
        let mut sent = self.sent.lock().expect("nothing panics while it holds this lock");
        let no = *sent;
        *sent += 1;
        let body = ReportBody::Part { no, part };
        self.reports.push(self.unit.clone(), self.epoch, body, Then::Free(room));
        Ok(())
    }

    /// Reports how far a stream is; returns once that is agreed on.
    pub(crate) async fn record(&self, checkpoint: Checkpoint) -> Result<(), UnitEnd> {
        self.agree(ReportBody::Checkpoint(checkpoint)).await
    }

    /// Tells users something of a stream; returns once that is agreed on.
    pub(crate) async fn note(&self, note: StreamNote) -> Result<(), UnitEnd> {
        self.agree(ReportBody::Note(note)).await
    }

    async fn agree(&self, body: ReportBody) -> Result<(), UnitEnd> {
        let (waiter, taken) = oneshot::channel();
        self.reports.push(self.unit.clone(), self.epoch, body, Then::Tell(waiter));
        match taken.await {
            Ok(true) => Ok(()),
            // The lease was over.
            Ok(false) | Err(_) => Err(UnitEnd::Released),
        }
    }

    /// Reports how a stream has a table from now on.
    pub(crate) fn tell(&self, parking: Parking) {
        let body = ReportBody::Parking(Box::new(parking));
        self.reports.push(self.unit.clone(), self.epoch, body, Then::Nothing);
    }

    /// How many were sent.
    pub(crate) fn count(&self) -> u32 {
        *self.sent.lock().expect("nothing panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use pgconvoy_shared::ids::UnitNo;

    use super::*;

    fn unit(no: u32) -> UnitId {
        UnitId { task: "abcdefghijkl".parse().expect("twelve letters"), no: UnitNo(no) }
    }

    fn seqs(reports: &[Report]) -> Vec<u64> {
        reports.iter().map(|report| report.seq).collect()
    }

    #[tokio::test]
    async fn a_report_is_told_again_until_it_is_acknowledged() {
        let reports = Reports::new();
        let parts = reports.parts_of(unit(1), Epoch(3));
        parts.send(ResultPart::Tables(Vec::new())).await.expect("there is room");
        reports.end(&unit(1), Epoch(3), parts.count(), Ended::Released);
        assert_eq!(seqs(&reports.untold().next().await), [1, 2], "pieces come before the end");
        reports.acknowledge(1, true);
        assert_eq!(seqs(&reports.untold().next().await), [2]);
        assert!(reports.has_end_of(&unit(1), Epoch(3)));
        assert!(!reports.has_end_of(&unit(1), Epoch(4)));
        reports.acknowledge(2, true);
        reports.acknowledged().await;
    }

    #[tokio::test]
    async fn a_session_that_has_nothing_to_tell_waits() {
        let reports = Reports::new();
        reports.end(&unit(1), Epoch(1), 0, Ended::Released);
        reports.acknowledge(1, true);
        // The next session: all was told in the one before.
        let mut untold = reports.untold();
        {
            let mut next = std::pin::pin!(untold.next());
            assert!(futures::poll!(&mut next).is_pending());
            reports.acknowledge(1, true);
            assert!(futures::poll!(&mut next).is_pending(), "that is no report");
            reports.end(&unit(2), Epoch(1), 0, Ended::Released);
            assert_eq!(seqs(&next.await), [2]);
        }
        assert!(futures::poll!(std::pin::pin!(untold.next())).is_pending(), "it is told once");
    }

    #[tokio::test]
    async fn a_checkpoint_is_recorded_once_the_leader_took_it() {
        let reports = Reports::new();
        let parts = reports.parts_of(unit(1), Epoch(1));
        let checkpoint = Checkpoint::default();
        let mut recorded = std::pin::pin!(parts.record(checkpoint));
        assert!(futures::poll!(&mut recorded).is_pending());
        reports.acknowledge(1, true);
        assert_eq!(recorded.await, Ok(()));
        let mut recorded = std::pin::pin!(parts.record(checkpoint));
        assert!(futures::poll!(&mut recorded).is_pending());
        reports.acknowledge(2, false);
        assert_eq!(recorded.await, Err(UnitEnd::Released));
        assert_eq!(parts.count(), 0, "it is no piece of a result");
    }

    #[tokio::test]
    async fn a_unit_waits_when_the_leader_is_behind_with_its_pieces() {
        let reports = Reports::new();
        let parts = reports.parts_of(unit(1), Epoch(1));
        for _ in 0..PARTS_MAX {
            parts.send(ResultPart::Tables(Vec::new())).await.expect("there is room");
        }
        let mut one_more = std::pin::pin!(parts.send(ResultPart::Tables(Vec::new())));
        assert!(futures::poll!(&mut one_more).is_pending());
        reports.acknowledge(1, true);
        one_more.await.expect("there is room again");
        assert_eq!(parts.count(), u32::try_from(PARTS_MAX).expect("small") + 1);
    }
}
