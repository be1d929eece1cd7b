//! SIGKILL at any moment: what was acknowledged is there afterwards.
//!
//! The child is this test binary again, running [`child`]: it appends, votes, commits and purges,
//! and prints a line for each acknowledgement. The parent kills it, opens the store and compares.
//! (A kill cannot show a missing sync, since the page cache survives it. For that the syncs are
//! counted: see `store.rs`, and [`every_acknowledgement_has_its_fdatasync`].)

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pgconvoy_coordinator::store::{LogStore, Mark, OpenOptions, Opened};
use pgconvoy_shared::ids::NodeId;

const DIR: &str = "PGCONVOY_TEST_CRASH_DIR";
const LIMIT: &str = "PGCONVOY_TEST_CRASH_APPENDS";
const KILLS: u32 = 12;

fn entry(index: u64) -> Vec<u8> {
    let size = (index.wrapping_mul(2_654_435_761) % 24_000) as usize;
    index.to_be_bytes().into_iter().cycle().take(8 + size).collect()
}

fn vote(number: u64) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

fn open(dir: &Path) -> (LogStore, Opened) {
    LogStore::open(dir, OpenOptions::new(NodeId(1))).expect("the store opens")
}

fn number(vote: Option<&Vec<u8>>) -> u64 {
    vote.map_or(0, |vote| u64::from_be_bytes(vote.as_slice().try_into().expect("eight bytes")))
}

#[test]
#[ignore = "run by the other tests here, as a process of its own"]
fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let limit: u64 = std::env::var(LIMIT).map_or(u64::MAX, |text| text.parse().expect("a number"));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let (store, opened) = open(Path::new(&dir));
        let mut votes = number(opened.vote.as_ref());
        let mut out = std::io::stdout().lock();
        // One write for each line, so that no line is cut by the kill.
        let mut say = |what: &str, value: u64| {
            out.write_all(format!("\n{what} {value}\n").as_bytes()).expect("the parent reads");
        };
        let mut appended = 0;
        while appended < limit {
            let next = store.range().end;
            let batch = 1 + next % 3;
            store.append(next, (next..next + batch).map(entry).collect()).await.expect("appends");
            appended += 1;
            say("appended", next + batch - 1);
            store.put_committed(&Mark { index: next, bytes: Vec::new() });
            if next % 5 == 0 {
                votes += 1;
                store.put_vote(&vote(votes)).await.expect("votes");
                say("voted", votes);
            }
            if next % 40 == 0 && next > 100 {
                let upto = next - 60;
                store.purge(&Mark { index: upto, bytes: Vec::new() }).await.expect("purges");
                say("purged", upto);
            }
        }
    });
}

#[derive(Debug, Default)]
struct Acknowledged {
    appended: Option<u64>,
    voted: u64,
    purged: Option<u64>,
    count: u64,
}

impl Acknowledged {
    fn note(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let (Some(what), Some(Ok(value))) = (words.next(), words.next().map(str::parse)) else {
            return;
        };
        match what {
            "appended" => self.appended = Some(value),
            "voted" => self.voted = value,
            "purged" => self.purged = Some(value),
            _ => return,
        }
        self.count += 1;
    }
}

fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command
}

const CHILD_ARGS: [&str; 4] = ["--exact", "crash::child", "--ignored", "--nocapture"];

fn start(dir: &Path) -> Child {
    let me = std::env::current_exe().expect("this binary");
    command(me).args(CHILD_ARGS).env(DIR, dir).spawn().expect("the child starts")
}

fn read(child: &mut Child, mut each: impl FnMut(&Acknowledged) -> bool) -> Acknowledged {
    let mut acknowledged = Acknowledged::default();
    let out = child.stdout.take().expect("piped");
    for line in BufReader::new(out).lines() {
        acknowledged.note(&line.expect("lines are text"));
        if !each(&acknowledged) {
            break;
        }
    }
    acknowledged
}

#[test]
fn a_killed_node_has_all_that_it_acknowledged() {
    let dir = tempfile::tempdir().expect("a directory");
    for round in 0..KILLS {
        let mut child = start(dir.path());
        let pid = nix::unistd::Pid::from_raw(child.id().try_into().expect("a pid"));
        let enough = rand::random_range(1..120);
        let pause = Duration::from_micros(rand::random_range(0..3_000));
        let mut killed = false;
        // After the kill the rest of what was acknowledged is still in the pipe.
        let acknowledged = read(&mut child, |so_far| {
            if !killed && so_far.count >= enough {
                std::thread::sleep(pause);
                nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).expect("is there");
                killed = true;
            }
            true
        });
        child.wait().expect("reaped");
        assert!(killed, "round {round}: the child ended by itself: {acknowledged:?}");

        let (store, opened) = open(dir.path());
        let context = format!("round {round}: {acknowledged:?}, found {:?}", store.range());
        assert!(store.range().next_back() >= acknowledged.appended, "{context}");
        assert!(number(opened.vote.as_ref()) >= acknowledged.voted, "{context}");
        assert!(opened.purged.map(|mark| mark.index) >= acknowledged.purged, "{context}");
        for (index, bytes) in store.read(store.range(), u64::MAX).expect("reads") {
            assert!(bytes == entry(index), "entry {index} is another one; {context}");
        }
        drop(store);
        futures::executor::block_on(opened.closed.wait());
    }
}

#[test]
fn every_acknowledgement_has_its_fdatasync() {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        // The order is tested in any case in `store.rs`; this one only adds the system's view.
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let trace = dir.path().join("trace");
    let me = std::env::current_exe().expect("this binary");
    let mut child = command("strace")
        .args(["-f", "-e", "trace=fdatasync,fsync", "-o"])
        .arg(&trace)
        .arg(me)
        .args(CHILD_ARGS)
        .env(DIR, dir.path().join("data"))
        .env(LIMIT, "30")
        .spawn()
        .expect("strace starts");
    let acknowledged = read(&mut child, |_| true);
    assert!(child.wait().expect("reaped").success());
    let trace = std::fs::read_to_string(trace).expect("a trace");
    let syncs = trace.lines().filter(|line| line.contains("fdatasync(")).count() as u64;
    assert!(acknowledged.count >= 30, "{acknowledged:?}");
    assert!(syncs > acknowledged.count, "{syncs} syncs for {acknowledged:?} and the header");
}
