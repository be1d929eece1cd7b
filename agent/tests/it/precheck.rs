//! What the precheck finds, each finding provoked.

use pgconvoy_integration_tests::postgres::{Options, PASSWORD};
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::precheck::{PrecheckItem, Severity};
use pgconvoy_shared::spec::MigrationType;
use pgconvoy_shared::unit::{Ended, SnapshotMode, Work, WorkResult};

use crate::world::{DATABASE, World, task_id};

pub(crate) async fn precheck(world: &World) -> Vec<PrecheckItem> {
    match world.done(0, Work::Precheck { verified: false }).await {
        WorkResult::Precheck(items) => items,
        other => panic!("another result: {other:?}"),
    }
}

/// What was found, but for what is good to know: code, side, object.
fn told(items: &[PrecheckItem]) -> Vec<(Severity, String)> {
    let items = items.iter().filter(|item| item.severity > Severity::Info);
    let told = items.map(|item| {
        let side = match item.side {
            Some(Side::Source) => "source",
            Some(Side::Destination) => "destination",
            None => "both",
        };
        (item.severity, format!("{} {side} {}", item.code, item.object).trim_end().to_owned())
    });
    told.collect()
}

#[track_caller]
pub(crate) fn check(items: &[PrecheckItem], severity: Severity, expected: &[&str]) {
    let told = told(items);
    let of_severity: Vec<&str> =
        told.iter().filter(|(s, _)| *s == severity).map(|(_, text)| text.as_str()).collect();
    assert_eq!(of_severity, expected, "{items:#?}");
    for item in items {
        assert!(pgconvoy_shared::codes::page(&item.code).is_some(), "no page for {}", item.code);
    }
}

#[tokio::test]
async fn a_plain_database_has_nothing_to_complain_of_and_stays_as_it_is() -> anyhow::Result<()> {
    let world = World::new().await?;
    world
        .source
        .sql(DATABASE, "create table t (id int primary key); create view v as select * from t")
        .await?;
    let before = world.destination.pg_dump_schema(DATABASE).await?;
    let items = precheck(&world).await;
    check(&items, Severity::Error, &[]);
    check(&items, Severity::Warning, &[]);
    assert!(
        items.iter().any(|item| item.code == "source_size" && item.observed.contains("1 tables"))
    );
    let dump = |text: &str| {
        text.lines()
            .filter(|line| !line.contains("restrict "))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(dump(&before), dump(&world.destination.pg_dump_schema(DATABASE).await?));
    Ok(())
}

#[tokio::test]
async fn databases_that_cannot_be_reached_are_told_together() -> anyhow::Result<()> {
    let mut world = World::new().await?;
    world.spec.source.port = 1;
    world.spec.destination.database = "nowhere".to_owned();
    let items = precheck(&world).await;
    let codes: Vec<_> = items.iter().map(|item| (item.code.as_str(), item.side)).collect();
    assert_eq!(
        codes,
        [("no_such_database", Some(Side::Destination)), ("unreachable_host", Some(Side::Source))]
    );
    world.spec.source = world.spec.destination.clone();
    world.spec.source.user = "nobody".to_owned();
    let items = precheck(&world).await;
    assert!(
        items.iter().any(|item| item.code == "wrong_password" && item.side == Some(Side::Source))
    );
    Ok(())
}

#[tokio::test]
async fn the_same_database_is_refused() -> anyhow::Result<()> {
    let mut world = World::new().await?;
    world.spec.destination = world.spec.source.clone();
    world.spec.destination.host = "localhost".to_owned();
    let items = precheck(&world).await;
    check(&items, Severity::Error, &["same_database both shop"]);
    Ok(())
}

#[tokio::test]
async fn what_the_source_holds_that_needs_care() -> anyhow::Result<()> {
    let mut world = World::new().await?;
    world.spec.copy.snapshot = SnapshotMode::Shard;
    world.spec.copy.shard_size_bytes = 8192;
    world
        .source
        .sql(
            DATABASE,
            "create table keyless as select n, repeat('x', 100) from generate_series(1, 2000) n; analyze keyless;
             create foreign data wrapper fdw; create server far foreign data wrapper fdw;
             create foreign table afar (x int) server far;
             create table parent (id int) partition by list (id);
             create table child partition of parent for values in (1);
             create table other (id int primary key);
             create view over_other as select * from other;
             create function watch() returns event_trigger language plpgsql as 'begin end';
             create event trigger watcher on ddl_command_end execute function watch();
             create function handler() returns language_handler language c as '$libdir/plpgsql', 'plpgsql_call_handler';
             create type numbers as range (subtype = numeric);
             create role somebody; create role reader;
             alter table other owner to somebody;
             alter table keyless enable row level security;
             create policy positive on keyless to reader using (n > 0);
             select lo_create(0)",
        )
        .await?;
    let hanging = world.source.client(DATABASE).await?;
    hanging
        .batch_execute("begin; insert into keyless values (0); prepare transaction 'forgotten'")
        .await?;
    world.spec.objects.exclude = vec!["public.other".to_owned(), "public.parent".to_owned()];
    let items = precheck(&world).await;
    check(
        &items,
        Severity::Error,
        &["partition_without_parent source public.child", "role_missing destination reader"],
    );
    check(
        &items,
        Severity::Warning,
        &[
            "foreign_table_rows_left_out source public.afar",
            "function_needs_library source public.handler",
            "keyless_table source public.keyless",
            "object_left_out source view public.over_other, which needs public.other",
            "prepared_transaction source",
            "role_missing destination somebody",
            "snapshot_per_shard source",
        ]
        .map(|text| if text == "prepared_transaction source" { forgotten(&items) } else { text }),
    );
    Ok(())
}

/// The object tells when it was prepared: taken as it is.
fn forgotten(items: &[PrecheckItem]) -> &'static str {
    let item = items.iter().find(|item| item.code == "prepared_transaction").expect("it is told");
    assert!(item.object.starts_with("forgotten of postgres, since "), "{item:?}");
    format!("prepared_transaction source {}", item.object).leak()
}

#[tokio::test]
async fn what_is_at_the_destination_already() -> anyhow::Result<()> {
    let mut world = World::new().await?;
    let tables = "create table a (id int primary key, v text); create table b (id int primary key);
                  create table c (id int primary key); create type mood as enum ('x');
                  create sequence counter;
                  create function f(int) returns int language sql as 'select 1'";
    world.source.sql(DATABASE, tables).await?;
    world
        .destination
        .sql(
            DATABASE,
            "create table a (id int primary key, w text not null); create table b (id int primary key);
             insert into b values (1); alter table b add constraint late check (id > 0) not valid;
             create type mood as enum ('y');
             create function f(int) returns int language sql as 'select 2';
             create function watch() returns trigger language plpgsql as 'begin return new; end';
             create trigger watcher before insert on b for each row execute function watch();
             create function see() returns event_trigger language plpgsql as 'begin end';
             create event trigger seer on ddl_command_end execute function see()",
        )
        .await?;
    let items = precheck(&world).await;
    check(
        &items,
        Severity::Error,
        &[
            "object_exists destination function public.f(integer)",
            "object_exists destination table public.a",
            "object_exists destination table public.b",
            "object_exists destination type public.mood",
        ],
    );
    check(&items, Severity::Warning, &["destination_event_trigger destination seer"]);

    world.spec.types = [MigrationType::Full].into();
    let items = precheck(&world).await;
    check(
        &items,
        Severity::Error,
        &[
            "destination_not_empty destination public.b",
            "structure_differs destination public.a",
            "table_missing destination public.c",
        ],
    );
    check(
        &items,
        Severity::Warning,
        &[
            "destination_constraint destination public.b",
            "destination_event_trigger destination seer",
            "destination_trigger destination public.b",
            "sequence_missing destination public.counter",
        ],
    );
    let differs = items.iter().find(|item| item.code == "structure_differs").expect("it is told");
    assert_eq!(differs.required, "columns v text");
    assert_eq!(differs.observed, "has w text; must be given w text");
    Ok(())
}

#[tokio::test]
async fn a_task_that_has_begun_does_not_stumble_over_its_own_work() -> anyhow::Result<()> {
    let world = World::new().await?;
    world.source.sql(DATABASE, "create table t (id int primary key)").await?;
    world.done(1, Work::SchemaPre).await;
    check(&precheck(&world).await, Severity::Error, &[]);
    let gone = format!("delete from pgconvoy.task where id = '{}'", task_id());
    world.destination.sql(DATABASE, &gone).await?;
    check(&precheck(&world).await, Severity::Error, &["object_exists destination table public.t"]);
    Ok(())
}

#[tokio::test]
async fn roles_that_may_too_little() -> anyhow::Result<()> {
    let mut world = World::new().await?;
    let password = pgconvoy_integration_tests::postgres::PASSWORD;
    let role = format!("create role mover login password '{password}'");
    world.source.sql("postgres", &role).await?;
    world.source.sql("postgres", "create role app").await?;
    world.destination.sql("postgres", &format!("{role}; create role app")).await?;
    world
        .source
        .sql(
            DATABASE,
            "create schema owned authorization app; create table closed (id serial primary key); create schema hidden; create table hidden.t (id int);
             create table filtered (id int); alter table filtered enable row level security;
             create table parted (id int) partition by list (id); create table leaf partition of parted default;
             alter table parted enable row level security; grant select on filtered, parted, leaf to mover; create publication everything for all tables",
        )
        .await?;
    world.spec.source.user = "mover".to_owned();
    world.spec.destination.user = "mover".to_owned();
    let items = precheck(&world).await;
    check(
        &items,
        Severity::Error,
        &[
            "missing_privilege source hidden.t",
            "missing_privilege source public.closed",
            "missing_privilege source public.closed_id_seq",
            "missing_privilege destination shop",
            "missing_privilege destination public",
            "row_level_security source public.filtered",
            "superuser_needed destination everything",
        ],
    );
    check(
        &items,
        Severity::Warning,
        &["role_not_assignable destination app", "role_not_assignable destination postgres"],
    );
    Ok(())
}

#[tokio::test]
async fn owners_that_the_source_was_born_with() -> anyhow::Result<()> {
    let mut world = World::new().await?;
    let password = pgconvoy_integration_tests::postgres::PASSWORD;
    let role = format!(
        "create role mover login password '{password}'; grant create on database {DATABASE} to mover"
    );
    world
        .destination
        .sql(DATABASE, &format!("{role}; grant create on schema public to mover"))
        .await?;
    world.spec.destination.user = "mover".to_owned();
    let session = world.source.client(DATABASE).await?;
    let owned = "create role mover; create table t (id serial primary key, v text); alter table t owner to mover";
    session.batch_execute(owned).await?;
    // What is temporary or of an extension is not given to anybody.
    session.batch_execute("create temp table passing (id int); create extension pg_trgm").await?;
    check(&precheck(&world).await, Severity::Warning, &[]);
    for object in ["create function f() returns int language sql as 'select 1'", "create schema s"]
    {
        session.batch_execute(object).await?;
        check(
            &precheck(&world).await,
            Severity::Warning,
            &["role_not_assignable destination postgres"],
        );
        session.batch_execute("drop function if exists f(); drop schema if exists s").await?;
    }
    session.batch_execute("create type mood as enum ('x')").await?;
    world.destination.sql("postgres", "create role chief superuser; set session authorization chief; alter role postgres rename to root").await?;
    check(&precheck(&world).await, Severity::Warning, &["role_missing destination postgres"]);
    Ok(())
}

#[tokio::test]
async fn servers_with_too_little_room_or_another_encoding() -> anyhow::Result<()> {
    let small = Options::default()
        .setting("max_connections", 12)
        .setting("max_wal_senders", 0)
        .setting("max_locks_per_transaction", 10)
        .setting("max_prepared_transactions", 0);
    let mut world = World::with(small, Options::default()).await?;
    world.spec.copy.jobs = 50;
    world
        .destination
        .sql("postgres", "create database latin encoding 'LATIN1' locale 'C' template template0")
        .await?;
    world.spec.destination.database = "latin".to_owned();
    let tables = "select format('create table t%s (id int)', n) from generate_series(1, 130) n";
    let client = world.source.client(DATABASE).await?;
    for row in client.query(tables, &[]).await? {
        client.batch_execute(row.get(0)).await?;
    }
    drop(client);
    let items = precheck(&world).await;
    check(&items, Severity::Error, &["encoding_differs destination latin"]);
    check(
        &items,
        Severity::Warning,
        &["collation_differs destination latin", "connections_short source", "locks_short source"],
    );
    Ok(())
}

#[tokio::test]
async fn an_extension_that_the_destination_lacks() -> anyhow::Result<()> {
    use pgconvoy_integration_tests::postgres::Major;
    let (Some(old), Some(new)) = (Major::fetched(15), Major::fetched(17)) else { return Ok(()) };
    let world = World::with(Options::default().major(new), Options::default().major(old)).await?;
    world.source.sql(DATABASE, "create extension hstore").await?;
    let items = precheck(&world).await;
    let errors: Vec<_> = told(&items)
        .into_iter()
        .filter(|(severity, _)| *severity == Severity::Error)
        .map(|(_, text)| text)
        .collect();
    assert!(errors.contains(&"destination_older destination".to_owned()), "{errors:?}");
    Ok(())
}

#[tokio::test]
async fn an_extension_that_the_role_may_not_create() -> anyhow::Result<()> {
    let mut world = World::new().await?;
    world.source.sql(DATABASE, "set role pg_database_owner; create table t (id int primary key); reset role; create extension pageinspect; create extension hstore").await?;
    let mover = format!("create role mover login password '{PASSWORD}'");
    world.destination.sql("postgres", &mover).await?;
    world.destination.sql(DATABASE, &format!("alter database {DATABASE} owner to mover")).await?;
    world.spec.destination.user = "mover".to_owned();
    let needs_it = "superuser_needed destination extension pageinspect";
    check(&precheck(&world).await, Severity::Warning, &[needs_it]);
    world.destination.sql(DATABASE, "create extension pageinspect").await?;
    check(&precheck(&world).await, Severity::Warning, &[]);
    Ok(())
}

#[tokio::test]
async fn a_name_that_is_no_text_is_told() -> anyhow::Result<()> {
    let mut world = World::new().await?;
    let raw = "create database raw encoding 'SQL_ASCII' locale 'C' template template0";
    world.source.sql("postgres", raw).await?;
    world.source.sql("raw", r#"do $$ begin execute E'create table "caf\xe9" ()'; end $$"#).await?;
    world.spec.source.database = "raw".to_owned();
    match world.end_of(0, Work::Precheck { verified: false }).await {
        Ended::Failed(failure) => assert_eq!(failure.code, "schema_not_utf8", "{failure}"),
        other => panic!("{other:?}"),
    }
    Ok(())
}

#[tokio::test]
async fn what_would_be_left_out_without_a_word() -> anyhow::Result<()> {
    let mut world = World::new().await?;
    // Made by hand, for no extension that comes with the server keeps such rows.
    let script = "create extension pg_trgm;
         create table known (id int primary key, mine bool); create table quiet (mine bool);
         insert into known values (1, false), (2, true); insert into quiet values (false);
         alter extension pg_trgm add table known; alter extension pg_trgm add table quiet;
         set allow_system_table_mods = on;
         update pg_extension set extconfig = array['known'::regclass::oid, 'quiet'::regclass::oid],
                                 extcondition = array['where mine', 'where mine']
         where extname = 'pg_trgm';
         create table orders (id int primary key)";
    world.source.sql(DATABASE, script).await?;
    world.spec.objects.include =
        ["public.*", "public.order", "sales.*"].map(str::to_owned).to_vec();
    let items = precheck(&world).await;
    check(&items, Severity::Error, &[]);
    check(
        &items,
        Severity::Warning,
        &[
            "extension_rows_left_out source public.known",
            "pattern_matches_nothing source public.order",
            "pattern_matches_nothing source sales.*",
        ],
    );
    Ok(())
}
