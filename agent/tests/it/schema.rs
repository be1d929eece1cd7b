//! The schema between two servers, whatever dies.

use pgconvoy_integration_tests::oracle::{End, compare};
use pgconvoy_integration_tests::postgres::{Options, PASSWORD, Postgres};
use pgconvoy_integration_tests::wait;
use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::failure::{Failure, FailureClass};
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::spec::MigrationType;
use pgconvoy_shared::unit::{Ended, IndexBuild, Work, WorkResult};

use crate::leader::LIMIT;
use crate::world::{DATABASE, World, task_id, unit};

const SCHEMA: &str = include_str!("schema.sql");

async fn world() -> anyhow::Result<World> {
    let world = World::new().await?;
    world.source.sql("postgres", "create role app").await?;
    world.destination.sql("postgres", "create role app").await?;
    world.source.sql(DATABASE, SCHEMA).await?;
    Ok(world)
}

fn failure(ended: Ended) -> Failure {
    match ended {
        Ended::Failed(failure) => failure,
        other => panic!("it should fail: {other:?}"),
    }
}

/// The schema as pg_dump writes it, without the random word that guards psql.
async fn dump(server: &Postgres) -> anyhow::Result<Vec<String>> {
    let dump = server.pg_dump_schema(DATABASE).await?;
    let lines = dump.lines().filter(|line| !line.contains("restrict "));
    Ok(lines.map(str::to_owned).collect())
}

/// Moves the rows of ordinary tables, which is not what is tested here, by psql's means.
async fn move_rows(world: &World) -> anyhow::Result<()> {
    let dump = world
        .source
        .pg_dump(
            DATABASE,
            &["--data-only", "--inserts", "--table=public.people", "--table=sales.items"],
        )
        .await?;
    let rows: String = dump
        .lines()
        .filter(|line| line.starts_with("INSERT INTO"))
        .flat_map(|line| [line, "\n"])
        .collect();
    world.destination.sql(DATABASE, &rows).await
}

/// Index statements by table, as the survey hands them to the leader.
async fn index_units(server: &Postgres) -> anyhow::Result<Vec<Vec<u32>>> {
    let rows = server
        .client(DATABASE)
        .await?
        .query(
            "select array_agg(no order by no) from pgconvoy.schema_entry
             where section = 'index' group by table_schema, table_name",
            &[],
        )
        .await?;
    let numbers = |row: &tokio_postgres::Row| {
        row.get::<_, Vec<i64>>(0).into_iter().map(u32::try_from).collect::<Result<Vec<_>, _>>()
    };
    Ok(rows.iter().map(numbers).collect::<Result<_, _>>()?)
}

#[tokio::test]
async fn a_schema_with_everything_arrives_as_it_was() -> anyhow::Result<()> {
    let world = world().await?;
    let WorkResult::SchemaPre { entries_run, entries_kept } = world.done(1, Work::SchemaPre).await
    else {
        panic!("another result")
    };
    assert!(entries_run > 30 && entries_kept > 30, "{entries_run} run, {entries_kept} kept");
    let indexes = "select count(*)::text from pg_indexes where schemaname !~ '^pg' and schemaname <> 'pgconvoy'";
    assert_eq!(world.destination.value(DATABASE, indexes).await?.as_deref(), Some("0"));

    move_rows(&world).await?;
    for (nth, entries) in (10..).zip(index_units(&world.destination).await?) {
        let build = IndexBuild { subject: "a table".to_owned(), entries };
        assert_eq!(world.done(nth, Work::Index(build)).await, WorkResult::Index);
    }
    world.done(2, Work::SchemaPost).await;
    let WorkResult::Sequences { count } = world.done(3, Work::Sequences).await else {
        panic!("another result")
    };
    assert_eq!(count, 4);
    let tables =
        vec![QualifiedName::new("public", "people"), QualifiedName::new("sales", "orders_2020")];
    world.done(4, Work::Analyze(tables)).await;
    let analyzed = "select string_agg(relname, ' ' order by relname) from pg_stat_user_tables where last_analyze is not null";
    assert_eq!(
        world.destination.value(DATABASE, analyzed).await?.as_deref(),
        Some("orders orders_2020 orders_rest people")
    );
    world.done(5, Work::Finish).await;
    let source = End::new(&world.source, DATABASE);
    let destination = End::new(&world.destination, DATABASE);
    compare(source, destination).await?.refuse()?;
    // Once more, and nothing can be written any more.
    world.done(5, Work::Finish).await;
    assert_eq!(failure(world.end_of(2, Work::SchemaPost).await).class, FailureClass::Definite);
    Ok(())
}

#[tokio::test]
async fn without_rows_indexes_come_with_the_rest() -> anyhow::Result<()> {
    let mut world = world().await?;
    world.spec.types = [MigrationType::Schema].into();
    world.done(1, Work::SchemaPre).await;
    world.done(2, Work::SchemaPost).await;
    world.done(3, Work::Finish).await;
    assert_eq!(dump(&world.source).await?, dump(&world.destination).await?);
    Ok(())
}

#[tokio::test]
async fn a_statement_whose_answer_was_lost_is_not_run_again() -> anyhow::Result<()> {
    let world = world().await?;
    world.done(1, Work::SchemaPre).await;
    // The unit's end did not reach the leader: it is run again, by the same agent or another one.
    let again = world.done(1, Work::SchemaPre).await;
    let WorkResult::SchemaPre { entries_run: 0, entries_kept } = again else { panic!("{again:?}") };
    assert!(entries_kept > 30);
    // Killed in the middle: what is marked is not run again, what is not is.
    world
        .destination
        .sql(
            DATABASE,
            "update pgconvoy.schema_entry set done = false where kind = 'AGGREGATE';
             drop aggregate sales.total(int)",
        )
        .await?;
    let again = world.done(1, Work::SchemaPre).await;
    assert!(matches!(again, WorkResult::SchemaPre { entries_run: 1, .. }), "{again:?}");
    Ok(())
}

#[tokio::test]
async fn an_older_owner_cannot_write_and_is_ended() -> anyhow::Result<()> {
    let world = world().await?;
    world.done(1, Work::SchemaPre).await;
    let blocker = world.destination.client(DATABASE).await?;
    blocker.batch_execute("begin; lock table sales.items").await?;
    // The first owner waits for the lock when the second begins.
    let old = world.next_epoch();
    world.leader.lease(world.leased(2, old, Work::SchemaPost)).await;
    let waiting = format!(
        "select count(*)::text from pg_stat_activity where wait_event_type = 'Lock' and application_name = 'pgconvoy/{}/schema_post/2.{old}'",
        task_id()
    );
    pgconvoy_integration_tests::wait::until(
        crate::leader::LIMIT,
        "the old owner to wait",
        async || {
            let count = world.destination.value(DATABASE, &waiting).await.ok().flatten();
            if count.as_deref() == Some("1") { Ok(()) } else { Err(format!("{count:?}")) }
        },
    )
    .await?;
    // Another agent: this one would end its own older lease itself.
    let shutdown = pgconvoy_runtime::shutdown::Shutdown::new();
    let leader = crate::leader::Leader::start(crate::world::LEASE_MS);
    let coordinators = pgconvoy_agent::Coordinators::Channel(leader.channel());
    let _other = crate::world::agent("a2", coordinators, &shutdown).await;
    let young = world.next_epoch();
    leader.lease(world.leased(2, young, Work::SchemaPost)).await;
    let old_end = failure(world.leader.ended(&unit(2), old).await);
    assert_eq!(old_end.class, FailureClass::Transient, "{old_end:?}");
    blocker.batch_execute("rollback").await?;
    let young_end = leader.ended(&unit(2), young).await;
    assert!(matches!(young_end, Ended::Done(_)), "{young_end:?}");
    // A late try under the old epoch is refused by the destination itself.
    world.leader.lease(world.leased(2, Epoch(old.0), Work::SchemaPost)).await;
    Ok(())
}

#[tokio::test]
async fn a_destination_that_crashes_in_the_middle_is_gone_on_with() -> anyhow::Result<()> {
    let mut world = world().await?;
    world.spec.types = [MigrationType::Schema].into();
    let tables: String =
        (0..400).map(|no| format!("create table public.t{no} (id int);")).collect();
    world.source.sql(DATABASE, &tables).await?;
    let epoch = world.next_epoch();
    world.leader.lease(world.leased(1, epoch, Work::SchemaPre)).await;
    let some = "select count(*)::text from pgconvoy.schema_entry where done";
    wait::until(LIMIT, "some statements to be done", async || {
        match world.destination.value(DATABASE, some).await {
            Ok(Some(count)) if count != "0" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    world.destination.stop_immediate()?;
    world.destination.start_again().await?;
    // Either it was cut, or it was through already.
    match world.leader.ended(&unit(1), epoch).await {
        Ended::Failed(failure) => assert_eq!(failure.class, FailureClass::Transient, "{failure:?}"),
        Ended::Done(_) => {}
        other => panic!("{other:?}"),
    }
    world.done(1, Work::SchemaPre).await;
    world.done(2, Work::SchemaPost).await;
    world.done(3, Work::Finish).await;
    assert_eq!(dump(&world.source).await?, dump(&world.destination).await?);
    Ok(())
}

#[tokio::test]
async fn tables_that_are_left_out_need_no_privilege() -> anyhow::Result<()> {
    let mut world = World::new().await?;
    world.spec.types = [MigrationType::Schema].into();
    world
        .source
        .sql(
            DATABASE,
            &format!(
                "create role mover login password '{PASSWORD}';
                 create table open (id int); grant select on open to mover;
                 create table \"Closed; \"\"x\" (id int); create schema hidden; create table hidden.t (id int)"
            ),
        )
        .await?;
    world.spec.source.user = "mover".to_owned();
    world.spec.objects.include = vec!["public.open".to_owned()];
    world.done(1, Work::SchemaPre).await;
    world.done(2, Work::SchemaPost).await;
    let tables = "select string_agg(relname, ' ') from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace";
    assert_eq!(world.destination.value(DATABASE, tables).await?.as_deref(), Some("open"));
    Ok(())
}

#[tokio::test]
async fn a_refused_statement_is_told_with_object_and_message() -> anyhow::Result<()> {
    let world = world().await?;
    world
        .destination
        .sql(DATABASE, "create schema sales; create table sales.items (x int)")
        .await?;
    let told = failure(world.end_of(1, Work::SchemaPre).await);
    assert_eq!((told.class, told.code.as_str()), (FailureClass::Definite, "object_exists"));
    assert_eq!(told.subject, "TABLE sales.items");
    assert!(
        told.message.contains("already exists") && told.message.contains("CREATE TABLE"),
        "{told}"
    );
    assert_eq!(told.sqlstate.as_deref(), Some("42P07"));
    // Mended by a person, it goes on where it was.
    world.destination.sql(DATABASE, "drop table sales.items").await?;
    world.done(1, Work::SchemaPre).await;
    Ok(())
}

#[tokio::test]
async fn owners_and_grants_of_missing_roles_are_left_out() -> anyhow::Result<()> {
    let mut world = world().await?;
    world.spec.types = [MigrationType::Schema].into();
    world.source.sql(DATABASE, "drop policy mine on sales.items").await?;
    world.destination.sql("postgres", "drop role app").await?;
    world.done(1, Work::SchemaPre).await;
    world.done(2, Work::SchemaPost).await;
    let owner =
        "select pg_get_userbyid(relowner) from pg_class where oid = 'sales.items'::regclass";
    assert_eq!(world.destination.value(DATABASE, owner).await?.as_deref(), Some("postgres"));
    let public = "select has_column_privilege('pg_monitor', 'public.people', 'id', 'select')::text";
    assert_eq!(world.destination.value(DATABASE, public).await?.as_deref(), Some("true"));
    Ok(())
}

#[tokio::test]
async fn rules_decide_what_comes_and_what_needs_something_else_stays() -> anyhow::Result<()> {
    let mut world = world().await?;
    world.spec.types = [MigrationType::Schema].into();
    world.spec.objects.exclude = vec!["public.people".to_owned()];
    world.done(1, Work::SchemaPre).await;
    world.done(2, Work::SchemaPost).await;
    let relations = "select string_agg(oid::regclass::text, ' ' order by oid::regclass::text collate \"C\") from pg_class
                     where relkind in ('r', 'p', 'v', 'm') and oid >= 16384
                       and relnamespace in ('public'::regnamespace, 'sales'::regnamespace)";
    assert_eq!(
        world.destination.value(DATABASE, relations).await?.as_deref(),
        Some(
            "sales.empty sales.items sales.orders sales.orders_2020 sales.orders_rest sales.special scratch"
        )
    );
    let foreign_keys = "select count(*)::text from pg_constraint where contype = 'f' and connamespace <> 'pgconvoy'::regnamespace";
    assert_eq!(world.destination.value(DATABASE, foreign_keys).await?.as_deref(), Some("0"));
    Ok(())
}

#[tokio::test]
async fn an_older_source_comes_to_a_newer_destination() -> anyhow::Result<()> {
    use pgconvoy_integration_tests::postgres::Major;
    let (Some(old), Some(new)) = (Major::fetched(13), Major::fetched(17)) else { return Ok(()) };
    let mut world =
        World::with(Options::default().major(old), Options::default().major(new)).await?;
    world.source.sql("postgres", "create role app").await?;
    world.destination.sql("postgres", "create role app").await?;
    world.source.sql(DATABASE, SCHEMA).await?;
    world.spec.types = [MigrationType::Schema].into();
    world.done(1, Work::SchemaPre).await;
    world.done(2, Work::SchemaPost).await;
    Ok(())
}
