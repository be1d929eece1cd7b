//! What people and programs read: data on stdout, everything else on stderr.

pub(crate) mod human;
pub(crate) mod progress;
pub(crate) mod table;

use std::io::{self, Write};

use pgconvoy_runtime::telemetry::redact;
use serde::Serialize;

use crate::exit::Exit;
use crate::problem::Problem;

/// How data is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    // For people.
    Table,
    // For programs; keys are stable.
    Json,
}

/// Writes data, as JSON or in the words of `table`.
pub(crate) fn data<T: Serialize>(
    format: Format,
    value: &T,
    table: impl FnOnce(&T) -> String,
) -> Result<(), Problem> {
    match format {
        Format::Table => line(&table(value)),
        Format::Json => json(value),
    }
}

/// Writes one JSON document on a line of its own.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<(), Problem> {
    write(&serde_json::to_string(value).expect("our views have text keys and plain values"))
}

/// Writes a text for people to stdout, with one line end.
pub(crate) fn line(text: &str) -> Result<(), Problem> {
    write(&human::printable(text))
}

fn write(text: &str) -> Result<(), Problem> {
    let mut stdout = io::stdout().lock();
    // A reader that has seen enough (`| head`) is no failure, but there is nothing left to do either.
    writeln!(stdout, "{}", text.trim_end())
        .and_then(|()| stdout.flush())
        .map_err(|_| Problem::Told(Exit::Done))
}

/// Writes a remark for people to stderr.
pub(crate) fn note(text: &str) {
    // Nobody reads stderr: nothing better can be done about it.
    let _unread = writeln!(io::stderr().lock(), "{}", human::printable(&redact(text)));
}
