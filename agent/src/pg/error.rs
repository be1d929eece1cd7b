//! What can go wrong with a PostgreSQL server, from either of our two clients.

use std::fmt;
use std::io;
use std::path::PathBuf;

use fallible_iterator::FallibleIterator;
use pgconvoy_shared::failure::Failure;
use postgres_protocol::message::backend::ErrorResponseBody;

/// A connection or a statement that failed. [`PgError::failure`](super::sqlstate) turns it into what the leader is told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PgError {
    #[error("cannot reach {endpoint}")]
    Unreachable {
        endpoint: String,
        #[source]
        source: io::Error,
    },
    #[error("{endpoint} did not take a connection within {secs} s")]
    ConnectTimeout { endpoint: String, secs: u64 },
    #[error("{endpoint} does not offer TLS, which sslmode asks for")]
    TlsNotOffered { endpoint: String },
    #[error("TLS with {endpoint} failed")]
    TlsHandshake {
        endpoint: String,
        #[source]
        source: io::Error,
    },
    #[error("`{}` cannot be used for TLS: {problem}", path.display())]
    TlsFile { path: PathBuf, problem: String },
    #[error("no certificate can be for host `{host}`")]
    TlsHost { host: String },
    #[error("these TLS settings cannot be used")]
    TlsSettings {
        #[source]
        source: rustls::Error,
    },
    #[error("no agent of site `{site}` can be reached: {tried}")]
    NoPartner { site: String, tried: String },
    #[error("{}", .0.message)]
    AtPartner(Box<Failure>),
    #[error("{}", .0.message)]
    HandshakeAtPartner(Box<Failure>),
    #[error("the server wants a password, and none was given")]
    PasswordMissing,
    #[error("the server asks for {method}, which is not supported")]
    AuthenticationMethod { method: String },
    #[error("the server did not prove that it knows the password")]
    ServerNotProven {
        #[source]
        source: io::Error,
    },
    #[error("{0}")]
    Server(Box<ServerError>),
    #[error("the connection broke")]
    Broken {
        #[source]
        source: io::Error,
    },
    #[error("the connection was closed")]
    Closed,
    #[error("unexpected from the server: {problem}")]
    Protocol { problem: String },
    #[error("the driver failed")]
    Driver {
        #[source]
        source: tokio_postgres::Error,
    },
}

impl PgError {
    /// The server, or what calls itself so, said something that the protocol does not know.
    pub(crate) fn protocol(problem: impl Into<String>) -> Self {
        Self::Protocol { problem: problem.into() }
    }

    /// The SQLSTATE, where the server said one.
    pub(crate) fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Server(error) => Some(&error.sqlstate),
            _ => None,
        }
    }
}

impl From<tokio_postgres::Error> for PgError {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(db) = error.as_db_error() {
            return Self::Server(Box::new(ServerError {
                sqlstate: db.code().code().to_owned(),
                message: db.message().to_owned(),
                detail: db.detail().map(str::to_owned),
                hint: db.hint().map(str::to_owned),
                context: db.where_().map(str::to_owned),
            }));
        }
        if error.is_closed() {
            return Self::Closed;
        }
        let broken = std::error::Error::source(&error)
            .and_then(|source| source.downcast_ref::<io::Error>())
            .map(|source| io::Error::new(source.kind(), source.to_string()));
        match broken {
            Some(source) => Self::Broken { source },
            None => Self::Driver { source: error },
        }
    }
}

/// An ErrorResponse of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerError {
    /// Five characters.
    pub(crate) sqlstate: String,
    /// The primary message.
    pub(crate) message: String,
    /// More about it. May quote values of a row.
    pub(crate) detail: Option<String>,
    /// What the server suggests.
    pub(crate) hint: Option<String>,
    /// Where: function, COPY line and column.
    pub(crate) context: Option<String>,
}

impl ServerError {
    /// Reads the message leniently: an error in a strange encoding is better told with odd characters than not at all.
    pub(super) fn parse(body: &ErrorResponseBody) -> Self {
        let mut error = Self {
            sqlstate: "XX000".to_owned(),
            message: String::new(),
            detail: None,
            hint: None,
            context: None,
        };
        let mut fields = body.fields();
        while let Ok(Some(field)) = fields.next() {
            let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'C' => error.sqlstate = text,
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                b'H' => error.hint = Some(text),
                b'W' => error.context = Some(text),
                _ => {}
            }
        }
        error
    }

    /// Table, line and column, where it is about what a COPY reads.
    pub(super) fn place_in_copy(&self) -> Option<&str> {
        self.context.as_deref()?.lines().find(|line| line.starts_with("COPY "))
    }
}

/// What a server says with this SQLSTATE.
#[cfg(test)]
pub(crate) fn error_of(sqlstate: &str) -> PgError {
    PgError::Server(Box::new(ServerError {
        sqlstate: sqlstate.to_owned(),
        message: "it did not work".to_owned(),
        detail: None,
        hint: None,
        context: None,
    }))
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, " ({detail})")?;
        }
        Ok(())
    }
}
