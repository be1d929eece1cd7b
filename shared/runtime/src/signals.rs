//! SIGINT and SIGTERM: the first asks the process to stop, the second makes it stop.
//!
//! State is safe at any moment (whatever was acknowledged is durable), so leaving at once loses
//! nothing; it only leaves the tidying to the next start.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::warn;

use crate::shutdown::{Reason, Shutdown};
use crate::tasks::{self, Kind};

/// What a shell reports of a process that was interrupted; our documented exit code for it.
pub const EXIT_INTERRUPTED: i32 = 130;

/// Connects the signals with `shutdown`, for as long as the process lives.
pub fn install(shutdown: &Shutdown) -> io::Result<()> {
    let mut signals = Signals {
        interrupt: signal(SignalKind::interrupt())?,
        terminate: signal(SignalKind::terminate())?,
    };
    let shutdown = shutdown.clone();
    tasks::spawn(Kind::Worker, "signals", async move {
        let Some(name) = signals.next().await else { return };
        shutdown.begin(Reason::Signal(name));
        if let Some(name) = signals.next().await {
            warn!("received {name} again: leaving at once");
            leave_at_once();
        }
    });
    Ok(())
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// None when the runtime delivers no more signals.
    async fn next(&mut self) -> Option<&'static str> {
        tokio::select! {
            got = self.interrupt.recv() => got.map(|()| "SIGINT"),
            got = self.terminate.recv() => got.map(|()| "SIGTERM"),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the second signal means: do not wait for anything")]
fn leave_at_once() -> ! {
    std::process::exit(EXIT_INTERRUPTED)
}
