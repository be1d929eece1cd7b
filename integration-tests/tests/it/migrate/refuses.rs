//! What cannot work is refused with a stable code and the right exit code, and nothing is changed anywhere.

use pgconvoy_integration_tests::postgres::Options;

use crate::world::{DATABASE, LIMIT, Pair, SOON, major, told};

const TABLE: &str = "create table t (id int primary key, words text); insert into t select i, 'x' from generate_series(1, 100) i";

#[tokio::test]
async fn a_destination_that_is_not_empty_is_left_as_it_is() {
    let pair = Pair::new(TABLE).await;
    pair.destination
        .sql(
            DATABASE,
            "create table t (id int primary key, words text); insert into t values (7, 'mine')",
        )
        .await
        .unwrap();
    pair.refused(pair.migrate(), 3, "object_exists").await;
    let rows = pair.migrate().args(["--types", "full"]);
    pair.refused(rows, 3, "destination_not_empty").await;
}

#[tokio::test]
async fn a_data_directory_of_another_task_is_refused() {
    let pair = Pair::new(TABLE).await;
    pair.migrated().await;
    pair.destination.create_database("other").await.unwrap();
    let other = pair.destination_url().replace("/shop", "/other");
    let command =
        pair.command("migrate").args(["--source", &pair.source_url(), "--destination", &other]);
    let finished = pair.refused(command, 2, "data_dir_of_another_task").await;
    assert!(finished.log.contains("destination"), "{}", told(&finished));
    let tables = "select count(*) from pg_class where relkind = 'r' and relname = 't'";
    assert_eq!(pair.destination.value("other", tables).await.unwrap().as_deref(), Some("0"));
}

#[tokio::test]
async fn ends_that_cannot_be_reached_or_used_are_told_at_once() {
    let pair = Pair::new(TABLE).await;
    let (source, destination) = (pair.source_url(), pair.destination_url());
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let port = |url: &str| {
        url.replace(&url[url.rfind(':').unwrap()..], &format!(":{}/shop", nobody.port()))
    };
    let wrong = |url: &str| url.replace("postgres@", "postgres:not-the-one@");
    let missing = |url: &str| url.replace("/shop", "/nothing_here");
    let nowhere = |url: &str| url.replace("127.0.0.1", "no-such-host.invalid");
    for (source, destination, code) in [
        (port(&source), destination.clone(), "unreachable_host"),
        (source.clone(), port(&destination), "unreachable_host"),
        (nowhere(&source), destination.clone(), "unreachable_host"),
        (wrong(&source), destination.clone(), "wrong_password"),
        (source.clone(), wrong(&destination), "wrong_password"),
        (missing(&source), destination.clone(), "no_such_database"),
        (source.clone(), missing(&destination), "no_such_database"),
    ] {
        let command = pair.command("migrate").args(["--yes", "--source", &source]);
        pair.refused(command.args(["--destination", &destination]), 3, code).await;
    }
}

#[tokio::test]
async fn a_role_that_may_not_read_or_write_is_told_which_privilege_is_missing() {
    let pair = Pair::new(TABLE).await;
    for server in [&pair.source, &pair.destination] {
        server.sql(DATABASE, "create role guest login password 'guest-of-nobody'").await.unwrap();
    }
    let guest = |url: String| url.replace("postgres@", "guest:guest-of-nobody@");
    let as_guest = |source: String, destination: String| {
        let command = pair.command("migrate").args(["--yes", "--source", &source]);
        command.args(["--destination", &destination])
    };
    let reads = as_guest(guest(pair.source_url()), pair.destination_url());
    let finished = pair.refused(reads, 3, "missing_privilege").await;
    assert!(finished.log.contains("public.t"), "the table is named: {}", told(&finished));
    let writes = as_guest(pair.source_url(), guest(pair.destination_url()));
    pair.refused(writes, 3, "missing_privilege").await;
}

#[tokio::test]
async fn a_source_newer_than_the_destination_is_refused() {
    let Some(newer) = major(18) else { return };
    let pair = Pair::of(Options::default().major(newer), Options::default(), TABLE).await;
    pair.refused(pair.migrate(), 3, "destination_older").await;
}

#[tokio::test]
async fn without_a_pg_dump_that_can_read_the_source_a_schema_is_refused() {
    // Only Debian's pg_dump is looked for by itself; one from elsewhere has to be named.
    let Some(newer) = major(18) else { return };
    let tools = newer.client("pg_dump").unwrap();
    let options = || Options::default().major(newer.clone());
    let pair = Pair::of(options(), options(), TABLE).await;
    pair.refused(pair.migrate(), 3, "pg_dump_missing").await;
    let named = pair.migrate().env("PGCONVOY_PG_BIN", tools.parent().unwrap());
    let finished = named.run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    pair.same().await;
}

#[tokio::test]
async fn a_task_file_with_mistakes_changes_nothing() {
    let pair = Pair::new(TABLE).await;
    for (rest, code) in [
        ("copy: { jobz: 3 }", "unknown_key"),
        ("copy: { shard_size: 3 parsecs }", "bad_value"),
        ("copy: { jobs: 0 }", "bad_value"),
        ("types: [full, everything]", "bad_value"),
        ("on_conflict: keep", "not_supported_yet"),
        ("types: [full, incremental]", "not_supported_yet"),
        ("copy: [", "bad_yaml"),
        ("copy: { jobs: 2 }\ncopy: { jobs: 3 }", "bad_yaml"),
    ] {
        let file = pair.task_file("wrong", rest);
        let command = pair.command("migrate").arg("-f").arg(file);
        let finished = pair.refused(command, 2, code).await;
        assert!(finished.log.contains("line "), "the place is told: {}", told(&finished));
        assert!(!pair.path("data").exists(), "nothing was begun");
    }
}

#[tokio::test]
async fn warnings_wait_until_they_are_acknowledged_and_are_asked_for_by_code() {
    let pair = Pair::new(
        "create table t (id int primary key); insert into t values (1);
         create index broken on t (id); update pg_index set indisvalid = false where indexrelid = 'broken'::regclass;
         create foreign data wrapper afar; create server far foreign data wrapper afar;
         create foreign table f (id int) server far;",
    )
    .await;
    let finished = pair.refused(pair.between("migrate"), 3, "--ignore ").await;
    let asked = finished.log.split("--ignore ").nth(1).unwrap();
    let codes = asked.split_whitespace().next().unwrap();
    assert_eq!(codes, "foreign_table_rows_left_out,invalid_index_left_out", "{}", told(&finished));

    // The precheck tells the same, again and again, changes nothing, and is no failure.
    for _ in 0..2 {
        pair.refused(pair.between("precheck"), 0, codes).await;
    }
    let one_is_left = pair.between("migrate").args(["--ignore", "invalid_index_left_out"]);
    pair.refused(one_is_left, 3, "--ignore foreign_table_rows_left_out").await;
    let finished = pair.between("migrate").args(["--ignore", codes]).run(LIMIT).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    pair.same().await;
}

#[tokio::test]
async fn an_error_of_the_precheck_stands_whatever_is_acknowledged() {
    let pair = Pair::new(TABLE).await;
    pair.destination
        .sql(DATABASE, "create table t (id int); insert into t values (1)")
        .await
        .unwrap();
    let precheck = pair.between("precheck").args(["--yes", "-o", "json"]);
    let finished = pair.refused(precheck, 3, "object_exists").await;
    let report: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    let item = report["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|item| item["severity"] == "error")
        .unwrap();
    for key in ["code", "side", "object", "observed", "required", "remedy"] {
        assert!(item[key].as_str().is_some_and(|text| !text.is_empty()), "{key} of {item}");
    }
    // The cause is removed, and the same directory and the same command go on.
    pair.refused(pair.migrate().args(["--ignore", "object_exists"]), 3, "object_exists").await;
    pair.destination.sql(DATABASE, "drop table t").await.unwrap();
    let finished = pair.between("precheck").run(SOON).await.unwrap();
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    pair.migrated().await;
    pair.same().await;
}
