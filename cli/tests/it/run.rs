//! Runs the binary to its end.

use std::process::{Command, Stdio};

/// What a run left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) exit: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The binary, away from the variables of whoever runs the tests.
pub(crate) fn pgconvoy(arguments: &[&str]) -> Ran {
    run(Command::new(env!("CARGO_BIN_EXE_pgconvoy")).args(arguments))
}

pub(crate) fn run(command: &mut Command) -> Ran {
    let ours = std::env::vars_os().map(|(name, _)| name).filter(|name| {
        let name = name.to_string_lossy();
        name.starts_with("PG") || name == "RUST_LOG"
    });
    for name in ours {
        command.env_remove(name);
    }
    let output = command.stdin(Stdio::null()).output().expect("the binary was built for this test");
    Ran {
        exit: output.status.code().expect("it ended by itself"),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}
