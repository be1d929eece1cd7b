//! The source's log as its server decodes it: CopyBoth.
//!
//! Two things must not wait for each other. Whoever takes the changes may be slow, and is then waited for; the server wants a
//! sign of life within its `wal_sender_timeout`, or it ends the session. So [`CopyBoth::pass_on`] stands between: it reads only
//! while there is room, and tells the server how far all is safe whether there is room or not: whenever that changes, whenever
//! the server asks, and in any case four times within the server's patience.
//!
//! What is told as safe is never more than the caller said (law O7); nothing that was merely read is.
//!
//! A message is held whole, for a decoder needs it whole: an ordinary one is a piece of the read buffer, a larger one has a
//! buffer of its own that goes with it.

use std::time::{Duration, SystemTime};

use bytes::{BufMut, Bytes};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use pgconvoy_shared::lsn::Lsn;

use super::*;
use crate::laws::Law;

/// Tag and length word.
const HEADER_BYTES: usize = 5;

/// The message that we end the COPY by: it has no more than its header.
const COPY_DONE: &[u8] = b"c\0\0\0\x04";

/// PostgreSQL makes no message that is larger than what it can hold in one piece of memory: 1 GiB, and its header.
const MESSAGE_BYTES_MAX: usize = (1 << 30) + 1024;

/// The longest silence towards the server, however patient it is.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// PostgreSQL counts time from 2000-01-01.
const EPOCH_SECS: u64 = 946_684_800;

/// What comes over the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A message of the output plugin.
    Change {
        /// Where in the log it stems from.
        at: Lsn,
        /// The message.
        message: Bytes,
    },
    /// Everything that ends before this position was sent.
    Reached {
        /// The position.
        at: Lsn,
    },
}

/// A stream that has begun.
#[derive(Debug)]
pub(crate) struct CopyBoth {
    wire: Wire,
    silence: Duration,
    /// What the server was told last.
    safe: Lsn,
    told: Instant,
}

/// A message at the beginning of the inbox.
enum Frame {
    /// Not all of it is here.
    Cut,
    /// With its header so many bytes.
    Whole { tag: u8, bytes: usize },
}

impl CopyBoth {
    pub(super) async fn begin(
        mut wire: Wire,
        start: &str,
        timeout_ms: u64,
    ) -> Result<Self, PgError> {
        wire.begin(start).await?;
        loop {
            match wire.frame()? {
                Frame::Cut => wire.read().await?,
                Frame::Whole { tag: b'W', bytes } => {
                    wire.inbox.advance(bytes);
                    break;
                }
                Frame::Whole { tag, bytes } => match wire.aside(tag, bytes).await {
                    Some(error) => return Err(error),
                    None => continue,
                },
            }
        }
        let patience = Duration::from_millis(timeout_ms) / 4;
        let silence = if patience.is_zero() { SILENCE_MAX } else { patience.min(SILENCE_MAX) };
        // Where it begins is not what is safe; zero says nothing to the server.
        wire.transport.rest_between_reads();
        Ok(Self { wire, silence, safe: Lsn(0), told: Instant::now() })
    }

    /// Passes on what comes, and tells the server what is safe, until nobody takes it any more. What was read by then and not
    /// taken is gone: who goes on reading begins where it has taken all.
    pub(crate) async fn pass_on(
        mut self,
        taker: mpsc::Sender<Vec<Event>>,
        mut safe: watch::Receiver<Lsn>,
    ) -> Result<Self, PgError> {
        self.safe = *safe.borrow_and_update();
        let mut events = Vec::new();
        // What came together with the server's consent.
        self.take(&mut events).await?;
        loop {
            let silent_until = self.told + self.silence;
            tokio::select! {
                // 1. The server's patience comes before everything.
                biased;
                () = tokio::time::sleep_until(silent_until) => self.tell().await?,
                // 2. What is safe lets it drop its log.
                changed = safe.changed() => {
                    if changed.is_err() {
                        return Ok(self);
                    }
                    self.safe = self.safe.max(*safe.borrow_and_update());
                    self.tell().await?;
                }
                () = taker.closed() => return Ok(self),
                // 3. One buffer at a time: what is read is passed on before more is read.
                room = taker.reserve(), if !events.is_empty() => {
                    let Ok(room) = room else { return Ok(self) };
                    room.send(std::mem::take(&mut events));
                }
                read = self.wire.read(), if events.is_empty() => {
                    read?;
                    self.take(&mut events).await?;
                }
            }
        }
    }

    /// Ends it in good order: then the slot is free. What still comes is let go of; a transaction that is being sent comes to its
    /// end before. (The session could begin no other stream: a server remembers that it was told to end one.)
    pub(crate) async fn end(mut self) -> Result<(), PgError> {
        self.wire.send(COPY_DONE).await?;
        loop {
            match self.wire.frame()? {
                Frame::Cut => self.wire.read().await?,
                // Changes, the server's own end of the COPY, and its word that the command is complete.
                Frame::Whole { tag: b'd' | b'c' | b'C', bytes } => {
                    drop(self.wire.split_frame(bytes));
                }
                Frame::Whole { tag: b'Z', .. } => {
                    self.wire.state = State::Idle;
                    self.wire.close().await;
                    return Ok(());
                }
                Frame::Whole { tag, bytes } => {
                    if let Some(error) = self.wire.aside(tag, bytes).await {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Takes all whole messages out of the inbox, and answers where the server wants an answer.
    async fn take(&mut self, events: &mut Vec<Event>) -> Result<(), PgError> {
        let mut asked = false;
        loop {
            match self.wire.frame()? {
                Frame::Cut if asked => return self.tell().await,
                Frame::Cut => return Ok(()),
                Frame::Whole { tag: b'd', bytes } => {
                    asked |= event(self.wire.split_frame(bytes), events)?;
                    if Law::Recorded.is_left_out()
                        && let Some(Event::Change { at, .. }) = events.last()
                    {
                        self.safe = self.safe.max(*at);
                        asked = true;
                    }
                }
                Frame::Whole { tag, bytes } => {
                    if let Some(error) = self.wire.aside(tag, bytes).await {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Tells the server how far all is safe.
    async fn tell(&mut self) -> Result<(), PgError> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let micros = now.saturating_sub(Duration::from_secs(EPOCH_SECS)).as_micros();
        let mut message = BytesMut::with_capacity(HEADER_BYTES + 34);
        message.put_u8(b'd');
        message.put_u32(4 + 34);
        message.put_u8(b'r');
        // Written, flushed, applied: there is one truth.
        for _ in 0..3 {
            message.put_u64(self.safe.0);
        }
        message.put_u64(u64::try_from(micros).unwrap_or(u64::MAX));
        message.put_u8(0);
        self.wire.send(&message).await?;
        self.told = Instant::now();
        Ok(())
    }
}

impl Wire {
    fn frame(&mut self) -> Result<Frame, PgError> {
        let Some(header) = self.inbox.first_chunk::<HEADER_BYTES>() else { return Ok(Frame::Cut) };
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        let tag = header[0];
        let bytes = length as usize + 1;
        if !(HEADER_BYTES..=MESSAGE_BYTES_MAX).contains(&bytes) {
            return Err(self.out_of_step("a stream of changes: its length cannot be"));
        }
        if bytes > self.inbox.len() {
            // At once, not by doubling it again and again.
            let missing = bytes - self.inbox.len();
            self.inbox.reserve(missing);
            return Ok(Frame::Cut);
        }
        Ok(Frame::Whole { tag, bytes })
    }

    /// The payload of the first message.
    fn split_frame(&mut self, bytes: usize) -> Bytes {
        let mut frame = self.inbox.split_to(bytes);
        if bytes > READ_BYTES {
            // The rest stands in the large message's buffer: it moves out, so that the buffer goes with the message.
            let rest = BytesMut::from(&self.inbox[..]);
            self.inbox = rest;
        }
        frame.advance(HEADER_BYTES);
        frame.freeze()
    }

    /// Takes a message that is no data; an error is the end of the stream.
    async fn aside(&mut self, tag: u8, bytes: usize) -> Option<PgError> {
        match tag {
            // Notices, changed settings, notifications.
            b'N' | b'S' | b'A' => {
                self.inbox.advance(bytes);
                None
            }
            b'E' => Some(match self.message_in_inbox() {
                Ok(Some(Message::ErrorResponse(body))) => {
                    self.refused(ServerError::parse(&body)).await
                }
                Ok(_) => self.out_of_step("a stream of changes"),
                Err(error) => error,
            }),
            // The server shuts down.
            b'c' | b'C' => {
                self.state = State::Broken;
                Some(PgError::Closed)
            }
            _ => Some(self.out_of_step("a stream of changes")),
        }
    }
}

/// Adds what a message of the stream holds; whether it asks for an answer.
fn event(mut message: Bytes, events: &mut Vec<Event>) -> Result<bool, PgError> {
    let tag = message.first().copied();
    match tag {
        // Start, end, time; the end is that of the log when it was sent, which nothing here needs.
        Some(b'w') if message.len() >= 25 => {
            message.advance(1);
            let at = Lsn(message.get_u64());
            message.advance(16);
            events.push(Event::Change { at, message });
            Ok(false)
        }
        // End, time, whether an answer is wanted.
        Some(b'k') if message.len() >= 18 => {
            message.advance(1);
            let at = Lsn(message.get_u64());
            message.advance(8);
            events.push(Event::Reached { at });
            Ok(message.get_u8() == 1)
        }
        _ => Err(PgError::protocol("a message of replication that is none")),
    }
}
