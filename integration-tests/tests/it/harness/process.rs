//! Processes are heard, stopped, killed and started again; and they die with their test.

use std::time::Duration;

use nix::sys::signal::Signal;
use pgconvoy_integration_tests::postgres::{Options, Postgres};
use pgconvoy_integration_tests::process::{Process, Program};
use pgconvoy_integration_tests::wait;

const SOON: Duration = Duration::from_secs(20);

fn shell(script: &str) -> Program {
    Program::at("/bin/sh").args(["-c", script])
}

#[tokio::test]
async fn a_program_that_ends_leaves_its_code_its_data_and_its_log() {
    let ended = shell("echo data; echo words >&2; exit 3").run(SOON).await.unwrap();
    assert_eq!(
        (ended.code(), ended.stdout.as_str(), ended.log.as_str()),
        (Some(3), "data\n", "words\n")
    );
    assert!(ended.success().unwrap_err().to_string().contains("words"));
}

#[tokio::test]
async fn a_process_is_killed_and_started_again_and_its_log_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let process =
        Process::start("loop", shell("echo ready $$ >&2; exec sleep 1000"), folder.path()).unwrap();
    let line = process.wait_for_line("ready", SOON).await.unwrap();
    assert_eq!(line, format!("ready {}", process.pid().unwrap()));
    process.kill().unwrap();
    process.start_again().unwrap();
    process.wait_for_line(&format!("ready {}", process.pid().unwrap()), SOON).await.unwrap();
    assert_eq!(process.log().lines().count(), 2);
    let status = process.terminate(Signal::SIGTERM, SOON).await.unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15));
}

#[tokio::test]
async fn a_paused_process_does_nothing_until_it_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let process =
        Process::start("count", shell("while :; do echo x; done"), folder.path()).unwrap();
    process.wait_for_line("x", SOON).await.unwrap();
    process.pause().await.unwrap();
    let before = process.stdout().len();
    assert_eq!(process.stdout().len(), before);
    process.go_on().unwrap();
    wait::until(SOON, "more lines", async || match process.stdout().len() {
        now if now > before => Ok(()),
        now => Err(format!("{now} bytes")),
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_process_that_ends_early_fails_the_wait_with_its_last_words() {
    let folder = tempfile::tempdir().unwrap();
    let process =
        Process::start("brief", shell("echo no licence >&2; exit 2"), folder.path()).unwrap();
    let error = process.wait_for_line("listening", SOON).await.unwrap_err().to_string();
    assert!(error.contains("exit status: 2") && error.contains("no licence"), "{error}");
}

/// Not a test by itself: the other life of this program in the next one, which kills it.
#[tokio::test]
#[ignore = "started by a_killed_test_leaves_nothing"]
async fn starts_a_server_and_hangs() {
    let server = Postgres::start(Options::default()).await.unwrap();
    eprintln!("port {} in {}", server.port(), server.socket().display());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_killed_test_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::at(std::env::current_exe().unwrap()).args([
        "--ignored",
        "--exact",
        "--nocapture",
        "harness::process::starts_a_server_and_hangs",
    ]);
    let test = Process::start("test", program, folder.path()).unwrap();
    let line = test.wait_for_line("port ", Duration::from_secs(60)).await.unwrap();
    let (port, socket) = line.split_once("port ").unwrap().1.split_once(" in ").unwrap();
    test.kill().unwrap();
    wait::until(SOON, "the server to go", async || {
        match tokio::net::TcpStream::connect(format!("127.0.0.1:{port}")).await {
            Ok(_) => Err("it takes connections"),
            Err(_) => Ok(()),
        }
    })
    .await
    .unwrap();
    // Its folder goes with the next server that anybody starts, once its last process let go of it.
    wait::until(Duration::from_secs(60), "the folder to go", async || {
        drop(Postgres::start(Options::default()).await);
        if std::path::Path::new(socket).exists() { Err(socket) } else { Ok(()) }
    })
    .await
    .unwrap();
}
