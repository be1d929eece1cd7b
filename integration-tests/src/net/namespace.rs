//! A network of its own: a loopback that nobody outside reaches, and no way out.
//!
//! Processes are started in it ([`Program::inside`](crate::process::Program::inside)), servers too; the only ways between it
//! and others are [`Proxy`](super::Proxy)s that the test puts there. So who reaches what is the kernel's word, not a
//! process's good will. The namespace lives as long as this value or a process in it: a test that is killed leaves none.
//! Making one takes root.

use std::ffi::OsString;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, ensure};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::net::TcpSocket;

use super::ports;

/// A network. Clones are the same.
#[derive(Debug, Clone)]
pub struct Namespace {
    file: Arc<File>,
}

impl Namespace {
    /// A new one; fails, saying why, where none may be made.
    pub fn make() -> anyhow::Result<Namespace> {
        // A namespace is entered thread by thread: this one ends, and leaves nothing but the file.
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            anyhow::Ok(File::open("/proc/thread-self/ns/net")?)
        });
        let file = made.join().expect("it does not panic");
        let file =
            Arc::new(file.context("a network of its own cannot be made here; it takes root")?);
        let namespace = Namespace { file };
        let [enter, net] = namespace.entrance();
        let up = Command::new(enter)
            .arg(net)
            .args(["--", "ip", "link", "set", "lo", "up"])
            .stdin(Stdio::null())
            .output()
            .context("start nsenter, which brings up a network")?;
        let why = String::from_utf8_lossy(&up.stderr);
        ensure!(up.status.success(), "a network cannot be brought up: {}", why.trim());
        Ok(namespace)
    }

    /// What to write before a command for it to run in here: the program, and its first argument.
    fn entrance(&self) -> [OsString; 2] {
        // The file is found by way of this process: children do not inherit it.
        let file = format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd());
        ["nsenter".into(), format!("--net={file}").into()]
    }

    /// The same command, run in here.
    pub(crate) fn around(&self, command: &Command) -> Command {
        let [enter, net] = self.entrance();
        let mut inside = Command::new(enter);
        inside.arg(net).arg("--").arg(command.get_program()).args(command.get_args());
        inside
    }

    /// A listener on its 127.0.0.1.
    pub(super) fn listen(&self) -> anyhow::Result<TcpListener> {
        let listener = self.within(|| TcpListener::bind("127.0.0.1:0"))??;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    /// Addresses that nobody in here listens on yet. Only this test is in here.
    pub(crate) fn free_addresses(&self) -> anyhow::Result<[SocketAddr; 2]> {
        Ok(self.within(ports::find_pair)??.map(|(address, _)| address))
    }

    /// A socket that connects from here, whoever uses it.
    pub(super) fn socket(&self) -> std::io::Result<TcpSocket> {
        self.within(TcpSocket::new_v4).map_err(std::io::Error::other)?
    }

    /// Runs on a thread in here.
    fn within<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let file = Arc::clone(&self.file);
        let inside = std::thread::spawn(move || {
            setns(&*file, CloneFlags::CLONE_NEWNET).context("enter a network")?;
            anyhow::Ok(work())
        });
        inside.join().expect("it does not panic")
    }
}
