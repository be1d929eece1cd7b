//! Tables, partitions and sequences of every shape; tables that are at the destination already; policies.

use pgconvoy_integration_tests::oracle::{self, End};
use pgconvoy_integration_tests::postgres::{Major, Options, PASSWORD};

use crate::world::{DATABASE, LIMIT, Pair, major, told};

/// Something of every shape; all rows of one moment, and all indexes and constraints after them.
const SHAPES: &str = include_str!("shapes.sql");

/// Roles belong to a server, not to a database.
const ROLES: &str = "create role shape_owner; create role shape_reader;";

/// Which leaf a row is in depends on object ids, so these rows are compared as those of one table.
const MOODS: &str = "create table moods as select * from moody; drop table moody;";

async fn every_shape(from: u32, to: u32) {
    let (Some(from), Some(to)) = (major(from), major(to)) else { return };
    let same_major = from == to;
    let (source, destination) = (Options::default().major(from), Options::default().major(to));
    let pair = Pair::of(source, destination, SHAPES).await;
    pair.destination.sql(DATABASE, ROLES).await.unwrap();
    pair.migrated().await;
    pair.left_nothing().await;

    let leaves = "select string_agg(n::text, ' ') from (select count(*) as n from moody group by m order by m) c";
    for server in [&pair.source, &pair.destination] {
        assert_eq!(
            server.value(DATABASE, leaves).await.unwrap().as_deref(),
            Some("60 60 60 60 60")
        );
    }
    if same_major {
        assert_same_schema(&pair).await;
    }
    for server in [&pair.source, &pair.destination] {
        server.sql(DATABASE, MOODS).await.unwrap();
    }
    let [source, destination] =
        [&pair.source, &pair.destination].map(|server| End::new(server, DATABASE));
    let compared = oracle::compare_contents(source, destination).await.unwrap().refuse().unwrap();
    assert!(compared.tables >= 40 && compared.sequences >= 18, "{compared:?}");
}

async fn assert_same_schema(pair: &Pair) {
    let dumper = Some(Major::usual().unwrap().number());
    let [source, destination] = [
        pair.source.pg_dump_by(dumper, DATABASE, &["--schema-only"]).await.unwrap(),
        pair.destination.pg_dump_by(dumper, DATABASE, &["--schema-only"]).await.unwrap(),
    ]
    .map(|dump| {
        let lines = dump.lines().filter(|line| !line.contains("restrict "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    });
    for (at, (here, there)) in source.iter().zip(&destination).enumerate() {
        assert_eq!(here, there, "line {at}");
    }
    assert_eq!(source.len(), destination.len());
}

#[tokio::test]
async fn every_shape_arrives_from_15_to_15() {
    every_shape(15, 15).await;
}

#[tokio::test]
async fn every_shape_arrives_from_13_to_15() {
    every_shape(13, 15).await;
}

#[tokio::test]
async fn every_shape_arrives_from_15_to_18() {
    every_shape(15, 18).await;
}

/// The same columns by name, in another order, some of them gone and made again, some generated.
#[tokio::test]
async fn rows_go_by_names_of_columns_into_tables_that_are_there() {
    let pair = Pair::new(
        "create type mood as enum ('a', 'b');
         create table turned (a int, b text, c int generated always as (a + 1) stored, d mood, e numeric);
         insert into turned (a, b, d, e) select n, 'b' || n, (enum_range(null::mood))[1 + n % 2], n / 7.0 from generate_series(1, 100) n;
         create table plain (a int, b int, c int);
         insert into plain select n, -n, n * 1000 from generate_series(1, 100) n;
         create table root (k int, t text, b bytea) partition by range (k);
         create table leaf_1 partition of root for values from (0) to (50);
         create table leaf_2 partition of root for values from (50) to (200);
         insert into root select n, 't' || n, null from generate_series(1, 100) n;
         create table ids (id int generated always as identity, t text);
         insert into ids (t) select 'x' from generate_series(1, 30);",
    )
    .await;
    pair.destination
        .sql(
            DATABASE,
            "create type unused as enum ('z'); create type mood as enum ('b', 'x', 'a');
             create table turned (e numeric, gone int, d mood, c int generated always as (a + 1) stored, more text default 'more', b text, a int);
             alter table turned drop gone, drop more;
             create table plain (c int, b int, a int);
             create table root (b bytea, k int, t text) partition by range (k);
             create table leaf_1 (t text, gone int, k int, b bytea);
             alter table leaf_1 drop gone;
             alter table root attach partition leaf_1 for values from (0) to (50);
             create table leaf_2 partition of root for values from (50) to (200);
             create table ids (t text, id int generated always as identity);",
        )
        .await
        .unwrap();
    let finished = pair.migrate().args(["--types", "full"]).run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    pair.left_nothing().await;
    let ends = [&pair.source, &pair.destination].map(|server| End::new(server, DATABASE));
    let compared = oracle::compare_contents(ends[0], ends[1]).await.unwrap().refuse().unwrap();
    assert_eq!(compared.rows, 330);
}

/// A role that policies apply to is refused, or reads all rows; it never reads some.
#[tokio::test]
async fn a_policy_never_filters_what_is_moved() {
    let pair = Pair::new("").await;
    let script = format!(
        "create role reader login password '{PASSWORD}'; create role bypasser login bypassrls password '{PASSWORD}';
         create role owner login password '{PASSWORD}';
         grant create on schema public to owner; grant create on database {DATABASE} to owner, bypasser;"
    );
    for server in [&pair.source, &pair.destination] {
        server.sql(DATABASE, &script).await.unwrap();
    }
    let table = "set role owner; create table t (id int primary key, t text);
         insert into t select n, 'x' from generate_series(1, 50) n;
         grant select on t to reader, bypasser;
         alter table t enable row level security; create policy first_only on t using (id <= 10);";
    pair.source.sql(DATABASE, table).await.unwrap();

    let moved_by = |role: &str| {
        pair.command("migrate")
            .args(["--yes", "--source", &pair.source.url_of(role, PASSWORD, DATABASE)])
            .args(["--destination", &pair.destination_url()])
    };
    pair.refused(moved_by("reader"), 3, "row_level_security").await;
    pair.source.sql(DATABASE, "alter table t force row level security").await.unwrap();
    pair.refused(moved_by("owner"), 3, "row_level_security").await;
    let finished = moved_by("bypasser").run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    assert_eq!(pair.same().await.rows, 50);
}

/// Forced policies hold for the owner of the tables that it makes: it can fill them, and then neither read them nor write to them.
#[tokio::test]
async fn a_policy_that_holds_at_the_destination_is_told_before_anything_is_done() {
    let pair = Pair::new(
        "create table t (id int primary key); insert into t select generate_series(1, 50);
         create policy first_only on t using (id <= 10);
         alter table t enable row level security, force row level security;
         create table u (id int primary key); insert into u values (1); alter table u force row level security;",
    )
    .await;
    let roles = format!(
        "create role mover login password '{PASSWORD}'; grant create on database {DATABASE} to mover;
         grant all on schema public to mover; grant set on parameter session_replication_role to mover;"
    );
    pair.destination.sql(DATABASE, &roles).await.unwrap();
    let by_mover = |command: &str, more: &[&str]| {
        let url = pair.destination.url_of("mover", PASSWORD, DATABASE);
        let ends = ["--source", &pair.source_url(), "--destination", &url].map(str::to_owned);
        pair.command_in(&format!("data{}", more.concat()), command).args(ends).args(more)
    };
    let refused = async |command: &str, more: &[&str]| {
        let finished = pair.refused(by_mover(command, more), 3, "row_level_security").await;
        assert!(told(&finished).contains("public.t"), "{}", told(&finished));
        assert!(!told(&finished).contains("public.u"), "{}", told(&finished));
    };
    refused("migrate", &["--yes", "--verify"]).await;
    let followed = ["--yes", "--types", "schema,full,incremental", "--until", "in-sync"];
    refused("migrate", &followed).await;

    let rows = "select (select count(*) from t) + (select count(*) from u)";
    let done = async |more: &[&str]| {
        let finished = by_mover("migrate", more).run(LIMIT).await.unwrap();
        assert_eq!(finished.code(), Some(0), "{}", told(&finished));
        assert_eq!(pair.count(rows).await, 51);
    };
    done(&["--yes"]).await;
    refused("verify", &[]).await;
    pair.destination.sql(DATABASE, "truncate t, u").await.unwrap();
    refused("migrate", &["--yes", "--types", "full"]).await;

    pair.destination.sql(DATABASE, "alter role mover bypassrls").await.unwrap();
    done(&["--yes", "--types", "full", "--verify"]).await;
    pair.destination.sql(DATABASE, "drop table t, u").await.unwrap();
    done(&followed).await;
}
