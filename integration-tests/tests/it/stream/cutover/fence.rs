//! Who stands behind the fence: sessions that the task's role may hardly see, that began in the very moment, that have something open.

use pgconvoy_integration_tests::postgres::{PASSWORD, Postgres, SUPERUSER};
use pgconvoy_integration_tests::process::Process;
use pgconvoy_integration_tests::wait;
use pgconvoy_proto::v1::{Task, TaskStatus};
use tokio_postgres::{Client, Config, NoTls};

use super::{SCHEMA, cutover_held_at, following, is_followed, read_only_by_default, until_blocked};
use crate::stream::FOLLOWED;
use crate::world::{DATABASE, Fleet, LIMIT, Pair, SOON, told};

/// A session under a name and a role of its own.
async fn session(server: &Postgres, name: &str, role: &str) -> Client {
    let mut config = server.url(DATABASE).parse::<Config>().unwrap();
    let (client, connection) =
        config.user(role).application_name(name).connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A role that may end others' sessions may not see when they began, nor what they are.
#[tokio::test]
async fn cluster_sessions_that_the_role_may_not_look_into_are_ended_too() {
    let ledger = "create table ledger (id int primary key); insert into ledger values (1)";
    let pair = Pair::new(ledger).await;
    let roles = format!(
        "create role report; create role mover login replication in role pg_signal_backend password '{PASSWORD}';
         create role front login password '{PASSWORD}'; grant all on ledger to front;
         alter table ledger owner to mover; alter database {DATABASE} owner to mover;"
    );
    pair.source.sql(DATABASE, &roles).await.unwrap();
    let file = format!(
        "name: shop\nsource: {{ url: \"{}\", password: {{ file: password }} }}\n\
         destination: {{ url: \"{}\", password: {{ file: password }} }}\n{FOLLOWED}\n",
        pair.source_url().replace(&format!("//{SUPERUSER}@"), "//mover@"),
        pair.destination_url()
    );
    let file = pair.write("shop.yaml", &file);
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = fleet.begin(&file).await;
    job.until("the source to be followed", is_followed).await;

    let report = async |setting: &str| {
        let alter = format!("alter role report set default_transaction_read_only = {setting}");
        pair.source.sql(DATABASE, &alter).await.unwrap();
    };
    report("off").await;
    // Whom it may not end, or keep from writing, stands in the way before anybody is stopped.
    let admin = session(&pair.source, "admin", SUPERUSER).await;
    let finished = fleet.run(&["task", "cutover", "shop", "--fence", "--dry-run"]).await;
    assert_eq!(finished.code(), Some(1), "{}", told(&finished));
    assert!(finished.log.contains("cutover_sessions_stay"), "{}", told(&finished));
    assert!(finished.log.contains("admin from "), "{}", told(&finished));
    assert!(finished.log.contains("cutover_role_settings"), "{}", told(&finished));
    report("on").await;
    drop(admin);
    wait::until(SOON, "it to be gone", async || {
        let left = "select count(*)::text from pg_stat_activity where application_name = 'admin'";
        match pair.source.value(DATABASE, left).await.unwrap().as_deref() {
            Some("0") => Ok(()),
            left => Err(format!("{left:?}")),
        }
    })
    .await
    .unwrap();

    let front = session(&pair.source, "shop_front", "front").await;
    // It has been said that nobody writes, and in the log there is nothing yet.
    front.batch_execute("begin; insert into ledger values (2)").await.unwrap();
    let finished = fleet.run(&["task", "cutover", "shop", "--writers-stopped"]).await;
    assert_eq!(finished.code(), Some(1), "{}", told(&finished));
    assert!(finished.log.contains("cutover_writers"), "{}", told(&finished));
    assert!(finished.log.contains("shop_front from "), "{}", told(&finished));
    front.batch_execute("commit").await.unwrap();
    job.until("the source to be followed again", is_followed).await;
    let finished = fleet.run(&["task", "cutover", "shop", "--fence"]).await;
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    let written = front.batch_execute("insert into ledger values (3)").await;
    assert!(written.is_err(), "the destination has taken over: {}", told(&finished));
    let task =
        job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
    assert_eq!(task.cutover.unwrap().ended_sessions, 1);
    assert_eq!(pair.count("select count(*) from ledger").await, 2);
    pair.left_nothing().await;
}

/// A provider's own sessions may be left, if that is said: what they write all the same is found.
#[tokio::test]
async fn cluster_sessions_that_the_role_may_not_end_are_left_if_that_is_said() {
    let ledger = "create table ledger (id int primary key); insert into ledger values (1)";
    let pair = Pair::new(ledger).await;
    let mover = format!(
        "create role mover login replication in role pg_signal_backend password '{PASSWORD}';
         alter table ledger owner to mover; alter database {DATABASE} owner to mover;"
    );
    pair.source.sql(DATABASE, &mover).await.unwrap();
    let file = format!(
        "name: shop\nsource: {{ url: \"{}\", password: {{ file: password }} }}\n\
         destination: {{ url: \"{}\", password: {{ file: password }} }}\n{FOLLOWED}\n",
        pair.source_url().replace(&format!("//{SUPERUSER}@"), "//mover@"),
        pair.destination_url()
    );
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = fleet.begin(&pair.write("shop.yaml", &file)).await;
    job.until("the source to be followed", is_followed).await;
    let admin = session(&pair.source, "admin", SUPERUSER).await;
    let cutover = ["task", "cutover", "shop", "--fence", "--compare", "none"];
    fleet.refused(&cutover, 1, "cutover_sessions_stay").await;
    let leaving = [&cutover[..], &["--leave-sessions-of", SUPERUSER]].concat();

    admin.batch_execute("begin; insert into ledger values (2)").await.unwrap();
    let finished = fleet.run(&leaving).await;
    assert_eq!(finished.code(), Some(1), "{}", told(&finished));
    assert!(finished.log.contains("cutover_writers"), "{}", told(&finished));
    assert!(finished.log.contains("admin from "), "{}", told(&finished));
    assert!(!read_only_by_default(&pair.source).await);
    admin.batch_execute("commit").await.unwrap();
    job.until("the source to be followed again", is_followed).await;
    let finished = fleet.run(&leaving).await;
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    assert!(finished.stdout.contains("admin from "), "{}", told(&finished));
    admin.batch_execute("select").await.expect("nobody ended it");
    job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
    assert_eq!(pair.count("select count(*) from ledger").await, 2);
    drop(admin);
    pair.left_nothing().await;
}

/// A session has read its settings a moment before others can see it.
#[tokio::test]
async fn cluster_a_session_that_begins_while_the_fence_is_set_is_ended() {
    let pair = Pair::new(SCHEMA).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = following(&fleet, &pair, "shop").await;
    let (lock, client) =
        cutover_held_at(&fleet, &pair, "fence", &["task", "cutover", "shop", "--fence"]).await;
    // It has read its settings, and cannot be seen for so long.
    let begun = tokio::spawn({
        let mut config = pair.source.url(DATABASE).parse::<Config>().unwrap();
        config.application_name("late").options("-c post_auth_delay=4");
        async move { config.connect(NoTls).await }
    });
    wait::until(SOON, "it to have begun", async || {
        let pending = "select count(*)::text from pg_locks where locktype = 'object' and classid = 'pg_database'::regclass
            and mode = 'RowExclusiveLock'";
        match pair.source.value(DATABASE, pending).await.unwrap().as_deref() {
            Some("1") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    lock.batch_execute("rollback").await.unwrap();
    let exit = client.wait(LIMIT).await.unwrap().code();
    assert_eq!(exit, Some(0), "{}", client.log());
    if let Ok((late, connection)) = begun.await.unwrap() {
        tokio::spawn(connection);
        let written = late.batch_execute("insert into still values (7)").await;
        assert!(written.is_err(), "the destination has taken over: {}", client.log());
    }
    job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
}

/// What is open is in no log yet.
#[tokio::test]
async fn cluster_a_transaction_that_is_open_behind_the_fence_undoes_the_cutover() {
    let pair = Pair::new(SCHEMA).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = following(&fleet, &pair, "shop").await;
    let (lock, client) =
        cutover_held_at(&fleet, &pair, "prove", &["task", "cutover", "shop", "--fence"]).await;
    let defiant = pair.source.client(DATABASE).await.unwrap();
    defiant.batch_execute("begin read write; insert into still values (7)").await.unwrap();
    lock.batch_execute("rollback").await.unwrap();
    let exit = client.wait(LIMIT).await.unwrap().code();
    assert_eq!(exit, Some(1), "{}", client.log());
    assert!(client.log().contains("cutover_writers"), "{}", client.log());
    assert!(client.log().contains("harness from"), "{}", client.log());
    assert!(!read_only_by_default(&pair.source).await);
    job.until("it to follow", is_followed).await;
}

/// Triggers that fire always are made by the switch, which may have to wait for their tables: what is written meanwhile is found.
#[tokio::test]
async fn cluster_what_is_written_while_the_switch_waits_for_a_table_undoes_the_cutover() {
    let pair = Pair::new(SCHEMA).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = following(&fleet, &pair, "shop").await;
    let reader = pair.destination.client(DATABASE).await.unwrap();
    reader.batch_execute("begin; lock table ledger in row exclusive mode").await.unwrap();
    let cutover = fleet.convoy.cli(["task", "cutover", "shop", "--fence"]).unwrap();
    let client = Process::start("cutover", cutover, &pair.path("")).unwrap();
    let waiting = "select min(a.application_name) from pg_locks l join pg_stat_activity a using (pid)
        where l.relation = 'ledger'::regclass and not l.granted and a.application_name like 'pgconvoy/%/cutover/%'";
    until_blocked(&pair.destination, waiting, &client).await;
    let late = "begin read write; insert into still values (7); commit";
    pair.source.client(DATABASE).await.unwrap().batch_execute(late).await.unwrap();
    reader.batch_execute("rollback").await.unwrap();
    assert_eq!(client.wait(LIMIT).await.unwrap().code(), Some(1), "{}", client.log());
    assert!(client.log().contains("cutover_writers"), "{}", client.log());
    job.until("it to follow", is_followed).await;

    // And who is at work in the last moment of all.
    let (lock, client) =
        cutover_held_at(&fleet, &pair, "switch", &["task", "cutover", "shop", "--fence"]).await;
    let defiant = pair.source.client(DATABASE).await.unwrap();
    defiant.batch_execute("begin read write; select pg_current_xact_id()").await.unwrap();
    defiant.batch_execute("prepare transaction 'late'").await.unwrap();
    lock.batch_execute("rollback").await.unwrap();
    assert_eq!(client.wait(LIMIT).await.unwrap().code(), Some(1), "{}", client.log());
    assert!(client.log().contains("cutover_prepared_transactions"), "{}", client.log());
    pair.source.sql(DATABASE, "commit prepared 'late'").await.unwrap();
    job.until("it to follow", is_followed).await;
    fleet.ok(&["task", "cutover", "shop", "--fence"]).await;
    job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
    pair.same().await;
}

/// Who asks for more than the fence gives waits for the switch, or keeps it from being done.
#[tokio::test]
async fn cluster_who_ignores_the_fence_does_not_write_beside_the_switch() {
    let pair = Pair::new(SCHEMA).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = following(&fleet, &pair, "shop").await;
    let cutover = ["task", "cutover", "shop", "--fence"];
    let (lock, client) = cutover_held_at(&fleet, &pair, "rows", &cutover).await;
    let defiant = pair.source.client(DATABASE).await.unwrap();
    // It has written nothing yet.
    defiant.batch_execute("begin read write; delete from still where false").await.unwrap();
    lock.batch_execute("rollback").await.unwrap();
    assert_eq!(client.wait(LIMIT).await.unwrap().code(), Some(1), "{}", client.log());
    assert!(client.log().contains("cutover_writers"), "{}", client.log());
    assert!(client.log().contains("harness from"), "{}", client.log());
    job.until("it to follow", is_followed).await;

    let (lock, client) = cutover_held_at(&fleet, &pair, "switch", &cutover).await;
    let defiant = pair.source.client(DATABASE).await.unwrap();
    let late = defiant.batch_execute("begin read write; insert into still values (9); commit");
    let waits = "select min(a.application_name) from pg_locks l join pg_stat_activity a using (pid)
        where l.relation = 'still'::regclass and not l.granted and l.mode = 'RowExclusiveLock'";
    let switch = async {
        until_blocked(&pair.source, waits, &client).await;
        lock.batch_execute("rollback").await.unwrap();
        client.wait(LIMIT).await.unwrap().code()
    };
    let (late, exit) = tokio::join!(late, switch);
    assert_eq!(exit, Some(0), "{}", client.log());
    late.unwrap();
    assert_eq!(pair.count("select count(*) from still where id = 9").await, 0);
    job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
}

/// The stream waits for a table that the switch has, or is to have before it, and the switch for the stream.
#[tokio::test]
async fn cluster_a_change_that_waits_for_the_switch_undoes_the_cutover_at_once() {
    let pair = Pair::new(SCHEMA).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = following(&fleet, &pair, "shop").await;
    pair.source.sql(DATABASE, "insert into ledger (amount) values (1)").await.unwrap();
    let defiant = pair.source.client(DATABASE).await.unwrap();
    for held in ["live", "rows"] {
        let cutover = ["task", "cutover", "shop", "--writers-stopped", "--timeout", "120"];
        let (lock, client) = cutover_held_at(&fleet, &pair, held, &cutover).await;
        defiant.batch_execute("update ledger set amount = amount + 1").await.unwrap();
        // What the switch would have to wait for is still held.
        assert_eq!(client.wait(LIMIT).await.unwrap().code(), Some(1), "{}", client.log());
        assert!(client.log().contains("cutover_writers"), "{}", client.log());
        assert!(client.log().contains("harness from"), "{}", client.log());
        lock.batch_execute("rollback").await.unwrap();
        job.until("it to follow", is_followed).await;
    }
    fleet.ok(&["task", "cutover", "shop", "--fence"]).await;
    job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
    pair.same().await;
}

/// What applies changes from elsewhere is no client, and no fence reaches it.
#[tokio::test]
async fn cluster_a_subscription_in_the_middle_of_a_transaction_is_a_writer() {
    let pair = Pair::new(&format!("{SCHEMA} create table fed (id int primary key);")).await;
    let feed = "create table fed (id int primary key); create publication feed for table fed;";
    pair.source.sql("postgres", feed).await.unwrap();
    let slot = "select pg_create_logical_replication_slot('feed', 'pgoutput')";
    pair.source.sql("postgres", slot).await.unwrap();
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = following(&fleet, &pair, "shop").await;
    // Its transaction stays open.
    let subscribe = format!(
        "create function wait() returns trigger language plpgsql as 'begin perform pg_sleep(3600); return null; end';
         create trigger wait after insert on fed for each row execute function wait();
         alter table fed enable always trigger wait;
         create subscription feed connection '{}' publication feed with (create_slot = false, copy_data = false)",
        pair.source.url("postgres")
    );
    pair.source.sql(DATABASE, &subscribe).await.unwrap();
    pair.source.sql("postgres", "insert into fed values (1)").await.unwrap();
    wait::until(SOON, "it to be applied", async || {
        let open = "select count(*)::text from pg_stat_activity where backend_type like 'logical replication%' and backend_xid is not null";
        match pair.source.value(DATABASE, open).await.unwrap().as_deref() {
            Some("1") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    for writers in ["--writers-stopped", "--fence"] {
        let cutover = ["task", "cutover", "shop", writers, "--compare", "none"];
        // Idle or not, it would go on when the destination has taken over.
        fleet.refused(&cutover, 1, "cutover_subscriptions").await;
        let cutover = [&cutover[..], &["--ignore", "cutover_subscriptions"]].concat();
        let finished = fleet.run(&cutover).await;
        assert_eq!(finished.code(), Some(1), "{}", told(&finished));
        assert!(finished.log.contains("cutover_writers"), "{}", told(&finished));
        assert!(finished.log.contains("a logical replication"), "{}", told(&finished));
        job.until("the source to be followed again", is_followed).await;
    }
}

/// A table is altered once it was compared, and no change of a row tells of it.
#[tokio::test]
async fn cluster_a_table_that_is_altered_after_it_was_compared_undoes_the_cutover() {
    let pair = Pair::new(SCHEMA).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = following(&fleet, &pair, "shop").await;
    let (lock, client) =
        cutover_held_at(&fleet, &pair, "fence", &["task", "cutover", "shop", "--fence"]).await;
    pair.source.sql(DATABASE, "insert into still values (1)").await.unwrap();
    let altered = "alter table still add extra int default 5";
    pair.source.sql(DATABASE, altered).await.unwrap();
    lock.batch_execute("rollback").await.unwrap();
    let exit = client.wait(LIMIT).await.unwrap().code();
    assert_eq!(exit, Some(4), "{}", client.log());
    assert!(client.log().contains("cutover_tables_changed"), "{}", client.log());
    assert!(client.log().contains("public.still"), "{}", client.log());
    assert!(!read_only_by_default(&pair.source).await);
    job.until("it to follow", is_followed).await;

    // From then on it is seen before anybody is stopped.
    let cutover = ["task", "cutover", "shop", "--fence", "--compare", "none"];
    let finished = fleet.run(&cutover).await;
    assert_eq!(finished.code(), Some(4), "{}", told(&finished));
    assert!(finished.stdout.contains("nobody was stopped"), "{}", told(&finished));

    // Nothing is told of the table since; but it is the same at both ends.
    pair.destination.sql(DATABASE, altered).await.unwrap();
    // And so is a sequence that could not be set.
    pair.source.sql(DATABASE, "create sequence later").await.unwrap();
    let finished = fleet.run(&cutover).await;
    assert_eq!(finished.code(), Some(4), "{}", told(&finished));
    assert!(finished.stdout.contains("public.later"), "{}", told(&finished));
    assert!(finished.stdout.contains("nobody was stopped"), "{}", told(&finished));
    pair.source.sql(DATABASE, "drop sequence later").await.unwrap();
    // One that was renamed is written to under its old name.
    pair.source.sql(DATABASE, "alter table still rename to quiet").await.unwrap();
    let finished = fleet.run(&cutover).await;
    assert_eq!(finished.code(), Some(4), "{}", told(&finished));
    assert!(finished.log.contains("public.still is called public.quiet"), "{}", told(&finished));
    pair.source.sql(DATABASE, "alter table quiet rename to still").await.unwrap();

    // No rehearsal can tell that the next row parks it: nothing but that it goes on is to be asked for then.
    let rehearsal = [&cutover[..], &["--dry-run"]].concat();
    fleet.ok(&rehearsal).await;
    pair.source.sql(DATABASE, "insert into still values (2)").await.unwrap();
    let status = |task: &Task, status: &str| {
        task.tables.iter().any(|table| table.name == "public.still" && table.status == status)
    };
    job.until("it to be parked", |task| status(task, "parked")).await;
    let finished = fleet.run(&cutover).await;
    assert_eq!(finished.code(), Some(1), "{}", told(&finished));
    assert!(finished.log.contains("cutover_tables_parked"), "{}", told(&finished));
    assert!(finished.log.contains("task resume TASK --table TABLE"), "{}", told(&finished));
    fleet.ok(&["task", "resume", "shop", "--table", "public.still"]).await;
    job.until("it to go on", |task| status(task, "streaming")).await;
    fleet.ok(&["task", "cutover", "shop", "--fence"]).await;
    job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
    pair.same().await;
}

/// A rehearsal is none of what was asked for.
#[tokio::test]
async fn cluster_a_cutover_does_not_begin_beside_a_rehearsal() {
    let pair = Pair::new(SCHEMA).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = following(&fleet, &pair, "shop").await;
    let (lock, client) = cutover_held_at(
        &fleet,
        &pair,
        "compare",
        &["task", "cutover", "shop", "--fence", "--dry-run"],
    )
    .await;
    fleet.refused(&["task", "cutover", "shop", "--fence"], 2, "cutover_under_way").await;
    lock.batch_execute("rollback").await.unwrap();
    assert_eq!(client.wait(LIMIT).await.unwrap().code(), Some(0), "{}", client.log());
    fleet.ok(&["task", "cutover", "shop", "--fence"]).await;
    job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
    assert!(read_only_by_default(&pair.source).await);
}
