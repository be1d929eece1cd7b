//! Throw-away PostgreSQL servers.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use pgconvoy_integration_tests::postgres::{Options, Postgres};
//!
//! let source = Postgres::start(Options::default()).await?;
//! source.create_database("shop").await?;
//! source.sql("shop", "create table t (id int primary key); insert into t values (1)").await?;
//! let rows = source.client("shop").await?.query("select id from t", &[]).await?;
//! assert_eq!(rows.len(), 1);
//! # Ok(()) }
//! ```
//!
//! Each server has its own data directory, port and socket folder, wants passwords (SCRAM), and goes when the value is
//! dropped, when the test panics, and when the test process is killed. Started from a copied template, so that one
//! server a test is affordable (0.3 s).

mod backup;
mod disk;
mod home;
mod major;
mod options;
mod query;
mod regression;
mod template;
mod tls;
mod usage;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub use backup::Backup;
pub use disk::Disk;
pub use major::{Major, fetched};
pub use options::{Options, Tls};
pub(crate) use query::quoted;
pub use regression::Regression;
pub use tls::Certificates;

use crate::net::Namespace;
use crate::spawn::{Account, mortal, spawn};
use crate::{artifacts, wait};
use home::Home;

/// The superuser of every throw-away server.
pub const SUPERUSER: &str = "postgres";
/// The superuser's password. It stands out, so that a log can be searched for it.
pub const PASSWORD: &str = "kestrel-4711-unmistakable";

/// Ample for a start with crash recovery on a loaded machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running server, stopped and removed when dropped.
#[derive(Debug)]
pub struct Postgres {
    major: Major,
    account: Option<Account>,
    port: u16,
    certificates: Option<Certificates>,
    disk: Option<Disk>,
    network: Option<Namespace>,
    postmaster: Mutex<Option<Child>>,
    home: Home,
}

impl Postgres {
    /// A fresh server, ready to be connected to.
    pub async fn start(options: Options) -> anyhow::Result<Postgres> {
        let account = Account::for_servers()?;
        let home = Home::make(account.as_ref())?;
        let data = home.path().join("data");
        let major = match &options.regression {
            Some(regression) => regression.copy_to(&data, account.as_ref())?,
            None => {
                let major = options.major.clone().map_or_else(Major::usual, Ok)?;
                template::copy_to(&data, &major, account.as_ref())?;
                major
            }
        };
        let certificates = (options.tls != Tls::Off)
            .then(|| tls::make(&home.path().join("tls"), SUPERUSER, account.as_ref()))
            .transpose()?;
        let socket = home.path().join("socket");
        std::fs::create_dir(&socket)?;
        if let Some(account) = &account {
            account.own(&socket)?;
        }
        let (disk, network) = (options.disk, options.network.clone());
        let postmaster = Mutex::default();
        let mut server =
            Postgres { major, account, port: 0, certificates, disk, network, postmaster, home };
        if disk.is_some() {
            std::fs::create_dir(server.disk())?;
            if let Some(account) = &server.account {
                account.own(&server.disk())?;
            }
        }
        server.configure(&options)?;
        server.start_on_a_free_port().await?;
        Ok(server)
    }

    /// A port that was free may be taken by another test before the server binds it: then it takes another one.
    async fn start_on_a_free_port(&mut self) -> anyhow::Result<()> {
        let mut failures = String::new();
        for _ in 0..5 {
            self.port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            match self.start_again().await {
                Ok(()) => return Ok(()),
                Err(error) if self.log().contains("could not bind") => {
                    failures = format!("{error:#}")
                }
                Err(error) => return Err(error),
            }
        }
        bail!("no port could be had in five attempts; {failures}")
    }

    fn configure(&self, options: &Options) -> anyhow::Result<()> {
        let mut settings = options.configuration();
        let mut set = |name: &str, path: &Path| {
            settings.push_str(&format!("{name} = '{}'\n", path.display()))
        };
        set("unix_socket_directories", &self.socket());
        if let Some(files) = &self.certificates {
            set("ssl_cert_file", &files.server);
            set("ssl_key_file", &files.server_key);
            set("ssl_ca_file", &files.authority);
        }
        let data = self.data();
        let access = data.join("pg_hba.conf");
        std::fs::write(&access, options.access())?;
        // Read after postgresql.conf, and free for a later ALTER SYSTEM.
        let main = data.join("postgresql.conf");
        let defaults = std::fs::read_to_string(&main)?;
        std::fs::write(&main, format!("{defaults}\n{settings}"))?;
        Ok(())
    }

    /// Starts a stopped server on the port it had.
    pub async fn start_again(&self) -> anyhow::Result<()> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_file())?;
        // SIGQUIT, an immediate shutdown, also ends the backends; SIGKILL would leave them to notice by themselves.
        let mut command = mortal(self.major.server("postgres"), "QUIT", self.account.as_ref());
        command.arg("-D").arg(self.data()).args([
            "-c",
            &format!("port={}", self.port),
            "-c",
            "listen_addresses=127.0.0.1",
        ]);
        if let Some(disk) = self.disk {
            command = disk.mounted(&self.disk(), &command);
        }
        if let Some(network) = &self.network {
            command = network.around(&command);
        }
        command
            .current_dir("/")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // Ctrl-C in the terminal is the test's business: the server goes with the test.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = spawn(command).context("start a PostgreSQL server")?;
        let before = self.postmaster().replace(child);
        assert!(before.is_none(), "the server runs already");
        wait::until(START_LIMIT, "PostgreSQL to take connections", async || {
            if let Some(status) = self.ended()? {
                return Ok(Err(anyhow::anyhow!("PostgreSQL ended with {status}: {}", self.log())));
            }
            self.client("postgres").await.map(|_| Ok(()))
        })
        .await?
    }

    /// Whether the server process ended by itself.
    fn ended(&self) -> anyhow::Result<Option<std::process::ExitStatus>> {
        let mut postmaster = self.postmaster();
        let Some(child) = postmaster.as_mut() else { bail!("the server was stopped") };
        let status = child.try_wait()?;
        if status.is_some() {
            *postmaster = None;
        }
        Ok(status)
    }

    /// Stops the server as a crash does: no checkpoint, recovery at the next start.
    pub fn stop_immediate(&self) -> anyhow::Result<()> {
        self.stop(Signal::SIGQUIT)
    }

    /// Stops the server in good order: sessions are ended, everything is written.
    pub fn stop_fast(&self) -> anyhow::Result<()> {
        self.stop(Signal::SIGINT)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "looks for a state, and what is dropped cannot await"
    )]
    fn stop(&self, signal: Signal) -> anyhow::Result<()> {
        let Some(mut child) = self.postmaster().take() else { return Ok(()) };
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        // A stopped process takes no other signal.
        kill(pid, Signal::SIGCONT).context("wake the server")?;
        kill(pid, signal).context("stop the server")?;
        for tries in 0u32.. {
            if child.try_wait().context("wait for the server's end")?.is_some() {
                break;
            }
            if signal == Signal::SIGQUIT && tries == STUBBORN {
                kill_children(pid);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// The TCP port on 127.0.0.1; the same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The version that runs.
    pub fn major(&self) -> &Major {
        &self.major
    }

    /// What a client needs for TLS, if the server speaks it.
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// All that the server logged so far.
    pub fn log(&self) -> String {
        std::fs::read(self.log_file()).map_or_else(
            |error| format!("no log: {error}"),
            |log| String::from_utf8_lossy(&log).into_owned(),
        )
    }

    /// The folder of the Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.home.path().join("socket")
    }

    /// Where the small disk is mounted, for a tablespace, if the server was given one. It is empty at each start.
    pub fn disk(&self) -> PathBuf {
        self.home.path().join("disk")
    }

    fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    fn log_file(&self) -> PathBuf {
        self.home.path().join("server.log")
    }

    fn postmaster(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.postmaster.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// So many looks, of 10 ms each, are children of an immediately stopped server given to go.
const STUBBORN: u32 = 50;

/// The postmaster waits a minute for a child whose client has connected and says nothing, and never signals it. Such a
/// client is one whose test is just here.
fn kill_children(postmaster: Pid) {
    let children = format!("/proc/{postmaster}/task/{postmaster}/children");
    let children = std::fs::read_to_string(children).unwrap_or_default();
    for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        // One that has gone meanwhile is what is wanted.
        let _gone = kill(Pid::from_raw(child), Signal::SIGKILL);
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        artifacts::keep_if_failed(&self.log_file(), &format!("postgres-{}.log", self.port));
        if let Err(error) = self.stop_immediate() {
            // A panic here would hide the test's own failure; what is left dies with this process.
            tracing::warn!("a throw-away server did not stop: {error:#}");
        }
    }
}
