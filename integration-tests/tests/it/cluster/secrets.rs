//! A password is in no log, no answer, no event, no file of the cluster's, and in no process list.

use std::path::{Path, PathBuf};

use pgconvoy_integration_tests::logs::Expected;
use pgconvoy_integration_tests::postgres::PASSWORD;
use pgconvoy_integration_tests::process::Process;

use crate::world::{DATABASE, Fleet, Gate, LIMIT, Pair};

/// Every file below a folder that holds the password.
fn files_with_it(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_with_it(&path, found);
        } else if let Ok(bytes) = std::fs::read(&path)
            && holds(&bytes)
        {
            found.push(path);
        }
    }
}

fn holds(bytes: &[u8]) -> bool {
    let upside_down: Vec<u8> = PASSWORD.bytes().map(|byte| byte | 0x80).collect();
    [PASSWORD.as_bytes(), &upside_down]
        .iter()
        .any(|secret| bytes.windows(secret.len()).any(|part| part == *secret))
}

/// Processes of the binary, and their children, that show it in their arguments or environment.
fn processes_with_it(root: i32) -> Vec<String> {
    let mut family = vec![root];
    let mut found = Vec::new();
    while let Some(pid) = family.pop() {
        for part in ["cmdline", "environ"] {
            // A process that has just ended shows nothing.
            if std::fs::read(format!("/proc/{pid}/{part}")).is_ok_and(|bytes| holds(&bytes)) {
                found.push(format!("{part} of {pid}"));
            }
        }
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let children =
                std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            family
                .extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
        }
    }
    found
}

#[tokio::test]
async fn cluster_a_password_shows_nowhere() {
    let pair = Pair::new(Gate::SCHEMA).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let gate = Gate::shut(&pair.destination).await;
    let job = fleet.begin(&pair.task_file("shop", Gate::COPY)).await;
    let processes = || {
        let node = fleet.convoy.coordinator(1).process();
        [node.pid().unwrap(), fleet.convoy.agent("anna").pid().unwrap()]
    };
    // Looked at all the way, so that pg_dump's and pg_restore's short lives are seen too.
    let mut shown = Vec::new();
    let watch = async {
        loop {
            shown.extend(processes().into_iter().flat_map(processes_with_it));
            tokio::task::yield_now().await;
            if !job.holders().await.is_empty() {
                return;
            }
        }
    };
    tokio::time::timeout(LIMIT, watch).await.unwrap();
    gate.waiting(4, LIMIT).await;
    for command in [
        &["task", "show", "shop", "-o", "json"][..],
        &["task", "list", "-o", "json"],
        &["task", "events", "shop", "-o", "json"],
        &["task", "explain", "shop", "-o", "json"],
        &["agents", "list", "-o", "json"],
        &["cluster", "status", "-o", "json"],
    ] {
        let answer = fleet.run(command).await;
        assert!(!holds(answer.stdout.as_bytes()) && !holds(answer.log.as_bytes()), "{command:?}");
    }
    gate.open().await;
    job.done(&pair).await;
    assert_eq!(shown, Vec::<String>::new());
    let mut files = Vec::new();
    files_with_it(&fleet.convoy.folder(), &mut files);
    assert_eq!(files, Vec::<PathBuf>::new());
    fleet.convoy.check_logs(&Expected::nothing().allow("").secret(PASSWORD)).unwrap();
    // The servers' own logs and statistics are others' eyes, too.
    for server in [&pair.source, &pair.destination] {
        assert!(!holds(server.log().as_bytes()));
        let query = "select count(*) from pg_stat_activity where query like '%kestrel%' and pid <> pg_backend_pid()";
        assert_eq!(server.value(DATABASE, query).await.unwrap().as_deref(), Some("0"));
    }
}

#[tokio::test]
async fn a_password_in_a_url_of_the_environment_shows_nowhere_else() {
    let pair = Pair::new(Gate::SCHEMA).await;
    let gate = Gate::shut(&pair.destination).await;
    let program = pair
        .command("migrate")
        .args(["--yes", "--log", "debug"])
        .env("PGCONVOY_SOURCE", pair.source.url(DATABASE))
        .env("PGCONVOY_DESTINATION", pair.destination.url(DATABASE));
    std::fs::remove_file(pair.path("pgpass")).unwrap();
    std::fs::remove_file(pair.path("password")).unwrap();
    let process =
        Process::start("migrate", program.env("PGPASSFILE", "/dev/null"), &pair.path("")).unwrap();
    gate.waiting(1, LIMIT).await;
    gate.open().await;
    let status = process.wait(LIMIT).await.unwrap();
    assert!(!holds(process.log().as_bytes()) && !holds(process.stdout().as_bytes()));
    assert_eq!(status.code(), Some(0), "{}", process.log());
    let mut files = Vec::new();
    files_with_it(&pair.path(""), &mut files);
    assert_eq!(files, Vec::<PathBuf>::new());
    pair.same().await;
}
