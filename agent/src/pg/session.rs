//! A session for ordinary SQL: tokio-postgres over our own transport.
//!
//! A session that is dropped in the middle of something leaves nothing running: its socket is closed, and the server is
//! asked to cancel the statement, which it would otherwise finish before it looks. [`Session::close`] ends one in
//! good order.

use std::future::{Ready, ready};
use std::io;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use futures::{FutureExt, try_join};
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{CancelToken, Client, Config, Error, Row, SimpleQueryMessage};

use pgconvoy_shared::name::quote_literal;

use pgconvoy_runtime::tasks::{self, Kind, Owned};

use super::access::{Access, later_settings, major_of};
use super::error::PgError;
use super::pool::{self, Pooled};
use super::transport::{Patience, Transport};
use super::values::Value;
use super::wire::TextRow;

/// A goodbye takes a round trip; a server that stands still is left without one.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// A session; what it has not itself is of [`tokio_postgres::Client`].
pub(crate) struct Session {
    /// None once it is closed.
    open: Option<Open>,
    access: Access,
    major: u32,
}

struct Open {
    client: Client,
    driver: Owned<()>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("with", &self.access).finish_non_exhaustive()
    }
}

impl Access {
    /// Connects, logs in, and fixes the settings.
    pub(crate) async fn session(&self) -> Result<Session, PgError> {
        self.connect(Patience::Short, |transport| self.log_in(transport)).await
    }

    async fn log_in(&self, transport: Transport) -> Result<Session, PgError> {
        let endpoint = self.endpoint();
        let mut config = Config::new();
        config
            .user(&endpoint.user)
            .dbname(&endpoint.database)
            .application_name(self.application_name())
            .options(self.startup_options())
            // TLS, where wanted, is spoken already: nothing is asked for, and `Secured` only hands the stream on.
            .ssl_mode(SslMode::Require)
            .ssl_negotiation(SslNegotiation::Direct);
        if let Some(password) = self.password() {
            config.password(password.expose());
        }
        let logged_in = config.connect_raw(transport, Secured).await;
        let (client, connection) = logged_in.map_err(|error| {
            // The driver has no other word for it than a text.
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            match cause.as_deref() {
                Some("password missing") => PgError::PasswordMissing,
                _ => PgError::from(error),
            }
        })?;
        let version = connection.parameter("server_version").unwrap_or_default().to_owned();
        let major = major_of(&version)
            .ok_or_else(|| PgError::protocol(format!("server_version is `{version}`")))?;
        let name = format!("session {}", self.application_name());
        let driver = tasks::owned(name, async move {
            // A broken connection is told to whoever waits for an answer.
            if let Err(error) = connection.await {
                tracing::debug!("a session ended: {error}");
            }
        });
        let session = Session { open: Some(Open { client, driver }), access: self.clone(), major };
        session.send_ahead(later_settings(major));
        Ok(session)
    }
}

impl Session {
    /// The server's major version.
    pub(crate) fn major(&self) -> u32 {
        self.major
    }

    /// With whom.
    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    /// Runs a statement, in one round trip; its rows.
    pub(crate) async fn query(&self, sql: &str, values: &[&dyn Value]) -> Result<Vec<Row>, Error> {
        self.query_typed(sql, &typed(values)).await
    }

    /// As [`query`](Self::query), of a statement that has one row.
    pub(crate) async fn query_one(&self, sql: &str, values: &[&dyn Value]) -> Result<Row, Error> {
        self.query_typed_one(sql, &typed(values)).await
    }

    /// As [`query`](Self::query), of a statement that has at most one row.
    pub(crate) async fn query_opt(
        &self,
        sql: &str,
        values: &[&dyn Value],
    ) -> Result<Option<Row>, Error> {
        self.query_typed_opt(sql, &typed(values)).await
    }

    /// As [`query`](Self::query); the number of rows that it was about.
    pub(crate) async fn execute(&self, sql: &str, values: &[&dyn Value]) -> Result<u64, Error> {
        self.execute_typed(sql, &typed(values)).await
    }

    /// Sends statements that cannot fail, and does not wait for them: they are run before the next one. (Nobody would hear of a
    /// failure: to commit a transaction that has failed is none.)
    pub(crate) fn send_ahead(&self, sql: &str) {
        // Polled once it is sent; the driver drops an answer that nobody waits for.
        let _answer = self.batch_execute(sql).now_or_never();
    }

    /// Runs statements; rows as text, as our own client gives them.
    pub(crate) async fn text_rows(&self, sql: &str) -> Result<Vec<TextRow>, PgError> {
        let messages = self.simple_query(sql).await?;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
            }
            _ => None,
        });
        Ok(rows.collect())
    }

    /// Ends the session in good order.
    pub(crate) async fn close(mut self) {
        let Some(Open { client, driver }) = self.open.take() else { return };
        drop(client);
        // However it ends, it is over: dropping the driver closes the socket.
        let _late = tokio::time::timeout(CLOSE_LIMIT, driver).await;
    }
}

impl Pooled for Session {
    fn access(&self) -> &Access {
        &self.access
    }

    fn is_like(&self, access: &Access, _: Patience) -> bool {
        self.access.is_same_login(access)
    }

    fn is_at_rest(&self) -> bool {
        !self.is_closed()
    }

    /// Within a transaction the server refuses to begin anew.
    async fn handed_over(mut self, access: &Access) -> Result<Self, PgError> {
        self.access = access.clone();
        let name = quote_literal(access.application_name());
        let named = format!("set application_name = {name}; {}", later_settings(self.major));
        // Both are on their way before the first is answered.
        try_join!(self.batch_execute("discard all"), self.batch_execute(&named))?;
        Ok(self)
    }

    async fn open(access: &Access, _: Patience) -> Result<Self, PgError> {
        access.session().await
    }

    fn idle(state: &mut pool::State) -> &mut Vec<pool::Idle<Self>> {
        &mut state.sessions
    }
}

fn typed<'v>(values: &[&'v dyn Value]) -> Vec<(&'v (dyn ToSql + Sync), Type)> {
    values.iter().map(|value| value.typed()).collect()
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.open.as_ref().expect("only `close`, which consumes the session, takes it").client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.open.as_mut().expect("only `close`, which consumes the session, takes it").client
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(open) = self.open.take() else { return };
        if open.client.is_closed() {
            return;
        }
        let token = open.client.cancel_token();
        drop(open);
        cancel(self.access.clone(), token);
    }
}

fn cancel(access: Access, token: CancelToken) {
    in_background(async move {
        let transport = access.connect_to_cancel().await?;
        Ok(token.cancel_query_raw(transport, Secured).await?)
    });
}

/// Starts a request to cancel, if there is still a runtime to run it. When it cannot be delivered the server is gone or
/// will notice the closed socket; and a new owner of the unit looks for what is left anyway (law O5).
pub(super) fn in_background(request: impl Future<Output = Result<(), PgError>> + Send + 'static) {
    if tokio::runtime::Handle::try_current().is_err() {
        return;
    }
    // Not kept: nobody waits for its end.
    let _task = tasks::spawn(Kind::Worker, "cancel statement", async {
        if let Err(error) = request.await {
            tracing::debug!("a request to cancel was not delivered: {error}");
        }
    });
}

/// Stands for a TLS handshake that [`Transport`] has already done, or that was not wanted.
#[derive(Debug, Clone, Copy)]
struct Secured;

impl TlsConnect<Transport> for Secured {
    type Stream = Transport;
    type Error = io::Error;
    type Future = Ready<io::Result<Transport>>;

    fn connect(self, transport: Transport) -> Self::Future {
        ready(Ok(transport))
    }
}

impl TlsStream for Transport {
    fn channel_binding(&self) -> ChannelBinding {
        Transport::channel_binding(self).map_or_else(ChannelBinding::none, |hash| {
            ChannelBinding::tls_server_end_point(hash.to_vec())
        })
    }
}
