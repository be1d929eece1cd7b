//! The quickstart is the first thing that a user runs: it must end well, and leave nothing however it ends.

use std::time::Duration;

use pgconvoy_integration_tests::process::{Process, Program};
use pgconvoy_integration_tests::wait;

const LIMIT: Duration = Duration::from_secs(150);

fn quickstart() -> Program {
    Program::at(env!("CARGO_BIN_EXE_quickstart")).args(["--scale", "0.02"])
}

#[tokio::test]
async fn cluster_a_quickstart_survives_its_kills_and_ends_identical() {
    let finished = quickstart().run(LIMIT).await.unwrap();
    let told = finished.success().unwrap();
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.last(), Some(&"identical"), "{told}");
    let count = |start| lines.iter().filter(|line| line.starts_with(start)).count();
    assert_eq!(count("KILLED"), 2, "{told}");
    assert!(count("moved") >= 1, "{told}");
    assert!(told.contains("two networks without a route between them"), "{told}");
    assert!(told.contains("; writes may start at "), "{told}");
    assert_eq!(count("orders"), 1, "{told}");
    for agent in ["dc1-1", "dc1-2"] {
        let relayed = lines.iter().any(|line| {
            line.contains(&format!("{agent}: "))
                && line.contains("MiB from the source, sent to cloud")
        });
        assert!(relayed, "{agent} passed sessions on: {told}");
    }
}

#[tokio::test]
async fn cluster_an_interrupted_quickstart_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let quickstart = Process::start("quickstart", quickstart(), folder.path()).unwrap();
    quickstart.wait_for_line("move ", LIMIT).await.unwrap();
    let children = children_of(quickstart.pid().unwrap());
    // Servers, coordinators, agents, of which one may have been killed already.
    assert!((9..=10).contains(&children.len()), "{children:?}");

    let signal = nix::sys::signal::Signal::SIGINT;
    let status = quickstart.terminate(signal, Duration::from_secs(30)).await.unwrap();
    assert_eq!(status.code(), Some(130), "{}", quickstart.log());
    wait::until(Duration::from_secs(10), "its children to be gone", async || {
        let left: Vec<_> = children.iter().filter(|child| child.is_there()).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await
    .unwrap();
}

/// A process and when it began, which a later one of the same number does not share.
#[derive(Debug, PartialEq, Eq)]
struct Child {
    pid: i32,
    began: String,
}

impl Child {
    fn is_there(&self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.began == self.began)
    }
}

struct Stat {
    parent: i32,
    began: String,
}

/// The facts of a process; none when it is gone.
fn stat(pid: i32) -> Option<Stat> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold blanks; the state follows it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat { parent: fields.get(1)?.parse().ok()?, began: (*fields.get(19)?).to_owned() })
}

fn children_of(parent: i32) -> Vec<Child> {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter_map(|pid| stat(pid).map(|stat| (pid, stat)))
        .filter(|(_, stat)| stat.parent == parent)
        .map(|(pid, stat)| Child { pid, began: stat.began })
        .collect()
}
