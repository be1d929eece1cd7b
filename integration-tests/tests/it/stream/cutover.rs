//! Cutovers: what was acknowledged is at the destination and nothing else, or all is as before.

mod fence;
mod killed;
mod left;
mod lost;
mod oldest;
mod resynced;
mod slow;
mod views;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use nix::sys::signal::Signal;
use pgconvoy_integration_tests::postgres::Postgres;
use pgconvoy_integration_tests::process::{Process, Program};
use pgconvoy_integration_tests::wait;
use pgconvoy_proto::v1::{Phase, Task, TaskStatus};
use tokio_postgres::{Client, Config, NoTls};

use super::FOLLOWED;
use crate::world::{DATABASE, Fleet, Job, LIMIT, Pair, told};

const SCHEMA: &str = "
    create table ledger (id bigint generated always as identity primary key, amount int not null);
    create table balance (id int primary key, amount bigint not null);
    insert into balance select i, 0 from generate_series(1, 50) i;
    create sequence backwards increment -3;
    -- Nobody writes it.
    create table still (id int primary key);
    select nextval('backwards'), nextval('backwards');
    -- What it does at the source comes from there: it must not do it again for changes that are applied.
    create table noted (id bigint generated always as identity primary key, what text);
    create function note() returns trigger language plpgsql set search_path = '' as
        $$ begin insert into public.noted (what) values (tg_op); return null; end $$;
    create trigger note after insert on ledger for each row execute function note();
    alter table ledger enable always trigger note;
    comment on trigger note on ledger is 'fires always';";

const TURN: &str = "with paid as (insert into ledger (amount) values (1) returning id)
    update balance set amount = amount + 1 where id = 1 + (select id from paid) % 50";

/// Works at the source until it is refused, and counts what was acknowledged.
struct Writer {
    acknowledged: Arc<AtomicI64>,
    work: tokio::task::JoinHandle<String>,
}

impl Writer {
    async fn begin(server: &Postgres) -> Self {
        let client = server.client(DATABASE).await.unwrap();
        let acknowledged = Arc::new(AtomicI64::new(0));
        let count = Arc::clone(&acknowledged);
        let work = tokio::spawn(async move {
            loop {
                match client.batch_execute(TURN).await {
                    Ok(()) => drop(count.fetch_add(1, Ordering::SeqCst)),
                    Err(error) => return format!("{error:?}"),
                }
            }
        });
        Self { acknowledged, work }
    }

    fn count(&self) -> i64 {
        self.acknowledged.load(Ordering::SeqCst)
    }
}

async fn following<'f>(fleet: &'f Fleet, pair: &Pair, name: &str) -> Job<'f> {
    let job = fleet.begin(&pair.task_file(name, FOLLOWED)).await;
    job.until("the source to be followed", is_followed).await;
    job
}

fn is_followed(task: &Task) -> bool {
    task.phase() == Phase::Stream && task.running.iter().any(|unit| unit.kind == "stream")
}

async fn read_only_by_default(server: &Postgres) -> bool {
    let ask = "select current_setting('default_transaction_read_only')";
    server.value(DATABASE, ask).await.unwrap().unwrap() == "on"
}

#[tokio::test]
async fn cluster_a_cutover_under_load_loses_nothing_and_ends_the_task() {
    let views = "create materialized view turns as select count(*) from ledger;
        create materialized view more as select count, clock_timestamp() as at from turns;";
    let pair = Pair::new(&format!("{SCHEMA}{views}")).await;
    let fleet = Fleet::of_three(&["anna", "bert"]).await;
    let job = following(&fleet, &pair, "shop").await;
    let writer = Writer::begin(&pair.source).await;
    job.until("somebody to have written", |_| writer.count() > 200).await;

    fleet.ok(&["task", "cutover", "shop", "--fence", "--dry-run"]).await;
    let before = writer.count();
    job.until("the writer to go on", |_| writer.count() > before + 50).await;

    let finished = fleet.run(&["task", "cutover", "shop", "--fence"]).await;
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    assert!(finished.stdout.contains("writes may start"), "{}", told(&finished));
    assert!(finished.stdout.contains("reset default_transaction_read_only"), "{}", told(&finished));
    let why = writer.work.await.unwrap();
    let acknowledged = writer.acknowledged.load(Ordering::SeqCst);
    let task =
        job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;

    // Each acknowledged write is there; at most the one that was cut off, too.
    let arrived = pair.count("select count(*) from ledger").await;
    assert!(
        (acknowledged..=acknowledged + 1).contains(&arrived),
        "{arrived} of {acknowledged}: {why}"
    );
    assert!(read_only_by_default(&pair.source).await);
    // What is printed lifts the fence, also where it is said within the database.
    let (_, lifts) = finished.stdout.split_once("written to again: ").unwrap();
    let fenced = pair.source.client(DATABASE).await.unwrap();
    fenced.batch_execute(lifts.trim()).await.unwrap();
    assert!(!read_only_by_default(&pair.source).await);
    // Views are as young as the cutover, each filled after those that it reads. The source's are as they were.
    let turns = pair.count("select count from turns").await;
    assert!((201..=arrived).contains(&turns), "{turns} of {arrived}");
    assert_eq!(pair.count("select count from more").await, turns);
    let drop = "drop materialized view turns cascade";
    pair.destination.sql(DATABASE, drop).await.unwrap();
    let writing = format!("begin read write; {drop}; commit");
    pair.source.sql(DATABASE, &writing).await.unwrap();
    pair.same().await;
    let next = pair.count("insert into ledger (amount) values (0) returning id").await;
    assert!(next > arrived, "{next} after {arrived} rows");
    let cutover = task.cutover.unwrap();
    let compared = cutover.compared.unwrap();
    assert!(compared.rows_compared >= 200 && compared.schema_objects > 5, "{compared:?}");
    assert_eq!((compared.tables, compared.tables_left_out), (4, 0), "{compared:?}");
    assert_eq!((cutover.outcome.as_str(), cutover.sequences), ("done", 3));
    assert!(cutover.fence > 0 && cutover.marker >= cutover.fence);
}

#[tokio::test]
async fn cluster_a_cutover_is_undone_where_somebody_still_writes() {
    let pair = Pair::new(SCHEMA).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = following(&fleet, &pair, "shop").await;
    let writer = Writer::begin(&pair.source).await;
    job.until("somebody to have written", |_| writer.count() > 200).await;
    let finished = fleet.run(&["task", "cutover", "shop", "--writers-stopped"]).await;
    assert_eq!(finished.code(), Some(1), "{}", told(&finished));
    assert!(finished.log.contains("cutover_writers"), "{}", told(&finished));
    assert!(finished.log.contains("harness from "), "{}", told(&finished));

    // It follows as before, and can be cut over once they have stopped.
    let before = writer.count();
    job.until("it to follow", |task| is_followed(task) && writer.count() > before + 50).await;
    assert!(!read_only_by_default(&pair.source).await);
    writer.work.abort();
    let finished = fleet
        .run(&["task", "cutover", "shop", "--writers-stopped", "--sequence-margin", "10"])
        .await;
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
    pair.left_nothing().await;
    let [here, there] = [&pair.source, &pair.destination].map(async |server| {
        let ask = "select last_value::text from backwards";
        server.value(DATABASE, ask).await.unwrap().unwrap().parse::<i64>().unwrap()
    });
    assert_eq!(there.await, here.await - 30, "in its own direction");
}

/// Numbers that are drawn are no change that the stream tells.
#[tokio::test]
async fn cluster_a_cutover_is_undone_where_numbers_are_drawn_behind_its_fence() {
    let pair = Pair::new(SCHEMA).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = following(&fleet, &pair, "shop").await;
    pair.source.sql(DATABASE, "select nextval('backwards')").await.unwrap();
    let (lock, client) =
        cutover_held_at(&fleet, &pair, "fence", &["task", "cutover", "shop", "--fence"]).await;
    fleet.refused(&["task", "resync", "shop", "public.ledger"], 2, "cannot_copy_anew").await;
    let rehearsal = ["task", "cutover", "shop", "--fence", "--dry-run"];
    fleet.refused(&rehearsal, 2, "cutover_under_way").await;
    let shown = fleet.ok(&["task", "show", "shop"]).await;
    assert!(shown.contains("the source is fenced"), "{shown}");
    // The marker does not arrive while this is held, and the sequences are set meanwhile.
    let applier = pair.destination.client(DATABASE).await.unwrap();
    let stopped = "begin; select from pgconvoy.apply_progress for update";
    applier.batch_execute(stopped).await.unwrap();
    lock.batch_execute("rollback").await.unwrap();
    wait::until(LIMIT, "the sequences to be set", async || {
        let drawn = "select count(*) from pgconvoy.sequence_set where sequence_name = 'backwards' and last_value = -7";
        match pair.count(drawn).await {
            0 => Err(client.log()),
            _ => Ok(()),
        }
    })
    .await
    .unwrap();
    let draw = "begin read write; select nextval('backwards'); commit";
    pair.source.sql(DATABASE, draw).await.unwrap();
    applier.batch_execute("rollback").await.unwrap();
    let exit = client.wait(LIMIT).await.unwrap().code();
    assert_eq!(exit, Some(1), "{}", client.log());
    assert!(client.log().contains("cutover_sequences_moved"), "{}", client.log());
    assert!(!read_only_by_default(&pair.source).await);
    fleet.ok(&["task", "cutover", "shop", "--fence", "--compare", "none"]).await;
    job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
}

/// The command waits for what the agents do about it, and says what happened.
#[tokio::test]
async fn cluster_a_task_that_fails_behind_its_fence_lets_the_source_go() {
    let pair = Pair::new(SCHEMA).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = following(&fleet, &pair, "shop").await;
    let (lock, client) =
        cutover_held_at(&fleet, &pair, "prove", &["task", "cutover", "shop", "--fence"]).await;
    // Whoever lifts it has to wait here.
    let (lift, _) = held_at(&pair, "", "fence").await;
    wait::until(LIMIT, "the slot to be gone", async || {
        let gone = "begin read write; select pg_terminate_backend(active_pid) from pg_replication_slots where active;
            select pg_drop_replication_slot(slot_name) from pg_replication_slots where not active; commit";
        let gone = pair.source.sql(DATABASE, gone).await.err();
        match pair.source.value(DATABASE, "select count(*)::text from pg_replication_slots").await.unwrap() {
            Some(left) if left != "0" => Err(format!("{left}: {gone:?}")),
            _ => Ok(()),
        }
    })
    .await
    .unwrap();
    job.until("it to fail", |task| task.status() == TaskStatus::Failed).await;
    lock.batch_execute("rollback").await.unwrap();
    assert!(!is_over(&job.task().await));
    assert!(read_only_by_default(&pair.source).await);
    lift.batch_execute("rollback").await.unwrap();
    let exit = client.wait(LIMIT).await.unwrap().code();
    assert_eq!(exit, Some(1), "{}", client.log());
    assert!(client.log().contains("slot_lost"), "{}", client.log());
    assert!(client.log().contains("  lift "), "{}", client.log());
    assert!(!read_only_by_default(&pair.source).await);
}

#[tokio::test]
async fn cluster_a_cutover_compares_first_and_stops_nobody_where_both_ends_differ() {
    let pair = Pair::new(SCHEMA).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = following(&fleet, &pair, "shop").await;
    let writer = Writer::begin(&pair.source).await;
    job.until("somebody to have written", |_| writer.count() > 100).await;
    let meddled = "insert into balance values (-1, 7)";
    pair.destination.sql(DATABASE, meddled).await.unwrap();
    for more in [&["--dry-run"][..], &[]] {
        let cutover = [&["task", "cutover", "shop", "--fence"], more].concat();
        let finished = fleet.run(&cutover).await;
        assert_eq!(finished.code(), Some(4), "{}", told(&finished));
        assert!(finished.log.contains("verification_differs"), "{}", told(&finished));
        assert!(finished.stdout.contains("nobody was stopped"), "{}", told(&finished));
    }
    let shown = fleet.ok(&["task", "show", "shop"]).await;
    assert!(shown.contains("balance") && shown.contains("-1"), "{shown}");
    let before = writer.count();
    job.until("it to follow", |task| is_followed(task) && writer.count() > before + 50).await;
    pair.destination.sql(DATABASE, "delete from balance where id = -1").await.unwrap();

    let changed = "alter table balance alter amount set default 3";
    pair.destination.sql(DATABASE, changed).await.unwrap();
    let finished = fleet.run(&["task", "cutover", "shop", "--fence"]).await;
    assert_eq!(finished.code(), Some(4), "{}", told(&finished));
    assert!(finished.log.contains("cutover_schema_differs"), "{}", told(&finished));
    let accepted = ["--ignore", "cutover_schema_differs", "--compare", "50"];
    let cutover = [&["task", "cutover", "shop", "--fence"][..], &accepted].concat();
    let told = fleet.ok(&cutover).await;
    assert!(told.contains("compared before; not compared: "), "{told}");
    let task =
        job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
    assert!(task.cause.is_none(), "{:?}", task.cause);
}

/// A row that somebody altered at the destination after it was compared, and that the source changes afterwards in a way that
/// the stream brings nothing of: it only shows when it is looked at again.
#[tokio::test]
async fn cluster_what_was_changed_since_it_was_compared_is_compared_again() {
    let noted = "create table letter (id int primary key, a text, b text);
        alter table letter alter b set storage external;
        insert into letter select i, 'a', repeat('b', 5000) from generate_series(1, 9) i;
        -- Its keys are the same by an operator that is not PostgreSQL's own.
        create extension citext;
        create table tag (name citext primary key, times int);
        insert into tag values ('Alpha', 0), ('Beta', 0);";
    let pair = Pair::new(&format!("{SCHEMA}{noted}")).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = following(&fleet, &pair, "shop").await;
    for step in ["ready", "fence"] {
        let (lock, client) =
            cutover_held_at(&fleet, &pair, step, &["task", "cutover", "shop", "--fence"]).await;
        // Long values that do not change are not told; so the one that was meddled with stays.
        let meddled = "update letter set b = repeat('c', 5000) where id = 7";
        pair.destination.sql(DATABASE, meddled).await.unwrap();
        pair.source
            .sql(
                DATABASE,
                "begin read write; update letter set a = 'x' where id in (3, 7);
                 update tag set times = times + 1 where name = 'alpha'; commit",
            )
            .await
            .unwrap();
        lock.batch_execute("rollback").await.unwrap();
        let exit = client.wait(LIMIT).await.unwrap().code();
        assert_eq!(exit, Some(4), "{step}: {}", client.log());
        assert!(client.log().contains("cutover_rows_differ"), "{step}: {}", client.log());
        assert!(client.log().contains("letter (7) is different"), "{step}: {}", client.log());
        let cutover = job.until("it to be undone", is_over).await.cutover.unwrap();
        assert_eq!(cutover.stopped_ms == 0, step == "ready", "{cutover:?}");
        assert!(!read_only_by_default(&pair.source).await);
        let mended = "update letter set b = repeat('b', 5000) where id = 7";
        pair.destination.sql(DATABASE, mended).await.unwrap();
        job.until("it to follow", is_followed).await;
    }
    let none_kept = "select count(*) from pgconvoy.changed_key";
    job.until("it to follow", is_followed).await;
    wait::until(LIMIT, "nobody to keep in mind what changes", async || {
        match pair.count(none_kept).await {
            0 => Ok(()),
            some => Err(some),
        }
    })
    .await
    .unwrap();
    let told = fleet.ok(&["task", "cutover", "shop", "--fence"]).await;
    assert!(told.contains("changed since, and compared again"), "{told}");
    job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
    pair.same().await;
}

/// Tables without a key, and emptied ones, are compared whole; and what cannot be compared in time undoes the cutover.
#[tokio::test]
async fn cluster_what_no_key_tells_is_compared_whole_and_all_of_it_in_time() {
    let without_keys = "create table diary (words text);
        alter table diary replica identity full;
        insert into diary select 'the same' from generate_series(1, 9);
        create table emptied (id int primary key);
        insert into emptied values (1), (2);";
    let pair = Pair::new(&format!("{SCHEMA}{without_keys}")).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = following(&fleet, &pair, "shop").await;
    let behind = async |options: &[&str], changed: &str, arrived: &str, meddled: &str| {
        let cutover = [&["task", "cutover", "shop", "--fence"], options].concat();
        let (lock, client) = cutover_held_at(&fleet, &pair, "fence", &cutover).await;
        pair.source.sql(DATABASE, changed).await.unwrap();
        wait::until(LIMIT, "the change to be applied", async || match pair.count(arrived).await {
            1 => Ok(()),
            other => Err(other),
        })
        .await
        .unwrap();
        pair.destination.sql(DATABASE, meddled).await.unwrap();
        lock.batch_execute("rollback").await.unwrap();
        let exit = client.wait(LIMIT).await.unwrap().code();
        job.until("it to be undone", is_over).await;
        assert!(!read_only_by_default(&pair.source).await);
        job.until("it to follow", is_followed).await;
        (exit, client.log())
    };
    for (changed, arrived, meddled, told, mended) in [
        (
            "truncate emptied; insert into emptied values (3)",
            "select (array_agg(id) = '{3}')::int from emptied",
            "insert into emptied values (5)",
            "emptied (5) is extra",
            "delete from emptied where id = 5",
        ),
        (
            "insert into diary values ('another day')",
            "select count(*) from diary where words = 'another day'",
            "delete from diary where ctid = (select min(ctid) from diary)",
            "diary (the same) is missing",
            "insert into diary values ('the same')",
        ),
    ] {
        let (exit, log) = behind(&[], changed, arrived, meddled).await;
        assert_eq!(exit, Some(4), "{log}");
        assert!(log.contains("cutover_rows_differ") && log.contains(told), "{log}");
        pair.destination.sql(DATABASE, mended).await.unwrap();
    }
    let (exit, log) = behind(
        &["--check-budget", "1ms"],
        "insert into ledger (amount) select i from generate_series(1, 5000) i",
        "select count(*) from ledger where amount = 5000",
        "select",
    )
    .await;
    assert_eq!(exit, Some(1), "{log}");
    assert!(log.contains("cutover_budget"), "{log}");
    fleet.ok(&["task", "cutover", "shop", "--fence"]).await;
    job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
    pair.same().await;
}

/// Waits until the command's cutover stands still at a lock.
async fn until_blocked(server: &Postgres, waiting: &str, command: &Process) {
    wait::until(LIMIT, "the cutover to be at its step", async || {
        // A fence that is set in this moment ends the connection that asks, too.
        let blocked =
            server.value(DATABASE, waiting).await.map_err(|error| format!("{error:?}"))?;
        blocked.ok_or(command.log())
    })
    .await
    .unwrap();
}

/// Keeps a cutover at a step, which it has reached once the lock is waited for.
async fn held_at(pair: &Pair, task: &str, step: &str) -> (Client, String) {
    let (server, lock) = match step {
        "fence" => (&pair.source, "lock table pg_catalog.pg_db_role_setting in share mode"),
        "prove" => (&pair.destination, "lock table pgconvoy.sequence_set in share mode"),
        "compare" => (&pair.source, "lock table still in access exclusive mode"),
        "ready" => (&pair.destination, "lock table still in share update exclusive mode"),
        // Rows that were changed are looked up at the source: before the fence, and behind it.
        "look" | "again" => (&pair.source, "lock table ledger in access exclusive mode"),
        // The switch, when it is to make triggers, and when it has made them.
        "live" => (&pair.destination, "lock table ledger in row exclusive mode"),
        "rows" => (&pair.destination, "select from pgconvoy.shard_progress for update"),
        _ => (&pair.destination, "select from pgconvoy.task for key share"),
    };
    let client = server.client(DATABASE).await.unwrap();
    // A session of the task's is not ended by its fence.
    client
        .batch_execute(&format!("set application_name = 'pgconvoy/{task}/harness'; begin; {lock}"))
        .await
        .unwrap();
    // The applier holds a cutover up, too, for a moment.
    let pid: i32 = client.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    let kind = if step == "compare" { "verify_plan" } else { "cutover" };
    let waiting = format!(
        "select min(a.application_name) from pg_stat_activity a \
         where a.application_name like 'pgconvoy/%/{kind}/%' and {pid} = any (pg_blocking_pids(a.pid))"
    );
    (client, waiting)
}

/// Asks for a cutover by this command, and waits until it stands still at a step: what keeps it there, and the command.
async fn cutover_held_at(
    fleet: &Fleet,
    pair: &Pair,
    step: &str,
    command: &[&str],
) -> (Client, Process) {
    let (lock, waiting) = held_at(pair, "", step).await;
    let cutover = fleet.convoy.cli(command.iter().copied()).unwrap();
    let client = Process::start("cutover", cutover, &pair.path("")).unwrap();
    until_blocked(server_of(pair, step), &waiting, &client).await;
    (lock, client)
}

/// Where a step is held up.
fn server_of<'p>(pair: &'p Pair, step: &str) -> &'p Postgres {
    match step {
        "fence" | "compare" | "look" | "again" => &pair.source,
        _ => &pair.destination,
    }
}

fn is_over(task: &Task) -> bool {
    task.cutover.as_ref().is_some_and(|cutover| !cutover.outcome.is_empty())
}

#[tokio::test]
async fn cluster_who_writes_in_spite_of_the_fence_is_named() {
    let pair = Pair::new(SCHEMA).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = following(&fleet, &pair, "shop").await;
    let mut defiant = pair.source.url(DATABASE).parse::<Config>().unwrap();
    defiant.application_name("night_job").options("-c default_transaction_read_only=off");
    let written = Arc::new(AtomicI64::new(0));
    let count = Arc::clone(&written);
    let writer = tokio::spawn(async move {
        loop {
            let Ok((client, connection)) = defiant.connect(NoTls).await else { continue };
            tokio::spawn(connection);
            while client.batch_execute(TURN).await.is_ok() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    job.until("somebody to have written", |_| written.load(Ordering::SeqCst) > 100).await;
    let finished = fleet.run(&["task", "cutover", "shop", "--fence"]).await;
    assert_eq!(finished.code(), Some(1), "{}", told(&finished));
    // He may have drawn his number, and not committed yet.
    let found = ["cutover_writers", "cutover_sequences_moved"];
    assert!(found.iter().any(|code| finished.log.contains(code)), "{}", told(&finished));
    assert!(finished.log.contains("night_job from "), "{}", told(&finished));
    assert!(!read_only_by_default(&pair.source).await);
    writer.abort();
    fleet.ok(&["task", "cutover", "shop", "--fence"]).await;
    job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
    pair.same().await;
}

#[tokio::test]
async fn a_migration_goes_on_until_its_cutover() {
    let pair = Pair::new(SCHEMA).await;
    let writer = Writer::begin(&pair.source).await;
    let until = |writers: &str| {
        let until = ["--types", "schema,full,incremental", "--until", "cutover", writers];
        pair.migrate().args(until)
    };
    // Undone: the task is kept, and the same command tries again.
    let finished = until("--writers-stopped").run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(1), "{}", told(&finished));
    assert!(finished.log.contains("cutover_writers"), "{}", told(&finished));
    let before = writer.count();
    wait::until(LIMIT, "the writer to go on", async || {
        if writer.count() > before + 50 { Ok(()) } else { Err(writer.count()) }
    })
    .await
    .unwrap();
    let finished = until("--fence").run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    assert!(finished.stdout.contains("writes may start"), "{}", told(&finished));
    writer.work.await.unwrap();
    let arrived = pair.count("select count(*) from ledger").await;
    let acknowledged = writer.acknowledged.load(Ordering::SeqCst);
    assert!((acknowledged..=acknowledged + 1).contains(&arrived), "{arrived} of {acknowledged}");
    pair.same().await;
}

#[tokio::test]
async fn a_migration_that_is_interrupted_ends_its_cutover_first() {
    let pair = Pair::new(SCHEMA).await;
    let writer = Writer::begin(&pair.source).await;
    let until = ["--types", "schema,full,incremental", "--until", "cutover", "--fence"];
    let migrate = || pair.migrate().args(until);
    let (lock, process) = migration_held_at_its_switch(&pair, migrate()).await;
    let (status, ()) = tokio::join!(process.terminate(Signal::SIGINT, LIMIT), async {
        process.wait_for_line("brought to its end first", LIMIT).await.unwrap();
        lock.batch_execute("rollback").await.unwrap();
    });
    assert_eq!(status.unwrap().code(), Some(130), "{}", process.log());
    let finished = migrate().run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    writer.work.await.unwrap();
    pair.same().await;
}

/// A migration whose cutover stands still when the source is fenced, and what keeps it there.
async fn migration_held_at_its_switch(pair: &Pair, migrate: Program) -> (Client, Process) {
    let process = Process::start("migrate", migrate, &pair.path("")).unwrap();
    // Its first rows are there before that: the lock needs the task's row.
    wait::until(LIMIT, "it to follow", async || {
        let row = "select count(*)::text from pgconvoy.apply_progress";
        match pair.destination.value(DATABASE, row).await {
            Ok(Some(count)) if count == "1" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    let (lock, waiting) = held_at(pair, "", "switch").await;
    until_blocked(&pair.destination, &waiting, &process).await;
    (lock, process)
}
