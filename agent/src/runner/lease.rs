//! Until when this agent may act.
//!
//! The leader gives away what an agent holds one lease time after it last heard of it. It answers a heartbeat only once
//! a quorum confirmed, later than the heartbeat's arrival, that it still leads. So one lease time counted from when an
//! answered heartbeat was *sent* ends before anybody else can be told to run what this agent runs.
//!
//! ```text
//!  sent          answered                         ending      over       until
//!   ├──────────────┼─────────────────────────────────┼──────────┼──────────┤
//!   0                                               3/4        7/8      1 lease
//! ```
//!
//! Units are told to stop at *ending*, dropped with their connections by *over*; the last eighth is for clocks that run
//! differently and for what is still in the network. The clock counts while the machine sleeps and while the process is
//! stopped, so an agent that wakes up late finds its lease over before it does anything else.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

use crate::laws::Law;

/// The longest nap before the clock is read again: timers do not run while the machine sleeps, this clock does.
const NAP_MAX: Duration = Duration::from_millis(500);

/// Time since this machine was started, sleep included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Uptime(Duration);

impl Uptime {
    /// What the clock shows.
    pub(crate) fn now() -> Self {
        let time =
            clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has this clock since 2.6.39");
        Self(time.into())
    }

    /// Time since then.
    pub(crate) fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}

/// The one lease of this agent: all its units live by it. Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct LeaseClock {
    current: watch::Sender<Current>,
}

#[derive(Debug, Clone, Copy)]
struct Current {
    /// When the heartbeat was sent that was answered last; none = never.
    sent: Option<Uptime>,
    length: Duration,
}

impl Current {
    /// Whether less than this many eighths of the lease have passed.
    fn within(&self, eighths: u32) -> bool {
        self.left(eighths) > Duration::ZERO
    }

    fn left(&self, eighths: u32) -> Duration {
        if Law::Lease.is_left_out() {
            return self.length;
        }
        let Some(sent) = self.sent else { return Duration::ZERO };
        (self.length / 8 * eighths).saturating_sub(sent.elapsed())
    }
}

const ENDING: u32 = 6;
const OVER: u32 = 7;

impl LeaseClock {
    /// A lease that never began.
    pub(crate) fn new() -> Self {
        let (current, _) = watch::channel(Current { sent: None, length: Duration::ZERO });
        Self { current }
    }

    /// A heartbeat sent then was answered.
    pub(crate) fn renew(&self, sent: Uptime, length: Duration) {
        self.current.send_modify(|current| {
            current.sent = current.sent.max(Some(sent));
            current.length = length;
        });
    }

    /// Whether the agent may act now.
    pub(crate) fn holds(&self) -> bool {
        self.current.borrow().within(OVER)
    }

    /// Until nothing of a unit may be left; zero once that is so.
    pub(crate) fn remaining(&self) -> Duration {
        self.current.borrow().left(OVER)
    }

    /// Returns when units have to be told to stop.
    pub(crate) async fn ending(&self) {
        self.runs_down_to(ENDING).await;
    }

    /// Returns when nothing of a unit may be left.
    pub(crate) async fn over(&self) {
        self.runs_down_to(OVER).await;
    }

    /// Returns when the lease is young enough to begin something.
    pub(crate) async fn begun(&self) {
        let mut current = self.current.subscribe();
        current.wait_for(|current| current.within(ENDING)).await.expect("self holds the sender");
    }

    async fn runs_down_to(&self, eighths: u32) {
        loop {
            let left = self.current.borrow().left(eighths);
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(NAP_MAX)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ago(ms: u64) -> Uptime {
        Uptime(Uptime::now().0 - Duration::from_millis(ms))
    }

    const LEASE: Duration = Duration::from_secs(8);

    /// Whether there is time to begin something.
    fn fresh(lease: &LeaseClock) -> bool {
        lease.current.borrow().within(ENDING)
    }

    #[test]
    fn a_lease_counts_from_when_the_answered_heartbeat_was_sent() {
        let lease = LeaseClock::new();
        assert!(!lease.holds(), "nothing was answered yet");
        lease.renew(ago(7_100), LEASE);
        assert!(!lease.holds(), "the answer came too late to be of use");
        lease.renew(ago(6_500), LEASE);
        assert!(lease.holds() && !fresh(&lease), "there is time to end, not to begin");
        lease.renew(ago(1_000), LEASE);
        assert!(fresh(&lease));
        lease.renew(ago(6_500), LEASE);
        assert!(fresh(&lease), "an older answer that comes later takes nothing away");
    }

    #[tokio::test]
    async fn units_are_told_to_stop_before_the_lease_is_over() {
        let lease = LeaseClock::new();
        lease.renew(Uptime::now(), Duration::from_millis(80));
        lease.ending().await;
        assert!(!fresh(&lease));
        lease.over().await;
        assert!(!lease.holds());
    }
}
