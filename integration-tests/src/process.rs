//! A process of the system under test: its log, its signals, its end.
//!
//! Standard output and the log (standard error) go to files, so that a process never waits for its reader and its last
//! words are there after a SIGKILL. The process dies with the test, however that ends.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::net::Namespace;
use crate::spawn::{mortal, spawn};
use crate::{artifacts, wait};

/// How to start a process; kept to start it again.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    network: Option<Namespace>,
}

impl Program {
    /// The binary `pgconvoy`: `PGCONVOY_BIN`, or the one built beside this test.
    pub fn pgconvoy() -> anyhow::Result<Program> {
        let path = match std::env::var_os("PGCONVOY_BIN") {
            Some(path) => PathBuf::from(path),
            None => artifacts::profile_folder().join("pgconvoy"),
        };
        ensure!(
            path.exists(),
            "{} is not there: build it with `cargo build --package pgconvoy`, or name one in PGCONVOY_BIN",
            path.display()
        );
        Ok(Program::at(path))
    }

    /// Another program.
    pub fn at(path: impl Into<PathBuf>) -> Program {
        Program { path: path.into(), arguments: Vec::new(), environment: Vec::new(), network: None }
    }

    /// One more argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// More arguments.
    pub fn args<T: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// An environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// In a network of its own.
    pub fn inside(mut self, network: &Namespace) -> Self {
        self.network = Some(network.clone());
        self
    }

    /// Runs to the end, which must come within `limit`.
    pub async fn run(self, limit: Duration) -> anyhow::Result<Finished> {
        let folder = tempfile::tempdir()?;
        let process = Process::start("run", self, folder.path())?;
        let status = process.wait(limit).await?;
        Ok(Finished { status, stdout: process.stdout(), log: process.log() })
    }
}

/// As one would type it into a shell. The environment is not shown: it may hold passwords.
impl std::fmt::Display for Program {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}", self.path.display())?;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,".contains(c);
        self.arguments.iter().map(|argument| argument.to_string_lossy()).try_for_each(|argument| {
            if !argument.is_empty() && argument.chars().all(is_plain) {
                write!(out, " {argument}")
            } else {
                write!(out, " '{}'", argument.replace('\'', "'\\''"))
            }
        })
    }
}

/// What a program that ended left.
#[derive(Debug, Clone)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output: data.
    pub stdout: String,
    /// What it wrote to standard error: everything else.
    pub log: String,
}

impl Finished {
    /// The exit code; none after a signal.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Standard output of a program that ended well; otherwise fails with what it said.
    pub fn success(self) -> anyhow::Result<String> {
        ensure!(self.status.success(), "ended with {}:\n{}{}", self.status, self.stdout, self.log);
        Ok(self.stdout)
    }
}

/// A running process, killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    program: Program,
    folder: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Process {
    /// Starts a program whose output goes to `<name>.out` and `<name>.log` in `folder`.
    pub fn start(name: &str, program: Program, folder: &Path) -> anyhow::Result<Process> {
        let process = Process {
            name: name.to_owned(),
            program,
            folder: folder.to_owned(),
            child: Mutex::default(),
        };
        process.start_again()?;
        Ok(process)
    }

    /// Starts it once more, after it ended. The log goes on where it was.
    pub fn start_again(&self) -> anyhow::Result<()> {
        let mut child = self.child();
        ensure!(child.is_none(), "{} runs already", self.name);
        let open = |kind| {
            let path = self.file(kind);
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(&path)
                .with_context(|| format!("open {}", path.display()))
        };
        let mut command = mortal(&self.program.path, "KILL", None);
        command.args(&self.program.arguments);
        if let Some(network) = &self.program.network {
            command = network.around(&command);
        }
        command
            .envs(self.program.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(open("out")?)
            .stderr(open("log")?);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        *child = Some(spawn(command).with_context(|| format!("start {}", self.name))?);
        Ok(())
    }

    /// The name it was started under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> anyhow::Result<i32> {
        let mut child = self.child();
        let Some(running) = child.as_mut() else { bail!("{} does not run", self.name) };
        Ok(i32::try_from(running.id())?)
    }

    /// The most memory it ever had at once, while it runs: what the kernel notes as `VmHWM`.
    pub fn peak_memory_bytes(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")).context("VmHWM in kB")?;
        Ok(kib.parse::<u64>()? * 1024)
    }

    /// Waits for a line of the log or of standard output that holds `text`, from the first line on.
    pub async fn wait_for_line(&self, text: &str, limit: Duration) -> anyhow::Result<String> {
        let what = format!("{} to write a line with \"{text}\"", self.name);
        let found = wait::until(limit, &what, async || {
            let lines = self.stdout() + &self.log();
            match lines.lines().find(|line| line.contains(text)) {
                Some(line) => Ok(Ok(line.to_owned())),
                None => match self.ended() {
                    Ok(None) => Err(tail(&lines)),
                    Ok(Some(status)) => Ok(Err(anyhow::anyhow!(
                        "{} ended with {status}: {}",
                        self.name,
                        tail(&lines)
                    ))),
                    Err(error) => Ok(Err(error)),
                },
            }
        });
        found.await?
    }

    /// Whether it ended, and how.
    pub fn ended(&self) -> anyhow::Result<Option<ExitStatus>> {
        let mut child = self.child();
        let Some(running) = child.as_mut() else { bail!("{} does not run", self.name) };
        let status = running.try_wait()?;
        if status.is_some() {
            *child = None;
        }
        Ok(status)
    }

    /// Waits for its end.
    pub async fn wait(&self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        let end = wait::until(limit, &what, async || match self.ended() {
            Ok(Some(status)) => Ok(Ok(status)),
            Ok(None) => Err(tail(&self.log())),
            Err(error) => Ok(Err(error)),
        });
        end.await?
    }

    /// Ends it with SIGKILL, as a lost machine does, and reaps it.
    pub fn kill(&self) -> anyhow::Result<()> {
        let Some(mut child) = self.child().take() else { return Ok(()) };
        child.kill().with_context(|| format!("kill {}", self.name))?;
        child.wait().with_context(|| format!("reap {}", self.name))?;
        Ok(())
    }

    /// Asks it to end with a signal, and waits until it did.
    pub async fn terminate(&self, signal: Signal, limit: Duration) -> anyhow::Result<ExitStatus> {
        self.signal(signal)?;
        self.wait(limit).await
    }

    /// Freezes it, as a paused machine is; returns when it stands still.
    pub async fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGSTOP)?;
        let facts = format!("/proc/{}/stat", self.pid()?);
        let what = format!("{} to stand still", self.name);
        wait::until(Duration::from_secs(10), &what, async || {
            let facts = std::fs::read_to_string(&facts).map_err(|error| error.to_string())?;
            // The state follows the program's name, which is in parentheses.
            if facts.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T')) {
                Ok(())
            } else {
                Err(facts)
            }
        })
        .await?;
        Ok(())
    }

    /// Lets a frozen process go on.
    pub fn go_on(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill(Pid::from_raw(self.pid()?), signal)
            .with_context(|| format!("send {signal} to {}", self.name))
    }

    /// What it wrote to standard error so far, over all its lives.
    pub fn log(&self) -> String {
        self.read("log")
    }

    /// What it wrote to standard output so far, over all its lives.
    pub fn stdout(&self) -> String {
        self.read("out")
    }

    fn read(&self, kind: &str) -> String {
        std::fs::read(self.file(kind)).map_or_else(
            |error| format!("no file: {error}"),
            |text| String::from_utf8_lossy(&text).into_owned(),
        )
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.folder.join(format!("{}.{kind}", self.name))
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        for kind in ["out", "log"] {
            artifacts::keep_if_failed(&self.file(kind), &format!("{}.{kind}", self.name));
        }
        if let Err(error) = self.kill() {
            // A panic here would hide the test's own failure.
            tracing::warn!("{} was not killed: {error:#}", self.name);
        }
    }
}

/// The last lines of a log.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_shown_as_one_would_type_it() {
        let program = Program::at("/bin/echo").args(["--a=b", "", "it's"]).env("SECRET", "x");
        assert_eq!(program.to_string(), r"/bin/echo --a=b '' 'it'\''s'");
    }
}
