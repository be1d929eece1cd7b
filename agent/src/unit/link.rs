//! What joins the two halves of a unit.
//!
//! Every kind of unit is a source half, which alone touches the source, and a destination half, which alone touches the
//! destination. They share nothing but a link: whatever one has to know of the other is sent over it. So the halves can
//! run in one agent that reaches both databases, as they do here, or in two.

use tokio::sync::mpsc;

use pgconvoy_shared::failure::Failure;

use super::UnitEnd;

/// One half's end of a link: sends `S`, receives `R`.
#[derive(Debug)]
pub(crate) struct Link<S, R> {
    outgoing: mpsc::Sender<S>,
    incoming: mpsc::Receiver<R>,
}

/// The two ends of a link. Each direction holds `capacity` messages before the sender waits.
pub(crate) fn link<A, B>(capacity: usize) -> (Link<A, B>, Link<B, A>) {
    let (to_right, from_left) = mpsc::channel(capacity);
    let (to_left, from_right) = mpsc::channel(capacity);
    (
        Link { outgoing: to_right, incoming: from_right },
        Link { outgoing: to_left, incoming: from_left },
    )
}

impl<S, R> Link<S, R> {
    /// Sends to the other half; waits while it is behind.
    pub(crate) async fn send(&self, message: S) -> Result<(), UnitEnd> {
        self.outgoing.send(message).await.map_err(|_| gone())
    }

    /// The other half's next message; none when it has said all.
    pub(crate) async fn next(&mut self) -> Option<R> {
        self.incoming.recv().await
    }

    /// The other half's next message, which the protocol promises.
    pub(crate) async fn expect(&mut self) -> Result<R, UnitEnd> {
        self.next().await.ok_or_else(gone)
    }
}

/// The other half said something that has no place here.
pub(crate) fn out_of_turn() -> Failure {
    Failure::other("link_out_of_turn", "the halves of the unit do not understand each other")
}

/// The other half ended before it said what it had to. Its own failure is the cause that is told: when both halves run
/// in one agent, this one is dropped with it.
fn gone() -> UnitEnd {
    UnitEnd::Failed(Failure::transient("link_broken", "the other half of the unit ended early"))
}
