//! Logs are part of a test's result: an error or a warning that the test did not expect fails it, and so does a
//! password.

use std::fmt;

/// What a test expects of a process's log.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    allowed: Vec<String>,
    secrets: Vec<String>,
}

/// Lines that should not be there.
#[derive(Debug, PartialEq, Eq)]
pub struct Findings(Vec<String>);

impl Expected {
    /// Nothing allowed, no secret known.
    pub fn nothing() -> Self {
        Expected::default()
    }

    /// Lines that hold this text may be warnings or errors.
    pub fn allow(mut self, text: &str) -> Self {
        self.allowed.push(text.to_owned());
        self
    }

    /// A text that may stand in no line.
    pub fn secret(mut self, text: &str) -> Self {
        self.secrets.push(text.to_owned());
        self
    }

    /// Looks through a log.
    pub fn check(&self, log: &str) -> Result<(), Findings> {
        let bad = log.lines().map(plain).filter_map(|line| self.judge(&line)).collect::<Vec<_>>();
        if bad.is_empty() { Ok(()) } else { Err(Findings(bad)) }
    }

    fn judge(&self, line: &str) -> Option<String> {
        if let Some(secret) = self.secrets.iter().find(|secret| line.contains(secret.as_str())) {
            return Some(format!("a secret is shown: {}", line.replace(secret, "<secret>")));
        }
        let bad = is_loud(line) && !self.allowed.iter().any(|text| line.contains(text.as_str()));
        bad.then(|| line.to_owned())
    }
}

/// A warning, an error or a panic, in the plain or the JSON form of the log.
fn is_loud(line: &str) -> bool {
    line.contains("panicked at")
        || line.contains("\"level\":\"ERROR\"")
        || line.contains("\"level\":\"WARN\"")
        // The level is the second word, after the time.
        || line.split_whitespace().nth(1).is_some_and(|level| level == "ERROR" || level == "WARN")
}

/// A line without the terminal's colours.
fn plain(line: &str) -> String {
    let mut parts = line.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |mut plain, part| {
        plain.push_str(part.split_once('m').map_or(part, |(_, rest)| rest));
        plain
    })
}

impl fmt::Display for Findings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{} lines of the log were not expected:", self.0.len())?;
        self.0.iter().try_for_each(|line| writeln!(out, "  {line}"))
    }
}

impl std::error::Error for Findings {}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:00Z  INFO node: an ERROR in a word of the text\n\
                       2026-01-01T00:00:01Z  WARN node: peer 2 does not answer\n";

    #[test]
    fn a_warning_must_be_expected() {
        let found = Expected::nothing().check(LOG).expect_err("a warning is there");
        assert_eq!(found.0.len(), 1);
        Expected::nothing().allow("does not answer").check(LOG).expect("it is allowed");
    }

    #[test]
    fn colours_and_json_hide_nothing() {
        let coloured = "\u{1b}[2m2026-01-01T00:00:00Z\u{1b}[0m \u{1b}[31mERROR\u{1b}[0m x: lost\n";
        assert!(Expected::nothing().check(coloured).is_err());
        assert!(
            Expected::nothing().check(r#"{"timestamp":"…","level":"WARN","fields":{}}"#).is_err()
        );
        assert!(Expected::nothing().check("thread 'main' panicked at src/main.rs:1:1:").is_err());
    }

    #[test]
    fn a_password_is_never_allowed_and_not_shown_again() {
        let expected = Expected::nothing().secret("hunter2").allow("hunter2");
        let found =
            expected.check("t INFO connect: password=hunter2").expect_err("a secret is there");
        assert!(!found.to_string().contains("hunter2"));
    }
}
