//! An embedded migration that is cancelled or interrupted, between real servers: nothing of it is left at the databases
//! but what it moved, whoever is there to clean up, and what an interrupt costs is said.

use std::time::Duration;

use nix::sys::signal::Signal;
use pgconvoy_integration_tests::postgres::{Options, Postgres};
use pgconvoy_integration_tests::process::{Finished, Process, Program};
use pgconvoy_integration_tests::wait;
use tempfile::TempDir;

const DATABASE: &str = "shop";
/// For anything, on a loaded machine; cleaning up alone may take its limit of a minute.
const LIMIT: Duration = Duration::from_secs(150);

/// Rows that are never taken in where there is a role `gate`.
const GATED: &str = "
    create function public.pass() returns boolean language plpgsql as $$
    begin
        if exists (select from pg_catalog.pg_roles where rolname = 'gate') then
            perform pg_catalog.pg_sleep(3600);
        end if;
        return true;
    end $$;
    create table public.gated (no int primary key check (public.pass()));
    insert into public.gated select generate_series(1, 10);
    create role mover superuser login password 'plover-1';";

/// A migration that stands still in its copy phase.
struct Gated {
    source: Postgres,
    destination: Postgres,
    folder: TempDir,
    migration: Process,
}

impl Gated {
    async fn start() -> Gated {
        let (source, destination) = tokio::try_join!(
            Postgres::start(Options::default()),
            Postgres::start(Options::default())
        )
        .unwrap();
        source.create_database(DATABASE).await.unwrap();
        source.sql(DATABASE, GATED).await.unwrap();
        destination.create_database(DATABASE).await.unwrap();
        let roles = "create role gate; create role mover superuser login password 'plover-1'";
        destination.sql(DATABASE, roles).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let program = migrate(&source, &destination, &folder);
        let migration = Process::start("migrate", program, folder.path()).unwrap();
        let gated = Gated { source, destination, folder, migration };
        let waits = "select count(*) from pg_stat_activity
            where wait_event = 'PgSleep' and application_name like '%/copy/%'";
        gated.until("a copy to stand at the gate", waits, "1").await;
        gated
    }

    fn migrate(&self) -> Program {
        migrate(&self.source, &self.destination, &self.folder)
    }

    async fn task(&self, command: &str) -> Finished {
        let program = Program::pgconvoy().unwrap().args(["task", command, DATABASE, "--data-dir"]);
        program.arg(self.folder.path().join("data")).run(LIMIT).await.unwrap()
    }

    async fn until(&self, what: &str, query: &str, wanted: &str) {
        wait::until(LIMIT, what, async || match self.destination.value(DATABASE, query).await {
            Ok(Some(value)) if value == wanted => Ok(()),
            seen => Err(format!("{seen:?}; {}", self.migration.log())),
        })
        .await
        .unwrap();
    }

    /// Neither schema nor sessions of ours are at the destination.
    async fn is_clean(&self) {
        let left = "select (select count(*) from pg_namespace where nspname = 'pgconvoy')
            + (select count(*) from pg_stat_activity where application_name like 'pgconvoy/%')";
        self.until("nothing to be left", left, "0").await;
    }

    /// Cancels the migration while it runs, and kills it before it can clean up.
    async fn cancelled_and_killed(&self) {
        let obstacle = self.destination.client(DATABASE).await.unwrap();
        obstacle.batch_execute("begin; lock table pgconvoy.task in share mode").await.unwrap();
        assert_eq!(self.task("cancel").await.code(), Some(0));
        self.migration.kill().unwrap();
    }

    async fn interrupted(&self) {
        let status = self.migration.terminate(Signal::SIGINT, LIMIT).await.unwrap();
        assert_eq!(status.code(), Some(130), "{}", self.migration.log());
    }
}

fn migrate(source: &Postgres, destination: &Postgres, folder: &TempDir) -> Program {
    let url = |server: &Postgres| server.url_of("mover", "plover-1", DATABASE);
    let program = Program::pgconvoy().unwrap().args(["migrate", "--yes", "--data-dir"]);
    let program = program.arg(folder.path().join("data"));
    program.args(["--source", &url(source), "--destination", &url(destination)])
}

fn assert_ended(finished: &Finished, exit: i32, told: &str) {
    assert_eq!(finished.code(), Some(exit), "{finished:?}");
    let words = finished.stdout.clone() + &finished.log;
    assert!(words.contains(told), "{told} is missing: {finished:?}");
    assert!(!words.contains("plover"), "a password is shown: {finished:?}");
}

#[tokio::test]
async fn a_running_migration_that_is_cancelled_cleans_up_before_it_ends() {
    let gated = Gated::start().await;
    assert_ended(&gated.task("cancel").await, 0, "cancelled");
    let status = gated.migration.wait(LIMIT).await.unwrap();
    let log = gated.migration.log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("pgconvoy task delete shop --data-dir"), "{log}");
    gated.is_clean().await;
    assert_ended(&gated.task("delete").await, 0, "deleted");
}

#[tokio::test]
async fn an_interrupted_migration_says_what_it_costs_and_cancelling_it_cleans_up() {
    let gated = Gated::start().await;
    gated.interrupted().await;
    let log = gated.migration.log();
    assert!(log.contains("the task is paused") && log.contains("snapshot: shard"), "{log}");

    let password = async |word: &str| {
        let change = format!("alter role mover password '{word}'");
        gated.destination.sql(DATABASE, &change).await.unwrap();
    };
    password("plover-2").await;
    assert_ended(&gated.task("cancel").await, 1, "wrong_password");
    password("plover-1").await;
    assert_ended(&gated.task("cancel").await, 0, "cancelled");
    gated.is_clean().await;
    assert_ended(&gated.migrate().run(LIMIT).await.unwrap(), 2, "task_cancelled");
    assert_ended(&gated.task("delete").await, 0, "deleted");
}

#[tokio::test]
async fn a_migration_that_was_killed_while_it_cleaned_up_does_so_when_it_is_run_again() {
    let gated = Gated::start().await;
    gated.cancelled_and_killed().await;
    let again = gated.migrate().run(LIMIT).await.unwrap();
    assert_ended(&again, 1, "pgconvoy task delete shop --data-dir");
    gated.is_clean().await;
}

#[tokio::test]
async fn deleting_a_cancelled_task_cleans_up_first() {
    let gated = Gated::start().await;
    gated.cancelled_and_killed().await;
    assert_ended(&gated.task("delete").await, 0, "deleted");
    gated.is_clean().await;
}
