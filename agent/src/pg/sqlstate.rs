//! What an error of a server means: the one place where a SQLSTATE becomes a class and a code.
//!
//! *Transient* is what passes when the server, the network or another session is through; *definite* what stays until a
//! person changes something; all else is *other*, tried again for a while. A full disk is *other*: somebody may be
//! freeing space already, and if not, the task stops with that cause and goes on from its checkpoints when told to.
//! Each code has a page in `shared/src/codes`.

use std::io;

use pgconvoy_runtime::telemetry::chain;
use pgconvoy_shared::failure::{Failure, FailureClass};

use super::error::{PgError, ServerError};

/// SQLSTATE that our fence at the destination raises (law O1).
const SUPERSEDED: &str = "PC001";
/// SQLSTATE that it raises for a task whose table went to another one.
const TAKEN_OVER: &str = "PC002";
/// SQLSTATE that a change raises which does not find its rows (law S7).
const ROW_MISSING: &str = "PC003";
/// SQLSTATE of a unique violation.
pub(crate) const UNIQUE_VIOLATION: &str = "23505";

/// SQLSTATE of what the role may not do.
pub(crate) const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// SQLSTATEs of a name that is not found: a function, table, type or schema.
const NAME_NOT_FOUND: [&str; 4] = ["42883", "42P01", "42704", "3F000"];

use FailureClass::{Definite, Other, Transient};

/// Rows are read as the task's snapshot shows them, for as long as it lives.
macro_rules! seen_anew {
    () => {
        " (under copy.snapshot: task only a task that is created anew sees that)"
    };
}

type Meaning = (FailureClass, &'static str, &'static str);

impl PgError {
    /// As the leader is told it; `subject` says what it is about.
    pub(crate) fn failure(&self, subject: impl Into<String>) -> Failure {
        let (class, code, remedy) = match self {
            // It was judged where it was met.
            Self::AtPartner(failure) | Self::HandshakeAtPartner(failure) => {
                return Failure::clone(failure).about(subject);
            }
            met_here => met_here.meaning(),
        };
        let mut failure = Failure::new(class, code, self.text()).about(subject).remedy(remedy);
        failure.sqlstate = self.sqlstate().map(str::to_owned);
        failure
    }

    /// Whether the server did not find a function, table, type or schema, as where a function looks it up by
    /// `search_path`, which is empty in our sessions.
    pub(crate) fn is_name_not_found(&self) -> bool {
        self.sqlstate().is_some_and(|state| NAME_NOT_FOUND.contains(&state))
    }

    fn text(&self) -> String {
        match self {
            Self::Server(error) => {
                let place = error.place_in_copy().map(|place| format!("; {place}"));
                let hint = error.hint.as_ref().map(|hint| format!("; hint: {hint}"));
                format!("{error}{}{}", place.unwrap_or_default(), hint.unwrap_or_default())
            }
            error => chain(error),
        }
    }

    fn meaning(&self) -> Meaning {
        match self {
            Self::Unreachable { .. } | Self::ConnectTimeout { .. } => (
                Transient,
                "unreachable_host",
                "check host and port, that the server runs and listens there, and that no firewall is between",
            ),
            Self::NoPartner { .. } => (
                Transient,
                "no_partner",
                "let agents of that site run, and either dial those of this site or be dialled by them: see --listen",
            ),
            Self::AtPartner(_) | Self::HandshakeAtPartner(_) => (Other, "protocol_violation", ""),
            Self::TlsNotOffered { .. } => (
                Definite,
                "tls_not_offered",
                "set up TLS on the server (ssl = on), or choose a weaker sslmode",
            ),
            Self::TlsHandshake { source, .. } => handshake(source),
            Self::TlsFile { .. } | Self::TlsHost { .. } | Self::TlsSettings { .. } => (
                Definite,
                "tls_settings",
                "correct sslmode, sslrootcert, sslcert or sslkey; files are read on the agent's machine",
            ),
            Self::PasswordMissing => {
                (Definite, "password_missing", "give the role's password in the task")
            }
            Self::AuthenticationMethod { .. } => (
                Definite,
                "authentication_method",
                "let the role in by scram-sha-256, md5, password, cert or trust in pg_hba.conf",
            ),
            Self::ServerNotProven { .. } => (
                Definite,
                "server_not_proven",
                "find out what answers at this address: it is not the server that holds this role",
            ),
            Self::Server(error) => server(error),
            Self::Broken { .. } | Self::Closed => (Transient, "connection_lost", ""),
            Self::Protocol { .. } | Self::Driver { .. } => (Other, "protocol_violation", ""),
        }
    }
}

/// A certificate that is refused stays refused; a handshake that broke off may have met a restart.
fn handshake(error: &io::Error) -> Meaning {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(_)) => (
            Definite,
            "server_certificate_refused",
            "give the authority that signed the server's certificate as sslrootcert, and with verify-full \
             the host name that the certificate is for",
        ),
        Some(rustls::Error::AlertReceived(_)) => (
            Definite,
            "client_certificate_refused",
            "give a client certificate (sslcert, sslkey) that the server's authority signed",
        ),
        _ => (Transient, "tls_handshake_failed", ""),
    }
}

fn server(error: &ServerError) -> Meaning {
    match error.sqlstate.as_str() {
        "28P01" => (Definite, "wrong_password", "correct the password, or the role's name"),
        "28000" => (
            Definite,
            "login_refused",
            "add an entry for role, database, address and kind of connection to pg_hba.conf, or let the role log in",
        ),
        "3D000" | "57P04" => {
            (Definite, "no_such_database", "correct the database's name, or create it")
        }
        INSUFFICIENT_PRIVILEGE => {
            (Definite, "missing_privilege", "grant what the message names to the role")
        }
        "42P01" => (
            Definite,
            "undefined_table",
            "if it was renamed, rename it back and resume the task; else cancel the task and create one without the table",
        ),
        "3F000" => (Definite, "undefined_schema", "create the schema at the destination"),
        "42703" => (
            Definite,
            "undefined_column",
            "make the table's columns equal on both sides, then resume the task",
        ),
        UNIQUE_VIOLATION => (
            Definite,
            "unique_violation",
            "empty the table at the destination, or drop the index until the copy is done",
        ),
        SUPERSEDED => (Other, "superseded", ""),
        TAKEN_OVER => (
            Definite,
            "table_of_another_task",
            "cancel this task, and create it again without the table",
        ),
        ROW_MISSING => (
            Definite,
            "row_missing",
            "give the destination the row that the source had before the change",
        ),
        "53100" => {
            (Other, "disk_full", "free or add space on the server named, then resume the task")
        }
        "53200" => {
            (Other, "server_out_of_memory", "lower copy.jobs, or give the server more memory")
        }
        "53300" => (Transient, "too_many_connections", "lower copy.jobs, or raise max_connections"),
        "57P01" | "57P02" | "57P03" => (Transient, "server_restarting", ""),
        "57014" => (Transient, "statement_cancelled", ""),
        "25P03" | "25P04" | "57P05" => (Transient, "connection_lost", ""),
        "25006" => (
            Other,
            "server_read_only",
            "connect to the primary, not to a standby; after a failover, check the address",
        ),
        "40P01" => (Transient, "deadlock", ""),
        "55P03" | "55006" => (Transient, "object_in_use", ""),
        "XX001" | "XX002" => (
            Definite,
            "data_corrupted",
            "the server found damaged data; repair or restore it before migrating",
        ),
        "22021" | "22P05" => (
            Definite,
            "encoding_mismatch",
            concat!(
                "give the destination an encoding that has it, or correct the value at the source",
                seen_anew!()
            ),
        ),
        state => by_class(state),
    }
}

fn by_class(state: &str) -> Meaning {
    match state.get(..2).unwrap_or_default() {
        "08" => (Transient, "connection_lost", ""),
        "40" => (Transient, "serialization_failure", ""),
        "53" => (Other, "server_resources", "give the server what the message says it lacks"),
        "57" => (Transient, "server_restarting", ""),
        "58" => {
            (Other, "server_io_error", "look into the server's log: it met an error of its system")
        }
        "22" => (
            Definite,
            "value_refused",
            concat!(
                "correct the column's type at the destination, or the value at the source",
                seen_anew!()
            ),
        ),
        "23" => (
            Definite,
            "constraint_violation",
            concat!(
                "drop the constraint at the destination until the copy is done, or correct the rows at the source",
                seen_anew!()
            ),
        ),
        "0A" | "42" | "2B" | "2F" | "38" | "39" | "P0" | "54" => (
            Definite,
            "statement_refused",
            "read the server's message: it says what it does not accept",
        ),
        _ => (Other, "server_error", ""),
    }
}

/// Says what an error is about, on the way to the leader.
pub(crate) trait About<T> {
    /// The failure, about `subject`.
    fn about(self, subject: impl ToString) -> Result<T, Failure>;
}

impl<T> About<T> for Result<T, PgError> {
    fn about(self, subject: impl ToString) -> Result<T, Failure> {
        self.map_err(|error| error.failure(subject.to_string()))
    }
}

impl<T> About<T> for Result<T, tokio_postgres::Error> {
    fn about(self, subject: impl ToString) -> Result<T, Failure> {
        self.map_err(|error| PgError::from(error).failure(subject.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::error_of;

    fn failure(sqlstate: &str) -> Failure {
        error_of(sqlstate).failure("public.t")
    }

    #[test]
    fn a_sqlstate_tells_class_and_code() {
        let told = [
            ("28P01", Definite, "wrong_password"),
            ("40001", Transient, "serialization_failure"),
            ("40P01", Transient, "deadlock"),
            ("53100", Other, "disk_full"),
            ("53300", Transient, "too_many_connections"),
            ("57P01", Transient, "server_restarting"),
            ("08006", Transient, "connection_lost"),
            ("42883", Definite, "statement_refused"),
            ("23503", Definite, "constraint_violation"),
            ("PC001", Other, "superseded"),
            ("PC002", Definite, "table_of_another_task"),
            ("PC003", Definite, "row_missing"),
            ("ZZ999", Other, "server_error"),
            ("", Other, "server_error"),
        ];
        for (sqlstate, class, code) in told {
            let failure = failure(sqlstate);
            assert_eq!((failure.class, failure.code.as_str()), (class, code), "{sqlstate}");
            assert_eq!(failure.sqlstate.as_deref(), Some(sqlstate));
            assert!(pgconvoy_shared::codes::page(code).is_some(), "{code} has no page");
        }
    }

    #[test]
    fn a_refused_row_is_told_with_its_place_in_the_copy() {
        let context = "SQL function \"f\"\nCOPY t, line 7, column d: null input";
        let PgError::Server(mut error) = error_of("23502") else { panic!("a server's") };
        error.context = Some(context.to_owned());
        error.hint = Some("another domain".to_owned());
        let told = PgError::Server(error).failure("public.t");
        let expected =
            "it did not work; COPY t, line 7, column d: null input; hint: another domain";
        assert_eq!(told.message, expected);
    }

    #[test]
    fn a_broken_connection_passes() {
        let source = io::Error::from(io::ErrorKind::ConnectionReset);
        let failure = PgError::Broken { source }.failure("source");
        assert_eq!((failure.class, failure.code.as_str()), (Transient, "connection_lost"));
        assert!(failure.message.contains("reset"), "{failure}");
    }
}
