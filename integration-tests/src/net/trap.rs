//! Traps: the fault strikes where a client says certain bytes, such as the message that commits.
//!
//! What is looked for must come in plain text. It may be spread over several pieces of the stream; it is found before
//! the piece that holds its last byte is passed on.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::wait::{self, TooLate};

/// What befalls a connection whose client said the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// The words reach the server, its answer is lost, and the connection breaks: was it done, or not?
    LoseAnswer,
    /// The words and all that follows them are held until the trap is opened.
    Hold,
}

/// A trap that was set; what it holds is let go when this is dropped.
#[derive(Debug)]
pub struct Trap {
    trap: Arc<Set>,
}

#[derive(Debug)]
pub(super) struct Set {
    words: Vec<u8>,
    pub(super) act: Act,
    /// How many connections it still catches.
    left: Mutex<usize>,
    caught: AtomicUsize,
    open: watch::Sender<bool>,
}

impl Set {
    pub(super) fn new(words: &[u8], act: Act, times: usize) -> Arc<Set> {
        Arc::new(Set {
            words: words.to_owned(),
            act,
            left: Mutex::new(times),
            caught: AtomicUsize::new(0),
            open: watch::Sender::new(false),
        })
    }

    /// Returns when nothing is held any more.
    pub(super) async fn opened(&self) {
        self.open.subscribe().wait_for(|open| *open).await.expect("self holds the sender");
    }

    fn catch(&self) -> bool {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let catches = *left > 0;
        if catches {
            *left -= 1;
            self.caught.fetch_add(1, Ordering::SeqCst);
        }
        catches
    }
}

impl Trap {
    /// How many connections it caught.
    pub fn caught(&self) -> usize {
        self.trap.caught.load(Ordering::SeqCst)
    }

    /// Waits until it caught as many.
    pub async fn has_caught(&self, count: usize, limit: Duration) -> Result<(), TooLate> {
        let what = format!("{count} connections to be caught");
        wait::until(limit, &what, async || match self.caught() {
            caught if caught >= count => Ok(()),
            caught => Err(caught),
        })
        .await
    }

    /// Lets go of what it holds, and catches nothing more.
    pub fn open(&self) {
        *self.trap.left.lock().unwrap_or_else(PoisonError::into_inner) = 0;
        self.trap.open.send_replace(true);
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        self.open();
    }
}

/// All traps of a proxy.
#[derive(Debug, Default)]
pub(super) struct Traps(Mutex<Vec<Arc<Set>>>);

impl Traps {
    pub(super) fn set(&self, trap: Arc<Set>) -> Trap {
        self.lock().push(Arc::clone(&trap));
        Trap { trap }
    }

    /// The trap that these bytes, the end of what a client said so far, run into: `fresh` of them were not seen before.
    fn sprung(&self, said: &[u8], fresh: usize) -> Option<Arc<Set>> {
        self.lock().iter().find(|trap| trap.is_in(said, fresh) && trap.catch()).cloned()
    }

    fn longest(&self) -> usize {
        self.lock().iter().map(|trap| trap.words.len()).max().unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Set>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Set {
    fn is_in(&self, said: &[u8], fresh: usize) -> bool {
        // Words that ended before the fresh bytes were judged then.
        let seen = said.len() - fresh;
        let from = (seen + 1).saturating_sub(self.words.len());
        said[from..].windows(self.words.len()).any(|window| window == self.words)
    }
}

/// The end of what one client said, as much as a trap's words may reach back.
#[derive(Debug, Default)]
pub(super) struct Listener {
    said: Vec<u8>,
}

impl Listener {
    /// The trap that the next bytes of the client run into.
    pub(super) fn hears(&mut self, traps: &Traps, bytes: &[u8]) -> Option<Arc<Set>> {
        let longest = traps.longest();
        if longest == 0 {
            self.said.clear();
            return None;
        }
        self.said.extend_from_slice(bytes);
        let sprung = traps.sprung(&self.said, bytes.len());
        self.said.drain(..self.said.len().saturating_sub(longest - 1));
        sprung
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_once_wherever_they_are_cut() {
        let traps = Traps::default();
        let _trap = traps.set(Set::new(b"commit", Act::Hold, 9));
        let mut listener = Listener::default();
        let pieces: [&[u8]; 6] = [b"com", b"", b"mit; c", b"ommit", b"ommi", b"xcommit"];
        let found = pieces.map(|piece| listener.hears(&traps, piece).is_some());
        assert_eq!(found, [false, false, true, true, false, true]);
    }

    #[test]
    fn a_trap_catches_as_often_as_it_was_told() {
        let traps = Traps::default();
        let trap = traps.set(Set::new(b"x", Act::Hold, 2));
        let hears = || Listener::default().hears(&traps, b"x").is_some();
        assert_eq!([hears(), hears(), hears()], [true, true, false]);
        assert_eq!(trap.caught(), 2);
    }
}
