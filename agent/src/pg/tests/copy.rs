use std::time::Duration;

use pgconvoy_integration_tests::postgres::{Options, Postgres};
use pgconvoy_integration_tests::wait;
use pgconvoy_shared::endpoint::Side;

use super::{access, endpoint};
use crate::pg::{Access, PgError};

const LIMIT: Duration = Duration::from_secs(60);

async fn server() -> (Postgres, Access) {
    let server = Postgres::start(Options::default()).await.unwrap();
    let access = access(Side::Source, &endpoint(&server, "postgres"), "test copy");
    (server, access)
}

/// Passes everything on; rows that the reader saw, and that the writer says it wrote.
async fn copy(from: &Access, out: &str, to: &Access, into: &str) -> Result<(u64, u64), PgError> {
    let (mut reader, mut writer) = (from.reader().await?, to.writer().await?);
    let mut copy_out = reader.copy_out(out).await?;
    let mut copy_in = writer.copy_in(into).await?;
    while let Some(data) = copy_out.next().await? {
        copy_in.send(data).await?;
    }
    let read = copy_out.frames().messages();
    assert_eq!(read, copy_in.frames().messages());
    Ok((read, copy_in.finish().await?))
}

#[tokio::test]
async fn rows_arrive_as_they_were_in_both_formats() {
    let (server, access) = server().await;
    server
        .sql(
            "postgres",
            "create table a (id int, t text, b bytea);
             insert into a select i, repeat(chr(960 + i % 50), i % 300), decode(md5(i::text), 'hex') from generate_series(1, 20000) i;
             insert into a values (null, E'\\\\N\\t\\n\\\\.', ''), (0, repeat('x', 3000000), null);
             create table t (like a); create table b (like a)",
        )
        .await
        .unwrap();
    let text = copy(&access, "copy a to stdout", &access, "copy t from stdin").await;
    // `search_path` is empty: an unqualified name is not found.
    assert_eq!(text.unwrap_err().sqlstate(), Some("42P01"));
    let text = copy(&access, "copy public.a to stdout", &access, "copy public.t from stdin").await;
    assert_eq!(text.unwrap(), (20_002, 20_002));
    let binary = copy(
        &access,
        "copy public.a to stdout (format binary)",
        &access,
        "copy public.b from stdin (format binary)",
    );
    assert_eq!(binary.await.unwrap(), (20_003, 20_002), "the trailer is a message too");
    for other in ["t", "b"] {
        let differences = format!(
            "select count(*) from (select * from a except all select * from {other}) d \
             union all select count(*) from {other} order by 1"
        );
        let counts =
            server.client("postgres").await.unwrap().query(&differences, &[]).await.unwrap();
        assert_eq!(counts[0].get::<_, i64>(0), 0);
        assert_eq!(counts[1].get::<_, i64>(0), 20_002);
    }
}

/// The server may say something in the middle, with the next rows right behind it.
#[tokio::test]
async fn notices_between_rows_are_no_rows() {
    let (server, access) = server().await;
    server
        .sql(
            "postgres",
            "create function said(n int) returns int language plpgsql as $$ begin raise warning 'row %', n; return n; end $$;
             create table t (n int)",
        )
        .await
        .unwrap();
    let out = "copy (select public.said(n) from generate_series(1, 3000) n) to stdout";
    let copied = copy(&access, out, &access, "copy public.t from stdin").await;
    assert_eq!(copied.unwrap(), (3000, 3000));
}

#[tokio::test]
async fn empty_tables_and_tables_without_columns() {
    let (server, access) = server().await;
    server
        .sql(
            "postgres",
            "create table e (a int); create table e2 (a int);
             create table z (); insert into z default values; insert into z default values; create table z2 ()",
        )
        .await
        .unwrap();
    let empty = copy(&access, "copy public.e to stdout", &access, "copy public.e2 from stdin");
    assert_eq!(empty.await.unwrap(), (0, 0));
    let empty = copy(
        &access,
        "copy public.e to stdout (format binary)",
        &access,
        "copy public.e2 from stdin (format binary)",
    );
    assert_eq!(empty.await.unwrap(), (1, 0));
    let none = copy(&access, "copy public.z to stdout", &access, "copy public.z2 from stdin");
    assert_eq!(none.await.unwrap(), (2, 2));
}

#[tokio::test]
async fn a_refusal_in_the_middle_is_noticed_while_writing() {
    let (server, access) = server().await;
    server
        .sql("postgres", "create table n (i int check (i <> 100)); create table s (i int)")
        .await
        .unwrap();
    let refused = copy(
        &access,
        "copy (select pg_catalog.generate_series(1, 50000000)) to stdout",
        &access,
        "copy public.n from stdin",
    );
    // Without reading while writing this would first send half a gigabyte.
    let error = refused.await.unwrap_err();
    assert_eq!(error.sqlstate(), Some("23514"), "{error}");

    let failing =
        "copy (select 1 / (300000 - i) from pg_catalog.generate_series(1, 300000) i) to stdout";
    let (mut reader, mut writer) = (access.reader().await.unwrap(), access.writer().await.unwrap());
    let mut out = reader.copy_out(failing).await.unwrap();
    let mut into = writer.copy_in("copy public.s from stdin").await.unwrap();
    let error = loop {
        match out.next().await {
            Ok(Some(data)) => into.send(data).await.unwrap(),
            Ok(None) => panic!("it does not end well"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.sqlstate(), Some("22012"), "{error}");
    into.fail("the reader failed").await.unwrap();
    assert_eq!(reader.value("select 1").await.unwrap(), "1", "the session goes on");
    assert_eq!(writer.value("select count(*) from public.s").await.unwrap(), "0");
}

#[tokio::test]
async fn what_is_dropped_is_not_left_running() {
    let (server, access) = server().await;
    let busy = "select count(*)::text from pg_stat_activity where application_name = 'test copy'";
    let gone = async || match server.value("postgres", busy).await {
        Ok(Some(count)) if count == "0" => Ok(()),
        other => Err(format!("{other:?}")),
    };
    let session = access.session().await.unwrap();
    let asleep = session.query("select pg_sleep(600)", &[]);
    assert!(tokio::time::timeout(Duration::from_millis(100), asleep).await.is_err());
    drop(session);
    wait::until(LIMIT, "the session's end", gone).await.unwrap();

    let mut wire = access.reader().await.unwrap();
    let asleep = wire.query("select pg_sleep(600)");
    assert!(tokio::time::timeout(Duration::from_millis(100), asleep).await.is_err());
    assert!(wire.query("select 1").await.is_err(), "it is in the middle of something");
    drop(wire);
    wait::until(LIMIT, "the session's end", gone).await.unwrap();
}

#[tokio::test]
async fn a_row_larger_than_any_buffer_costs_no_memory() {
    let (server, access) = server().await;
    server
        .sql(
            "postgres",
            "create table w (t text); alter table w alter t set storage external; create table w2 (like w);
             insert into w select repeat(md5(i::text), 2 * 1024 * 1024) from generate_series(1, 2) i",
        )
        .await
        .unwrap();
    let (mut reader, mut writer) = (access.reader().await.unwrap(), access.writer().await.unwrap());
    let mut out = reader.copy_out("copy public.w to stdout").await.unwrap();
    let mut into = writer.copy_in("copy public.w2 from stdin").await.unwrap();
    let mut bytes = 0;
    while let Some(data) = out.next().await.unwrap() {
        assert!(data.len() <= 2 * super::super::wire::READ_BYTES, "{}", data.len());
        bytes += data.len();
        into.send(data).await.unwrap();
    }
    assert!(bytes > 128 << 20, "{bytes}");
    assert_eq!(into.finish().await.unwrap(), 2);
}
