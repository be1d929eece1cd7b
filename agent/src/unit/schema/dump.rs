//! The source half of `schema_pre`: the archive, and what the archive does not tell.
//!
//! 1. A read-only transaction exports its snapshot.
//! 2. The catalogue is read under it ([`catalog`](super::catalog)).
//! 3. pg_dump writes the schema under the same snapshot, so both show one moment.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use bytes::{Bytes, BytesMut};
use nix::sys::memfd::{MFdFlags, memfd_create};
use pgconvoy_shared::endpoint::{Side, SslMode};
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::secret::Secret;
use pgconvoy_shared::spec::ObjectRules;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::catalog::SourceCatalog;
use crate::pg::{About, Access, Door, Session};
use crate::tools::Toolset;
use crate::unit::link::Link;
use crate::unit::{UnitContext, UnitEnd};

/// Read from pg_dump at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// Of what a tool says before it fails, this much of the end is told.
const COMPLAINT_BYTES: usize = 4 * 1024;

/// The destination half asks for a dump; it does not when one is there already.
#[derive(Debug)]
pub(super) struct Ask {
    /// The destination's major version.
    pub(super) destination_major: u32,
}

/// What the source half sends.
#[derive(Debug)]
pub(super) enum Dumped {
    /// First.
    Catalog(SourceCatalog),
    /// Then the archive, in pieces.
    Archive(Bytes),
    /// The archive is whole.
    End,
}

/// Answers one [`Ask`], if it comes.
pub(super) async fn source_half(
    ctx: &UnitContext,
    mut link: Link<Dumped, Ask>,
) -> Result<(), UnitEnd> {
    let Some(Ask { destination_major }) = link.next().await else { return Ok(()) };
    let session = ctx.session(Side::Source).await?;
    let access = session.access().clone();
    let source_major = session.major();
    let tools = ctx.means.tools.choose(source_major, destination_major)?;

    let begin = "begin isolation level repeatable read read only";
    session.batch_execute(begin).await.about(&access)?;
    let row = session.query_one("select pg_export_snapshot(), getdatabaseencoding()::text", &[]);
    let row = row.await.about(&access)?;
    let (snapshot, encoding): (String, String) = (row.get(0), row.get(1));
    let catalog =
        SourceCatalog::read(&session, tools.major, ctx.spec.schema).await.about(&access)?;
    link.send(Dumped::Catalog(catalog)).await?;

    let what = Dump { tools, snapshot: Some(&snapshot), encoding: &encoding };
    archive(ctx, &session, what, |chunk| link.send(Dumped::Archive(chunk))).await?;
    session.batch_execute("commit").await.about(&access)?;
    ctx.means.pool.give(session);
    link.send(Dumped::End).await
}

/// What pg_dump is told.
pub(super) struct Dump<'a> {
    pub(super) tools: &'a Toolset,
    /// None = the moment it begins.
    pub(super) snapshot: Option<&'a str>,
    /// The database's.
    pub(super) encoding: &'a str,
}

/// Dumps the schema of one end and hands on the archive in pieces.
pub(super) async fn archive<F>(
    ctx: &UnitContext,
    session: &Session,
    what: Dump<'_>,
    take: impl FnMut(Bytes) -> F,
) -> Result<(), UnitEnd>
where
    F: Future<Output = Result<(), UnitEnd>>,
{
    let mut command = ctx.means.tools.command(&what.tools.pg_dump);
    command.args(["--format=custom", "--compress=0", "--schema-only", "--no-password"]).args([
        "--no-subscriptions",
        "--exclude-schema=pgconvoy",
        "--lock-wait-timeout=60s",
    ]);
    if let Some(snapshot) = what.snapshot {
        command.arg(format!("--snapshot={snapshot}"));
    }
    // Text of a SQL_ASCII database is in an encoding that nobody knows: it stays as it is.
    let unknown = what.encoding == "SQL_ASCII";
    command.arg(if unknown { "--encoding=SQL_ASCII" } else { "--encoding=UTF8" });
    for table in closed_tables(session, &ctx.spec.objects).await.about(session.access())? {
        command.arg(format!("--exclude-table={}", table.quoted()));
    }
    // What it connects by has to be there until the program has ended.
    let _connection = connection(&mut command, session.access()).await?;
    run("pg_dump", command, take).await
}

/// Tables that the rules leave out and the role may not read: pg_dump, which locks every table, would fail at them.
async fn closed_tables(
    session: &Session,
    rules: &ObjectRules,
) -> Result<Vec<QualifiedName>, tokio_postgres::Error> {
    let rows = session
        .query(
            "select n.nspname::text, c.relname::text
             from pg_class c join pg_namespace n on n.oid = c.relnamespace
             where c.relkind in ('r', 'p') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
               and not (has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select'))",
            &[],
        )
        .await?;
    Ok(rows.iter().map(name_of).filter(|table| !rules.matches(table)).collect())
}

fn name_of(row: &tokio_postgres::Row) -> QualifiedName {
    QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1))
}

/// What a client program connects by.
struct Connection {
    _password: Option<File>,
    _door: Option<Door>,
}

/// Tells a client program where to connect, by its environment. The password is not in it, for environments are shown
/// by too many tools: the program reads it from a file in memory.
async fn connection(command: &mut Command, access: &Access) -> Result<Connection, UnitEnd> {
    let endpoint = access.endpoint();
    let sslmode = match endpoint.sslmode {
        SslMode::Disable => "disable",
        SslMode::Allow => "allow",
        SslMode::Prefer => "prefer",
        SslMode::Require => "require",
        SslMode::VerifyCa => "verify-ca",
        SslMode::VerifyFull => "verify-full",
    };
    // Timeouts would cut a long dump; the other settings are pg_dump's own business.
    let mut options =
        "-c statement_timeout=0 -c lock_timeout=0 -c standard_conforming_strings=on".to_owned();
    for (name, value) in &endpoint.settings {
        let value = value.replace('\\', "\\\\").replace(' ', "\\ ");
        options.insert_str(0, &format!("-c {name}={value} "));
    }
    let door = match access.is_relayed() {
        true => {
            let proven = access.proven().await.about(access)?;
            Some(Door::to(access, proven).map_err(|error| {
                let message = format!("cannot make a socket for a client program: {error}");
                UnitEnd::Failed(Failure::other("temporary_file", message))
            })?)
        }
        false => None,
    };
    match &door {
        // libpq speaks no TLS on a Unix socket; behind it, TLS is spoken as the endpoint says.
        Some(door) => command.env("PGHOST", door.host()).env("PGPORT", door.port().to_string()),
        None => command.env("PGHOST", &endpoint.host).env("PGPORT", endpoint.port.to_string()),
    };
    command
        .env("PGDATABASE", &endpoint.database)
        .env("PGUSER", &endpoint.user)
        .env("PGSSLMODE", if door.is_some() { "disable" } else { sslmode })
        .env("PGGSSENCMODE", "disable")
        .env("PGAPPNAME", access.application_name())
        .env("PGOPTIONS", options)
        .env("PGCONNECT_TIMEOUT", endpoint.connect_timeout_secs.max(10).to_string());
    let files = [
        ("PGSSLROOTCERT", &endpoint.sslrootcert),
        ("PGSSLCERT", &endpoint.sslcert),
        ("PGSSLKEY", &endpoint.sslkey),
    ];
    for (name, file) in files {
        if let Some(file) = file {
            command.env(name, file);
        }
    }
    let Some(password) = access.password() else {
        return Ok(Connection { _password: None, _door: door });
    };
    let file = password_file(password).map_err(|error| {
        let message = format!("cannot make a file in memory for the password: {error}");
        UnitEnd::Failed(Failure::other("temporary_file", message))
    })?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    command.env("PGPASSFILE", path);
    Ok(Connection { _password: Some(file), _door: door })
}

/// A password file as libpq wants it, in memory: on no disk, closed to others, and gone with this process however that
/// ends.
fn password_file(password: &Secret) -> std::io::Result<File> {
    let file = File::from(memfd_create(c"pgpass", MFdFlags::MFD_CLOEXEC)?);
    // libpq ignores a file that others may read.
    file.set_permissions(Permissions::from_mode(0o600))?;
    let escaped = password.expose().replace('\\', "\\\\").replace(':', "\\:");
    (&file).write_all(format!("*:*:*:*:{escaped}\n").as_bytes())?;
    Ok(file)
}

/// Runs a client program to its end and hands on what it writes, in pieces.
pub(super) async fn run<F>(
    name: &'static str,
    mut command: Command,
    mut take: impl FnMut(Bytes) -> F,
) -> Result<(), UnitEnd>
where
    F: Future<Output = Result<(), UnitEnd>>,
{
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let broken = |error: std::io::Error| {
        UnitEnd::Failed(Failure::other("tool_failed", format!("cannot run {name}: {error}")))
    };
    let mut child = command.spawn().map_err(broken)?;
    let mut output = child.stdout.take().expect("it is piped");
    let errors = child.stderr.take().expect("it is piped");
    let pass_on = async {
        let mut buffer = BytesMut::with_capacity(CHUNK_BYTES);
        while output.read_buf(&mut buffer).await.map_err(broken)? > 0 {
            take(buffer.split().freeze()).await?;
            buffer.reserve(CHUNK_BYTES);
        }
        Ok::<(), UnitEnd>(())
    };
    let (passed, complaint) = tokio::join!(pass_on, complaint(errors));
    passed?;
    let status = child.wait().await.map_err(broken)?;
    if status.success() {
        return Ok(());
    }
    Err(failure(name, &complaint).into())
}

/// The end of what a program says on its standard error.
async fn complaint(mut errors: impl AsyncRead + Unpin) -> String {
    let mut buffer = BytesMut::with_capacity(COMPLAINT_BYTES * 2);
    // What cannot be read is not told; the exit status says that there was something.
    while let Ok(1..) = errors.read_buf(&mut buffer).await {
        if buffer.len() > COMPLAINT_BYTES {
            let _older = buffer.split_to(buffer.len() - COMPLAINT_BYTES);
        }
    }
    String::from_utf8_lossy(&buffer).trim().to_owned()
}

/// pg_dump tells no SQLSTATE: its words decide.
fn failure(name: &str, complaint: &str) -> Failure {
    let says = |words: &[&str]| words.iter().any(|word| complaint.contains(word));
    let message = if complaint.is_empty() {
        format!("{name} was killed")
    } else {
        format!("{name} failed: {complaint}")
    };
    if says(&["permission denied", "must be owner", "row-level security"]) {
        Failure::definite("missing_privilege", message)
            .remedy("grant what the message names to the role that dumps the schema")
    } else if says(&["connection", "terminating", "starting up", "shutting down"]) {
        Failure::transient("connection_lost", message)
    } else {
        Failure::other("tool_failed", message)
    }
}
