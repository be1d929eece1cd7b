//! COPY … TO STDOUT.

use std::sync::Arc;

use pgconvoy_flow::copy::{Frames, Then, rows_of_tag};

use super::piece::Stock;
use super::*;

/// Rows that the server is sending.
///
/// [`next`](Self::next) gives pieces of whole and cut messages, to be passed on in this order; none after the last.
/// That none comes only when CopyDone, CommandComplete and ReadyForQuery were seen (law O8).
#[derive(Debug)]
pub(crate) struct CopyOut<'a> {
    wire: &'a mut Wire,
    frames: Frames,
    stock: Arc<Stock>,
    ended: bool,
}

impl Wire {
    /// Begins to read rows.
    pub(crate) async fn copy_out(&mut self, sql: &str) -> Result<CopyOut<'_>, PgError> {
        self.begin(sql).await?;
        match self.message().await? {
            Message::CopyOutResponse(_) => {
                let (frames, stock) = (Frames::default(), Arc::default());
                Ok(CopyOut { wire: self, frames, stock, ended: false })
            }
            Message::ErrorResponse(body) => Err(self.refused(ServerError::parse(&body)).await),
            _ => Err(self.out_of_step("the beginning of a COPY")),
        }
    }
}

impl Wire {
    /// What follows CopyDone; the number of rows that the server counted.
    pub(super) async fn copied_out(&mut self) -> Result<Option<u64>, PgError> {
        let mut rows = None;
        loop {
            match self.message().await? {
                Message::CommandComplete(body) => rows = body.tag().ok().and_then(rows_of_tag),
                Message::ReadyForQuery(_) => break,
                Message::ErrorResponse(body) => {
                    return Err(self.refused(ServerError::parse(&body)).await);
                }
                _ => return Err(self.out_of_step("the end of a COPY")),
            }
        }
        self.state = State::Idle;
        Ok(rows)
    }
}

impl CopyOut<'_> {
    /// The next piece, or none after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Piece>, PgError> {
        loop {
            if self.ended {
                return Ok(None);
            }
            let begins = self.frames;
            let run = self
                .frames
                .walk(&self.wire.inbox)
                .map_err(|bad| PgError::protocol(bad.to_string()))?;
            if run.bytes > 0 {
                let inbox = &mut self.wire.inbox;
                let piece = Piece::cut_from(inbox, run.bytes, [begins, self.frames], &self.stock);
                return Ok(Some(piece));
            }
            match run.then {
                Then::More => self.wire.read().await?,
                Then::Other => self.between_data().await?,
            }
        }
    }

    /// Rows read so far, the trailer of the binary form counted as one.
    pub(crate) fn frames(&self) -> &Frames {
        &self.frames
    }

    /// Takes what is no data. Notices and changed parameters may come in the middle.
    async fn between_data(&mut self) -> Result<(), PgError> {
        let wire = &mut *self.wire;
        match wire.first_in_inbox()? {
            First::Cut => wire.read().await,
            // It was for us only; data may follow.
            First::Aside => Ok(()),
            First::Message(Message::CopyDone) => self.end().await,
            First::Message(Message::ErrorResponse(body)) => {
                Err(wire.refused(ServerError::parse(&body)).await)
            }
            First::Message(_) => Err(wire.out_of_step("COPY data")),
        }
    }

    async fn end(&mut self) -> Result<(), PgError> {
        let rows = self.wire.copied_out().await?;
        let messages = self.frames.messages();
        // One message a row; the binary form has one more.
        match rows {
            Some(rows) if rows == messages || rows + 1 == messages => {
                self.ended = true;
                Ok(())
            }
            _ => Err(PgError::protocol(format!(
                "{messages} messages of COPY data came where the server counted {rows:?} rows"
            ))),
        }
    }
}
