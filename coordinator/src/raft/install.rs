//! Keeps a purge behind the snapshot that allows it.
//!
//! When a snapshot arrives from the leader, openraft hands it to the state machine and purges the
//! log up to it without waiting. A crash in between would leave a log that begins after a snapshot
//! that is not there. So whoever hands a snapshot over says so here first, and the purge waits until
//! the snapshot is on disk.

use tokio::sync::watch;

/// What is known of the last snapshot that was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Install {
    /// Nothing is on its way.
    Settled,
    /// One that ends at `index` is on its way to the disk.
    Pending { index: u64 },
    /// It could not be stored.
    Failed,
}

/// The snapshot could not be stored, so the log that it covers has to stay.
#[derive(Debug, thiserror::Error)]
#[error("the snapshot that covers the log could not be stored")]
pub(super) struct InstallFailed;

#[derive(Debug)]
pub(super) struct Installs {
    state: watch::Sender<Install>,
}

impl Installs {
    pub(super) fn new() -> Self {
        Self { state: watch::Sender::new(Install::Settled) }
    }

    /// A snapshot is about to be handed over.
    pub(super) fn begin(&self, index: u64) {
        self.state.send_replace(Install::Pending { index });
    }

    /// It was not wanted, or it is on disk.
    pub(super) fn settled(&self) {
        self.state.send_if_modified(|state| {
            let pending = matches!(state, Install::Pending { .. });
            if pending {
                *state = Install::Settled;
            }
            pending
        });
    }

    /// It could not be stored. This is final: the node stops.
    pub(super) fn failed(&self) {
        self.state.send_replace(Install::Failed);
    }

    /// Returns once no snapshot up to `index` or further is on its way.
    pub(super) async fn before_purge(&self, upto: u64) -> Result<(), InstallFailed> {
        let mut state = self.state.subscribe();
        let reached = state
            .wait_for(|state| !matches!(state, Install::Pending { index } if *index >= upto))
            .await
            .map(|state| *state);
        match reached {
            Ok(Install::Settled | Install::Pending { .. }) => Ok(()),
            Ok(Install::Failed) | Err(_) => Err(InstallFailed),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_purge_waits_for_the_snapshot_that_covers_it() {
        let installs = Installs::new();
        assert!(installs.before_purge(5).now_or_never().is_some_and(|done| done.is_ok()));
        installs.begin(10);
        assert!(installs.before_purge(10).now_or_never().is_none());
        assert!(installs.before_purge(11).now_or_never().is_some(), "not by this snapshot");
        installs.settled();
        assert!(installs.before_purge(10).now_or_never().is_some_and(|done| done.is_ok()));
        installs.begin(20);
        installs.failed();
        installs.settled();
        assert!(installs.before_purge(20).now_or_never().is_some_and(|done| done.is_err()));
    }
}
