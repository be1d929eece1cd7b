//! Two throw-away servers with one database each, and the binary's embedded commands between them.

use std::path::PathBuf;

use pgconvoy_integration_tests::oracle::{self, Compared, End};
use pgconvoy_integration_tests::postgres::{Options, PASSWORD, Postgres, SUPERUSER};
use pgconvoy_integration_tests::process::{Finished, Program};
use pgconvoy_integration_tests::wait;
use tempfile::TempDir;

use super::{LIMIT, SOON};

/// The database at both ends.
pub(crate) const DATABASE: &str = "shop";

/// A source and a destination, and a folder for the files of whoever moves one to the other.
pub(crate) struct Pair {
    pub(crate) source: Postgres,
    pub(crate) destination: Postgres,
    folder: TempDir,
}

impl Pair {
    /// Two servers as usual; the destination's database is empty.
    pub(crate) async fn new(schema: &str) -> Pair {
        Pair::of(Options::default(), Options::default(), schema).await
    }

    /// Two servers as given.
    pub(crate) async fn of(source: Options, destination: Options, schema: &str) -> Pair {
        let pair = Pair::bare(source, destination).await;
        pair.source.create_database(DATABASE).await.unwrap();
        pair.source.sql(DATABASE, schema).await.unwrap();
        pair
    }

    /// Two servers; only the destination has the database.
    pub(crate) async fn bare(source: Options, destination: Options) -> Pair {
        let (source, destination) =
            tokio::try_join!(Postgres::start(source), Postgres::start(destination)).unwrap();
        destination.create_database(DATABASE).await.unwrap();
        let pair = Pair { source, destination, folder: tempfile::tempdir().unwrap() };
        pair.write("pgpass", &format!("*:*:*:*:{PASSWORD}\n"));
        pair.write("password", &format!("{PASSWORD}\n"));
        pair
    }

    /// The source's URL without its password.
    pub(crate) fn source_url(&self) -> String {
        url(self.source.port())
    }

    /// The destination's URL without its password.
    pub(crate) fn destination_url(&self) -> String {
        url(self.destination.port())
    }

    /// A file in the folder.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.path(name);
        // Some of them hold passwords, which libpq's own files do not let others read.
        let mut file = std::fs::OpenOptions::new();
        let mut file =
            file.write(true).create(true).truncate(true).mode(0o600).open(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        path
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A task file with both ends in it and passwords by file; `rest` follows.
    pub(crate) fn task_file(&self, name: &str, rest: &str) -> PathBuf {
        self.task_file_by([self.source.port(), self.destination.port()], name, rest)
    }

    /// The same with the source and the destination as agents find them at other ports.
    pub(crate) fn task_file_by(&self, ports: [u16; 2], name: &str, rest: &str) -> PathBuf {
        let end = |port| format!("{{ url: \"{}\", password: {{ file: password }} }}", url(port));
        let [source, destination] = ports.map(end);
        let text = format!("name: {name}\nsource: {source}\ndestination: {destination}\n{rest}\n");
        self.write(&format!("{name}.yaml"), &text)
    }

    /// An embedded command with a data directory and a password file, and nothing said about the ends yet.
    pub(crate) fn command(&self, command: &str) -> Program {
        self.command_in("data", command)
    }

    /// The same in a data directory of its own: a task beside the usual one.
    pub(crate) fn command_in(&self, data: &str, command: &str) -> Program {
        Program::pgconvoy()
            .unwrap()
            .args([command, "--data-dir"])
            .arg(self.path(data))
            .env("PGPASSFILE", self.path("pgpass"))
    }

    /// `migrate` between the two ends; warnings are acknowledged.
    pub(crate) fn migrate(&self) -> Program {
        self.between("migrate").arg("--yes")
    }

    /// An embedded command between the two ends.
    pub(crate) fn between(&self, command: &str) -> Program {
        let (source, destination) = (self.source_url(), self.destination_url());
        self.command(command).args(["--source", &source, "--destination", &destination])
    }

    /// Migrates to the end, which must be a good one.
    pub(crate) async fn migrated(&self) -> Finished {
        let finished = self.migrate().run(LIMIT).await.unwrap();
        assert_eq!(finished.code(), Some(0), "{}", told(&finished));
        finished
    }

    /// Both ends are the same, and nothing of ours is left at either.
    pub(crate) async fn same(&self) -> Compared {
        let compared = self.differences().await.refuse().unwrap();
        self.left_nothing().await;
        compared
    }

    /// What differs.
    pub(crate) async fn differences(&self) -> oracle::Differences {
        oracle::compare(End::new(&self.source, DATABASE), End::new(&self.destination, DATABASE))
            .await
            .unwrap()
    }

    /// Neither end has a schema, a session, a slot or a publication of ours.
    pub(crate) async fn left_nothing(&self) {
        for server in [&self.source, &self.destination] {
            let left = "select string_agg(what, ', ') from (
                    select 'schema ' || nspname from pg_namespace where nspname like 'pgconvoy%'
                    union all select 'slot ' || slot_name from pg_replication_slots
                    union all select 'publication ' || pubname from pg_publication where pubname like 'pgconvoy%'
                    union all select 'prepared transaction ' || gid from pg_prepared_xacts
                    union all select 'session ' || application_name || ' (' || state || '): ' || query
                      from pg_stat_activity
                     where backend_type = 'client backend' and application_name <> 'harness') as t (what)";
            // A session's end is seen by its server a moment after the client is gone.
            wait::until(SOON, "nothing of ours to be left", async || {
                match server.value(DATABASE, left).await {
                    Ok(None) => Ok(()),
                    Ok(Some(left)) => Err(left),
                    Err(error) => Err(format!("{error:#}")),
                }
            })
            .await
            .unwrap();
        }
    }

    /// Waits until the destination has no session of units of a kind.
    pub(crate) async fn no_sessions_of(&self, kind: &str) {
        let query = format!(
            "select count(*) from pg_stat_activity where application_name like 'pgconvoy/%/{kind}/%'"
        );
        wait::until(SOON, "no session to be left", async || match self.count(&query).await {
            0 => Ok(()),
            count => Err(count),
        })
        .await
        .unwrap();
    }

    /// Everything in both databases, to be compared with a later moment.
    pub(crate) async fn dumps(&self) -> [String; 2] {
        [dump(&self.source).await, dump(&self.destination).await]
    }

    /// Runs a command that is refused: with this exit code, this error code in its words, and no change at either
    /// database.
    pub(crate) async fn refused(&self, program: Program, exit: i32, code: &str) -> Finished {
        let before = self.dumps().await;
        let finished = program.run(SOON).await.unwrap();
        assert_eq!(finished.code(), Some(exit), "{}", told(&finished));
        let words = finished.stdout.clone() + &finished.log;
        assert!(words.contains(code), "{code} is not told: {}", told(&finished));
        assert!(!words.contains(PASSWORD), "a password is shown: {}", told(&finished));
        assert!(self.dumps().await == before, "something was changed: {}", told(&finished));
        self.left_nothing().await;
        finished
    }

    /// The number that a query at the destination gives.
    pub(crate) async fn count(&self, query: &str) -> i64 {
        let value = self.destination.value(DATABASE, query).await.unwrap();
        value.unwrap_or_else(|| "0".to_owned()).parse().unwrap()
    }
}

fn url(port: u16) -> String {
    format!("postgres://{SUPERUSER}@127.0.0.1:{port}/{DATABASE}")
}

async fn dump(server: &Postgres) -> String {
    if server
        .value("postgres", "select count(*) from pg_database where datname = 'shop'")
        .await
        .unwrap()
        != Some("1".to_owned())
    {
        return "no database".to_owned();
    }
    let text = server.pg_dump(DATABASE, &[]).await.unwrap();
    // A random word that guards psql.
    let lines = text.lines().filter(|line| !line.contains("restrict "));
    lines.collect::<Vec<_>>().join("\n")
}

/// All that a command said, for the message of a failed test.
pub(crate) fn told(finished: &Finished) -> String {
    format!("{}\n{}\n{}", finished.status, finished.stdout, finished.log)
}

/// What a command shows with `-o json`.
pub(crate) fn shown(finished: Finished) -> serde_json::Value {
    let words = told(&finished);
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error} in {words}"))
}
