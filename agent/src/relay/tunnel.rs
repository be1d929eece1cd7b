//! A session's bytes as frames of a call between two agents.
//!
//! - A frame holds at most [`FRAME_BYTES`] of the session, as they are or as the next piece of a zstd stream that is flushed
//!   with each frame; the sender decides frame by frame ([`Gauge`]).
//! - What is under way is bounded by the call's window ([`pgconvoy_runtime::tls::bulk_server`]): whoever does not read
//!   holds up its own session and no other one.
//! - Where the owner has asked about the rows of a COPY, the answer is sent in their stead ([`errand`](super::errand)).
//! - `Finish` is the end of one direction. A call that ends before it is an error for the reader: a session that was
//!   cut off never looks like one that ended.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::{FutureExt, StreamExt};
use pgconvoy_flow::digest::Distiller;
use pgconvoy_flow::gauge::Gauge;
use pgconvoy_proto::v1;
use pgconvoy_proto::v1::relay_frame::Frame;
use pgconvoy_runtime::tasks::{self, Kind};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::{Instant, timeout};
use tokio_util::sync::PollSender;
use tonic::Streaming;

use super::errand::{Errand, Errands, frames_of, question_of, read};
use super::pack::{Packer, Unpacker};

/// Of the session's bytes, in one frame.
pub(super) const FRAME_BYTES: usize = 64 * 1024;

/// Less than this is not worth compressing: it travels in one packet anyway.
const SMALL_BYTES: usize = 1024;

/// Frames that wait to be taken by the call.
pub(super) const QUEUED_FRAMES: usize = 2;

/// Bytes of rows read here, after which the owner is told how far that is.
const TELL_EVERY: u64 = 1024 * 1024;

/// For last words to arrive.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);

/// The two directions of a call.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) incoming: Streaming<v1::RelayFrame>,
    pub(super) outgoing: mpsc::Sender<v1::RelayFrame>,
}

impl Ends {
    /// The next frame; none when the call has ended.
    pub(super) async fn next(&mut self) -> io::Result<Option<Frame>> {
        let frame = self.incoming.message().await.map_err(broken)?;
        frame.map(|frame| frame.frame.ok_or_else(|| nonsense("an empty frame"))).transpose()
    }

    /// Whether a call on which nothing is said yet has ended at the other end, as far as is known here.
    pub(super) fn has_ended(&mut self) -> bool {
        self.outgoing.is_closed() || self.incoming.message().now_or_never().is_some()
    }

    /// Sends a frame; an error if nobody takes it any more.
    pub(super) async fn send(&self, frame: Frame) -> io::Result<()> {
        let frame = v1::RelayFrame { frame: Some(frame) };
        self.outgoing.send(frame).await.map_err(|_| gone())
    }
}

/// What a partner did for owners since it began.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Bytes that came from servers.
    pub(crate) from_server: AtomicU64,
    /// What went over the way for them: less where it was compressed, or read here.
    pub(crate) sent: AtomicU64,
    /// Bytes that went to servers.
    pub(crate) to_server: AtomicU64,
}

/// A stream of bytes to the other agent's end.
#[derive(Debug)]
pub(crate) struct Tunnel {
    /// None once it is dropped.
    call: Option<Call>,
    end: End,
    unread: Bytes,
    heard_all: bool,
    said_all: bool,
    packer: Packer,
    unpacker: Unpacker,
    gauge: Gauge,
    /// Since when there has been no room for the next frame.
    waits: Option<Instant>,
    /// Goes before all else that is sent.
    pending: VecDeque<Frame>,
}

#[derive(Debug)]
struct Call {
    incoming: Streaming<v1::RelayFrame>,
    outgoing: PollSender<v1::RelayFrame>,
}

/// What either end does besides.
#[derive(Debug)]
enum End {
    Owner {
        /// Counts the sessions of a line, for as long as they live.
        _ticket: Arc<()>,
        /// Questions that were not put yet.
        errands: UnboundedReceiver<Errand>,
        /// To whoever put the last one.
        replies: Option<UnboundedSender<Frame>>,
    },
    Partner {
        tally: Arc<Tally>,
        /// Of rows that the owner asked about.
        reading: Option<Box<Reading>>,
    },
}

#[derive(Debug)]
struct Reading {
    distiller: Distiller,
    /// Bytes of which the owner was told.
    told: u64,
}

impl Tunnel {
    /// The owner's end: from here on, all frames are the session's.
    pub(super) fn of_owner(ends: Ends, ticket: Arc<()>) -> (Self, Errands) {
        let (put, errands) = Errands::new();
        let end = End::Owner { _ticket: ticket, errands, replies: None };
        (Self::over(ends, end), put)
    }

    /// The partner's end.
    pub(super) fn of_partner(ends: Ends, tally: Arc<Tally>) -> Self {
        Self::over(ends, End::Partner { tally, reading: None })
    }

    fn over(ends: Ends, end: End) -> Self {
        let Ends { incoming, outgoing } = ends;
        Self {
            call: Some(Call { incoming, outgoing: PollSender::new(outgoing) }),
            end,
            unread: Bytes::new(),
            heard_all: false,
            said_all: false,
            packer: Packer::default(),
            unpacker: Unpacker::default(),
            gauge: Gauge::default(),
            waits: None,
            pending: VecDeque::new(),
        }
    }

    fn call(&mut self) -> &mut Call {
        self.call.as_mut().expect("only dropping takes it")
    }

    fn take(&mut self, frame: Option<Result<v1::RelayFrame, tonic::Status>>) -> io::Result<()> {
        match frame.transpose().map_err(broken)?.map(|frame| frame.frame) {
            Some(Some(Frame::Data(v1::RelayData { bytes, unpacked: 0 }))) => self.unread = bytes,
            Some(Some(Frame::Data(v1::RelayData { bytes, unpacked }))) => {
                let unpacked = usize::try_from(unpacked).unwrap_or(usize::MAX);
                if unpacked > FRAME_BYTES {
                    return Err(nonsense("a frame that is too large"));
                }
                self.unread = self.unpacker.unpack(&bytes, unpacked)?;
            }
            Some(Some(Frame::Finish(v1::RelayFinish {}))) => self.heard_all = true,
            Some(Some(other)) => self.end.take(other)?,
            Some(None) => return Err(nonsense("an empty frame")),
            None => return Err(gone()),
        }
        Ok(())
    }

    /// Waits for room for one more frame, and counts what that costs.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Duration>> {
        let room = self.call().outgoing.poll_reserve(cx);
        match (room, self.waits) {
            (Poll::Pending, None) => {
                self.waits = Some(Instant::now());
                Poll::Pending
            }
            (Poll::Pending, Some(_)) => Poll::Pending,
            (Poll::Ready(Err(_)), _) => Poll::Ready(Err(gone())),
            (Poll::Ready(Ok(())), since) => {
                self.waits = None;
                Poll::Ready(Ok(since.map_or(Duration::ZERO, |since| since.elapsed())))
            }
        }
    }

    /// Sends what is pending.
    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            ready!(self.poll_room(cx))?;
            let next = self.pending.pop_front();
            next.map_or(Ok(()), |frame| self.say(frame))?;
        }
        Poll::Ready(Ok(()))
    }

    fn say(&mut self, frame: Frame) -> io::Result<()> {
        let frame = v1::RelayFrame { frame: Some(frame) };
        self.end.count(|tally| &tally.sent, frame.encoded_len());
        self.call().outgoing.send_item(frame).map_err(|_| gone())
    }

    fn data(&mut self, bytes: &[u8], waited: Duration) -> io::Result<v1::RelayData> {
        if bytes.len() < SMALL_BYTES {
            return Ok(as_it_is(bytes));
        }
        let began = Instant::now();
        let data = if self.gauge.compresses() {
            let unpacked = u32::try_from(bytes.len()).expect("a frame is 64 KiB");
            v1::RelayData { bytes: self.packer.pack(bytes)?, unpacked }
        } else {
            as_it_is(bytes)
        };
        self.gauge.sent(bytes.len(), waited + began.elapsed());
        Ok(data)
    }
}

fn as_it_is(bytes: &[u8]) -> v1::RelayData {
    v1::RelayData { bytes: Bytes::copy_from_slice(bytes), unpacked: 0 }
}

impl End {
    /// Takes a frame that is about rows which the partner reads.
    fn take(&mut self, frame: Frame) -> io::Result<()> {
        match (self, frame) {
            (Self::Partner { reading, .. }, Frame::Question(question)) => {
                let distiller = Distiller::of(question_of(question)?);
                *reading = Some(Box::new(Reading { distiller, told: 0 }));
            }
            (
                Self::Owner { replies: Some(replies), .. },
                frame @ (Frame::Read(_) | Frame::Buckets(_) | Frame::Rows(_) | Frame::Answered(_)),
            ) => {
                // Nobody may care any more.
                let _unheard = replies.send(frame);
            }
            _ => return Err(nonsense("a frame that is no part of a session")),
        }
        Ok(())
    }

    /// The question that goes before what is written next.
    fn question(&mut self) -> Option<Frame> {
        let Self::Owner { errands, replies, .. } = self else { return None };
        let errand = errands.try_recv().ok()?;
        *replies = Some(errand.replies);
        Some(Frame::Question(errand.question))
    }

    /// Reads rows that were asked about; the frames that are sent in place of these bytes. None if nothing was asked.
    fn read(&mut self, bytes: &[u8]) -> io::Result<Option<Vec<Frame>>> {
        let Self::Partner { reading, .. } = self else { return Ok(None) };
        let Some(current) = reading else { return Ok(None) };
        let Reading { distiller, told } = &mut **current;
        let distilled = distiller.take(bytes);
        let distilled =
            distilled.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let mut frames = distilled.answer.map(frames_of).unwrap_or_default();
        let passed = distilled.passed.chunks(FRAME_BYTES);
        frames.extend(passed.map(|bytes| Frame::Data(as_it_is(bytes))));
        match distiller.so_far() {
            Some((rows, bytes)) if bytes >= *told + TELL_EVERY => {
                *told = bytes;
                frames.push(read((rows, bytes)));
            }
            Some(_) => {}
            None => *reading = None,
        }
        Ok(Some(frames))
    }

    fn count(&self, which: impl Fn(&Tally) -> &AtomicU64, bytes: usize) {
        if let Self::Partner { tally, .. } = self {
            which(tally).fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() && !self.heard_all {
            let frame = ready!(self.call().incoming.poll_next_unpin(cx));
            self.take(frame)?;
        }
        let length = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread[..length]);
        self.unread.advance(length);
        self.end.count(|tally| &tally.to_server, length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let question = self.end.question();
        self.pending.extend(question);
        ready!(self.poll_pending(cx))?;
        let bytes = &buf[..buf.len().min(FRAME_BYTES)];
        if let Some(frames) = self.end.read(bytes)? {
            self.pending.extend(frames);
            // What finds no room waits for the next write, or for a flush.
            if let Poll::Ready(sent) = self.poll_pending(cx) {
                sent?;
            }
        } else {
            let waited = ready!(self.poll_room(cx))?;
            let data = self.data(bytes, waited)?;
            self.say(Frame::Data(data))?;
        }
        self.end.count(|tally| &tally.from_server, bytes.len());
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The call takes each frame as soon as it has room.
        self.poll_pending(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pending(cx))?;
        if !self.said_all {
            ready!(self.poll_room(cx))?;
            self.say(Frame::Finish(v1::RelayFinish {}))?;
            self.said_all = true;
        }
        Poll::Ready(Ok(()))
    }
}

/// Dropping a call takes back what was said last. So one that has said all is kept until the other end has, too; any other
/// one is cut off.
impl Drop for Tunnel {
    fn drop(&mut self) {
        let Some(mut call) = self.call.take() else { return };
        if !self.said_all || self.heard_all || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let _on_its_own = tasks::spawn(Kind::Worker, "farewell", async move {
            let ended = async { while let Some(Ok(_)) = call.incoming.next().await {} };
            // However it ends, nobody waits for it.
            let _in_time = timeout(FAREWELL_LIMIT, ended).await;
        });
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the agent at the other site hung up")
}

fn broken(status: tonic::Status) -> io::Error {
    let why = format!("the way to the agent at the other site broke: {}", status.message());
    io::Error::new(io::ErrorKind::ConnectionReset, why)
}

pub(super) fn nonsense(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the agent at the other site sent {what}"))
}
