//! Ways to speak with a throw-away server: URLs, sessions, scripts, dumps.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail};
use tokio_postgres::{Client, Config, NoTls};

use super::{Major, PASSWORD, Postgres, SUPERUSER};

impl Postgres {
    /// The superuser's URL of a database over TCP, with the password in it.
    pub fn url(&self, database: &str) -> String {
        self.url_of(SUPERUSER, PASSWORD, database)
    }

    /// A role's URL of a database over TCP.
    pub fn url_of(&self, role: &str, password: &str, database: &str) -> String {
        let [role, password, database] = [role, password, database].map(escape);
        format!("postgres://{role}:{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// A superuser session, by the Unix socket, so that it also works where TCP wants TLS.
    pub async fn client(&self, database: &str) -> anyhow::Result<Client> {
        let (client, connection) = Config::new()
            .host_path(self.socket())
            .port(self.port)
            .user(SUPERUSER)
            .password(PASSWORD)
            .dbname(database)
            .application_name("harness")
            .connect(NoTls)
            .await
            .with_context(|| format!("connect to database {database}"))?;
        // A broken connection fails the next call on the client, which is where a test sees it.
        tokio::spawn(connection);
        Ok(client)
    }

    /// Runs statements, all in one transaction unless they say otherwise.
    pub async fn sql(&self, database: &str, script: &str) -> anyhow::Result<()> {
        let client = self.client(database).await?;
        client
            .batch_execute(script)
            .await
            .with_context(|| format!("run in {database}: {}", start_of(script)))
    }

    /// The first column of the first row, as text.
    pub async fn value(&self, database: &str, query: &str) -> anyhow::Result<Option<String>> {
        let messages =
            self.client(database).await?.simple_query(query).await.context("query a value")?;
        let first = messages.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).map(str::to_owned)),
            _ => None,
        });
        first.with_context(|| format!("no row: {}", start_of(query)))
    }

    /// Makes an empty database.
    pub async fn create_database(&self, name: &str) -> anyhow::Result<()> {
        self.sql("postgres", &format!("create database {}", quoted(name))).await
    }

    /// Runs a script with psql, as users do; the first error ends it.
    pub async fn psql_file(&self, database: &str, path: &Path) -> anyhow::Result<()> {
        let mut command = self.client_tool("psql", database)?;
        command.args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--file"]).arg(path);
        run(command).await.map(drop)
    }

    /// What pg_dump writes with these options.
    pub async fn pg_dump(&self, database: &str, options: &[&str]) -> anyhow::Result<String> {
        self.pg_dump_by(None, database, options).await
    }

    /// What the pg_dump of a given major writes.
    pub async fn pg_dump_by(
        &self,
        major: Option<u32>,
        database: &str,
        options: &[&str],
    ) -> anyhow::Result<String> {
        let major = major.map_or_else(|| Ok(self.major.clone()), Major::numbered)?;
        let mut command = self.command(major.client("pg_dump")?, database);
        command.args(options);
        Ok(String::from_utf8(run(command).await?.stdout)?)
    }

    /// The schema as pg_dump writes it.
    pub async fn pg_dump_schema(&self, database: &str) -> anyhow::Result<String> {
        self.pg_dump(database, &["--schema-only"]).await
    }

    /// A client program of PostgreSQL that connects to `database`.
    pub fn client_tool(&self, program: &str, database: &str) -> anyhow::Result<Command> {
        Ok(self.command(self.major.client(program)?, database))
    }

    fn command(&self, program: PathBuf, database: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("PGHOST", self.socket())
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", SUPERUSER)
            .env("PGPASSWORD", PASSWORD)
            .env("PGDATABASE", database)
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null());
        command
    }
}

async fn run(command: Command) -> anyhow::Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("start {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(output)
}

/// A name as SQL wants it.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn start_of(script: &str) -> String {
    script.chars().take(200).collect()
}

/// Percent-encodes what has a meaning in a URL.
fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
