use std::time::Duration;

use pgconvoy_integration_tests::postgres::{Options, Postgres};
use pgconvoy_integration_tests::wait;
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::ids::TaskId;

use super::{access, endpoint};
use crate::pg::{Access, Pool};

/// Nothing is closed for its age within a test.
const LONG: Duration = Duration::from_secs(3600);
const LIMIT: Duration = Duration::from_secs(30);

fn task() -> TaskId {
    "abcdefghijkl".parse().unwrap()
}

async fn server() -> Postgres {
    Postgres::start(Options::default()).await.unwrap()
}

fn unit(server: &Postgres, no: u32) -> Access {
    let name = format!("pgconvoy/{}/copy/{no}.1", task());
    access(Side::Destination, &endpoint(server, "postgres"), &name)
}

const PID: &str = "select pg_backend_pid()";

#[tokio::test]
async fn a_session_goes_on_under_the_next_units_name_and_settings() {
    let server = server().await;
    let pool = Pool::new(LONG);
    let mut first = pool.writer(&unit(&server, 1)).await.unwrap();
    let pid = first.value(PID).await.unwrap();
    first.query("set client_encoding = 'SQL_ASCII'").await.unwrap();
    pool.give(first);

    let mut reader = pool.reader(&unit(&server, 2)).await.unwrap();
    assert_ne!(reader.value(PID).await.unwrap(), pid, "a reader gives up sooner than a writer");
    let mut second = pool.writer(&unit(&server, 2)).await.unwrap();
    assert_eq!(second.value(PID).await.unwrap(), pid);
    assert_eq!(second.access().application_name(), unit(&server, 2).application_name());
    let shown = "select application_name || ' ' || current_setting('client_encoding') \
                 from pg_stat_activity where pid = pg_backend_pid()";
    let expected = format!("{} UTF8", unit(&server, 2).application_name());
    assert_eq!(second.value(shown).await.unwrap(), expected);
}

#[tokio::test]
async fn what_is_in_a_transaction_or_was_ended_is_taken_by_nobody() {
    let server = server().await;
    let pool = Pool::new(LONG);
    let mut open = pool.writer(&unit(&server, 1)).await.unwrap();
    let pid = open.value(PID).await.unwrap();
    open.query("begin").await.unwrap();
    pool.give(open);
    let mut next = pool.writer(&unit(&server, 2)).await.unwrap();
    let second = next.value(PID).await.unwrap();
    assert_ne!(second, pid);

    pool.give(next);
    let end = format!("select pg_terminate_backend({second}, 10000)");
    server.value("postgres", &end).await.unwrap();
    let mut after = pool.writer(&unit(&server, 3)).await.unwrap();
    assert_ne!(after.value(PID).await.unwrap(), second);
}

#[tokio::test]
async fn an_ordinary_session_goes_on_with_nothing_of_what_a_unit_did_in_it() {
    let server = server().await;
    let pool = Pool::new(LONG);
    let first = pool.session(&unit(&server, 1)).await.unwrap();
    let shown =
        "select concat_ws(' ', pg_backend_pid(), current_user, current_setting('search_path'),
             current_setting('synchronous_commit'), current_setting('idle_session_timeout', true),
             to_regclass('pg_temp.mine'), current_setting('default_transaction_read_only'),
             (select count(*) from pg_locks where locktype = 'advisory'))";
    let new = first.text_rows(shown).await.unwrap();
    first
        .batch_execute(
            "create temp table mine (); set role pg_monitor; set search_path = public; set synchronous_commit = off;
             set default_transaction_read_only = on; set idle_session_timeout = '1h'; select pg_advisory_lock(1)",
        )
        .await
        .unwrap();
    assert_ne!(first.text_rows(shown).await.unwrap(), new);
    pool.give(first);

    let second = pool.session(&unit(&server, 2)).await.unwrap();
    assert_eq!(second.text_rows(shown).await.unwrap(), new);
    let name = "select application_name from pg_stat_activity where pid = pg_backend_pid()";
    let name = second.text_rows(name).await.unwrap();
    assert_eq!(name, [[Some(unit(&server, 2).application_name().to_owned())]]);
    assert_eq!(second.access().application_name(), unit(&server, 2).application_name());
}

#[tokio::test]
async fn an_ordinary_session_in_a_transaction_is_taken_by_nobody() {
    let server = server().await;
    let pool = Pool::new(LONG);
    let open = pool.session(&unit(&server, 1)).await.unwrap();
    let pid = open.text_rows(PID).await.unwrap();
    open.batch_execute("begin").await.unwrap();
    pool.give(open);
    let next = pool.session(&unit(&server, 2)).await.unwrap();
    assert_ne!(next.text_rows(PID).await.unwrap(), pid);
}

#[tokio::test]
async fn what_nobody_takes_is_closed_and_at_once_when_its_task_ends() {
    let server = server().await;
    let ours =
        "select count(*)::text from pg_stat_activity where application_name like 'pgconvoy/%'";
    let gone = async || {
        wait::until(LIMIT, "no session to be left", async || {
            match server.value("postgres", ours).await.unwrap().as_deref() {
                Some("0") => Ok(()),
                left => Err(format!("{left:?}")),
            }
        })
        .await
        .unwrap();
    };
    let hasty = Pool::new(Duration::from_millis(1));
    for _ in 0..2 {
        hasty.give(hasty.writer(&unit(&server, 1)).await.unwrap());
        gone().await;
    }
    let patient = Pool::new(LONG);
    patient.give(patient.writer(&unit(&server, 1)).await.unwrap());
    patient.close(&"bcdefghijklm".parse().unwrap()).await;
    assert_eq!(server.value("postgres", ours).await.unwrap().as_deref(), Some("1"));
    patient.close(&task()).await;
    gone().await;
}
