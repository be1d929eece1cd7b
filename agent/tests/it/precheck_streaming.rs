//! What following changes needs, each finding provoked.

use pgconvoy_integration_tests::postgres::{Major, Options, PASSWORD};
use pgconvoy_shared::precheck::Severity;
use pgconvoy_shared::spec::MigrationType;

use crate::precheck::{check, precheck};
use crate::world::{DATABASE, World};

async fn world(source: Options, destination: Options) -> anyhow::Result<World> {
    let mut world = World::with(source, destination).await?;
    world.spec.types.insert(MigrationType::Incremental);
    Ok(world)
}

#[tokio::test]
async fn a_source_that_can_be_followed_has_nothing_to_complain_of() -> anyhow::Result<()> {
    let world = world(Options::default(), Options::default()).await?;
    world.source.sql(DATABASE, "create table t (id int primary key)").await?;
    let items = precheck(&world).await;
    check(&items, Severity::Error, &[]);
    check(&items, Severity::Warning, &[]);
    Ok(())
}

#[tokio::test]
async fn transactions_that_are_prepared_for_a_moment_are_in_nobodys_way() -> anyhow::Result<()> {
    let world = world(Options::default(), Options::default()).await?;
    world.source.sql(DATABASE, "create table t (id int primary key)").await?;
    let writer = world.source.client(DATABASE).await?;
    // One of them is prepared at any time but for a moment.
    let commits = async {
        for number in 0.. {
            let prepare =
                format!("begin; insert into t values ({number}); prepare transaction 'p{number}'");
            writer.batch_execute(&prepare).await?;
            if let Some(before) = u32::checked_sub(number, 1) {
                writer.batch_execute(&format!("commit prepared 'p{before}'")).await?;
            }
        }
        anyhow::Ok(())
    };
    let items = tokio::select! {
        items = precheck(&world) => items,
        ended = commits => { ended?; unreachable!("it goes on") }
    };
    check(&items, Severity::Error, &[]);
    check(&items, Severity::Warning, &[]);
    Ok(())
}

#[tokio::test]
async fn a_source_that_cannot_be_followed() -> anyhow::Result<()> {
    let source = Options::default()
        .setting("wal_level", "replica")
        .setting("max_replication_slots", 0)
        .setting("max_wal_senders", 0)
        .setting("max_slot_wal_keep_size", "1MB")
        .setting("synchronous_commit", "local")
        .setting("synchronous_standby_names", "*");
    let mut world = world(source, Options::default()).await?;
    let tables = "create table good (id int primary key);
        create table unidentified (id int);
        create table late (id int primary key deferrable);
        create table told (id int); alter table told replica identity full;
        create table nothing (id int primary key); alter table nothing replica identity nothing;
        create unlogged table fleeting (id int primary key);
        create foreign data wrapper fdw; create server far foreign data wrapper fdw;
        create foreign table afar (x int) server far;
        select lo_create(0)";
    world.source.sql(DATABASE, tables).await?;
    // Of another database of the same server, whose transactions the slot waits for, too.
    let elsewhere = world.source.client("postgres").await?;
    elsewhere
        .batch_execute("begin; create table t (id int); prepare transaction 'forgotten'")
        .await?;
    let mut items = precheck(&world).await;
    let forgotten = items.iter_mut().find(|item| item.code == "prepared_transaction").unwrap();
    assert!(forgotten.object.starts_with("forgotten of postgres in database postgres, since "));
    forgotten.object.clear();
    check(
        &items,
        Severity::Error,
        &[
            "no_replication_slot_left source max_replication_slots",
            "no_replication_slot_left source max_wal_senders",
            "prepared_transaction source",
            "replica_identity_missing source public.late",
            "replica_identity_missing source public.nothing",
            "replica_identity_missing source public.unidentified",
            "wal_level source",
        ],
    );
    check(
        &items,
        Severity::Warning,
        &[
            "changes_not_followed source public.fleeting",
            "changes_not_followed source large objects",
            "foreign_table_rows_left_out source public.afar",
            "slot_may_be_given_up source max_slot_wal_keep_size",
            "synchronous_standby_by_any_name source",
        ],
    );
    let keeps = items.iter().find(|item| item.code == "slot_may_be_given_up").unwrap();
    assert!(keeps.observed.starts_with("max_slot_wal_keep_size = 1 MiB; some "), "{keeps:?}");
    // Where rules name what is to come, no cutover copies large objects either.
    world.spec.objects.include = vec!["public.*".to_owned()];
    let items = precheck(&world).await;
    let large: Vec<_> = items.iter().filter(|item| format!("{item:?}").contains("large")).collect();
    assert_eq!(large.len(), 1, "{large:?}");
    assert_eq!(large[0].code, "large_objects_left_out");
    Ok(())
}

#[tokio::test]
async fn roles_that_may_neither_publish_nor_replay() -> anyhow::Result<()> {
    let mut world = world(Options::default(), Options::default()).await?;
    let role = format!("create role mover login password '{PASSWORD}'");
    let source = "create table t (id int primary key); grant select on t to mover";
    world.source.sql(DATABASE, &format!("{role}; {source}")).await?;
    let destination = format!("grant create on database {DATABASE} to mover");
    world.destination.sql(DATABASE, &format!("{role}; {destination}")).await?;
    world.spec.source.user = "mover".to_owned();
    world.spec.destination.user = "mover".to_owned();
    let told = |items: &[pgconvoy_shared::precheck::PrecheckItem]| {
        let mut told: Vec<_> = items
            .iter()
            .filter(|item| item.severity == Severity::Error && item.code.starts_with("no_"))
            .map(|item| format!("{} {}", item.code, item.object).trim_end().to_owned())
            .collect();
        told.sort_unstable();
        told
    };
    assert_eq!(
        told(&precheck(&world).await),
        [
            "no_publication_right",
            "no_publication_right public.t",
            "no_replay_right",
            "no_replication_right",
        ]
    );
    let granted = format!(
        "alter role mover replication; grant create on database {DATABASE} to mover; alter table t owner to mover"
    );
    world.source.sql(DATABASE, &granted).await?;
    let granted = "grant set on parameter session_replication_role to mover";
    world.destination.sql(DATABASE, granted).await?;
    assert_eq!(told(&precheck(&world).await), [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_slot_that_is_given_up_when_nobody_reads_it() -> anyhow::Result<()> {
    let Some(major) = Major::fetched(18) else { return Ok(()) };
    let source = Options::default()
        .major(major.clone())
        .setting("idle_replication_slot_timeout", "1h")
        .setting("max_slot_wal_keep_size", "1TB");
    let world = world(source, Options::default().major(major)).await?;
    world.source.sql(DATABASE, "create table followed (id int primary key)").await?;
    // No pg_dump of this major may be here.
    let items = precheck(&world).await;
    check(
        &items,
        Severity::Warning,
        &["slot_may_be_given_up source idle_replication_slot_timeout"],
    );
    Ok(())
}
