//! libpq's connection strings: `postgres://…` URLs and `key=value` texts, with libpq's names and meanings.
//!
//! What libpq knows and we do not do is refused by name; what makes no difference here is taken and told. No message
//! repeats the text: it may hold a password.

use std::collections::BTreeMap;

use super::problem::SpecProblem;
use crate::endpoint::{Endpoint, SslMode};
use crate::secret::Secret;

const PORT_DEFAULT: u16 = 5432;
const REMEDY: &str = "write postgres://USER@HOST:PORT/DATABASE; anything but letters, digits, -._~ in a part is \
                      percent-encoded, such as %40 for @";
const HARMLESS: &[&str] = &[
    "application_name",
    "fallback_application_name",
    "client_encoding",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "sslsni",
    "sslcompression",
    "load_balance_hosts",
];
/// Harmless with these values only.
const HARMLESS_VALUES: &[(&str, &[&str])] = &[
    ("channel_binding", &["prefer", "disable"]),
    ("gssencmode", &["prefer", "disable"]),
    ("target_session_attrs", &["any", "read-write", "primary"]),
    ("sslnegotiation", &["postgres"]),
    ("ssl_min_protocol_version", &["TLSv1", "TLSv1.1", "TLSv1.2"]),
    ("sslcertmode", &["allow"]),
];
const KNOWN_TO_LIBPQ: &[&str] = &[
    "gssdelegation",
    "gsslib",
    "hostaddr",
    "krbsrvname",
    "max_protocol_version",
    "min_protocol_version",
    "passfile",
    "replication",
    "require_auth",
    "requirepeer",
    "requiressl",
    "scram_client_key",
    "scram_server_key",
    "service",
    "ssl_max_protocol_version",
    "sslcrl",
    "sslcrldir",
    "sslkeylogfile",
    "sslpassword",
];

/// What a connection string says; what it leaves out is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conninfo {
    host: Option<String>,
    port: Option<u16>,
    database: Option<String>,
    user: Option<String>,
    /// Where the text holds one.
    pub password: Option<Secret>,
    sslmode: Option<SslMode>,
    sslrootcert: Option<String>,
    sslcert: Option<String>,
    sslkey: Option<String>,
    connect_timeout_secs: u32,
    settings: BTreeMap<String, String>,
    /// Parameters that make no difference here, for people.
    pub notices: Vec<String>,
}

/// Why a text is no connection string that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BadConninfo {
    pub code: &'static str,
    pub message: String,
    pub remedy: String,
}

impl BadConninfo {
    fn new(message: impl Into<String>) -> Self {
        Self { code: "bad_url", message: message.into(), remedy: REMEDY.into() }
    }

    fn with_remedy(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { code: "bad_url", message: message.into(), remedy: remedy.into() }
    }

    fn not_yet(what: impl Into<String>, remedy: &str) -> Self {
        Self { code: "not_supported_yet", message: what.into(), remedy: remedy.into() }
    }

    pub(super) fn of(self, key: impl Into<String>) -> SpecProblem {
        SpecProblem::new(self.code, key, self.message, self.remedy)
    }
}

type Result<T> = std::result::Result<T, BadConninfo>;

impl Conninfo {
    /// Reads either form.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let mut read = Self::default();
        match ["postgres://", "postgresql://"].iter().find_map(|begin| text.strip_prefix(begin)) {
            Some(rest) => read.url(rest)?,
            None if text.contains('=') && !text.contains("://") => read.pairs(text)?,
            None => return Err(BadConninfo::new("this is no PostgreSQL URL")),
        }
        if read.sslcert.is_some() != read.sslkey.is_some() {
            return Err(BadConninfo::with_remedy(
                "sslcert and sslkey belong together, and one is missing",
                "give both, or neither",
            ));
        }
        Ok(read)
    }

    /// The database, where it is named.
    pub(super) fn database(&self) -> Option<&str> {
        self.database.as_deref()
    }

    /// The endpoint, where nothing is missing that we will not guess.
    pub fn endpoint(self, site: Option<String>) -> Result<Endpoint> {
        let missing = |what: &str| {
            BadConninfo::with_remedy(
                format!("the {what} is missing, and is not guessed: agents may run on any machine"),
                "write postgres://USER@HOST:PORT/DATABASE",
            )
        };
        let given = |value: Option<String>, what| {
            value.filter(|v| !v.is_empty()).ok_or_else(|| missing(what))
        };
        Ok(Endpoint {
            host: given(self.host, "host")?,
            port: self.port.unwrap_or(PORT_DEFAULT),
            database: given(self.database, "database")?,
            user: given(self.user, "user")?,
            sslmode: self.sslmode.unwrap_or_default(),
            sslrootcert: self.sslrootcert,
            sslcert: self.sslcert,
            sslkey: self.sslkey,
            connect_timeout_secs: self.connect_timeout_secs,
            settings: self.settings,
            site,
        })
    }

    /// What stands after `postgres://`.
    fn url(&mut self, text: &str) -> Result<()> {
        let (text, query) = text.split_once('?').unwrap_or((text, ""));
        let (authority, path) = match text.split_once('/') {
            Some((authority, path)) => (authority, Some(path)),
            None => (text, None),
        };
        let address = match authority.split_once('@') {
            Some((login, address)) => {
                let (user, password) = login.split_once(':').unwrap_or((login, ""));
                self.set_part("user", user)?;
                self.set_part("password", password)?;
                address
            }
            None => authority,
        };
        if address.contains('@') {
            return Err(BadConninfo::new("there is more than one @ before the host"));
        }
        let (host, port) = host_and_port(address)?;
        self.set_part("host", host)?;
        self.set_part("port", port)?;
        self.set_part("dbname", path.unwrap_or_default())?;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or_else(|| {
                BadConninfo::new(
                    "a parameter after the ? has no value, or holds an unencoded character",
                )
            })?;
            let name = percent_decoded(name)?;
            let value = percent_decoded(value)?;
            match (name.as_str(), value.as_str()) {
                // JDBC's spelling, which libpq takes too.
                ("ssl", "true") => self.set("sslmode", "require")?,
                (name, value) => self.set(name, value)?,
            }
        }
        Ok(())
    }

    /// A part of the URL; an empty one says nothing.
    fn set_part(&mut self, name: &str, encoded: &str) -> Result<()> {
        if encoded.is_empty() { Ok(()) } else { self.set(name, &percent_decoded(encoded)?) }
    }

    /// `key=value key2='quoted \' value'`.
    fn pairs(&mut self, text: &str) -> Result<()> {
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let (name, after) = rest
                .split_once('=')
                .ok_or_else(|| BadConninfo::new("a word without = stands among key=value"))?;
            let name = name.trim_end();
            if name.is_empty() || name.contains(char::is_whitespace) {
                return Err(BadConninfo::new("a word without = stands among key=value"));
            }
            let (value, after) = pair_value(after.trim_start())?;
            self.set(name, &value)?;
            rest = after.trim_start();
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        if value.contains('\0') || name.contains('\0') {
            return Err(BadConninfo::new("it holds a zero byte"));
        }
        let text = || Some(value.to_owned());
        match name {
            "host" | "port" if value.contains(',') => {
                return Err(BadConninfo::not_yet(
                    "several hosts in one URL cannot be used: a task must know which server it reads",
                    "name the one server that is the primary",
                ));
            }
            "host" if value.contains(['@', ' ', '?', '#']) => {
                return Err(BadConninfo::new("the host holds a character that no host name has"));
            }
            "host" => self.host = text(),
            "port" => {
                self.port =
                    Some(value.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
                        BadConninfo::new("the port is no number from 1 to 65535")
                    })?);
            }
            "dbname" | "user" if value.is_empty() => {}
            "dbname" => self.database = text(),
            "user" => self.user = text(),
            "password" => self.password = Some(Secret::new(value)),
            "sslmode" => self.sslmode = Some(sslmode(value)?),
            "sslrootcert" => self.sslrootcert = text(),
            "sslcert" => self.sslcert = text(),
            "sslkey" => self.sslkey = text(),
            "connect_timeout" => {
                let secs: i32 = value.parse().map_err(|_| {
                    BadConninfo::new("connect_timeout is no whole number of seconds")
                })?;
                self.connect_timeout_secs = u32::try_from(secs).unwrap_or(0);
            }
            "options" => self.settings.append(&mut settings(value)?),
            _ => return self.without_meaning(name, value),
        }
        Ok(())
    }

    fn without_meaning(&mut self, name: &str, value: &str) -> Result<()> {
        let harmless = HARMLESS.contains(&name)
            || HARMLESS_VALUES
                .iter()
                .any(|(known, values)| *known == name && values.contains(&value));
        if harmless {
            self.notices.push(format!("`{name}` makes no difference here: pgconvoy sets its own"));
            return Ok(());
        }
        if KNOWN_TO_LIBPQ.contains(&name) || HARMLESS_VALUES.iter().any(|(known, _)| *known == name)
        {
            return Err(BadConninfo::not_yet(
                format!("the parameter `{name}` with this value cannot be used by this version"),
                "leave it out",
            ));
        }
        let name: String = name.chars().take(40).collect();
        Err(BadConninfo::with_remedy(
            format!("`{name}` is no parameter of a PostgreSQL URL"),
            "usable are host, port, dbname, user, password, sslmode, sslrootcert, sslcert, sslkey, connect_timeout \
             and options",
        ))
    }
}

fn host_and_port(address: &str) -> Result<(&str, &str)> {
    if let Some(rest) = address.strip_prefix('[') {
        let (host, after) = rest
            .split_once(']')
            .ok_or_else(|| BadConninfo::new("the [ of an IPv6 address is not closed"))?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, port)),
            None if after.is_empty() => Ok((host, "")),
            None => Err(BadConninfo::new("something stands between ] and the port")),
        };
    }
    let (host, port) = address.split_once(':').unwrap_or((address, ""));
    if port.contains(':') && !address.contains(',') {
        return Err(BadConninfo::new("an IPv6 address stands without its [ ]"));
    }
    Ok((host, port))
}

fn sslmode(value: &str) -> Result<SslMode> {
    Ok(match value {
        "disable" => SslMode::Disable,
        "allow" => SslMode::Allow,
        "prefer" => SslMode::Prefer,
        "require" => SslMode::Require,
        "verify-ca" => SslMode::VerifyCa,
        "verify-full" => SslMode::VerifyFull,
        _ => {
            return Err(BadConninfo::with_remedy(
                "this sslmode does not exist",
                "write disable, allow, prefer, require, verify-ca or verify-full",
            ));
        }
    })
}

/// The run-time settings of `options`: `-c name=value`, `-cname=value` and `--name=value`; a backslash takes the next
/// character literally.
fn settings(options: &str) -> Result<BTreeMap<String, String>> {
    let bad = || {
        BadConninfo::with_remedy(
            "`options` holds something else than settings",
            "write -c name=value, each separated by a space (%20 in a URL)",
        )
    };
    let mut settings = BTreeMap::new();
    let mut words = words(options).into_iter();
    while let Some(word) = words.next() {
        let setting = if word == "-c" {
            words.next().ok_or_else(bad)?
        } else {
            let rest = word.strip_prefix("--").or_else(|| word.strip_prefix("-c"));
            rest.ok_or_else(bad)?.to_owned()
        };
        let (name, value) = setting.split_once('=').ok_or_else(bad)?;
        let name = name.replace('-', "_");
        if !is_setting_name(&name) {
            return Err(bad());
        }
        settings.insert(name, value.to_owned());
    }
    Ok(settings)
}

/// Whether a text can be the name of a run-time setting: `work_mem`, `my.setting`.
pub(super) fn is_setting_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.')
}

fn words(text: &str) -> Vec<String> {
    let mut words = vec![];
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => word.get_or_insert_default().extend(chars.next()),
            char if char.is_ascii_whitespace() => words.extend(word.take()),
            char => word.get_or_insert_default().push(char),
        }
    }
    words.extend(word);
    words
}

/// The value at the beginning of `text`, and what follows it.
fn pair_value(text: &str) -> Result<(String, &str)> {
    let quoted = text.starts_with('\'');
    let mut chars = text.chars();
    if quoted {
        chars.next();
    }
    let mut value = String::new();
    while let Some(char) = chars.next() {
        match char {
            '\\' => value.extend(chars.next()),
            '\'' if quoted => return Ok((value, chars.as_str())),
            char if !quoted && char.is_whitespace() => return Ok((value, chars.as_str())),
            char => value.push(char),
        }
    }
    if quoted { Err(BadConninfo::new("a quote is not closed")) } else { Ok((value, "")) }
}

fn percent_decoded(text: &str) -> Result<String> {
    let bad = || BadConninfo::new("a % is not followed by two hexadecimal digits");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit =
            || rest.next().and_then(|byte| char::from(byte).to_digit(16)).ok_or_else(bad);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| bad())?);
    }
    String::from_utf8(bytes).map_err(|_| BadConninfo::new("what is percent-encoded is no UTF-8"))
}

#[cfg(test)]
mod tests;
