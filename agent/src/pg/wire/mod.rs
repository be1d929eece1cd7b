//! Our own client: login, simple queries, COPY in whole buffers, and the source's log as it is decoded.
//!
//! tokio-postgres hands out COPY data row by row and wants it back in pieces of its own; a row costs time then, and a row
//! of 100 MB its memory. Here a read buffer full of CopyData messages goes to the session that writes, which makes larger
//! messages of them, and comes back to be filled again ([`Piece`]). No buffer holds much more than [`READ_BYTES`] of rows.
//!
//! Only the simple query protocol is spoken. A [`Wire`] that is dropped while the server works for it asks the server to
//! cancel, and closes the socket.

mod copy_both;
mod copy_in;
mod copy_out;
mod login;
mod piece;
pub(crate) mod replication;
mod rows;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::str::FromStr;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub(crate) use copy_in::CopyIn;
pub(crate) use piece::Piece;

use pgconvoy_flow::fingerprint::DescribedColumn;
use pgconvoy_shared::name::quote_literal;

use super::access::{Access, major_of};
use super::error::{PgError, ServerError};
use super::pool::{self, Pooled};
use super::session::in_background;
use super::transport::{Patience, Transport};

/// What one read may bring: large enough that a read costs little beside its bytes, small enough for many units.
pub(crate) const READ_BYTES: usize = 256 * 1024;

/// Answers to our own queries are small; what claims to be larger than this is no such answer.
const ANSWER_BYTES_MAX: i32 = 64 * 1024 * 1024;

/// A row of a simple query: values as text.
pub(crate) type TextRow = Vec<Option<String>>;

/// What one statement of a simple query gave.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// As they were described; none of a statement that gives no rows.
    pub(crate) columns: Vec<DescribedColumn>,
    /// Its rows.
    pub(crate) rows: Vec<TextRow>,
}

impl Answer {
    /// Its first value, which must be there.
    pub(crate) fn value(&self) -> Result<&str, PgError> {
        let value = self.rows.first().and_then(|row| row.first()).and_then(Option::as_deref);
        value.ok_or_else(|| PgError::protocol("no value where there must be one"))
    }

    /// Whether that is `true`.
    pub(crate) fn is_true(&self) -> bool {
        self.value().is_ok_and(|value| value == "t")
    }
}

/// A session of our own client.
pub(crate) struct Wire {
    access: Access,
    transport: Transport,
    patience: Patience,
    /// Read and not yet taken.
    inbox: BytesMut,
    /// What the server tells of itself: `server_version`, `server_encoding`, …
    parameters: BTreeMap<String, String>,
    key: Option<CancelKey>,
    state: State,
    /// What the server said of transactions when it last waited for a query: `I`, `T` or `E`.
    transaction_status: u8,
    /// The server is yet to answer what was set at login, which nobody waits for.
    setting: bool,
}

#[derive(Debug, Clone, Copy)]
struct CancelKey {
    process_id: i32,
    secret_key: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The server waits for a query.
    Idle,
    /// The server works for us, or waits for more of what we began.
    Busy,
    /// Nothing can be said on it any more.
    Broken,
}

/// The first message of what was read already.
enum First {
    /// Not all of it is here.
    Cut,
    /// A notice or a changed parameter: they come at any time, and are no answer.
    Aside,
    Message(Message),
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("with", &self.access).field("state", &self.state).finish()
    }
}

impl Wire {
    /// With whom.
    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    /// Whether TLS is spoken with the server.
    pub(super) fn is_encrypted(&self) -> bool {
        self.transport.is_encrypted()
    }

    /// What the server reported under this name.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// The server's major version.
    pub(crate) fn major(&self) -> Result<u32, PgError> {
        let version = self.parameter("server_version").unwrap_or_default();
        major_of(version).ok_or_else(|| PgError::protocol(format!("server_version is `{version}`")))
    }

    /// Runs one or more statements; the rows of all of them, in order.
    pub(crate) async fn query(&mut self, sql: &str) -> Result<Vec<TextRow>, PgError> {
        let answers = self.answers(sql).await?;
        Ok(answers.into_iter().flat_map(|answer| answer.rows).collect())
    }

    /// Runs one or more statements, in one round trip; an answer for each. The first that fails keeps those after it from
    /// being run.
    pub(crate) async fn answers(&mut self, sql: &str) -> Result<Vec<Answer>, PgError> {
        self.begin(sql).await?;
        let mut answers = Vec::new();
        let mut answer = Answer::default();
        loop {
            match self.message().await? {
                Message::RowDescription(body) => {
                    let fields = body.fields().map(|field| {
                        Ok(DescribedColumn {
                            name: field.name().to_owned(),
                            number: field.column_id(),
                            type_oid: field.type_oid(),
                            type_modifier: field.type_modifier(),
                        })
                    });
                    answer.columns = fields.collect().map_err(|source| self.broken(source))?;
                }
                Message::DataRow(row) => answer.rows.push(text_row(&row)?),
                Message::CommandComplete(_) | Message::EmptyQueryResponse => {
                    answers.push(std::mem::take(&mut answer));
                }
                Message::ReadyForQuery(_) => break,
                Message::ErrorResponse(body) => {
                    return Err(self.refused(ServerError::parse(&body)).await);
                }
                _ => return Err(self.out_of_step("a query")),
            }
        }
        self.state = State::Idle;
        Ok(answers)
    }

    /// The first value of the first row; an error where there is none.
    pub(crate) async fn value(&mut self, sql: &str) -> Result<String, PgError> {
        let all = Answer { rows: self.query(sql).await?, ..Answer::default() };
        all.value().map(str::to_owned)
    }

    /// Ends the session in good order.
    pub(crate) async fn close(mut self) {
        if self.state != State::Idle {
            return;
        }
        let mut goodbye = BytesMut::new();
        frontend::terminate(&mut goodbye);
        self.state = State::Broken;
        // The last words; whether they arrive changes nothing.
        let _heard = self.transport.write_all(&goodbye).await;
        let _closed = self.transport.shutdown().await;
    }

    /// Sends a query.
    async fn begin(&mut self, sql: &str) -> Result<(), PgError> {
        match self.state {
            State::Idle => {}
            State::Busy | State::Broken => return Err(PgError::Closed),
        }
        let mut message = BytesMut::new();
        frontend::query(sql, &mut message)
            .map_err(|_| PgError::protocol("a statement with a zero byte in it"))?;
        self.state = State::Busy;
        self.send(&message).await
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), PgError> {
        let sent = async {
            self.transport.write_all(bytes).await?;
            self.transport.flush().await
        };
        sent.await.map_err(|source| self.broken(source))
    }

    /// The next message that is about what we asked for.
    async fn message(&mut self) -> Result<Message, PgError> {
        loop {
            if let Some(message) = self.message_in_inbox()? {
                return Ok(message);
            }
            self.read().await?;
        }
    }

    /// As [`message`](Self::message), of what was read already.
    fn message_in_inbox(&mut self) -> Result<Option<Message>, PgError> {
        loop {
            match self.first_in_inbox()? {
                First::Cut => return Ok(None),
                First::Aside => {}
                First::Message(message) => return Ok(Some(message)),
            }
        }
    }

    /// Takes the first message of what was read already.
    fn first_in_inbox(&mut self) -> Result<First, PgError> {
        if let Some(header) = self.inbox.first_chunk::<5>() {
            let length = i32::from_be_bytes([header[1], header[2], header[3], header[4]]);
            if length > ANSWER_BYTES_MAX {
                return Err(self.out_of_step("an answer of that length"));
            }
        }
        match Message::parse(&mut self.inbox) {
            Ok(None) => Ok(First::Cut),
            Ok(Some(Message::NoticeResponse(_) | Message::NotificationResponse(_))) => {
                Ok(First::Aside)
            }
            Ok(Some(Message::ParameterStatus(body))) => {
                if let (Ok(name), Ok(value)) = (body.name(), body.value()) {
                    self.parameters.insert(name.to_owned(), value.to_owned());
                }
                Ok(First::Aside)
            }
            Ok(Some(Message::CommandComplete(_))) if self.setting => Ok(First::Aside),
            Ok(Some(Message::ReadyForQuery(_))) if self.setting => {
                self.setting = false;
                Ok(First::Aside)
            }
            Ok(Some(Message::ReadyForQuery(body))) => {
                self.transaction_status = body.status();
                Ok(First::Message(Message::ReadyForQuery(body)))
            }
            Ok(Some(message)) => Ok(First::Message(message)),
            Err(source) => Err(self.broken(source)),
        }
    }

    /// Waits until all that was set at login is answered.
    async fn settle(&mut self) -> Result<(), PgError> {
        while self.setting {
            match self.first_in_inbox()? {
                First::Cut => self.read().await?,
                First::Aside => {}
                First::Message(Message::ErrorResponse(body)) => {
                    return Err(self.refused(ServerError::parse(&body)).await);
                }
                First::Message(_) => return Err(self.out_of_step("settings")),
            }
        }
        Ok(())
    }

    /// Reads at least one byte more.
    async fn read(&mut self) -> Result<(), PgError> {
        poll_fn(|cx| self.poll_read(cx)).await
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PgError>> {
        if self.inbox.capacity() - self.inbox.len() < READ_BYTES / 4 {
            self.inbox.reserve(READ_BYTES);
        }
        // Loses nothing when it is dropped before it is ready.
        let read = ready!(pin!(self.transport.read_buf(&mut self.inbox)).poll(cx));
        Poll::Ready(match read {
            Ok(0) => {
                self.state = State::Broken;
                Err(PgError::Closed)
            }
            Ok(_read) => Ok(()),
            Err(source) => Err(self.broken(source)),
        })
    }

    /// The server refused: what follows is taken up to where it waits for the next query. An error that ends the session
    /// is followed by nothing.
    async fn refused(&mut self, error: ServerError) -> PgError {
        loop {
            match self.message().await {
                Ok(Message::ReadyForQuery(_)) => {
                    self.state = State::Idle;
                    break;
                }
                Ok(_) => {}
                Err(_) => {
                    self.state = State::Broken;
                    break;
                }
            }
        }
        PgError::Server(Box::new(error))
    }

    fn broken(&mut self, source: io::Error) -> PgError {
        self.state = State::Broken;
        PgError::Broken { source }
    }

    fn out_of_step(&mut self, during: &str) -> PgError {
        self.state = State::Broken;
        PgError::protocol(format!("a message that does not belong to {during}"))
    }
}

impl Pooled for Wire {
    fn access(&self) -> &Access {
        &self.access
    }

    fn is_like(&self, access: &Access, patience: Patience) -> bool {
        self.access.is_same_login(access) && self.patience == patience
    }

    /// The server waits for a query, outside a transaction.
    fn is_at_rest(&self) -> bool {
        self.state == State::Idle && self.transaction_status == b'I'
    }

    async fn handed_over(mut self, access: &Access) -> Result<Self, PgError> {
        self.access = access.clone();
        let name = quote_literal(access.application_name());
        self.query(&format!("set application_name = {name}; set client_encoding = 'UTF8'")).await?;
        Ok(self)
    }

    async fn open(access: &Access, patience: Patience) -> Result<Self, PgError> {
        match patience {
            Patience::Short => access.reader().await,
            Patience::Long => access.writer().await,
        }
    }

    fn idle(state: &mut pool::State) -> &mut Vec<pool::Idle<Self>> {
        &mut state.wires
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        if self.state != State::Busy {
            return;
        }
        let access = self.access.clone();
        in_background(async move {
            let mut transport = access.connect_to_cancel().await?;
            let mut request = BytesMut::new();
            frontend::cancel_request(key.process_id, key.secret_key, &mut request);
            let sent = async {
                transport.write_all(&request).await?;
                transport.shutdown().await
            };
            sent.await.map_err(|source| PgError::Broken { source })
        });
    }
}

fn text_row(row: &DataRowBody) -> Result<TextRow, PgError> {
    let bad = |_| PgError::protocol("a malformed row");
    row.ranges()
        .map(|range| {
            Ok(range.map(|range| String::from_utf8_lossy(&row.buffer()[range]).into_owned()))
        })
        .collect()
        .map_err(bad)
}

/// A value that must be there, read from its text.
pub(crate) fn field<T: FromStr>(row: &TextRow, no: usize) -> Result<T, PgError> {
    row.get(no)
        .and_then(Option::as_deref)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| PgError::protocol(format!("no such value as expected in {row:?}")))
}
