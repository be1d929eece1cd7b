use std::future;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgconvoy_runtime::shutdown::Shutdown;
use pgconvoy_runtime::signals::{self, EXIT_INTERRUPTED};

/// Run in a process of its own by the test below it: signals belong to the process.
#[tokio::test]
#[ignore = "a part of `the_first_signal_asks_and_the_second_ends_the_process`"]
async fn hears_signals() {
    let shutdown = Shutdown::new();
    signals::install(&shutdown).unwrap();
    eprintln!("ready");
    shutdown.begun().await;
    eprintln!("{}", shutdown.reason().unwrap());
    future::pending::<()>().await;
}

fn wait_for(line: &str, said: &mut impl BufRead) {
    let mut next = String::new();
    while !next.contains(line) {
        next.clear();
        assert_ne!(said.read_line(&mut next).unwrap(), 0, "ended without saying {line:?}");
    }
}

fn send(signal: Signal, child: &Child) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(pid, signal).unwrap();
}

#[test]
fn the_first_signal_asks_and_the_second_ends_the_process() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "signals::hears_signals"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    wait_for("ready", &mut said);
    send(Signal::SIGTERM, &child);
    wait_for("received SIGTERM", &mut said);
    send(Signal::SIGINT, &child);
    said.read_to_string(&mut String::new()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(EXIT_INTERRUPTED));
}
