//! A session's bytes as frames of a call between two agents.
//!
//! - A frame holds at most [`FRAME_BYTES`] of the session, as they are or as the next piece of a zstd stream that is flushed
//!   with each frame; the sender decides frame by frame ([`Gauge`]).
//! - What is under way is bounded by the call's window ([`pgconvoy_runtime::tls::bulk_server`]): whoever does not read
//!   holds up its own session and no other one.
//! - `Finish` is the end of one direction. A call that ends before it is an error for the reader: a session that was
//!   cut off never looks like one that ended.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::StreamExt;
use pgconvoy_flow::gauge::Gauge;
use pgconvoy_proto::v1;
use pgconvoy_proto::v1::relay_frame::Frame;
use pgconvoy_runtime::tasks::{self, Kind};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::PollSender;
use tonic::Streaming;

use super::pack::{Packer, Unpacker};

/// Of the session's bytes, in one frame.
pub(super) const FRAME_BYTES: usize = 64 * 1024;

/// Less than this is not worth compressing: it travels in one packet anyway.
const SMALL_BYTES: usize = 1024;

/// Frames that wait to be taken by the call.
pub(super) const QUEUED_FRAMES: usize = 2;

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
    /// What of them went over the way: less where it was compressed.
    pub(crate) sent: AtomicU64,
    /// Bytes that went to servers.
    pub(crate) to_server: AtomicU64,
}

/// A stream of bytes to the other agent's end.
#[derive(Debug)]
pub(super) struct Tunnel {
    /// None once it is dropped.
    call: Option<Call>,
    unread: Bytes,
    heard_all: bool,
    said_all: bool,
    packer: Packer,
    unpacker: Unpacker,
    gauge: Gauge,
    /// Since when there has been no room for the next frame.
    waits: Option<Instant>,
    /// Counts the sessions of a line, for as long as they live.
    _ticket: Option<Arc<()>>,
    /// Counts what a partner passes on.
    tally: Option<Arc<Tally>>,
}

#[derive(Debug)]
struct Call {
    incoming: Streaming<v1::RelayFrame>,
    outgoing: PollSender<v1::RelayFrame>,
}

impl Tunnel {
    /// The owner's end: from here on, all frames are the session's.
    pub(super) fn of_owner(ends: Ends, ticket: Arc<()>) -> Self {
        Self { _ticket: Some(ticket), ..Self::over(ends) }
    }

    /// The partner's end.
    pub(super) fn of_partner(ends: Ends, tally: Arc<Tally>) -> Self {
        Self { tally: Some(tally), ..Self::over(ends) }
    }

    fn over(ends: Ends) -> Self {
        let Ends { incoming, outgoing } = ends;
        Self {
            call: Some(Call { incoming, outgoing: PollSender::new(outgoing) }),
            unread: Bytes::new(),
            heard_all: false,
            said_all: false,
            packer: Packer::default(),
            unpacker: Unpacker::default(),
            gauge: Gauge::default(),
            waits: None,
            _ticket: None,
            tally: None,
        }
    }

    fn count(&self, which: impl Fn(&Tally) -> &AtomicU64, bytes: usize) {
        if let Some(tally) = &self.tally {
            which(tally).fetch_add(bytes as u64, Ordering::Relaxed);
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
            Some(_) => return Err(nonsense("a frame that is no part of a session")),
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

    fn say(&mut self, frame: Frame) -> io::Result<()> {
        let frame = v1::RelayFrame { frame: Some(frame) };
        self.call().outgoing.send_item(frame).map_err(|_| gone())
    }

    fn data(&mut self, bytes: &[u8], waited: Duration) -> io::Result<v1::RelayData> {
        if bytes.len() < SMALL_BYTES {
            return Ok(v1::RelayData { bytes: Bytes::copy_from_slice(bytes), unpacked: 0 });
        }
        let began = Instant::now();
        let data = if self.gauge.compresses() {
            let unpacked = u32::try_from(bytes.len()).expect("a frame is 64 KiB");
            v1::RelayData { bytes: self.packer.pack(bytes)?, unpacked }
        } else {
            v1::RelayData { bytes: Bytes::copy_from_slice(bytes), unpacked: 0 }
        };
        self.gauge.sent(bytes.len(), waited + began.elapsed());
        Ok(data)
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
        self.count(|tally| &tally.to_server, length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let waited = ready!(self.poll_room(cx))?;
        let length = buf.len().min(FRAME_BYTES);
        let data = self.data(&buf[..length], waited)?;
        self.count(|tally| &tally.from_server, length);
        self.count(|tally| &tally.sent, data.bytes.len());
        self.say(Frame::Data(data))?;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The call takes each frame as soon as it has room.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
