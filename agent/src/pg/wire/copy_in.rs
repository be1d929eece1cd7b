//! COPY … FROM STDIN.
//!
//! A message a row, as they come, costs the server that takes them about a twelfth of its time; so they are put together.

use pgconvoy_flow::copy::{Frames, rows_of_tag};

use super::*;

/// Rows that the server is taking.
///
/// Ends by [`finish`](Self::finish) or [`fail`](Self::fail); dropped otherwise, the connection is of no further use, and
/// the server rolls back when it sees it closed.
#[derive(Debug)]
pub(crate) struct CopyIn<'a> {
    wire: &'a mut Wire,
    frames: Frames,
    /// The message that is put together, the place of its header first.
    message: BytesMut,
    /// No message was begun and not written to its end: false also after a `send` that was dropped half-way.
    whole: bool,
}

/// What a message holds before it is sent. Messages of 8 KiB cost a server more than one of each row.
const MESSAGE_BYTES: usize = 64 * 1024;

/// Tag byte and length word.
const HEADER: [u8; 5] = [b'd', 0, 0, 0, 0];

/// What ended a wait while writing.
enum Step {
    /// All is written.
    Sent,
    /// The server said something.
    Heard,
}

impl Wire {
    /// Begins to write rows.
    pub(crate) async fn copy_in(&mut self, sql: &str) -> Result<CopyIn<'_>, PgError> {
        self.begin(sql).await?;
        match self.message().await? {
            Message::CopyInResponse(_) => {
                let (frames, message) = (Frames::default(), BytesMut::from(&HEADER[..]));
                Ok(CopyIn { wire: self, frames, message, whole: true })
            }
            Message::ErrorResponse(body) => Err(self.refused(ServerError::parse(&body)).await),
            _ => Err(self.out_of_step("the beginning of a COPY")),
        }
    }
}

impl CopyIn<'_> {
    /// Passes on the next piece of a [`CopyOut`](super::copy_out::CopyOut). Waits while the server is behind, and notices at
    /// once when it refuses, or when this is not the piece that follows.
    pub(crate) async fn send(&mut self, piece: Piece) -> Result<(), PgError> {
        if !self.whole {
            return Err(self.wire.out_of_step("a COPY after a message that is cut"));
        }
        let begins = self.frames;
        let taken = self.frames.unframe(&piece, |payload| self.message.extend_from_slice(payload));
        let all = taken.is_ok_and(|run| run.bytes == piece.len());
        if !all || piece.begins() != begins || piece.ends() != self.frames {
            return Err(self.wire.out_of_step("the pieces of a COPY before it"));
        }
        // Its buffer may be filled again.
        drop(piece);
        if self.message.len() < MESSAGE_BYTES {
            return Ok(());
        }
        self.say_length()?;
        self.whole = false;
        let mut data = &self.message[..];
        while let Step::Heard = poll_fn(|cx| self.wire.poll_send(cx, &mut data)).await? {
            match self.wire.message_in_inbox()? {
                None => {}
                // What we send now would be skipped up to a message that ends the COPY; this one may be cut where it is.
                Some(Message::ErrorResponse(body)) => {
                    self.wire.state = State::Broken;
                    return Err(PgError::Server(Box::new(ServerError::parse(&body))));
                }
                Some(_) => return Err(self.wire.out_of_step("COPY")),
            }
        }
        self.message.truncate(HEADER.len());
        self.whole = true;
        Ok(())
    }

    fn say_length(&mut self) -> Result<(), PgError> {
        let length = u32::try_from(self.message.len() - 1)
            .map_err(|_| PgError::protocol("a message of COPY data that is too long"))?;
        self.message[1..HEADER.len()].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }

    /// Rows passed on so far, the trailer of the binary form counted as one.
    pub(crate) fn frames(&self) -> &Frames {
        &self.frames
    }

    /// Says that this was all; the number of rows that the server took.
    pub(crate) async fn finish(mut self) -> Result<u64, PgError> {
        if !self.whole || !self.frames.at_boundary() {
            return Err(self.wire.out_of_step("COPY data: the last row is cut"));
        }
        self.say_length()?;
        let mut rest = self.message;
        if rest.len() == HEADER.len() {
            rest.clear();
        }
        frontend::copy_done(&mut rest);
        self.wire.send(&rest).await?;
        let mut rows = None;
        loop {
            match self.wire.message().await? {
                Message::CommandComplete(body) => rows = body.tag().ok().and_then(rows_of_tag),
                Message::ReadyForQuery(_) => break,
                Message::ErrorResponse(body) => {
                    return Err(self.wire.refused(ServerError::parse(&body)).await);
                }
                _ => return Err(self.wire.out_of_step("the end of a COPY")),
            }
        }
        self.wire.state = State::Idle;
        rows.ok_or_else(|| PgError::protocol("a COPY that does not say how many rows it took"))
    }

    /// Makes the server forget the rows; its transaction has failed then. Within a message nothing can be said, and the
    /// connection is left to be closed, which has the same effect.
    pub(crate) async fn fail(self, reason: &str) -> Result<(), PgError> {
        if !self.whole {
            return Ok(());
        }
        let mut message = BytesMut::new();
        frontend::copy_fail(reason, &mut message)
            .map_err(|_| PgError::protocol("a reason with a zero byte in it"))?;
        self.wire.send(&message).await?;
        match self.wire.message().await? {
            Message::ErrorResponse(body) => {
                let _as_asked = self.wire.refused(ServerError::parse(&body)).await;
                Ok(())
            }
            _ => Err(self.wire.out_of_step("a COPY that was given up")),
        }
    }
}

impl Wire {
    /// Writes `data`, and reads whatever comes meanwhile: a server that refuses says so and stops taking.
    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut &[u8]) -> Poll<Result<Step, PgError>> {
        let written = self.poll_write_all(cx, data);
        // What the server says tells more than a write that failed: it says why before it hangs up.
        match self.poll_read(cx) {
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(Step::Heard)),
            Poll::Ready(Err(error)) if !matches!(written, Poll::Ready(Err(_))) => {
                return Poll::Ready(Err(error));
            }
            Poll::Ready(Err(_)) | Poll::Pending => {}
        }
        written.map(|written| match written {
            Ok(()) => Ok(Step::Sent),
            Err(source) => Err(self.broken(source)),
        })
    }

    fn poll_write_all(&mut self, cx: &mut Context<'_>, data: &mut &[u8]) -> Poll<io::Result<()>> {
        while !data.is_empty() {
            match ready!(Pin::new(&mut self.transport).poll_write(cx, data))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => data.advance(written),
            }
        }
        Pin::new(&mut self.transport).poll_flush(cx)
    }
}
