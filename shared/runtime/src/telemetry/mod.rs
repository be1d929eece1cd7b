//! What a process says about itself on stderr, and what it never says.
//!
//! Every line passes through [`redact()`] after it was formatted, so that no field, span, error or
//! panic message can bring a password out, whoever logged it.

mod redact;

use std::error::Error;
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::sync::Once;

use tracing::error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

pub use redact::{redact, register_secret};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One line an event, for people.
    #[default]
    Plain,
    /// One JSON object an event, for machines.
    Json,
}

/// What is logged, and how.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    pub format: Format,
    /// Directives such as `info` or `warn,pgconvoy_agent=debug`.
    pub filter: String,
    /// Colours: sensible only where stderr is a terminal.
    pub colour: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("log filter `{filter}` is not valid; write a level, or `level,target=level,…`")]
    Filter {
        filter: String,
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
}

/// Sets up logging and panic messages. A second call in one process changes nothing.
pub fn init(config: &TelemetryConfig) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(&config.filter)
        .map_err(|source| TelemetryError::Filter { filter: config.filter.clone(), source })?;
    // Fails only when a subscriber is set already: in tests, where the first one serves all.
    let _already_set = match config.format {
        Format::Plain => tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(config.colour)
            .with_writer(RedactedStderr)
            .finish()
            .try_init(),
        Format::Json => tracing_subscriber::fmt()
            .json()
            .with_env_filter(filter)
            .with_writer(RedactedStderr)
            .finish()
            .try_init(),
    };
    log_panics();
    Ok(())
}

/// An error with its causes in one line. Messages do not repeat their source, so nothing is said
/// twice.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Panic messages go through the log: the standard hook would print them past the redaction.
fn log_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(log_panic)));
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("no message");
    let backtrace = std::backtrace::Backtrace::capture();
    let backtrace = match backtrace.status() {
        std::backtrace::BacktraceStatus::Captured => format!("\n{backtrace}"),
        _ => String::new(),
    };
    match panic.location() {
        Some(location) => error!("panicked at {location}: {message}{backtrace}"),
        None => error!("panicked: {message}{backtrace}"),
    }
}

/// Stderr behind [`redact()`]. The subscriber hands over one whole line a write, so a secret is
/// never cut in two.
struct RedactedStderr;

impl<'a> MakeWriter<'a> for RedactedStderr {
    type Writer = RedactedLine;

    fn make_writer(&'a self) -> RedactedLine {
        RedactedLine
    }
}

struct RedactedLine;

impl Write for RedactedLine {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        io::stderr().lock().write_all(redact(&text).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
