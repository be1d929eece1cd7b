//! Throw-away servers start, keep what they acknowledged through a crash, and are each other's strangers.

use pgconvoy_integration_tests::postgres::{Major, Options, Postgres, Tls};

#[tokio::test]
async fn a_server_runs_statements_and_gives_a_dump() {
    let server = Postgres::start(Options::default()).await.unwrap();
    server.create_database("odd \"name\"").await.unwrap();
    let database = "odd \"name\"";
    server
        .sql(database, "create table t (id int primary key); insert into t values (1), (2)")
        .await
        .unwrap();
    assert_eq!(
        server.value(database, "select count(*) from t").await.unwrap().as_deref(),
        Some("2")
    );
    assert!(server.pg_dump_schema(database).await.unwrap().contains("CREATE TABLE public.t"));
}

#[tokio::test]
async fn every_major_on_this_machine_runs() {
    for major in Major::found() {
        let server = Postgres::start(Options::default().major(major.clone())).await.unwrap();
        let version = server.value("postgres", "show server_version_num").await.unwrap().unwrap();
        assert_eq!(version.parse::<u32>().unwrap() / 10_000, major.number());
    }
}

#[tokio::test]
async fn what_was_committed_survives_an_immediate_stop() {
    let server = Postgres::start(Options::default()).await.unwrap();
    server.sql("postgres", "create table t as select 42 as answer").await.unwrap();
    let port = server.port();
    server.stop_immediate().unwrap();
    assert!(server.client("postgres").await.is_err());
    server.start_again().await.unwrap();
    assert_eq!(server.port(), port);
    assert_eq!(
        server.value("postgres", "select answer from t").await.unwrap().as_deref(),
        Some("42")
    );
    assert!(server.log().contains("was not properly shut down"));
}

#[tokio::test]
async fn two_servers_are_strangers() {
    let (one, other) =
        tokio::join!(Postgres::start(Options::default()), Postgres::start(Options::default()));
    let (one, other) = (one.unwrap(), other.unwrap());
    one.sql("postgres", "create table t ()").await.unwrap();
    assert!(other.sql("postgres", "table t").await.is_err());
}

#[tokio::test]
async fn a_server_that_requires_tls_refuses_plain_text() {
    let server = Postgres::start(Options::default().tls(Tls::Required)).await.unwrap();
    let url = format!("{}?sslmode=disable", server.url("postgres"));
    let refused = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.err();
    assert!(refused.expect("plain text is refused").as_db_error().is_some());
    let files = server.certificates().unwrap();
    let mut psql = server.client_tool("psql", "postgres").unwrap();
    let output = psql
        .env("PGHOST", "127.0.0.1")
        .env("PGSSLMODE", "verify-full")
        .env("PGSSLROOTCERT", &files.authority)
        .args(["-Atc", "select ssl from pg_stat_ssl where pid = pg_backend_pid()"])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "t\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
async fn a_server_that_wants_client_certificates_takes_its_own() {
    let server = Postgres::start(Options::default().tls(Tls::ClientCertificate)).await.unwrap();
    let files = server.certificates().unwrap();
    let connect = |with_certificate: bool| {
        let mut psql = server.client_tool("psql", "postgres").unwrap();
        psql.env("PGHOST", "127.0.0.1").env("PGSSLMODE", "require").args(["-Atc", "select 1"]);
        if with_certificate {
            psql.env("PGSSLCERT", &files.client).env("PGSSLKEY", &files.client_key);
        }
        psql.output().unwrap().status.success()
    };
    assert!(connect(true));
    assert!(!connect(false));
}

#[tokio::test]
async fn two_servers_are_not_taken_for_one() {
    let (one, other) =
        tokio::try_join!(Postgres::start(Options::default()), Postgres::start(Options::default()))
            .unwrap();
    let identifier = "select system_identifier from pg_control_system()";
    assert_ne!(
        one.value("postgres", identifier).await.unwrap(),
        other.value("postgres", identifier).await.unwrap()
    );
}
