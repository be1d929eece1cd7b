//! The embedded coordinator, without databases: what can be said before one is reached.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::run::{Ran, pgconvoy};

fn precheck(folder: &Path, format: &str) -> Ran {
    let data_dir = folder.join("data");
    pgconvoy(&[
        "precheck",
        "--source",
        // Nobody listens on port 1.
        "postgres://ann:geheim@127.0.0.1:1/shop",
        "--destination",
        "postgres://ann:geheim@127.0.0.1:1/copy",
        "--data-dir",
        data_dir.to_str().unwrap(),
        "-o",
        format,
    ])
}

#[test]
fn a_database_that_cannot_be_reached_is_3_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let ran = precheck(folder.path(), "json");
    assert_eq!(ran.exit, 3, "{ran:?}");
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    let errors = report["items"].as_array().unwrap().iter().filter(|i| i["severity"] == "error");
    let sides: Vec<&str> = errors.filter_map(|item| item["side"].as_str()).collect();
    assert!(sides.contains(&"source") && sides.contains(&"destination"), "{report}");
    assert!(!ran.stdout.contains("geheim") && !ran.stderr.contains("geheim"), "{ran:?}");
    assert!(!folder.path().join("data").exists(), "a precheck leaves nothing behind");
}

#[test]
fn a_migration_that_cannot_begin_can_be_looked_at_and_begun_again() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let data_dir = data_dir.to_str().unwrap();
    let migrate = |database: &str| {
        let source = format!("postgres://ann:geheim@127.0.0.1:1/{database}");
        let destination = "postgres://ann@127.0.0.1:1/copy";
        let urls = ["--source", &source, "--destination", destination];
        pgconvoy(&[&["migrate", "--data-dir", data_dir][..], &urls].concat())
    };
    let ran = migrate("shop");
    assert_eq!(ran.exit, 3, "{ran:?}");
    assert!(!ran.stderr.contains("geheim"), "{}", ran.stderr);

    let shown = pgconvoy(&["task", "show", "shop", "--data-dir", data_dir, "-o", "json"]);
    assert_eq!(shown.exit, 0, "{shown:?}");
    let task: serde_json::Value = serde_json::from_str(&shown.stdout).expect("JSON");
    assert_eq!(
        (&task["name"], &task["status"], &task["phase"]),
        (&"shop".into(), &"failed".into(), &"precheck".into())
    );
    let unknown = pgconvoy(&["task", "show", "nobody", "--data-dir", data_dir]);
    assert_eq!(unknown.exit, 2, "{unknown:?}");

    // Nothing was changed at the databases, so the same directory may hold what was meant.
    let ran = migrate("shop2");
    assert_eq!(ran.exit, 3, "{ran:?}");
    let listed = pgconvoy(&["task", "list", "--data-dir", data_dir, "-o", "json"]);
    let tasks: serde_json::Value = serde_json::from_str(&listed.stdout).expect("JSON");
    let names: Vec<&str> =
        tasks.as_array().unwrap().iter().filter_map(|t| t["name"].as_str()).collect();
    assert_eq!(names, ["shop2"]);
}

#[test]
fn an_interrupted_migration_is_paused_and_says_how_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let data_dir = data_dir.to_str().unwrap();
    // Takes connections in its backlog and never says a word: the precheck waits for it.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = |database: &str| {
        format!("postgres://ann:geheim@{}/{database}", silent.local_addr().unwrap())
    };
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let migrate = Command::new(env!("CARGO_BIN_EXE_pgconvoy"))
            .args(["migrate", "--source", &url("shop"), "--destination", &url("copy")])
            .args(["--data-dir", data_dir])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let status = || {
            let shown = pgconvoy(&["task", "show", "shop", "--data-dir", data_dir, "-o", "json"]);
            let task: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap_or_default();
            task["status"].as_str().unwrap_or_default().to_owned()
        };
        let socket = folder.path().join("data/api.sock");
        let deadline = Instant::now() + Duration::from_secs(30);
        // Only the running migration's own socket tells of it; asking earlier would open its store first.
        while !(socket.exists() && status() == "running") {
            assert!(Instant::now() < deadline, "the migration does not run");
        }
        kill(Pid::from_raw(i32::try_from(migrate.id()).unwrap()), signal).unwrap();
        let ended = migrate.wait_with_output().unwrap();
        let stderr = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(130), "{stderr}");
        assert!(stderr.contains("run the same command again"), "{stderr}");
        assert_eq!(status(), "paused");
    }
}
