use std::process::Command;

use pgconvoy_runtime::telemetry::{self, Format, TelemetryConfig, TelemetryError};
use tracing::{error, info, info_span};

/// Passwords that `says_secrets` tries to log, each by another way.
const REGISTERED: &str = "hunter2/regi\"stered";
const IN_URL: &str = "hunter2-in-url";
const IN_FIELD: &str = "hunter2-in-field";

fn config(format: Format, filter: &str, colour: bool) -> TelemetryConfig {
    TelemetryConfig { format, filter: filter.to_owned(), colour }
}

/// Run in a process of its own by the test below it: stderr belongs to the process.
#[test]
#[ignore = "a part of `no_password_leaves_the_process_by_its_log`"]
fn says_secrets() {
    let format = match std::env::var("SAYS_SECRETS_AS").as_deref() {
        Ok("json") => Format::Json,
        _ => Format::Plain,
    };
    telemetry::init(&config(format, "debug", format == Format::Plain)).unwrap();
    telemetry::register_secret(REGISTERED);
    let span = info_span!("connect", url = %format!("postgres://u:{IN_URL}@h/d"));
    let _entered = span.enter();
    info!(password = IN_FIELD, "field");
    error!("message with {REGISTERED}");
    error!(config = ?("debug", REGISTERED), "debug text");
    panic!("a panic with {REGISTERED} and password={IN_FIELD}");
}

#[test]
fn no_password_leaves_the_process_by_its_log() {
    for format in ["plain", "json"] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture", "telemetry::says_secrets"])
            .env("SAYS_SECRETS_AS", format)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        for expected in ["field", "message with ***", "debug text", "a panic with ***"] {
            assert!(said.contains(expected), "{format}: no {expected:?} in\n{said}");
        }
        assert!(!said.contains("hunter2"), "{format}:\n{said}");
    }
}

#[test]
fn setting_logging_up_twice_is_no_fault() {
    telemetry::init(&config(Format::Plain, "warn", false)).unwrap();
    telemetry::init(&config(Format::Json, "info", false)).unwrap();
}

#[test]
fn a_filter_that_is_not_valid_is_refused() {
    let refused = telemetry::init(&config(Format::Plain, "pgconvoy=loud", false)).unwrap_err();
    let TelemetryError::Filter { filter, .. } = refused;
    assert_eq!(filter, "pgconvoy=loud");
}
