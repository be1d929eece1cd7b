//! How a session with a database begins: what it is called, what it fixes, how long it may take.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use pgconvoy_shared::endpoint::{Endpoint, Side};
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::secret::Secret;

use super::error::PgError;
use super::transport::{Attempt, Patience, Transport, Way};

/// Longer than three lost SYNs (1 + 2 + 4 s), for `connect_timeout=0`.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// And to reach an agent that connects for us, and another one after it.
const RELAY_LIMIT: Duration = Duration::from_secs(10);

/// SQLSTATE of a login that the server's access rules refuse: there may be a rule for the other kind of connection.
const LOGIN_REFUSED: &str = "28000";

/// What fixes how values look and what rows are seen, in every session, over whatever role and database say. All of it
/// exists since PostgreSQL 13.
const SETTINGS: [(&str, &str); 20] = [
    ("DateStyle", "ISO,MDY"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    ("xmloption", "content"),
    // Without it NULL in an array that is read as text would be a word.
    ("array_nulls", "on"),
    ("standard_conforming_strings", "on"),
    // With it `= null` in a statement of the schema would come out as `is null`.
    ("transform_null_equals", "off"),
    ("search_path", ""),
    // A policy that hides rows makes reading fail instead.
    ("row_security", "off"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("default_transaction_isolation", "read\\ committed"),
    // A default cannot stop us from writing: the source may be one that a cutover has fenced.
    ("default_transaction_read_only", "off"),
    ("jit", "off"),
    // The server notices within a minute that an agent's machine is gone.
    ("tcp_keepalives_idle", "30"),
    ("tcp_keepalives_interval", "10"),
];

/// At the destination, besides: what is reported as done is durable (law O6).
const DESTINATION_SETTINGS: [(&str, &str); 1] = [("synchronous_commit", "on")];

/// One of a task's databases, with all that is needed to connect. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Access {
    inner: Arc<Inner>,
}

#[derive(Clone)]
struct Inner {
    side: Side,
    endpoint: Endpoint,
    way: Way,
    password: Option<Secret>,
    application_name: String,
    read_only: bool,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Access({self})")
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.inner.side, self.inner.endpoint)
    }
}

impl Access {
    /// Sessions with `endpoint`, reached from here, that call themselves `application_name`.
    pub(crate) fn new(
        side: Side,
        endpoint: &Endpoint,
        password: Option<&Secret>,
        application_name: String,
    ) -> Self {
        let endpoint = endpoint.clone();
        let password = password.cloned();
        let (way, read_only) = (Way::Direct, false);
        let inner = Inner { side, endpoint, way, password, application_name, read_only };
        Self { inner: Arc::new(inner) }
    }

    /// The same database, reached that way.
    pub(crate) fn by(mut self, way: Way) -> Self {
        Arc::make_mut(&mut self.inner).way = way;
        self
    }

    /// The same for sessions that never write: the server itself sees to that.
    pub(crate) fn read_only(mut self) -> Self {
        Arc::make_mut(&mut self.inner).read_only = true;
        self
    }

    /// The same database under another name.
    pub(crate) fn named(&self, application_name: String) -> Self {
        let mut named = self.clone();
        Arc::make_mut(&mut named.inner).application_name = application_name;
        named
    }

    /// Whether a session of the other's is one of ours but for its name.
    pub(super) fn is_same_login(&self, other: &Self) -> bool {
        let (one, other) = (&*self.inner, &*other.inner);
        one.side == other.side
            && one.read_only == other.read_only
            && one.endpoint == other.endpoint
            && one.password == other.password
    }

    /// Where it is.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.inner.endpoint
    }

    /// What its sessions are called.
    pub(crate) fn application_name(&self) -> &str {
        &self.inner.application_name
    }

    pub(crate) fn password(&self) -> Option<&Secret> {
        self.inner.password.as_ref()
    }

    /// An error met here, as the leader is told it.
    pub(crate) fn failure(&self, error: &PgError) -> Failure {
        error.failure(self.to_string())
    }

    /// The `options` of the startup message: the URL's settings, then ours, which win.
    pub(super) fn startup_options(&self) -> String {
        let asked = self.inner.endpoint.settings.iter();
        let asked = asked.map(|(name, value)| (name.as_str(), escaped(value)));
        let fixed = SETTINGS.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let more: &[(&str, &str)] = match self.inner.side {
            Side::Source => &[],
            Side::Destination => &DESTINATION_SETTINGS,
        };
        let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let read_only = self.inner.read_only;
        let last = read_only.then(|| ("default_transaction_read_only", "on".to_owned()));
        let all: Vec<String> = asked
            .chain(fixed)
            .chain(more)
            .chain(last)
            .map(|(name, value)| format!("-c {name}={value}"))
            .collect();
        all.join(" ")
    }

    /// Connects as `sslmode` says and lets `login` go on from there.
    pub(super) async fn connect<T, F>(
        &self,
        patience: Patience,
        login: impl Fn(Transport) -> F,
    ) -> Result<T, PgError>
    where
        F: Future<Output = Result<T, PgError>>,
    {
        let attempts = Attempt::of(self.endpoint());
        let mut refused = None;
        for (no, attempt) in attempts.iter().enumerate() {
            let outcome = self.limited(async {
                let transport =
                    Transport::open(self.endpoint(), &self.inner.way, *attempt, patience).await?;
                login(transport).await
            });
            match (outcome.await, refused.take()) {
                (Err(error), _) if no + 1 < attempts.len() && other_kind_may_do(&error) => {
                    refused = Some(error);
                }
                // The first refusal tells more than that the second kind is not to be had.
                (Err(PgError::TlsNotOffered { .. }), Some(first)) => return Err(first),
                (outcome, _) => return outcome,
            }
        }
        unreachable!("there is a last attempt, and it returns")
    }

    /// The kind of connection that a login succeeds on. Where `sslmode` allows several, that is found by one.
    pub(crate) async fn proven(&self) -> Result<Attempt, PgError> {
        if let [only] = Attempt::of(self.endpoint()) {
            return Ok(*only);
        }
        let wire = self.reader().await?;
        let attempt = if wire.is_encrypted() { Attempt::Tls } else { Attempt::Plain };
        wire.close().await;
        Ok(attempt)
    }

    /// A connection on which somebody else logs in.
    pub(super) async fn unnamed(&self, attempt: Attempt) -> Result<Transport, PgError> {
        self.limited(Transport::open(self.endpoint(), &self.inner.way, attempt, Patience::Short))
            .await
    }

    /// Whether it is reached through an agent of another site.
    pub(crate) fn is_relayed(&self) -> bool {
        matches!(self.inner.way, Way::Relayed { .. })
    }

    /// Connects for a request to cancel: a message of its own kind, no login.
    pub(super) async fn connect_to_cancel(&self) -> Result<Transport, PgError> {
        self.connect(Patience::Short, |transport| async { Ok(transport) }).await
    }

    async fn limited<T>(
        &self,
        work: impl Future<Output = Result<T, PgError>>,
    ) -> Result<T, PgError> {
        let limit = match self.inner.way {
            Way::Direct => connect_limit(self.endpoint()),
            Way::Relayed { .. } => connect_limit(self.endpoint()) + RELAY_LIMIT,
        };
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
            Err(PgError::ConnectTimeout {
                endpoint: self.endpoint().to_string(),
                secs: limit.as_secs(),
            })
        })
    }
}

/// How long connecting may take.
pub(crate) fn connect_limit(endpoint: &Endpoint) -> Duration {
    match endpoint.connect_timeout_secs {
        0 => CONNECT_LIMIT,
        secs => Duration::from_secs(secs.into()),
    }
}

fn other_kind_may_do(error: &PgError) -> bool {
    match error {
        PgError::TlsHandshake { .. } | PgError::HandshakeAtPartner(_) => true,
        error => error.sqlstate() == Some(LOGIN_REFUSED),
    }
}

/// In `options`, blanks separate and backslashes escape.
fn escaped(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for character in value.chars() {
        if character == '\\' || character.is_ascii_whitespace() {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// Settings that younger servers have and older ones refuse.
pub(super) fn later_settings(major: u32) -> &'static str {
    match major {
        0..=13 => "",
        14..=16 => "set idle_session_timeout = 0",
        _ => "set idle_session_timeout = 0; set transaction_timeout = 0",
    }
}

/// The major out of `server_version`: `15.20 (Debian …)`, `18beta1`.
pub(super) fn major_of(server_version: &str) -> Option<u32> {
    let digits = server_version.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_settings_come_after_those_of_the_url_and_values_are_escaped() {
        let endpoint = Endpoint {
            host: "db".into(),
            port: 5432,
            database: "shop".into(),
            user: "mover".into(),
            sslmode: Default::default(),
            sslrootcert: None,
            sslcert: None,
            sslkey: None,
            connect_timeout_secs: 0,
            settings: [("search_path".to_owned(), "a b\\c".to_owned())].into(),
            site: None,
        };
        let options =
            Access::new(Side::Source, &endpoint, None, "test".to_owned()).startup_options();
        assert!(
            options.starts_with("-c search_path=a\\ b\\\\c -c DateStyle=ISO,MDY "),
            "{options}"
        );
        assert!(options.contains(" -c search_path= "), "{options}");
        assert!(!options.contains("synchronous_commit"), "{options}");
    }

    #[test]
    fn majors_are_read_from_any_form() {
        assert_eq!(major_of("15.20 (Debian 15.20-0+deb12u1)"), Some(15));
        assert_eq!(major_of("18beta1"), Some(18));
        assert_eq!(major_of("unknown"), None);
    }
}
