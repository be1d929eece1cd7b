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
