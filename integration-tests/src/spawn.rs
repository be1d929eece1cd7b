//! Children that cannot outlive the test.
//!
//! A test that is killed runs no destructor, so the kernel has to end what it started: each child is started through
//! `setpriv --pdeathsig`. That signal is sent when the *thread* that started the child ends, not the process, and a
//! runtime's blocking threads end when they are idle. Hence one thread that never ends starts them all.

use std::io;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

use nix::unistd::{User, geteuid};

struct Request {
    command: Command,
    answer: Sender<io::Result<Child>>,
}

/// Starts `command` from the thread that lives as long as this process.
pub(crate) fn spawn(command: Command) -> io::Result<Child> {
    static STARTER: OnceLock<Sender<Request>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (requests, inbox) = channel::<Request>();
        std::thread::spawn(move || {
            for Request { mut command, answer } in inbox {
                // The asker waits for the answer, so it is there to take it.
                answer.send(command.spawn()).expect("the asker waits for its child");
            }
        });
        requests
    });
    let (answer, child) = channel();
    starter.send(Request { command, answer }).expect("the starter thread never ends");
    child.recv().expect("the starter thread answers each request")
}

/// A command that gets `signal` ("KILL", "QUIT") when this process dies, run as `account` if one is given.
pub(crate) fn mortal(
    program: impl AsRef<std::ffi::OsStr>,
    signal: &str,
    account: Option<&Account>,
) -> Command {
    let mut command = Command::new("setpriv");
    command.arg("--pdeathsig").arg(signal);
    if let Some(account) = account {
        command.args([
            "--reuid",
            &account.name,
            "--regid",
            &account.gid.to_string(),
            "--init-groups",
        ]);
    }
    command.arg("--").arg(program);
    command
}

/// The unprivileged user that servers run as when the tests run as root, which PostgreSQL refuses.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Account {
    /// `None` when the tests are not run by root: then servers run as whoever runs the tests.
    pub(crate) fn for_servers() -> anyhow::Result<Option<Account>> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        for name in ["postgres", "nobody"] {
            if let Some(user) = User::from_name(name)? {
                return Ok(Some(Account {
                    name: user.name,
                    uid: user.uid.as_raw(),
                    gid: user.gid.as_raw(),
                }));
            }
        }
        anyhow::bail!(
            "PostgreSQL does not run as root, and there is neither a user postgres nor nobody to run it as"
        )
    }

    /// Gives a file or folder to the account.
    pub(crate) fn own(&self, path: &std::path::Path) -> io::Result<()> {
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid))
    }
}
